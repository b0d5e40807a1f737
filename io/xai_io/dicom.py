"""DICOM: a folder that holds one regular series of single-frame images, and nothing that has to be guessed.

Axes: I runs along the columns of an image (its column index), J along its rows (row index), K along the slices,
in the direction of the slice normal (row cosine x column cosine). With that order the axes (I, J, K) are always
right-handed. DICOM's world is LPS+; it becomes RAS+ here, once, and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import DecoderMissing, GeometryError, ScanError
from .volume import Source, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_OFF_GRID_MM = 0.06  # how far a slice may lie from its place on the regular grid: positions are often rounded to 0.1
_OFF_GRID_SHARE = 0.01  # or this share of the slice spacing, where that is more
_TILT_DEGREES = 0.1
_UNITS = {("CT", "HU"): "HU", ("PT", "BQML"): "Bq/mL"}


def is_dicom(path: Path) -> bool:
    """Whether the file carries DICOM's mark after the preamble."""
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> list[Path]:
    """List the DICOM files that lie directly in a folder, whatever their names, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_dicom(path))


def read_dicom(folder: Path) -> Volume:
    """Read the one regular series of single-frame images in a folder; other files in it are ignored.

    Values are rescaled slice by slice with the slice's own slope and intercept (float32), MONOCHROME1 keeps its
    values. Headers are read and judged first, pixels only when they make one regular volume.

    Raises
    ------
    ScanError
        If the folder holds no images, several series, colour or multi-frame images, or a damaged one.
    DecoderMissing
        If the pixels are compressed and no decoder for them is installed.
    GeometryError
        If the slices do not make one regular grid: gap, duplicate, tilt, uneven spacing, mixed orientation.
    """
    files, headers = _one_series(folder)
    order, affine = _grid(headers, folder)
    files, headers = [files[n] for n in order], [headers[n] for n in order]
    first = headers[0]
    modality = str(first.get("Modality", ""))
    modality = modality if modality in ("CT", "MR", "PT") else ""
    return Volume(
        _pixels(files, first, folder),
        affine,
        units=_units(headers, modality),
        modality=modality,
        source=Source(
            format="dicom",
            path=folder,
            study_uid=str(first.get("StudyInstanceUID", "")),
            series_uid=str(first.SeriesInstanceUID),
            frame_of_reference_uid=str(first.get("FrameOfReferenceUID", "")),
            sop_class_uid=str(first.get("SOPClassUID", "")),
            instance_uids=tuple(str(header.get("SOPInstanceUID", "")) for header in headers),
            files=tuple(files),
        ),
    )


def _one_series(folder: Path) -> tuple[list[Path], list[Dataset]]:
    """Read the headers of all images in a folder and insist that they are one single-frame grey series."""
    import pydicom
    from pydicom.uid import UID

    files: list[Path] = []
    headers: list[Dataset] = []
    for path in dicom_files(folder):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception as error:  # a damaged header may fail anywhere inside pydicom
            raise ScanError(f"{path} is a damaged DICOM file ({error}); copy it again or remove it.") from error
        kind = header.file_meta.get("MediaStorageSOPClassUID", UID("")).name
        if "Rows" in header and "Columns" in header and "SeriesInstanceUID" in header:
            files.append(path)
            headers.append(header)
        elif not kind or "Image Storage" in kind:  # reports, structures and indices have no image
            raise ScanError(f"{path} is an image whose header is cut short; copy it again or remove it.")
    if not files:
        raise ScanError(f"{folder} holds no DICOM image; name the folder in which the files of one series lie.")
    series = Counter(str(header.SeriesInstanceUID) for header in headers)
    if len(series) > 1:
        raise ScanError(
            f"{folder} holds {len(series)} series ({_listed(series, headers)}) and one is wanted: move the files of "
            "the one to explain into a folder of their own and name that."
        )
    if any(
        int(header.get("NumberOfFrames", 1) or 1) > 1 or "MOSAIC" in header.get("ImageType", ()) for header in headers
    ):
        raise ScanError(
            f"{folder} holds multi-frame or mosaic images; only one image a file is allowed: "
            "export it as a classic series."
        )
    if any(int(header.get("SamplesPerPixel", 1)) != 1 or _palette(header) for header in headers):
        raise ScanError(
            f"{folder} holds colour images; only grey values measured by the scanner are allowed: "
            "name the original series."
        )
    return files, headers


def _palette(header: Dataset) -> bool:
    return str(header.get("PhotometricInterpretation", "")).strip() == "PALETTE COLOR"


def _listed(series: Counter[str], headers: Sequence[Dataset]) -> str:
    """Describe each series by what cannot identify anybody: modality, number of images, matrix."""
    first = {str(header.SeriesInstanceUID): header for header in reversed(headers)}
    words = [
        f"{first[uid].get('Modality', '?')} {count} x {first[uid].Columns} x {first[uid].Rows}"
        for uid, count in series.most_common(5)
    ]
    return ", ".join(words) + (", ..." if len(series) > 5 else "")


def _grid(headers: Sequence[Dataset], folder: Path) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Order of the slices along K, and the affine to RAS+ mm; refuse whatever is not one regular grid."""
    row, column = _in_plane(headers, folder)
    if len(headers) < 2:
        raise GeometryError(f"{folder} holds a single image; a volume needs two slices or more: name the whole series.")
    normal = np.cross(row, column)
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions, along = positions[order], along[order]
    _even(along, folder)
    place = np.arange(len(positions))
    step, start = np.polyfit(place, positions, 1)  # the line through all slices, not through two rounded ones
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1.0, 1.0)))
    if tilt > _TILT_DEGREES:
        raise GeometryError(
            f"{folder} was taken with a tilt of {tilt:.1f} degrees between its slices and their stacking direction; "
            "only upright stacks are allowed: correct the tilt on export."
        )
    off = np.linalg.norm(positions - (start + place[:, None] * step), axis=1)
    if off.max() > max(_OFF_GRID_MM, _OFF_GRID_SHARE * float(np.linalg.norm(step))):
        raise GeometryError(
            f"{folder} has unevenly spaced slices (slice {int(off.argmax()) + 1} lies {off.max():.2f} mm off a regular "
            "grid); only even spacing is allowed: resample it on export."
        )
    down, across = (float(mm) for mm in headers[0].PixelSpacing)  # between rows, between columns
    lps = np.eye(4)
    lps[:3] = np.column_stack([row * across, column * down, step, start])
    return order.tolist(), _LPS_TO_RAS @ lps


