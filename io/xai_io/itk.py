"""NRRD and MetaImage files: the header is read and judged as text, then ITK reads what it promises.

ITK fills in what a header leaves out (a unit grid at the origin), takes every space it does not know for LPS, ignores
units of length and intensity scalings, and trusts every size. So nothing reaches it that does not say all of these.
"""

from __future__ import annotations

import contextlib
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import GeometryError, ScanError
from .volume import Source, Volume

_MAGIC = b"NRRD000"
_META = re.compile(rb"\s*[A-Za-z]\w* *= *[^\n\0]*\r?\n")
_LONGEST = 2**20  # bytes of header looked at; files from scanners' workstations carry long comments
_NRRD_BYTES = {
    name: size
    for size, names in {
        1: "signed char/int8/int8_t/uchar/unsigned char/uint8/uint8_t",
        2: "short/short int/signed short/signed short int/int16/int16_t"
        "/ushort/unsigned short/unsigned short int/uint16/uint16_t",
        4: "int/signed int/int32/int32_t/uint/unsigned int/uint32/uint32_t/float",
        8: "longlong/long long/long long int/signed long long/signed long long int/int64/int64_t/ulonglong"
        "/unsigned long long/unsigned long long int/uint64/uint64_t/double",
    }.items()
    for name in names.split("/")
}
_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
_NUMBERLESS_KINDS = re.compile(r"color|complex|quaternion", re.IGNORECASE)
_FORMATS = {"NrrdImageIO": "nrrd", "MetaImageIO": "metaimage"}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class _Header:
    """What a text header promises of the values.

    `sizes` are I, J, K; `at` is where the values begin in `file` (None: they are its end).
    """

    reader: str
    sizes: tuple[int, ...]
    channels: int
    bytes: int
    packing: str
    file: Path
    at: int | None


def is_itk(path: Path) -> bool:
    """Whether the file begins like an NRRD or a MetaImage header, whatever its name is."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return False
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return start.startswith(_MAGIC) or (_META.match(start) is not None and b"NDims" in start)


def read_itk(path: Path) -> Volume:
    """Read an NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file through ITK, in its own voxel order.

    LPS becomes RAS+ here, once; oblique and sheared axes are kept. A list or vector axis, or several numbers in a
    voxel, become channels. See https://teem.sourceforge.net/nrrd/format.html and
    https://itk.org/Wiki/ITK/MetaIO/Documentation.

    Raises
    ------
    ScanError
        If the file is damaged or cut short, has not three axes, or holds colours or complex numbers.
    GeometryError
        If the header does not say where the voxels lie: an NRRD without one of the spaces RAS, LPS and LAS, its
        directions and its origin; a MetaImage without ElementSpacing, TransformMatrix and Offset; or not in mm.
    """
    notes: tuple[str, ...] = ()
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST)
        if start.startswith(_MAGIC):
            header = _nrrd(*_fields(start, path, r"([^:#=]+): ?(?!=)(.*)"), path)
            _check_size(header, path)
            affine, data = _read(header, path)
        else:
            fields, end = _fields(start, path, r"([^=:]+?)\s*=\s*(.*)", "elementdatafile")
            header = _meta(fields, end, path)
            _check_size(header, path)
            affine, data = _read(header, path)
            notes = _anatomy(fields.get("anatomicalorientation", ""), affine)
    except (ValueError, OverflowError, OSError) as error:  # a damaged header may hold anything where a number should be
        raise ScanError(f"{path} cannot be read or is damaged ({error}); copy or convert it again.") from error
    return Volume(data, affine, source=Source(format=_FORMATS[header.reader], path=path, notes=notes))


def _fields(start: bytes, path: Path, line: str, last: str = "") -> tuple[dict[str, str], int]:
    """Fields of a text header by their names in small letters, and where it ends: after an empty or the last line."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(start):
        stop = start.find(b"\n", at)
        if stop < 0:
            break
        text = start[at:stop].decode("latin-1").strip()
        at = stop + 1
        if not text and not last:
            return fields, at
        found = re.fullmatch(line, text)
        if found is None:
            continue
        name = found[1].strip().lower()
        if name in fields:
            raise ScanError(f"{path} has the field {name!r} twice in its header; convert it again.")
        fields[name] = found[2].strip()
        if name == last:
            return fields, at
    if last or start[-1:] != b"\n":  # the header of a detached NRRD may end with its file
        raise ScanError(f"{path} is cut short: its header has no end; copy it again.")
    return fields, at


