"""A last look at what was written: is anything in it that identifies whom the scan is of?

Every file is read again, independently of how it was made, and searched for what the source says of its patient.

What is searched for, in the words of a text (letters and digits; case, accents and what stands between words do not
count):

- each part of a person's name of three letters or more, and the whole name, glued together too;
- identifiers (of patient, study, order, institution, station, device, ...): whole values of four characters or more,
  five if they are digits alone; shorter ones only where a value of the output is that and nothing else;
- descriptions, comments and private values: whole values of eight characters or more of two words or with a digit;
- dates in the usual notations, but for today's, on which anything may be written;
- UIDs that are not the standard's;
- the source's path, and the names of its files and folders that are not plain lower-case words.

Words that our own outputs consist of ("white", "mark", "max") are no leak when they are part of a name; the whole
name still is. Numbers, and pixels stored as such, are not searched; compressed pixels are, as bytes.
"""

from __future__ import annotations

import base64
import datetime
import functools
import gzip
import html
import json
import os
import re
import shutil
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError
from ..volume import Source, Volume
from .identity import Identity
from .source import DUMMY_DATE

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

_TOKEN = re.compile(r"\d+(?:\.\d+)+|[^\W_]+")
_PRINTABLE = re.compile(rb"[\x20-\x7e\x80-\xff]{6,}")
_LEAST_RAW = 6  # characters of what is looked for among arbitrary bytes, where short words come up by chance
_TEXT_VR = frozenset("AE LO LT PN SH ST UC UR UT".split())
_NUMERIC_VR = frozenset("AT CS DS FD FL IS OD OF OL OV OW SL SS SV UL US UV".split())
_CODES = frozenset("CodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning LongCodeValue".split())
# What equipment is called, and terms of the standard: shared by many, and needed in results.
_COMMON = _CODES | frozenset(
    """
    Manufacturer ManufacturerModelName SoftwareVersions RescaleType SequenceName ConvolutionKernel StackID
    PatientPosition SpecificCharacterSet FrameOfReferenceUID TransferSyntaxUID WindowCenterWidthExplanation
    DeidentificationMethod PatientSex PatientAge DimensionDescriptionLabel LUTExplanation TypeOfFilters
    ReceiveCoilName TransmitCoilName PulseSequenceName QuantityUnits ModalityLUTType
    """.split()
) - {"FrameOfReferenceUID"}
_NARRATIVE = re.compile(r"Description|Comments|ProtocolName|Reason|Procedure|History|Label|Agent|Remarks|Allergies")
# Words of our own outputs, of the formats they are in, and of folders that everybody has.
_OURS = frozenset(
    """
    activity alpha anonymous anonymized area art axial background band bar base bed bell best beta big bill bin black
    block blue body bold bone border box brain branch bright brown bush button call car case cast center centre chance
    channel class clear close cloud cluster code color colour column cook coronal count cross dark data day dead deep
    default dense depth desktop device diagnosis dicom display document documents downloads drop east effect element
    empty end error even explain export false field file fill find fine fish fit flat float font for forest frame free
    from full gain gap gray green grey grid ground hall hand head health heart high hill home house image images input
    key king label lake last layer left less level light lime limit line list liver long love low lung main map mark
    mask max mean mesh min mode model moon mount name network new nice nifti none north not note null nurse only
    open order output page park part path patient peak phantom pixel place plane point pool post power prediction
    price prime question random range ray record red region relevance research reset results rich right rise river
    rock root rose row sagittal sample scale scan scans score seed series set shade shape share sharp short shot show
    side sign silver size slice small smooth soft source south space spleen stack step stone strong study sum sun
    target test tester text the threshold time tip title top total tree true tumor tumour unit unknown use user users
    value van version volume volumes voxel wall warm warning water weight west white wide width window with wolf
    wood word work yellow young zero von der del
    """.split()
)


@dataclass(frozen=True)
class Identifiers:
    """What to look for, each with what it is called in the source.

    Parameters
    ----------
    words
        Sequences of words.
    whole
        What only counts where a value is that and nothing else.
    uids
        UIDs of the source.
    paths
        Paths of the source as text.
    """

    words: Mapping[tuple[str, ...], str]
    whole: Mapping[str, str]
    uids: frozenset[str]
    paths: frozenset[str]

    @functools.cached_property
    def by_first(self) -> dict[str, list[tuple[tuple[str, ...], str]]]:
        """Sequences of words by the first one."""
        found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for words, kind in self.words.items():
            found.setdefault(words[0], []).append((words, kind))
        return found

    def within(self, text: str, least: int = 0) -> set[str]:
        """What a text holds of them; only what has at least so many characters."""
        found = {"the source's path" for path in self.paths if path in text}
        tokens = _TOKEN.findall(_plain(text))
        for n, token in enumerate(tokens):
            for words, kind in self.by_first.get(token, ()):
                if tuple(tokens[n : n + len(words)]) == words and sum(map(len, words)) >= least:
                    found.add(kind)
            if token in self.uids:
                found.add("a UID")
        return found

    def equal(self, value: str) -> set[str]:
        """What a value as a whole is of them."""
        kind = self.whole.get(_plain(value).strip())
        return {kind} if kind else set()


