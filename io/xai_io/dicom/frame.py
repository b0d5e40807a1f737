"""One image plane of a DICOM file: what its header says, before any pixel is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import File

if TYPE_CHECKING:
    from pydicom import Dataset

Vector = tuple[float, ...]

#: What may tell the volumes of one series apart, in the order in which it is tried: our name, its DICOM keyword.
_APART = {
    "echo time": "EchoTime",
    "b-value": "DiffusionBValue",
    "gradient direction": "DiffusionGradientOrientation",
    "temporal position": "TemporalPositionIdentifier",
    "acquisition": "AcquisitionNumber",
    "trigger time": "TriggerTime",
    "frame reference time": "FrameReferenceTime",
    "flip angle": "FlipAngle",
}
KEYWORDS = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "SeriesDescription",
    "SeriesNumber",
    "InstanceNumber",
    "NumberOfTemporalPositions",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "ConvolutionKernel",
    "Units",
    "ComplexImageComponent",
    *_APART.values(),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane of grey values, and its place.

    Parameters
    ----------
    file, number, tile, tiles
        Where its pixels are: the file, the frame in it (from 1; 0 in a single-frame file), and in a Siemens mosaic
        which tile (row by row) of how many a side.
    uid, study_uid, series_uid, frame_of_reference_uid, sop_class_uid
        DICOM identifiers.
    modality, description, series_number, instance_number, image_type
        As the header has them; `image_type` with the complex component where there is one.
    shape
        Columns and rows of the plane.
    position, orientation, spacing
        Of the plane in LPS+ mm: centre of the first pixel; directions of increasing column and row index; distance
        of pixels along a row and along a column. None where the header does not say.
    slope, intercept, units
        Of the rescaled values; `units` in DICOM's words, "" where the header has none.
    rescale
        How stored values become these: by "slope", by "table", or not at all ("").
    padding
        Lowest and highest stored value that mean "outside the field of view", or None.
    apart
        What may tell it from other planes at its place, by name: echo time, b-value, ...
    temporal_positions
        How many times the series says that it covers each place; 0 where it does not say.
    part
        Of a multi-frame image that was split into files: which image, which file, of how many; else of none.
    images
        How many images the file has, where they have no place and are not told apart.
    trouble
        Why it is no plane of a volume: "" where it is one.
    """

    file: File = field(repr=False)
    number: int
    tile: int
    tiles: int
    uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    sop_class_uid: str
    modality: str
    description: str = field(repr=False)
    series_number: int
    instance_number: int
    image_type: tuple[str, ...]
    shape: tuple[int, int]
    position: Vector | None
    orientation: Vector | None
    spacing: Vector | None
    slope: float
    intercept: float
    units: str
    rescale: str
    padding: tuple[int, int] | None
    apart: Mapping[str, Any]
    temporal_positions: int = 0
    part: tuple[str, int, int] = ("", 0, 0)
    images: int = 1
    trouble: str = ""


def plane(file: File, header: Dataset) -> Frame:
    """The plane of a single-frame file."""
    down_across = numbers(header, "PixelSpacing", 2)
    trouble = ""
    if not down_across and header.get("ImagerPixelSpacing"):
        trouble = "it has ImagerPixelSpacing, measured at the detector, and no PixelSpacing in the patient"
    if (header.get("SamplesPerPixel") or 1) != 1 or "PALETTE" in str(header.get("PhotometricInterpretation", "")):
        trouble = "colour"
    if header.get("BitsAllocated") == 1:
        trouble = "it holds one bit a pixel, a segmentation and no scan"
    return Frame(
        file=file,
        number=0,
        tile=0,
        tiles=1,
        uid=str(header.get("SOPInstanceUID", "")),
        study_uid=str(header.get("StudyInstanceUID", "")),
        series_uid=str(header.SeriesInstanceUID),
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID", "")),
        sop_class_uid=str(header.get("SOPClassUID", "")),
        modality=str(header.get("Modality", "")),
        description=str(header.get("SeriesDescription", "") or ""),
        series_number=_whole(header, "SeriesNumber"),
        instance_number=_whole(header, "InstanceNumber"),
        image_type=(*words(header, "ImageType"), *words(header, "ComplexImageComponent")),
        shape=(int(header.Columns), int(header.Rows)),
        position=numbers(header, "ImagePositionPatient", 3),
        orientation=numbers(header, "ImageOrientationPatient", 6),
        spacing=down_across and down_across[::-1],
        slope=number(header, "RescaleSlope", 1.0),
        intercept=number(header, "RescaleIntercept", 0.0),
        units=units_of(header),
        rescale=rescale_of(header),
        padding=_padding(header),
        apart=dict(_apart(header)),
        temporal_positions=_whole(header, "NumberOfTemporalPositions"),
        part=(
            str(header.get("ConcatenationUID", "")),
            _whole(header, "InConcatenationNumber"),
            _whole(header, "InConcatenationTotalNumber"),
        ),
        trouble=trouble,
    )


