"""All text of a file, whatever its format: what was written is read again, independently of how it was made.

DICOM is read element by element at any depth, private ones too, and as bytes; NIfTI in its header and extensions,
decompressed; PNG in its text chunks; PDF in its text, metadata and decompressed streams; JSON (zarr's too), CSV and
HTML as text, and PNGs inside HTML; anything else as bytes. Numbers (pixels as such, voxels, zarr's chunks) are not
text; compressed pixels are read as bytes. Among bytes short words come up by chance, so that only longer ones count:
five characters, eight among compressed pixels.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from .deidentified import CODES, words_of

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

_PRINTABLE = re.compile(rb"[\x20-\x7e\x80-\xff]{5,}")
_LEAST_RAW, _LEAST_COMPRESSED = 5, 8
TEXT_VR = words_of("AE LO LT PN SH ST UC UR UT")
_NUMERIC_VR = words_of("AT CS DS FD FL IS OD OF OL OV OW SL SS SV UL US UV")


def texts(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield all text of a file: where it stands, what it says, and the least length of what is looked for in it."""
    if path.name.endswith((".nii", ".nii.gz", ".nii.part", ".nii.gz.part")):
        yield from nifti_texts(path)
        return
    raw = path.read_bytes()
    if raw[128:132] == b"DICM":
        yield from _dicom_texts(path, raw)
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
    elif not any((folder / name).exists() for folder in path.parents for name in ("zarr.json", ".zgroup", ".zarray")):
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
    for element in elements(dataset, dataset.file_meta):
        if element.VR in _NUMERIC_VR:
            continue
        where = element.keyword or f"private attribute {element.tag}"
        for value in several(element):
            yield where, value, 0 if element.keyword not in CODES and element.VR in TEXT_VR else 1
    for keyword in ("PixelData", "FloatPixelData"):  # most of the file
        if keyword in dataset:
            head, pixels, tail = raw.rpartition(dataset[keyword].value)
            raw = head + tail if pixels else raw
            if dataset.file_meta.TransferSyntaxUID.is_compressed:
                yield "its compressed pixels", _printable(dataset[keyword].value), _LEAST_COMPRESSED
    yield "its bytes", _printable(raw), _LEAST_RAW


def elements(*datasets: Dataset) -> Iterator[DataElement]:
    """All elements at any depth, but for pixels."""
    for dataset in datasets:
        for element in dataset:
            if element.VR == "SQ":
                yield from elements(*element.value)
            elif element.tag.group != 0x7FE0:
                yield element


def several(element: DataElement) -> list[str]:
    """Values of an element as text."""
    value = element.value
    if value is None or (element.VR in ("OB", "OW") and not element.tag.is_private):
        return []
    if isinstance(value, bytes):
        return [value.decode("latin-1").strip("\0 ")] if len(value) < 65536 else []
    many = value if element.VM > 1 and not isinstance(value, str) else [value]
    return [text for text in (str(one).strip("\0 ") for one in many) if text]


def _offset(header: bytes) -> int:
    """Where the voxels of a NIfTI file begin."""
    little = header[:4] in (struct.pack("<i", 348), struct.pack("<i", 540))
    order = "<" if little else ">"
    if struct.pack("<i", 540) in (header[:4], header[3::-1]):
        return int(struct.unpack_from(f"{order}q", header, 168)[0])
    return int(struct.unpack_from(f"{order}f", header, 108)[0])


def nifti_texts(path: Path) -> Iterator[tuple[str, str, int]]:
    """What is text in the header, and the extensions, which end where the voxels begin."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        raw = file.read(540)
        end = _offset(raw) or None  # 0 in the header of a pair, whose voxels are elsewhere
        raw = (raw + file.read(-1 if end is None else max(0, end - 540)))[:end]
    # descrip, aux_file, intent_name of NIfTI-2; data_type, db_name, and the same of NIfTI-1
    two, one = ((240, 80), (320, 24), (508, 16)), ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16))
    size, fields = (540, two) if struct.pack("<i", 540) in (raw[:4], raw[3::-1]) else (348, one)
    for start, length in fields:
        yield "NIfTI header", raw[start : start + length].split(b"\0")[0].decode("latin-1").strip(), 0
        yield "NIfTI header", _printable(raw[start : start + length]), 1  # what stands behind an end, too
    # The rest of the header are numbers: an affine's bytes would now and then read like somebody's initials.
    yield "NIfTI extension", _printable(raw[size:]), 1


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
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(raw))
    yield from (("PDF metadata", str(value), 0) for value in (reader.metadata or {}).values())
    yield from (("PDF page", page.extract_text(), 0) for page in reader.pages)
    for number in range(1, int(str(reader.trailer["/Size"]))):
        part = reader.get_object(number)
        if not isinstance(part, pypdf.generic.StreamObject) or "/Length1" in part or part.get("/Subtype") == "/Image":
            continue  # letters of a font, or pixels
        yield "PDF stream", _printable(part.get_data()), _LEAST_RAW
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


class _Page(HTMLParser):
    """Collects what a page says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._styled = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the values of attributes."""
        self._styled = tag == "style"
        self.said += [value for name, value in attrs if value and name not in ("style", "class")]

    def handle_data(self, data: str) -> None:
        """Keep text that is no style sheet."""
        if not self._styled:
            self.said.append(data)

    def handle_endtag(self, tag: str) -> None:
        """End a style sheet."""
        self._styled = False

    def handle_comment(self, data: str) -> None:
        """Keep a comment."""
        self.said.append(data)


def _html_texts(text: str) -> Iterator[tuple[str, str, int]]:
    """Text, comments and attributes but for style, each by itself; embedded pictures apart."""
    for picture in re.finditer(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", text):
        yield from _png_texts(base64.b64decode(picture[1]))
    found = _Page()
    found.feed(re.sub(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+", " ", text))
    found.close()
    yield from (("HTML", said, 0) for said in found.said)