def leaks(path: str | os.PathLike[str], scan: Volume, *, drawn: Iterable[str] = ()) -> tuple[str, ...]:
    """Search a written file, or all files in a folder, for what identifies the scan's patient (see the module).

    DICOM is searched element by element at any depth, private ones too, and as bytes; NIfTI in its header and
    extensions, decompressed; PNG in its text chunks; PDF in its text, metadata and decompressed streams; JSON (zarr's
    too), CSV and HTML as text, and PNGs inside HTML; anything else as bytes.

    Parameters
    ----------
    path
        What was written.
    scan
        Whose source files are read again for what to look for.
    drawn
        Text that was drawn into pixels, which no search would find there.

    Returns
    -------
    tuple of str
        What was found and where, in the names of attributes, never the values themselves; empty if nothing was.
    """
    known = identifiers(scan.source)
    found = {f"{kind} in text drawn on the picture" for text in drawn for kind in known.within(text)}
    root = Path(path)
    for file in sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]:
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        found |= {f"{kind} in a file's name" for kind in known.within(name.removesuffix(".part"))}
        for where, text, least in _texts(file):
            kinds = known.within(text, least) | (known.equal(text) if not least else set())
            found |= {f"{kind} in {where}" for kind in kinds}
    return tuple(sorted(found))


def checked(
    path: str | os.PathLike[str], scan: Volume, identity: Identity, *, drawn: Iterable[str] = ()
) -> None:
    """Search what was written for the source's identifiers, and remove it if there is one.

    Nothing is searched where identity is kept.

    Raises
    ------
    ExportError
        If anything was found; the file or folder is gone then.
    """
    if identity.keep:
        return
    found = leaks(path, scan, drawn=drawn)
    if not found:
        return
    root = Path(path)
    shutil.rmtree(root) if root.is_dir() else root.unlink(missing_ok=True)
    raise leaked(root, found)


def leaked(path: Path, found: tuple[str, ...]) -> ExportError:
    """Say that a file was not kept, and why, without a value."""
    return ExportError(
        f"{path.name if path.name else path} would have identified the patient ({'; '.join(found[:5])}) and was "
        "removed; take names and identifiers out of the question, the model's name and the file's name, or keep the "
        "identity on purpose."
    )


@functools.lru_cache(maxsize=4)
def identifiers(source: Source) -> Identifiers:
    """Collect what identifies the patient from all headers of a source, and from its paths.

    Raises
    ------
    ExportError
        If a file of the source can no longer be read.
    """
    words: dict[tuple[str, ...], str] = {}
    whole: dict[str, str] = {}
    uids: set[str] = {source.study_uid, source.series_uid, source.frame_of_reference_uid, *source.instance_uids}
    seen: set[tuple[str, str]] = set()
    for header in _source_headers(source):
        for element in _elements(header):
            if element.VR == "UI":
                uids.update(str(uid) for uid in _several(element))
                continue
            for value in _several(element):
                if (element.keyword, value) not in seen and len(value) <= 1024:
                    seen.add((element.keyword, value))
                    _remember(element, value, words, whole)
    paths = {str(path) for path in (source.path, *source.files) if path is not None and len(path.parts) > 2}
    paths |= {str(path.parent) for path in source.files if path is not None and len(path.parts) > 3}
    for part in _names(source):
        _put(words, part, "a name of the source's files or folders")
    standard = ("1.2.840.10008.", "1.2.826.0.1.3680043.8.498.1 ", "1.2.826.0.1.3680043.9.7433.1.1 ")
    return Identifiers(
        words={term: kind for term, kind in words.items() if not (len(term) == 1 and term[0] in _OURS)},
        whole=whole,
        uids=frozenset(uid for uid in uids if uid and not f"{uid} ".startswith(standard)),
        paths=frozenset(paths),
    )


def _source_headers(source: Source) -> Iterator[Dataset]:
    if source.format == "dicom":
        from .source import read_header

        for path in dict.fromkeys(source.files):
            if path is not None:
                yield read_header(path)