def _in_plane(headers: Sequence[Dataset], folder: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Directions of increasing column and row index, the same in all slices."""
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        lacking = sum(not header.get(tag) for header in headers)
        if lacking:
            raise GeometryError(
                f"{folder} holds {lacking} of {len(headers)} images without {tag}, so their place in the patient is "
                "unknown: name a series that has it."
            )
    planes = np.array([[*header.ImageOrientationPatient, *header.PixelSpacing] for header in headers], dtype=np.float64)
    sizes = {(int(header.Rows), int(header.Columns)) for header in headers}
    frames = {str(header.get("FrameOfReferenceUID", "")) for header in headers}
    if len(sizes) > 1 or len(frames) > 1 or np.abs(planes - planes[0]).max() > 1e-3:
        raise GeometryError(
            f"{folder} mixes images of different orientation, size or frame of reference (a localiser among the "
            "slices?); only one stack is allowed: move the others away."
        )
    row, column = planes[0, :3], planes[0, 3:6]
    if abs(row @ column) > 1e-3 or np.abs([np.linalg.norm(row) - 1, np.linalg.norm(column) - 1]).max() > 1e-3:
        raise GeometryError(
            f"{folder} has an image orientation that is not two perpendicular unit vectors, so the place of its voxels "
            "is unknown: export the series again."
        )
    if (planes[0, 6:] <= 0).any():
        raise GeometryError(f"{folder} has a pixel spacing that is not positive; export the series again.")
    return row, column


def _even(along: npt.NDArray[np.float64], folder: Path) -> None:
    """Refuse sorted slice positions with a duplicate or a gap, saying where."""
    steps = np.diff(along)
    usual = float(np.median(steps))
    twins = int((steps < 0.01 * max(usual, 1.0)).sum())
    if twins:
        raise GeometryError(
            f"{folder} has {twins + 1} or more slices at the same place (several echoes, time points or copies?); "
            f"each place may be taken once: keep one image a place."
            if twins > 1
            else f"{folder} has two slices at the same place; each place may be taken once: remove the copy."
        )
    widest = int(steps.argmax())
    if steps[widest] > 1.5 * usual:
        missing = round(float(steps[widest]) / usual) - 1
        raise GeometryError(
            f"{folder} has a gap of {steps[widest]:.1f} mm after slice {widest + 1} of {len(along)} where {usual:.1f} "
            f"mm are usual (about {missing} missing); nothing is filled in: copy the complete series."
        )


def _pixels(files: Sequence[Path], first: Dataset, folder: Path) -> npt.NDArray[np.float32]:
    """Rescaled values (1, I, J, K); stored slice by slice, as the files are."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    slices = np.empty((len(files), int(first.Rows), int(first.Columns)), dtype=np.float32)
    for place, path in zip(slices, files, strict=True):
        image = pydicom.dcmread(path)
        _decodable(image, folder)
        try:
            place[...] = apply_modality_lut(image.pixel_array, image)
        except Exception as error:  # decoders raise what they like on damaged pixels
            raise ScanError(f"{path} is cut short or damaged ({error}); copy the series again.") from error
    return slices.transpose(2, 1, 0)[None]


def _decodable(image: Dataset, folder: Path) -> None:
    """Name the decoder that is missing, if one is."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = image.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise DecoderMissing(
            f"{folder} is compressed as {syntax.name}, for which there is no decoder; export it uncompressed."
        ) from error
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise DecoderMissing(
            f"{folder} is compressed as {syntax.name} and no decoder for it is installed ({needs}); install one of "
            "them or export the series uncompressed."
        )


def _units(headers: Sequence[Dataset], modality: str) -> str:
    """Units of the rescaled values where the headers say them, else nothing."""
    if modality == "CT":
        rescaled = all("RescaleIntercept" in header for header in headers)
        kinds = {str(header.get("RescaleType", "HU") or "HU") for header in headers}
        kind = kinds.pop() if rescaled and len(kinds) == 1 else ""
    else:
        kind = str(headers[0].get("Units", ""))
    return _UNITS.get((modality, kind), "")