def _nrrd(fields: Mapping[str, str], end: int, path: Path) -> _Header:
    """What an NRRD header promises, its geometry being complete."""
    if fields.get("space", "").lower() not in _SPACES or not {"space directions", "space origin"} <= fields.keys():
        raise GeometryError(
            f"{path} does not say where its voxels lie in the patient: an NRRD needs one of the spaces "
            "right-anterior-superior, left-posterior-superior and left-anterior-superior, space directions and a "
            "space origin: convert the scan again from DICOM."
        )
    if not re.fullmatch(r'(\s*"(mm|millimeters?|)")*', fields.get("space units", "").lower()):
        raise GeometryError(f"{path} measures its voxels in {fields['space units']}; only mm are allowed.")
    sizes = _numbers(fields, "sizes", path)
    axes = re.findall(r"none|\([^()]*\)", fields["space directions"])
    kinds = fields.get("kinds", "").split() or ["domain"] * len(axes)
    spatial = [n for n, axis in zip(sizes, axes, strict=False) if axis != "none"]
    if len(axes) != len(sizes) or len(spatial) != 3 or len(sizes) > 4 or len(kinds) != len(axes):
        raise ScanError(
            f"{path} has {len(sizes)} axes, {len(spatial)} of them in space; only three in space and one of channels "
            "are allowed: split it first."
        )
    _vectors([axis.strip("()").split(",") for axis in axes if axis != "none"], path)
    _vectors([fields["space origin"].strip("()").split(",")], path)
    if any(map(_NUMBERLESS_KINDS.search, kinds)):
        raise ScanError(f"{path} holds colours or complex numbers; only real numbers are allowed: convert it first.")
    size = _NRRD_BYTES.get(fields.get("type", "").lower())
    packing = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "ascii": "text", "text": "text", "txt": "text"}.get(
        fields.get("encoding", "").lower()
    )
    if size is None or packing is None:
        raise ScanError(
            f"{path} holds {fields.get('type', 'no type')} values as {fields.get('encoding', 'no encoding')}; only "
            "real numbers in raw, gzip or text encoding are allowed: convert it first."
        )
    if size > 1 and packing == "raw" and fields.get("endian", "").lower() not in ("little", "big"):
        raise ScanError(f"{path} does not say in which order the bytes of its values lie (endian); convert it again.")
    if any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise ScanError(f"{path} skips lines or bytes before its values; convert it to a plain .nrrd file first.")
    detached = fields.get("data file", fields.get("datafile"))
    file = path if detached is None else _beside(path, detached)
    at = end if detached is None else 0
    channels = math.prod(sizes) // max(1, math.prod(spatial))
    return _Header("NrrdImageIO", tuple(spatial), channels, size, packing, file, at)


def _meta(fields: Mapping[str, str], end: int, path: Path) -> _Header:
    """What a MetaImage header promises, its geometry being complete."""
    placed = []
    for wanted, names in (
        ("ElementSpacing", {"elementspacing"}),
        ("TransformMatrix", {"transformmatrix", "rotation", "orientation"}),
        ("Offset", {"offset", "position", "origin"}),
    ):
        if len(names & fields.keys()) != 1:
            raise GeometryError(
                f"{path} does not say where its voxels lie in the patient: a MetaImage needs one {wanted} in its "
                "header: convert the scan again from DICOM."
            )
        words = fields[(names & fields.keys()).pop()].split()
        placed.append(_vectors([words[n : n + 3] for n in range(0, len(words), 3)], path))
    if [len(rows) for rows in placed] != [1, 3, 1] or not placed[0].all():
        raise GeometryError(f"{path} has voxels of size 0, or no matrix of nine numbers; convert it again from DICOM.")
    if fields.get("distanceunits", "mm").lower() not in ("mm", "?"):
        raise GeometryError(f"{path} measures its voxels in {fields['distanceunits']}; only mm are allowed.")
    if any(
        float(fields.get(f"elementtointensityfunction{name}", plain)) != plain
        for name, plain in (("slope", 1), ("offset", 0))
    ):
        raise ScanError(f"{path} scales its values (ElementToIntensityFunction); apply that and write it again.")
    sizes = _numbers(fields, "dimsize", path)
    if fields.get("ndims") != "3" or len(sizes) != 3 or fields.get("objecttype", "Image").lower() != "image":
        raise ScanError(f"{path} is no image of three axes; only these are allowed: split it first.")
    size = _META_BYTES.get(fields.get("elementtype", "").upper())
    channels = _numbers({"n": fields.get("elementnumberofchannels", "1")}, "n", path)
    if size is None or len(channels) != 1:
        raise ScanError(f"{path} holds {fields.get('elementtype')} values; only real numbers are allowed.")
    if fields.get("headersize", "0") != "0":
        raise ScanError(f"{path} skips bytes before its values (HeaderSize); convert it to a plain .mha file first.")
    compressed, binary = (
        fields.get(name, default).lower() in ("true", "1", "t")
        for name, default in (("compresseddata", "false"), ("binarydata", "false"))
    )
    local = fields["elementdatafile"].lower() == "local"
    file = path if local else _beside(path, fields["elementdatafile"])
    packing = "zlib" if compressed else "raw" if binary else "text"
    return _Header("MetaImageIO", tuple(sizes), channels[0], size, packing, file, end if local else 0)