def _remember(element: DataElement, value: str, words: dict[tuple[str, ...], str], whole: dict[str, str]) -> None:
    """Decide how a value of the source is to be looked for."""
    kind = element.keyword or "a private attribute"
    if element.VR in ("DA", "DT"):
        for term in _dates(value):
            _put(words, term, kind)
    elif element.VR == "PN":
        _remember_name(value, kind, words, whole)
    elif element.VR in _TEXT_VR | {"UN"} and element.keyword not in _COMMON:
        plain = _plain(value).strip()
        tokens = _TOKEN.findall(plain)
        length = sum(map(len, tokens))
        if element.tag.is_private or _NARRATIVE.search(element.keyword):
            if length >= 8 and (len(tokens) > 1 or any(map(str.isdigit, plain))):
                _put(words, value, kind)
        elif length >= (5 if all(map(str.isdigit, tokens)) else 4) and not (len(tokens) == 1 and plain in _OURS):
            _put(words, value, kind)
        elif length >= (3 if plain.isdigit() else 2):
            whole[plain] = kind


def _remember_name(value: str, kind: str, words: dict[tuple[str, ...], str], whole: dict[str, str]) -> None:
    """Each part of a person's name, the whole in order and reversed, and glued together."""
    for group in value.split("="):  # alphabetic, ideographic, phonetic
        parts = [part for part in _TOKEN.findall(_plain(group)) if not part.isdigit()]
        for part in parts:
            if len(part) >= 3 or not part.isascii():
                words.setdefault((part,), kind)
            elif len(part) > 1:
                whole.setdefault(part, kind)
        if len(parts) > 1:
            for order in (parts, parts[::-1]):
                words.setdefault(tuple(order), kind)
                words.setdefault(("".join(order),), kind)
            words.setdefault((parts[1], parts[0]), kind)
        if parts:
            whole.setdefault(_plain(group).strip(), kind)


def _put(words: dict[tuple[str, ...], str], value: str, kind: str) -> None:
    tokens = tuple(_TOKEN.findall(_plain(value)))
    if tokens:
        words.setdefault(tokens, kind)


def _dates(value: str) -> list[str]:
    """The usual notations of a date, none for a dummy's and today's."""
    day = value.replace(".", "").replace("-", "")[:8]
    if len(day) != 8 or not day.isdigit() or day == DUMMY_DATE or day == f"{datetime.datetime.now():%Y%m%d}":
        return []
    year, month, date = day[:4], day[4:6], day[6:]
    orders = ((year, month, date), (date, month, year), (month, date, year))
    return [day, *(mark.join(order) for order in orders for mark in ("-", "."))]


def _names(source: Source) -> set[str]:
    """Names of files and of the three innermost folders that are more than a plain word."""
    found = set()
    for path in (source.path, *source.files):
        if path is not None:
            found.update(part.partition(".nii")[0].removesuffix(".dcm") for part in path.parts[-3:])
    return {
        name for name in found
        if len(name) >= 5 and not name.islower() and not name.isdigit() and _plain(name) not in _OURS
        or len(name) >= 6 and any(map(str.isdigit, name)) and any(map(str.isalpha, name))
        or len(name) >= 8 and len(_TOKEN.findall(name)) > 1
    }  # fmt: skip


