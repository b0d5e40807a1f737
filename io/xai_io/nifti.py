"""NIfTI files: one reader that never guesses, one writer that keeps the grid."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from ._files import written_aside
from .errors import ExportError, GeometryError, ScanError, XaiIOError
from .volume import Source, Volume

_GZIP = b"\x1f\x8b"
_DEFLATE_LIMIT = 1040  # deflate cannot shrink anything further than about 1032 : 1
_ORDERS: tuple[Literal["little"], Literal["big"]] = ("little", "big")
_MAGIC = {348: slice(344, 348), 540: slice(4, 8)}  # by the size of the header
_CLASSES = {
    (348, b"n+1\0"): nib.Nifti1Image,
    (348, b"ni1\0"): nib.Nifti1Pair,
    (540, b"n+2\0"): nib.Nifti2Image,
    (540, b"ni2\0"): nib.Nifti2Pair,
}
_SMALL_MM = 0.01  # no scanner of patients has such voxels; a header with micron over values in mm has
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}  # NIfTI without units means mm everywhere


def is_nifti(path: Path) -> bool:
    """Whether the file begins like a NIfTI-1 or NIfTI-2, or names a .hdr/.img pair that does; zipped or not."""
    try:
        return _header_file(path) is not None
    except (OSError, EOFError, zlib.error):
        return False


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file, or a .hdr/.img pair by either name, in its own voxel order.

    The affine is the sform where its code is set, else the qform, oblique and sheared as it is; with neither code set
    the place of the voxels is unknown and the file is refused. Where the sform, the qform and the voxel sizes
    (pixdim) disagree, a note of the source says by how much. Values are ``scl_slope * stored + scl_inter`` as
    float32, or the stored whole numbers where they are not scaled. One further axis (time, channels, vectors) becomes
    channels. Units of metres and microns become mm. See https://nifti.nimh.nih.gov/nifti-1.

    Raises
    ------
    ScanError
        If the file is no NIfTI, is cut short or damaged, or holds colours, complex numbers or two further axes.
    GeometryError
        If sform and qform codes are both 0, the affine is not invertible, or the file is an Analyze 7.5, which does
        not say where its voxels lie.
    """
    try:
        header_file = _header_file(path)
        if header_file is None:
            raise ScanError(f"{path} is no NIfTI; give a .nii or .nii.gz file, or the .hdr of a pair.")
        with contextlib.ExitStack() as files:
            header = files.enter_context(_opened(header_file))
            kind = _kind(header.read(544), header_file)
            if kind is nib.AnalyzeImage:
                raise GeometryError(
                    f"{path} is an Analyze 7.5 file, which does not say where its voxels lie in the patient, nor which "
                    "side is left: convert the scan to NIfTI again from DICOM."
                )
            header.seek(0)
            raw = kind.header_class.from_fileobj(header, check=False)  # before nibabel repairs it
            header.seek(0)
            image_file, image_stream = header_file, header
            if issubclass(kind, nib.Nifti1Pair) and not issubclass(kind, nib.Nifti1Image):
                image_file = _partner(header_file, ".img")
                image_stream = files.enter_context(_opened(image_file))
            # Not memory-mapped: values must not change when somebody writes the file anew.
            image = kind.from_file_map(kind.make_file_map({"header": header, "image": image_stream}), mmap=False)
            affine, notes = _affine(raw, path)
            if (voxel := float(np.linalg.norm(affine[:3, :3], axis=0).max())) < _SMALL_MM:
                notes = (*notes, f"Voxels are {voxel:.2g} mm at most: the header says so, whatever was meant.")
            data = _values(image, raw, image_file)
            image_stream.read(1)  # the checksum of a zipped file is only compared once its end has been read
    except XaiIOError:
        raise
    except Exception as error:  # a damaged header may fail anywhere inside nibabel
        raise ScanError(f"{path} is cut short or damaged ({error}); copy or convert it again.") from error
    return Volume(data, affine, source=Source(format="nifti", path=path, notes=notes))


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


def _kind(start: bytes, path: Path) -> Any:
    """Nibabel's class for a file that starts like this, None where it is neither NIfTI nor Analyze 7.5."""
    size = next((size for size in _MAGIC for order in _ORDERS if start[:4] == size.to_bytes(4, order)), None)
    if size is None:
        return None
    kind = _CLASSES.get((size, start[_MAGIC[size]]))
    # Analyze 7.5 has no mark but its size and its name.
    return nib.AnalyzeImage if kind is None and size == 348 and _stem(path)[1] == ".hdr" else kind


def _header_file(path: Path) -> Path | None:
    """The file that holds the header: this one, or for an .img the .hdr beside it; None if there is none."""
    for file in (path, _partner(path, ".hdr")) if _stem(path)[1] == ".img" else (path,):
        if file.is_file():
            with _opened(file) as stream:
                if _kind(stream.read(544), file) is not None:
                    return file
    return None


def _stem(path: Path) -> tuple[Path, str]:
    """A path without .gz, and without its last suffix; and that suffix."""
    bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return bare.with_suffix(""), bare.suffix.lower()