def _numbers(fields: Mapping[str, str], name: str, path: Path) -> list[int]:
    """Positive whole numbers of a field."""
    words = fields.get(name, "").split()
    if not words or not all(re.fullmatch(r"[0-9]{1,9}", word) and int(word) > 0 for word in words):
        raise ScanError(f"{path} has {' '.join(words)[:40]!r} for its sizes; only positive whole numbers are allowed.")
    return [int(word) for word in words]


def _vectors(words: list[list[str]], path: Path) -> npt.NDArray[np.float64]:
    """Numbers that place voxels: rows of three, as many of them independent as there are (but for a point)."""
    try:
        found = np.array([[float(word) for word in row] for row in words])
    except ValueError:
        found = np.array(np.nan)
    if found.shape not in ((1, 3), (3, 3)) or not np.isfinite(found).all():
        raise GeometryError(
            f"{path} places its voxels by {' '.join(map(' '.join, words))[:60]!r}, not by three finite numbers each: "
            "convert the scan again from DICOM."
        )
    if len(found) == 3 and np.linalg.matrix_rank(found) < 3:
        raise GeometryError(f"{path} has axes that span no volume; convert the scan again from DICOM.")
    return found


def _beside(path: Path, name: str) -> Path:
    """The file of the values that a detached header names, inside the header's folder."""
    name = name.removeprefix("./")
    if not name or name.upper().startswith("LIST") or "%" in name or re.search(r"[\s][0-9]", name):
        raise ScanError(f"{path} spreads its values over several files; convert it to a single file first.")
    file = path.parent / name
    if not file.resolve().is_relative_to(path.parent.resolve()) or not file.is_file():
        raise ScanError(f"{path} names {name} for its values, which is no file beside it; copy both into one folder.")
    return file


def _check_size(header: _Header, path: Path) -> None:
    """Refuse values that are not all there, before memory for them is asked for; packed ones by their checksum too."""
    promised = math.prod(header.sizes) * header.channels * header.bytes
    there = header.file.stat().st_size - (header.at or 0)
    if header.packing == "text":
        promised //= header.bytes  # a digit each
    elif header.packing != "raw":
        there = 0
        unpacking = zlib.decompressobj(31 if header.packing == "gzip" else 15)
        with header.file.open("rb") as file:
            file.seek(header.at or 0)
            while there <= promised and not unpacking.eof and (packed := file.read(2**20)):
                try:
                    while packed and there <= promised:
                        there += len(unpacking.decompress(packed, 2**24))
                        packed = unpacking.unconsumed_tail
                except zlib.error as error:
                    raise ScanError(f"{path} holds damaged packed values ({error}); copy it again.") from error
        if there == promised and not unpacking.eof:
            raise ScanError(f"{path} is cut short: its packed values have no end; copy it again.")
    if there < promised:
        raise ScanError(f"{path} is cut short: its header promises {promised} bytes, {there} are there; copy it again.")
    if there > promised and header.packing in ("gzip", "zlib"):
        raise ScanError(f"{path} packs more than the {promised} bytes that its header promises; convert it again.")


def _read(header: _Header, path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Voxel to RAS+ mm, and values (C, I, J, K), as ITK reads them."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetImageIO(header.reader)
    reader.SetFileName(str(path))
    with _silent(sitk):
        try:
            image = reader.Execute()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ScanError(f"{path} is damaged ({reason}); copy or convert it again.") from error
    if image.GetSize() != header.sizes or image.GetNumberOfComponentsPerPixel() != header.channels:
        raise ScanError(f"{path} is read otherwise than its header says; convert it again.")
    values = sitk.GetArrayFromImage(image)
    if values.dtype.kind not in "iuf":
        raise ScanError(f"{path} holds complex numbers; only real numbers are allowed.")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ affine + 0.0, values.T if values.ndim == 4 else values.T[None]


@contextlib.contextmanager
def _silent(sitk: Any) -> Iterator[None]:
    """Keep ITK from writing to the terminal: what it would say is refused in our words."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _anatomy(said: str, affine: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Note where MetaImage's AnatomicalOrientation, which nothing depends on, contradicts the matrix."""
    import nibabel as nib

    opposite = dict(zip("LRPAIS", "RLAPSI", strict=True))  # RAI says where the axes come from, not where they go
    found = "".join(opposite[code] for code in nib.orientations.aff2axcodes(affine))
    if said == found or not re.fullmatch("[LRPAIS]{3}", said):
        return ()
    return (f"The AnatomicalOrientation of the MetaImage header ({said}) is not that of its matrix ({found}).",)
