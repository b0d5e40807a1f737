"""From a path on disk to a volume, whatever kind of scan lies there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .dicom import dicom_files, is_dicom, read_dicom
from .errors import ScanError
from .nifti import is_nifti, read_nifti
from .volume import Volume

_SNIFFED_FILES = 64  # a folder of a series shows it in its first few files


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether `read_volume` would try this path; quick, looks at first bytes only, never raises."""
    try:
        path = Path(path)
        if path.is_dir():
            with os.scandir(path) as entries:
                return any(is_dicom(Path(entry)) for entry, _ in zip(entries, range(_SNIFFED_FILES), strict=False))
        return is_nifti(path)
    except (OSError, TypeError, ValueError):
        return False


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read one scan: a NIfTI file, or a folder with one regular DICOM series.

    The content decides, not the name. Voxel order and geometry are the file's own (see `read_nifti` and
    `read_dicom` for what becomes of each), and the values are finite and not all equal.

    Raises
    ------
    ScanError
        If there is nothing, no scan, a damaged one, or one whose values say nothing: NaN, infinite, constant.
    GeometryError
        If where its voxels lie is unknown or irregular.
    """
    volume = _read(Path(path))
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


def _read(path: Path) -> Volume:
    """Whatever lies there, its values finite."""
    if not path.exists():
        raise ScanError(f"{path} does not exist; name a .nii or .nii.gz file, or a folder with one DICOM series.")
    if path.is_dir():
        if not dicom_files(path):
            raise ScanError(
                f"{path} is a folder without DICOM images; name the folder in which the files of one series lie."
            )
        volume = read_dicom(path)
    elif is_nifti(path):
        volume = read_nifti(path)
    elif is_dicom(path):
        raise ScanError(
            f"{path} is one DICOM file of a scan; name the folder that holds the whole series: {path.parent}."
        )
    else:
        raise ScanError(f"{path} is not a scan; name a .nii or .nii.gz file, or a folder with one DICOM series.")
    low, high = volume.data.min(), volume.data.max()  # NaN survives both
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = volume.data.size - int(np.isfinite(volume.data).sum())
        raise ScanError(
            f"{path} holds {bad} voxels of {volume.data.size} that are NaN or infinite; only finite values are "
            "allowed: replace them first."
        )
    return volume