def _partner(path: Path, suffix: str) -> Path:
    """The other file of a pair, zipped or not."""
    plain = _stem(path)[0].with_suffix(suffix)
    zipped = plain.with_name(f"{plain.name}.gz")
    return zipped if zipped.exists() and not plain.exists() else plain


def _affine(header: Any, path: Path) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Voxel to RAS+ mm: sform over qform, in the file's own unit of length; and where the header disagrees."""
    scale = _TO_MM.get(header.get_xyzt_units()[0])
    if scale is None:
        raise GeometryError(f"{path} measures its voxels in an unknown unit; only metre, mm and micron are allowed.")
    to_mm = np.array([scale, scale, scale, 1.0])[:, None]
    sform = header.get_sform(coded=True)[0]
    qform = None
    if header["qform_code"] > 0:
        qform = _qform(header)
        if qform is None and sform is None:
            raise GeometryError(
                f"{path} has a damaged qform (no rotation, or voxel sizes that are not positive) and no sform, so that "
                "the place of its voxels is unknown: convert the scan again from DICOM."
            )
    if sform is None and qform is None:
        raise GeometryError(
            f"{path} does not say where its voxels lie in the patient (sform and qform codes are both 0): "
            "set one of them, or convert the scan again from DICOM."
        )
    if sform is None:
        return np.asarray(qform * to_mm, np.float64), ()
    sform = np.asarray(sform * to_mm, np.float64)
    if not np.isfinite(sform).all() or np.linalg.matrix_rank(sform[:3, :3]) < 3:
        raise GeometryError(
            f"{path} has an sform (code {int(header['sform_code'])}) that places no voxel (not finite, or not "
            "invertible): correct it, set its code to 0 where the qform is right, or convert the scan again from DICOM."
        )
    return sform, tuple(_disagreements(header, sform, scale, qform))


def _qform(header: Any) -> npt.NDArray[np.float64] | None:
    """The affine of quaternion, offset and voxel sizes; None where they are damaged."""
    if header["pixdim"][0] == 0:  # as good as 1 (nifti1.h)
        header["pixdim"][0] = 1
    sizes = header["pixdim"][1:4]
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        return None
    try:
        qform = header.get_qform()
    except (ValueError, HeaderDataError):
        return None
    return np.asarray(qform, np.float64) if np.isfinite(qform).all() else None


def _disagreements(
    header: Any, sform: npt.NDArray[np.float64], scale: float, qform: npt.NDArray[np.float64] | None
) -> Iterator[str]:
    """What contradicts the sform by more than a tenth of a voxel, one sentence each."""
    shape = (*header.get_data_shape(), 1, 1, 1)[:3]
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if header["qform_code"] > 0 and qform is None:
        yield "The qform of the NIfTI header is damaged; the sform was used."
    elif qform is not None:
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
        there = qform * np.array([scale, scale, scale, 1.0])[:, None]
        off = float(np.linalg.norm(((sform - there) @ corners.T)[:3], axis=0).max())
        if off > spacing.min() / 10:
            yield (
                f"The sform and the qform of the NIfTI header disagree by up to {off:.4g} mm at the volume's corners; "
                "the sform was used."
            )
    sizes = np.abs(header["pixdim"][1:4]) * scale
    if not (np.abs(sizes - spacing) <= spacing / 10 / np.maximum(shape, 1)).all():
        yield (
            f"The voxel sizes of the NIfTI header ({_mm(sizes)} mm) are not those of its sform ({_mm(spacing)} mm); "
            "the sform was used."
        )


def _mm(sizes: npt.NDArray[Any]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _values(image: Any, raw: Any, file: Path) -> npt.NDArray[Any]:
    """Scaled values (C, I, J, K); a view of the file's own memory order, so that nothing is copied twice."""
    dtype, shape = image.header.get_data_dtype(), image.shape
    if dtype.kind not in "iuf":
        raise ScanError(
            f"{file} holds colours or complex numbers ({dtype}); only one real number per voxel is allowed."
        )
    further = [n for n in shape[3:] if n != 1]
    if len(shape) < 3 or len(further) > 1 or 0 in shape:
        raise ScanError(
            f"{file} has the shape {shape}; only (i, j, k) and (i, j, k, channels) are allowed: split it first."
        )
    if np.isinf(raw["scl_slope"]):
        raise ScanError(f"{file} scales its values by infinity (scl_slope); correct its header or convert it again.")
    with file.open("rb") as stream:
        room = _DEFLATE_LIMIT if stream.read(2) == _GZIP else 1
    stored = dtype.itemsize * int(np.prod(shape, dtype=np.float64))
    on_disk = file.stat().st_size
    if stored > on_disk * room:  # before memory for it is asked for
        raise ScanError(
            f"{file} is cut short: its header promises {stored} bytes of voxels, {on_disk} are there; copy it again."
        )
    scaled = dtype.kind == "f" or (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused by the check that follows reading
        data: npt.NDArray[Any] = (
            image.get_fdata(dtype=np.float32, caching="unchanged") if scaled else image.dataobj.get_unscaled()
        )
    data = data.reshape((*shape[:3], *further), order="F")
    return np.moveaxis(data, 3, 0) if further else data[None]


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
