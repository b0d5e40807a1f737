"""From a path on disk to a volume, whatever kind of scan lies there."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .dicom import Choices, Series, find_series, read_series
from .dicom.files import first_files, is_dicom, is_zip
from .dicom.series import Progress
from .errors import GeometryError, NonFiniteScan, ScanError
from .itk import is_itk, read_itk
from .nifti import is_nifti, read_nifti
from .omezarr import is_omezarr, read_omezarr
from .volume import Volume

# Beside DICOM: what tells a format by its first bytes, and what reads it.
_FORMATS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Volume]], ...] = (
    (is_nifti, read_nifti),
    (is_itk, read_itk),
    (is_omezarr, read_omezarr),
)
_KNOWN = "a NIfTI, NRRD or MetaImage file, an OME-Zarr folder, or a folder with one DICOM series"
_FURTHEST = 1e5  # mm from the world's origin; no scanner is as large, and a damaged header soon is
_LARGEST = 1e3  # mm along a voxel's edge
_SNIFFED_FILES = 64  # a folder of a series shows it in its first few files
_LISTED = 20
_NO_VOLUME = ("localiser", "single slice", "mixed orientation", "no geometry", "colour")


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether `read_volume` would try this path; quick, looks at first bytes only, never raises."""
    try:
        path = Path(path)
        if any(is_format(path) for is_format, _ in _FORMATS):
            return True
        if path.is_dir() or is_zip(path):
            return any(map(is_dicom, first_files(path, _SNIFFED_FILES)))
        return is_dicom(path)
    except (OSError, TypeError, ValueError, ScanError):
        return False


def read_volume(
    path: str | os.PathLike[str],
    *,
    series: int | str | None = None,
    choices: Choices | None = None,
    progress: Progress | None = None,
) -> Volume:
    """Read one scan: a NIfTI, NRRD or MetaImage file, an OME-Zarr folder, or one DICOM series.

    A series is a folder, a zip, a DICOMDIR or one of its files. The content decides, not the name. Voxel order and
    geometry are the file's own (see `read_nifti`, `read_itk`, `read_omezarr` and `read_series` for what becomes of
    each), and the values are finite and not all equal. They are float32; of other formats than DICOM float64 where they
    are whole numbers that float32 cannot tell apart.

    Parameters
    ----------
    path
        A file or folder.
    series
        Which DICOM series, where there are several: its number in the listing of `find_series`, from 1, or its
        SeriesInstanceUID. Without it, several are refused, unless all but one are no volumes (localisers, single
        images, colour).
    choices
        What to do about a DICOM series that is not one regular volume, or a scan with NaN; it is refused otherwise.
    progress
        Called with how much of a DICOM series is done, and the total: files first, then images.

    Raises
    ------
    ScanError
        If there is nothing, no scan, a damaged one, or one whose values say nothing: constant, or NaN and infinite
        (`NonFiniteScan`).
    GeometryError
        If where its voxels lie is unknown or irregular.
    """
    volume = _read(Path(path), series, choices, progress)
    low, high = volume.data.min(), volume.data.max()
    if low == high:
        raise ScanError(f"{path} holds the value {low:g} in every voxel; a scan has contrast: check how it was made.")
    return volume


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a mask or label map as `read_volume` reads a scan; its values are whole numbers, and may all be equal.

    Raises
    ------
    ScanError, GeometryError
        As `read_volume`; or if a value is no whole number.
    """
    volume = _read(Path(path))
    if bool((volume.data != np.round(volume.data)).any()):
        raise ScanError(f"{path} has values that are no whole numbers, so that it is no mask or label map.")
    return volume


def _read(
    path: Path, series: int | str | None = None, choices: Choices | None = None, progress: Progress | None = None
) -> Volume:
    """Whatever lies there, its values finite and its voxels within reach."""
    if not path.exists():
        raise ScanError(f"{path} does not exist; name {_KNOWN}.")
    read = next((read for is_format, read in _FORMATS if is_format(path)), None)
    if read is not None:
        volume = read(path)
    elif path.is_dir() or is_dicom(path) or is_zip(path):
        volume = _read_dicom(path, series, choices, progress)
    else:
        raise ScanError(f"{path} is not a scan; name {_KNOWN}.")
    _refuse_out_of_reach(volume, path)
    data, notes = _finite(_as_float(volume.data), path, choices or Choices())
    source = dataclasses.replace(volume.source, notes=(*volume.source.notes, *notes))
    return dataclasses.replace(volume, data=data, source=source)


def _refuse_out_of_reach(volume: Volume, path: Path) -> None:
    """Refuse an affine that is sound, but of no patient in no scanner."""
    corners = volume.world_of(np.array([(0, 0, 0), volume.shape]))
    furthest, largest = float(np.abs(corners).max()), max(volume.spacing)
    if largest > _LARGEST or furthest > _FURTHEST:
        raise GeometryError(
            f"{path} places its voxels up to {furthest:.3g} mm from the origin and {largest:.3g} mm apart, where no "
            "patient is; correct its affine or its unit of length, or convert it again."
        )


def _finite(data: npt.NDArray[Any], path: Path, choices: Choices) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Values without NaN and infinities, as was chosen, and what was done about them."""
    low, high = data.min(), data.max()  # NaN survives both
    if np.isfinite(low) and np.isfinite(high):
        return data, ()
    missing = np.isnan(data)
    bad, unknown = data.size - int(np.isfinite(data).sum()), int(missing.sum())
    only_some_nan = bad == unknown < data.size
    if only_some_nan and choices.on_nan == "zero":
        return np.where(missing, np.float32(0), data), (
            f"{unknown} voxels of {data.size} were NaN and were read as 0.",
        )
    way_out = "choose on_nan='zero' (--on-nan zero) if these are background" if only_some_nan else "replace them first"
    raise NonFiniteScan(
        f"{path} holds {bad} voxels of {data.size} that are NaN or infinite; only finite values are allowed: "
        f"{way_out}.",
        background=only_some_nan,
    )