def number(header: Dataset, keyword: str, default: float) -> float:
    """One finite number.

    Raises
    ------
    ValueError
        If there is something else.
    """
    value = header.get(keyword)
    if value is None or value == "":
        return default
    if not math.isfinite(value := float(value)):
        raise ValueError(f"{keyword} is not finite")
    return value


def numbers(header: Dataset, keyword: str, count: int) -> Vector | None:
    """So many finite numbers, or None where the header has no value.

    Raises
    ------
    ValueError
        If there is something else.
    """
    value = header.get(keyword)
    if value is None or isinstance(value, str | bytes) or not len(value):
        return None
    vector = tuple(float(part) for part in value)
    if len(vector) != count or not all(map(math.isfinite, vector)):
        raise ValueError(f"{keyword} is not {count} finite numbers")
    return vector


def units_of(header: Dataset) -> str:
    """What the rescaled values are counted in, in DICOM's words: RescaleType for CT, Units for PET, or nothing."""
    if header.get("Units"):
        return str(header.Units)
    if header.get("RescaleIntercept") is None:
        return ""
    return str(header.get("RescaleType") or ("HU" if header.get("Modality") == "CT" else ""))


def rescale_of(header: Dataset) -> str:
    """How stored values become what was measured (see `Frame`)."""
    if header.get("ModalityLUTSequence"):
        return "table"
    return "" if header.get("RescaleSlope") is None and header.get("RescaleIntercept") is None else "slope"


def words(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Every word of a value, of which pydicom gives a single one bare."""
    value = header.get(keyword)
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _whole(header: Dataset, keyword: str) -> int:
    try:
        return int(header.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0


def _padding(header: Dataset) -> tuple[int, int] | None:
    """Stored values that mean padding; pydicom leaves their sign open, so it is settled here."""
    signed = bool(header.get("PixelRepresentation"))
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = header.get(keyword)
        if value is None or value == "":
            continue
        if isinstance(value, bytes):
            value = int.from_bytes(value[:2], "little")
        bits = int(header.get("BitsAllocated") or 16)
        value = int(value) % (1 << bits)
        ends.append(value - (1 << bits) if signed and value >> (bits - 1) else value)
    return (min(ends), max(ends)) if ends else None


def _apart(header: Dataset) -> Iterator[tuple[str, Any]]:
    """What may tell this plane from others at its place."""
    for name, keyword in _APART.items():
        value = header.get(keyword)
        if value is not None and value != "":
            yield name, _comparable(value)
    kernel = words(header, "ConvolutionKernel")
    if kernel:
        yield "kernel", " ".join(kernel)
    moment = str(header.get("AcquisitionDateTime") or "")
    if not moment and header.get("AcquisitionTime"):
        moment = f"{header.get('AcquisitionDate') or ''}{header.AcquisitionTime}"
    if moment:
        yield "acquisition time", moment


def _comparable(value: Any) -> Any:
    """A number, or a tuple of numbers; raises where it is neither."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(float(np.round(float(part), 5)) for part in value)
    return float(value)
