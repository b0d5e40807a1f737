"""Where the DICOM files of a scan lie: a folder, a medium with a DICOMDIR, a zip, or next to one of them."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from ..errors import ScanError

if TYPE_CHECKING:
    from pydicom import Dataset

File: TypeAlias = Path | zipfile.Path  # a zip's members are read where they are: nothing is ever extracted

_LARGEST_MEMBER = 4 << 30  # bytes
_INFLATION = 500  # times; pixels of air shrink 200-fold, a bomb a million-fold
_INFLATION_FROM = 64 << 20  # bytes
_VR = {b"AE", b"CS", b"DA", b"DT", b"IS", b"LO", b"OB", b"PN", b"SH", b"ST", b"TM", b"UI", b"UL", b"US"}


def is_dicom(file: File) -> bool:
    """Whether the file carries DICOM's mark, or begins as a data set without preamble does."""
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError):
        return False
    return start[128:132] == b"DICM" or _bare(start)


def is_zip(path: Path) -> bool:
    """Whether the file is a zip archive."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def is_dicomdir(path: Path) -> bool:
    """Whether the file is the directory of a DICOM medium."""
    return path.name.upper() == "DICOMDIR" and is_dicom(path)


def dicom_files(path: Path) -> Sequence[File]:
    """List the DICOM files of a folder (nested, whatever their names), a zip, or a DICOMDIR, sorted by name.

    Raises
    ------
    ScanError
        If the zip is damaged, or if files that a DICOMDIR lists are missing.
    """
    if path.is_dir():
        return [file for file in sorted(_walked(path)) if is_dicom(file)]
    if is_zip(path):
        return [file for file in _members(path) if is_dicom(file)]
    return _listed(path)


def first_files(path: Path, most: int) -> Iterator[File]:
    """Yield the first few files of a folder or zip, in no order, to see what lies there."""
    files = _members(path) if is_zip(path) else _walked(path)
    for file, _ in zip(files, range(most), strict=False):
        yield file


@contextmanager
def opened(file: File) -> Iterator[BinaryIO]:
    """Open a file; a zip's member is read into memory, because a stream that inflates cannot jump."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            yield stream
        return
    info = file.root.getinfo(file.at)
    if info.file_size > max(_INFLATION_FROM, min(_LARGEST_MEMBER, _INFLATION * info.compress_size)):
        raise ScanError(
            f"{file} would unpack from {info.compress_size} to {info.file_size} bytes, as no scan does: "
            "unpack the archive yourself and name the folder if you trust it."
        )
    yield io.BytesIO(file.read_bytes())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings away, and what it logs: they quote values, which may be a patient's."""
    from pydicom.config import disable_value_validation

    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def parsed(file: File, *, tags: Sequence[str] = ()) -> Dataset:
    """Read a header up to the pixels: the tags with these keywords, or all of it."""
    with opened(file) as stream:
        return header_of(stream, tags)


def header_of(stream: BinaryIO, tags: Sequence[str] = ()) -> Dataset:
    """As `parsed`, of a file that is open."""
    import pydicom

    return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(tags) or None, force=True)


def at_pixels(stream: BinaryIO, header: Dataset) -> bool:
    """Whether a file goes on with pixels where reading its header stopped; one that was cut short does not."""
    meta = getattr(header, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta else None
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_deflated:
        return True  # not to be seen without inflating it all
    return stream.read(2) in (b"\xe0\x7f", b"\x7f\xe0")


def _bare(start: bytes) -> bool:
    """Whether bytes begin as group 2 or 8 does: a low element, then a VR, or a small even length."""
    if len(start) < 16 or start[:2] not in (b"\x02\x00", b"\x08\x00") or start[3] != 0 or start[2] > 0x70:
        return False
    length = int.from_bytes(start[4:8], "little")
    return start[4:6] in _VR or (start[:2] == b"\x08\x00" and length % 2 == 0 and 0 < length <= 128)


def _walked(folder: Path) -> Iterator[Path]:
    """Every file below a folder; links to folders are not followed, they may lead in circles."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(place, name)
            if file.is_file():
                yield file


def _members(path: Path) -> list[File]:
    """Every file in a zip."""
    try:
        archive = zipfile.ZipFile(path)
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if any(info.flag_bits & 1 for info in infos):
            raise ScanError(f"{path} is encrypted; unpack it yourself and name the folder.")
        return [zipfile.Path(archive, name) for name in sorted(info.filename for info in infos)]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ScanError(f"{path} is a damaged zip archive ({error}); copy it again.") from error


def _listed(directory: Path) -> Sequence[File]:
    """The image files that a DICOMDIR lists."""
    try:
        with quiet():
            records = parsed(directory).get("DirectoryRecordSequence") or []
            parts = [record.get("ReferencedFileID") for record in records]
            named = [[part] if isinstance(part, str) else list(part) for part in parts if part]
    except Exception:
        raise ScanError(f"{directory} is a damaged DICOMDIR; name the folder with the images instead.") from None
    if any(Path(part).name != part or part == ".." for parts in named for part in parts):
        raise ScanError(f"{directory} lists files outside its folder; name the folder with the images instead.")
    files = [_either_case(directory.parent, parts) for parts in named]
    found = [file for file in files if file is not None]
    if len(found) < len(files) or not files:
        raise ScanError(
            f"{directory} lists {len(files)} files of which {len(found)} are there; copy the whole medium, or name the "
            "folder with the images instead."
        )
    return sorted(set(found))


def _either_case(folder: Path, parts: list[str]) -> Path | None:
    """The file as it is listed, or in small letters, as some systems copy it."""
    for spelled in (parts, [part.lower() for part in parts]):
        file = folder.joinpath(*spelled)
        if file.is_file():
            return file
    return None