def _as_float(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values as float32; whole numbers beyond 2**24, which it would round to their neighbours, as float64."""
    if data.dtype == np.float32:
        return data
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused by the check that follows
        narrow = data.astype(np.float32)
    if data.dtype.kind in "iu" and data.dtype.itemsize > 2 and not np.array_equal(narrow, data):
        return data.astype(np.float64)
    return narrow


def _read_dicom(path: Path, wanted: int | str | None, choices: Choices | None, progress: Progress | None) -> Volume:
    """Read the one series that is wanted, or that can be meant."""
    found = find_series(path, progress=progress)
    if not found:
        what = "is a folder without DICOM images" if path.is_dir() else "holds no DICOM image"
        raise ScanError(f"{path} {what}; name the folder in which the files of one series lie.")
    if wanted is not None:
        numbered = isinstance(wanted, int)
        meant = [one for n, one in enumerate(found, 1) if (n == wanted if numbered else one.series_uid == wanted)]
        if len(meant) != 1:
            number = "no series" if not meant else f"{len(meant)} stacks in the series"
            raise ScanError(f"{path} has {number} that was asked for, but {_listed(found)}.")
        return read_series(meant[0], choices, progress=progress)
    damaged = [one for one in found if one.verdict.kind == "damaged"]
    if damaged:
        raise ScanError(
            f"{path} has {damaged[0].verdict.sentence}, which may belong to the series that is wanted; copy them again "
            "or remove them, or choose a series by its number."
        )
    others = [one for one in found if one.verdict.kind in _NO_VOLUME]
    if len(found) - len(others) > 1 or (len(found) > 1 and len(others) == len(found)):
        raise ScanError(f"{path} holds {len(found)} series and one is wanted: {_listed(found)}.")
    chosen = next((one for one in found if one not in others), found[0])
    torn = [one for one in others if one.series_uid == chosen.series_uid and one.verdict.kind != "localiser"]
    if torn and chosen not in torn:
        raise GeometryError(
            f"{path} holds images of the same series that do not fit its volume ({torn[0].summary}), so that slices "
            f"may be missing from it; copy the series again, or choose what to read: {_listed(found)}."
        )
    volume = read_series(chosen, choices, progress=progress)
    if len(found) == 1:
        return volume
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(one.verdict.kind for one in others).items())
    notes = (*volume.source.notes, f"Other images were left out because they are no volumes: {kinds}.")
    return dataclasses.replace(volume, source=dataclasses.replace(volume.source, notes=notes))


def _listed(found: tuple[Series, ...]) -> str:
    """Every series by what cannot identify anybody, and how to choose one."""
    lines = [f"{number}) {one.summary}" for number, one in enumerate(found[:_LISTED], 1)]
    more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{'; '.join(lines)}{more}; pass series=NUMBER (--series NUMBER)"
