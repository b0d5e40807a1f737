"""What identifies the patient of a scan, as its source says it, and how to find that in a text.

Looked for, in the words of a text (letters and digits; case, accents and what stands between words do not count):

- each part of a person's name of three letters or more, and the whole name, glued together too;
- identifiers (of patient, study, order, institution, station, device, ...): whole values of four characters or more,
  five if they are digits alone; shorter ones, if not of digits, only where a value is that and nothing else;
- other text and private values, which many scans share: whole values of eight characters or more, and of four words or
  with a number of four digits; names and identifiers in them are looked for by themselves;
- dates in the usual notations, but for today's, on which anything may be written;
- UIDs that are not the standard's;
- the text of a NIfTI header and of its extensions, as other text, and a name or date inside it;
- the source's path and the user's home, and names of files and folders that are more than a plain lower-case word; of
  these and of a NIfTI header's text, each part by itself where several begin with a capital.

Words that our own outputs consist of ("white", "mark", "max") are no leak when they are one part of a name; the whole
name still is, unless our own titles say so ("Input × gradient").
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError
from ..volume import Source
from .deidentified import CODES, DUMMY_DATE, DUMMY_TIME, words_of
from .headers import read_header
from .texts import TEXT_VR, elements, nifti_texts, several
from .vocabulary import OURS, TITLES

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

_TOKEN = re.compile(r"\d+(?:\.\d+)+|[^\W_]+")
_CAPITALISED = re.compile(r"[^\W\d_][^\W\d_A-Z]*")
FILE, FOLDER = "the name of the source's file or folder", "the name of a folder above the source"
# What equipment is called, and terms of the standard: shared by many, and needed in results.
_COMMON = CODES | words_of("""
    Manufacturer ManufacturerModelName SoftwareVersions RescaleType SequenceName ConvolutionKernel StackID
    PatientPosition SpecificCharacterSet WindowCenterWidthExplanation
    DeidentificationMethod PatientSex PatientAge DimensionDescriptionLabel LUTExplanation TypeOfFilters
    ReceiveCoilName TransmitCoilName PulseSequenceName QuantityUnits ModalityLUTType
    """)
_IDENTIFYING = re.compile(
    r"IDs?$|(Accession|Order|Serial|Telephone|Issue)Numbers?|Address|Institution|Station|Telecom|Physician|Operator"
    r"|Performer|Issuer|Location|Residence|Insurance|AETitle|URI$|DeviceIdentifier"
)


_DUMMIES = {(DUMMY_DATE,), (DUMMY_TIME,), (DUMMY_DATE + DUMMY_TIME,)}  # what stands for dates that were left out


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
    pieces
        What is looked for as it is, whatever is around it: paths, and names in scripts without case or spaces.
    """

    words: Mapping[tuple[str, ...], str]
    whole: Mapping[str, str]
    uids: frozenset[str]
    pieces: Mapping[str, str]

    @functools.cached_property
    def by_first(self) -> dict[str, list[tuple[tuple[str, ...], str]]]:
        """Sequences of words by the first one."""
        found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for words, kind in self.words.items():
            found.setdefault(words[0], []).append((words, kind))
        return found

    def within(self, text: str, least: int = 0) -> set[str]:
        """What a text holds of them; only what has at least so many characters."""
        plain = _plain(text)
        found = {kind for piece, kind in self.pieces.items() if piece in text or piece in plain}
        tokens = _TOKEN.findall(plain)
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
    every = (source, *source.others)
    uids = {uid for one in every for uid in (one.study_uid, one.series_uid, one.frame_of_reference_uid)}
    uids |= {uid for one in every for uid in one.instance_uids}
    seen: set[tuple[str, str]] = set()
    for header in (header for one in every for header in _source_headers(one)):
        for element in elements(header):
            if element.VR == "UI":
                uids.update(str(uid) for uid in several(element))
                continue
            for value in several(element):
                if (element.keyword, value) not in seen and len(value) <= 1024:
                    seen.add((element.keyword, value))
                    _remember(element, value, words, whole)
    for text in (text for one in every for text in _nifti_headers(one)):
        _remember_text(text, "text of the source's NIfTI header", words, whole)
    pieces = {path: "the source's path" for one in every for path in _paths(one)}
    pieces |= {term[0]: kind for term, kind in words.items() if len(term[0]) > 1 and term[0].upper() == term[0].lower()
               and not term[0].isascii()}  # fmt: skip
    for part, kind in (named for one in every for named in _names(one).items()):
        _put(words, part, kind)
    standard = ("1.2.840.10008.", "1.2.826.0.1.3680043.8.498.1 ", "1.2.826.0.1.3680043.9.7433.1.1 ")
    return Identifiers(
        words={
            term: kind
            for term, kind in words.items()
            if not (term in _DUMMIES or (len(term) == 1 and term[0] in OURS) or _titled(term))
        },
        whole={value: kind for value, kind in whole.items() if (value,) not in _DUMMIES},
        uids=frozenset(uid for uid in uids if uid and not f"{uid} ".startswith(standard)),
        pieces=pieces,
    )


def _source_headers(source: Source) -> Iterator[Dataset]:
    """Headers of all files that a scan lies on; of one of its series where it lies on none (resampled, archived).

    Raises
    ------
    ExportError
        If they can no longer be read.
    """
    files = [path for path in dict.fromkeys(source.files) if path is not None]
    yield from map(read_header, files)
    if source.format == "dicom" and not files and source.path is not None:
        found = next(
            (one for one in _headers_at(source.path) if one.get("SeriesInstanceUID") == source.series_uid), None
        )
        if found is None:
            raise ExportError(
                f"{source.path}, from which the scan was read, no longer holds its series, so results cannot be "
                "searched for what identifies the patient; put it back where it was."
            )
        yield found


