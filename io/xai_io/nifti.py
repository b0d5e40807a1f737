"""NIfTI files: one reader that never guesses, one writer that keeps the grid."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from ._files import written_aside
from .errors import ExportError, GeometryError, ScanError, XaiIOError
from .volume import Source, Volume

_GZIP = b"\x1f\x8b"
_DEFLATE_LIMIT = 1040  # deflate cannot shrink anything further than about 1032 : 1
_CLASSES = {348: nib.Nifti1Image, 540: nib.Nifti2Image}
_MAGIC = {348: slice(344, 348), 540: slice(4, 8)}
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}  # NIfTI without units means mm everywhere
_MOST_BITS = 24  # integers above 2**24 are not exact in float32


def is_nifti(path: Path) -> bool:
    """Whether the file begins like a single-file NIfTI-1 or NIfTI-2, zipped or not; whatever its name is."""
    try:
        with _opened(path) as stream:
            return _kind(stream.read(544)) is not None
    except (OSError, EOFError, zlib.error):
        return False


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file in its own voxel order.

    The affine is the sform where its code is set, else the qform; with neither code set the place of the voxels
    is unknown and the file is refused. Values are ``scl_slope * stored + scl_inter`` as float32. A fourth axis
    becomes channels, and so does a fifth when the fourth has one entry. Units of metres and microns become mm.

    Raises
    ------
    ScanError
        If the file is no NIfTI, is cut short or damaged, or holds colours, complex numbers or a fifth axis.
    GeometryError
        If sform and qform codes are both 0, or the affine is not invertible.
    """
    try:
        with _opened(path) as stream:
            kind = _kind(stream.read(544))
            if kind is None:
                raise ScanError(f"{path} is not a single-file NIfTI; give a .nii or .nii.gz file.")
            stream.seek(0)
            # Not memory-mapped: values must not change when somebody writes the file anew.
            image = _CLASSES[kind].from_file_map(_CLASSES[kind].make_file_map({"image": stream}), mmap=False)
            affine = _affine(image.header, path)
            data = _values(image, path)
            stream.read(1)  # the checksum of a zipped file is only compared once its end has been read
    except XaiIOError:
        raise
    except Exception as error:  # a damaged header may fail anywhere inside nibabel
        raise ScanError(f"{path} is cut short or damaged ({error}); copy or convert it again.") from error
    return Volume(data, affine, source=Source(format="nifti", path=path))


def write_nifti(path: str | os.PathLike[str], volume: Volume, *, overwrite: bool = False) -> None:
    """Write a volume as NIfTI-1 on its own grid, zipped when `path` ends in ``.gz``.

    The affine goes into the sform (code 1, scanner), and into the qform too unless it is sheared, which a qform
    cannot say. Floating-point values are written as float32, integers as they are; nothing about the source
    or its patient is written.

    Raises
    ------
    ExportError
        If the name does not end in .nii or .nii.gz, the values fit no NIfTI type, or the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ExportError(f"{path} was given as the name of a NIfTI file; only .nii and .nii.gz are allowed.")
    image = _image(volume, path)
    with written_aside(path, overwrite=overwrite) as file:
        if path.suffix == ".gz":
            # No file name and no time inside, so that equal volumes give equal bytes and no name leaks.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as zipped:
                image.to_stream(zipped)
        else:
            image.to_stream(file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unzipping it if its content (not its name) says so."""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        if zipped:
            with gzip.GzipFile(fileobj=file) as stream:
                yield cast(BinaryIO, stream)
        else:
            yield file


def _kind(start: bytes) -> int | None:
    """Header size of a single-file NIfTI (348 or 540) from its first bytes, None if it is none."""
    for size in _CLASSES:
        if size in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")):
            return size if start[_MAGIC[size]] in (b"n+1\0", b"n+2\0") else None
    return None


def _affine(header: Any, path: Path) -> npt.NDArray[np.float64]:
    """Voxel to RAS+ mm: sform over qform, in the file's own unit of length."""
    affine = header.get_sform(coded=True)[0]
    if affine is None:
        affine = header.get_qform(coded=True)[0]
    if affine is None:
        raise GeometryError(
            f"{path} does not say where its voxels lie in the patient (sform and qform codes are both 0): "
            "set one of them, or convert the scan again from DICOM."
        )
    scale = _TO_MM.get(header.get_xyzt_units()[0])
    if scale is None:
        raise GeometryError(f"{path} measures its voxels in an unknown unit; only metre, mm and micron are allowed.")
    affine = np.array(affine, dtype=np.float64)
    affine[:3] *= scale
    return affine


def _values(image: Any, path: Path) -> npt.NDArray[np.float32]:
    """Scaled values (C, I, J, K); a view of the file's own memory order, so that nothing is copied twice."""
    dtype, shape = image.header.get_data_dtype(), image.shape
    if dtype.kind not in "iuf":
        raise ScanError(
            f"{path} holds colours or complex numbers ({dtype}); only one real number per voxel is allowed."
        )
    if len(shape) == 5 and 1 in shape[3:]:
        shape = (*shape[:3], shape[3] * shape[4])
    if len(shape) not in (3, 4) or 0 in shape:
        raise ScanError(
            f"{path} has the shape {image.shape}; only (i, j, k) and (i, j, k, channels) are allowed: split it first."
        )
    stored = dtype.itemsize * int(np.prod(image.shape, dtype=np.float64))
    on_disk = path.stat().st_size
    if stored > on_disk * _DEFLATE_LIMIT:  # before memory for it is asked for
        raise ScanError(
            f"{path} is cut short: its header promises {stored} bytes of voxels, {on_disk} are there; copy it again."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused by the check that follows reading
        data: npt.NDArray[np.float32] = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    data = data.reshape(shape, order="F")
    return np.moveaxis(data, 3, 0) if data.ndim == 4 else data[None]


def _image(volume: Volume, path: Path) -> Any:
    """Build the nibabel image of a volume: values in NIfTI order, both forms, mm."""
    data = volume.data
    if data.dtype.kind == "f":
        data = data.astype(np.float32, copy=False)
    elif data.dtype == np.bool_:
        data = data.astype(np.uint8)
    elif data.dtype.itemsize == 8:
        narrow = data.astype(np.int32)
        if not np.array_equal(narrow, data):
            raise ExportError(
                f"{path} was not written because a value does not fit 32-bit integers; convert the values first."
            )
        data = narrow
    data = data[0] if volume.channels == 1 else np.moveaxis(data, 0, 3)
    try:
        image = nib.Nifti1Image(data, None)
        image.header.set_sform(volume.affine, code="scanner")
        # The voxel sizes come with the qform; a sheared grid keeps them without one.
        image.header.set_zooms((*volume.spacing, 1.0)[: data.ndim])
        try:
            image.header.set_qform(volume.affine, code="scanner", strip_shears=False)
        except HeaderDataError:
            image.header["qform_code"] = 0
    except HeaderDataError as error:
        raise ExportError(
            f"{path} was not written because NIfTI-1 cannot hold the volume ({error}); crop it first."
        ) from error
    image.header.set_xyzt_units("mm")
    return image