def _plain(text: str) -> str:
    """Case folded, without accents."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


def _texts(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield all text of a file: where it stands, what it says, and the least length of what is looked for in it."""
    raw = path.read_bytes()
    if raw[128:132] == b"DICM":
        yield from _dicom_texts(path, raw)
    elif raw[:2] == b"\x1f\x8b" or path.name.endswith(".nii"):
        yield from _nifti_texts(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    elif raw[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png_texts(raw)
    elif raw[:5] == b"%PDF-":
        yield from _pdf_texts(raw)
    elif path.suffix in (".json", ".zattrs", ".zarray", ".zgroup") or path.name in (".zattrs", ".zarray", ".zgroup"):
        yield from (("JSON", text, 0) for text in _json_texts(json.loads(raw)))
    elif path.suffix in (".html", ".htm"):
        yield from _html_texts(raw.decode("utf-8", "replace"))
    elif path.suffix in (".csv", ".txt", ".xml", ".md"):
        text = raw.decode("utf-8-sig", "replace")
        yield path.suffix[1:].upper(), text, 0
        yield from (("a cell", cell.strip('"'), 0) for line in text.splitlines() for cell in line.split(","))
    else:
        yield "its bytes", _printable(raw), _LEAST_RAW


def _printable(raw: bytes) -> str:
    """Runs of printable characters among bytes, as `strings` finds them; UTF-8 where it is that."""
    runs = b"\n".join(_PRINTABLE.findall(raw))
    try:
        return runs.decode()
    except UnicodeDecodeError:
        return runs.decode("latin-1") + "\n" + runs.decode("utf-8", "ignore")


def _dicom_texts(path: Path, raw: bytes) -> Iterator[tuple[str, str, int]]:
    import pydicom

    dataset = pydicom.dcmread(path)
    for element in _elements(dataset, dataset.file_meta):
        if element.VR in _NUMERIC_VR:
            continue
        where = element.keyword or f"private attribute {element.tag}"
        for value in _several(element):
            yield where, value, 0 if element.keyword not in _CODES and element.VR in _TEXT_VR else 1
    native = not dataset.file_meta.TransferSyntaxUID.is_compressed
    for keyword in ("PixelData", "FloatPixelData") if native else ():  # numbers, and most of the file
        if keyword in dataset:
            head, pixels, tail = raw.rpartition(dataset[keyword].value)
            raw = head + tail if pixels else raw
    yield "its bytes", _printable(raw), _LEAST_RAW


def _elements(*datasets: Dataset) -> Iterator[DataElement]:
    """All elements at any depth, but for pixels."""
    for dataset in datasets:
        for element in dataset:
            if element.VR == "SQ":
                yield from _elements(*element.value)
            elif element.tag.group != 0x7FE0:
                yield element


def _several(element: DataElement) -> list[str]:
    """Values of an element as text."""
    value = element.value
    if value is None or element.VR in ("OB", "OW") and not element.tag.is_private:
        return []
    if isinstance(value, bytes):
        return [value.decode("latin-1").strip("\0 ")] if len(value) < 65536 else []
    many = value if element.VM > 1 and not isinstance(value, str) else [value]
    return [text for text in (str(one).strip("\0 ") for one in many) if text]


def _nifti_texts(raw: bytes) -> Iterator[tuple[str, str, int]]:
    """Header and extensions; voxels are numbers."""
    import struct

    order = "<" if raw[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    second = raw[:4] == struct.pack(f"{order}i", 540)
    offset = struct.unpack_from(f"{order}q", raw, 168)[0] if second else int(struct.unpack_from(f"{order}f", raw, 108)[0])
    fields = ((4, 8), (240, 80), (320, 24), (508, 16)) if second else ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16))
    for start, length in fields:
        yield "NIfTI header", raw[start : start + length].split(b"\0")[0].decode("latin-1").strip(), 0
    yield "NIfTI header or extension", _printable(raw[: max(offset, 540 if second else 348)]), _LEAST_RAW


def _png_texts(raw: bytes) -> Iterator[tuple[str, str, int]]:
    """Every chunk but those of pixels; compressed text decompressed."""
    at = 8
    while at + 8 <= len(raw):
        length, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        chunk = raw[at + 8 : at + 8 + length]
        at += length + 12
        if kind in (b"zTXt", b"iTXt", b"tEXt", b"eXIf"):
            name, _, rest = chunk.partition(b"\0")
            parts = [name, *rest.split(b"\0")]
            yield from (("PNG text", part.decode("utf-8", "replace"), 0) for part in parts)
            for start in range(min(len(rest), 80)):
                if rest[start : start + 1] == b"\x78":  # a zlib stream begins with it
                    try:
                        yield "PNG text", zlib.decompressobj().decompress(rest[start:]).decode("utf-8", "replace"), 0
                    except zlib.error:
                        continue
        elif kind not in (b"IDAT", b"IHDR", b"PLTE", b"IEND"):
            yield "PNG chunk", _printable(chunk), _LEAST_RAW


def _pdf_texts(raw: bytes) -> Iterator[tuple[str, str, int]]:
    """Text as it is laid out, metadata, and every stream decompressed."""
    import io

    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(raw))
    yield from (("PDF metadata", str(value), 0) for value in (reader.metadata or {}).values())
    yield from (("PDF page", page.extract_text(), 0) for page in reader.pages)
    for start in re.finditer(rb"stream\r?\n", raw):
        try:
            stream = zlib.decompressobj().decompress(raw[start.end() :])
        except zlib.error:
            continue
        yield "PDF stream", _printable(stream), _LEAST_RAW
    yield "its bytes", _printable(re.sub(rb"stream\r?\n.*?endstream", b"", raw, flags=re.DOTALL)), _LEAST_RAW


def _json_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            yield str(name)
            yield from _json_texts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _json_texts(inside)


def _html_texts(text: str) -> Iterator[tuple[str, str, int]]:
    """Text without embedded pictures; those apart."""
    for picture in re.finditer(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", text):
        yield from _png_texts(base64.b64decode(picture[1]))
    without = re.sub(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+", " ", text)
    yield "HTML", html.unescape(without), 0