def _nifti_headers(source: Source) -> Iterator[str]:
    """What the header of a NIfTI source and its extensions say in letters; nothing where it is no longer there."""
    if source.format == "nifti" and source.path is not None:
        name = re.sub(r"\.img(\.gz)?$", r".hdr\1", source.path.name)  # which of a pair holds the text
        with contextlib.suppress(OSError, EOFError, zlib.error, struct.error):
            for where, text, _ in nifti_texts(source.path.with_name(name)):
                yield from text.splitlines() if where.endswith("extension") else [text]


def _headers_at(path: Path) -> Iterator[Dataset]:
    """Headers of the DICOM files in a folder or zip, or beside a file."""
    import pydicom

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file, contextlib.suppress(pydicom.errors.InvalidDicomError):
                    yield pydicom.dcmread(file, stop_before_pixels=True)
    else:
        for beside in (path if path.is_dir() else path.parent).rglob("*"):
            if beside.is_file():
                with contextlib.suppress(pydicom.errors.InvalidDicomError):
                    yield pydicom.dcmread(beside, stop_before_pixels=True)


def _remember(element: DataElement, value: str, words: dict[tuple[str, ...], str], whole: dict[str, str]) -> None:
    """Decide how a value of the source is to be looked for."""
    kind = element.keyword or "a private attribute"
    if element.VR in ("DA", "DT"):
        for term in _dates(value):
            _put(words, term, kind)
    elif element.VR == "PN":
        _remember_name(value, kind, words, whole)
    elif element.VR in TEXT_VR | {"UN"} and element.keyword not in _COMMON:
        plain = _plain(value).strip()
        tokens = _TOKEN.findall(plain)
        length = sum(map(len, tokens))
        if not _IDENTIFYING.search(element.keyword):
            if length >= 8 and (len(tokens) > 3 or re.search(r"\d{4}", plain)):
                _put(words, value, kind)
        elif length >= (5 if all(map(str.isdigit, tokens)) else 4) and not (len(tokens) == 1 and plain in OURS):
            _put(words, value, kind)
        elif length > 1 and not plain.isdigit() and plain not in OURS:
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


def _remember_text(value: str, kind: str, words: dict[tuple[str, ...], str], whole: dict[str, str]) -> None:
    """Free text that may name somebody: a name as DICOM writes it, capitalised words, and dates."""
    if "^" in value:
        _remember_name(value, kind, words, whole)
    for part in _capitalised(value):
        _put(words, part, kind)
    for day in re.findall(r"(?<!\d)(?:19|20)\d\d[-.]?[01]\d[-.]?[0-3]\d(?!\d)", value):
        for term in _dates(day):
            _put(words, term, kind)
    tokens = _TOKEN.findall(_plain(value))
    if 8 <= sum(map(len, tokens)) <= 1024 and (len(tokens) > 3 or re.search(r"\d{4}", value)):
        _put(words, value, kind)


def _capitalised(text: str) -> set[str]:
    """Words of four letters or more that are not ours, where several begin with a capital (Mueller_Erika, EvaMay)."""
    words = [word for word in _CAPITALISED.findall(text) if len(word) > 1 and word.istitle()]
    return {word for word in words if len(words) > 1 and len(word) > 3 and _plain(word) not in OURS}


def _titled(term: tuple[str, ...]) -> bool:
    """Whether one of our own titles says these words, one after the other."""
    return any(f" {' '.join(term)} " in f" {title} " for title in TITLES)


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


def _paths(source: Source) -> set[str]:
    """Paths of a source and of the user's home, but for those that everybody has; folders stand for their files."""
    given = [path for path in (source.path, *source.files) if path is not None]
    whole = {Path.home(), *given[:1]} | {file.parent if len(file.parent.parts) > 2 else file for file in given}
    return {str(path) for one in whole for path in (one, one.absolute()) if len(path.parts) > 2}


def _names(source: Source) -> dict[str, str]:
    """Names of files and of the three innermost folders that are more than a plain word, each with what it is called.

    Of folders above the scan's own, which projects are called by too, only those that look like a person's or a number;
    of names with several capitals (Mueller_Erika) each part by itself, too.
    """
    found: dict[str, str] = {}
    for path in (source.path, *source.files):
        for n, part in enumerate(reversed(() if path is None else path.parts[-3:])):
            name = part.partition(".nii")[0].removesuffix(".dcm")
            own = path == source.path and n == 0
            if n == 0 and not own and not re.search(r"[^\W\d_]", name):
                continue  # numbers of series and image (1301_0001), which come up by chance in a header
            kind = FILE if n == 0 else FOLDER
            if _telling(name) and (own or not name.islower() or any(map(str.isdigit, name))):
                found.setdefault(name, kind)
            for word in _capitalised(name):
                found.setdefault(word, kind)
    return found


def _telling(name: str) -> bool:
    """Whether a name is more than a plain word."""
    words = _TOKEN.findall(_plain(name))
    return (
        (len(name) >= 5 and not name.islower() and not name.isdigit() and not OURS.issuperset(words))
        or (len(name) >= 6 and any(map(str.isdigit, name)) and any(map(str.isalpha, name)))
        or (len(name) >= 8 and len(words) > 1 and not OURS.issuperset(words))
    )


def _plain(text: str) -> str:
    """Case folded, without accents."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
