"""Multi-frame files: each frame's place and rescale from the functional groups (DICOM PS3.3 C.7.6.16)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .frame import Frame, number, numbers, units_of

if TYPE_CHECKING:
    from pydicom import Dataset

#: Functional group and keyword of what may tell the volumes of one file apart (see `Frame.apart`).
_APART = {
    "echo time": ("MREchoSequence", "EffectiveEchoTime"),
    "b-value": ("MRDiffusionSequence", "DiffusionBValue"),
    "temporal position": ("FrameContentSequence", "TemporalPositionIndex"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "trigger time": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
}
_FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")


def multiframes(header: Dataset, whole: Frame) -> Iterator[Frame]:
    """Yield the planes of a multi-frame file, in the order of its frames; `whole` is what its root says.

    Raises
    ------
    ValueError
        If it does not describe as many frames as it has.
    """
    count = int(header.get("NumberOfFrames") or 1)
    each = header.get("PerFrameFunctionalGroupsSequence")
    if not each:
        trouble = whole.trouble or "it is multi-frame without functional groups that place each frame"
        yield dataclasses.replace(whole, images=count, position=None, trouble=trouble)
        return
    if len(each) != count:
        raise ValueError("as many functional groups as frames are needed")
    shared = header.get("SharedFunctionalGroupsSequence")
    common = shared[0] if shared else None
    in_index = _further_dimensions(header)
    for place, own in enumerate(each):
        yield _frame(place + 1, own, common, header, whole, in_index)


def _frame(
    place: int, own: Dataset, common: Dataset | None, header: Dataset, whole: Frame, in_index: list[tuple[int, str]]
) -> Frame:
    """One frame, from its own groups and those shared by all."""

    def group(keyword: str) -> Dataset | None:
        for groups in (own, common):
            sequence = groups.get(keyword) if groups is not None else None
            if sequence:
                first: Dataset = sequence[0]
                return first
        return None

    plane, axes, measures = (
        group(name) for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    rescale = group("PixelValueTransformationSequence")
    content = group("FrameContentSequence")
    down_across = numbers(measures, "PixelSpacing", 2) if measures is not None else None
    apart: dict[str, Any] = {}
    for name, (sequence, keyword) in _APART.items():
        found = group(sequence)
        if found is not None and found.get(keyword) is not None:
            apart[name] = float(found[keyword].value)
    gradient = group("MRDiffusionSequence")
    direction = gradient and gradient.get("DiffusionGradientDirectionSequence")
    if direction:
        apart["gradient direction"] = numbers(direction[0], "DiffusionGradientOrientation", 3)
    index = content.get("DimensionIndexValues") if content is not None else None
    if index is not None:
        index = [index] if isinstance(index, int) else list(index)
        apart |= {name: float(index[n]) for n, name in in_index if n < len(index)}
    moment = content.get("FrameAcquisitionDateTime") if content is not None else None
    if moment:
        apart["acquisition time"] = str(moment)
    apart["instance"] = float(whole.instance_number)  # of several files of one series, each may be a volume
    kinds = [kind for kind in map(group, _FRAME_TYPES) if kind is not None and kind.get("FrameType")]
    component = kinds[0].get("ComplexImageComponent") if kinds else None
    stack = content.get("StackID") if content is not None else None
    return dataclasses.replace(
        whole,
        number=place,
        instance_number=place,
        image_type=(
            *(map(str, kinds[0].FrameType) if kinds else whole.image_type),
            *([str(component)] if component else []),
            *([f"stack {stack}"] if stack else []),
        ),
        position=numbers(plane, "ImagePositionPatient", 3) if plane is not None else None,
        orientation=numbers(axes, "ImageOrientationPatient", 6) if axes is not None else None,
        spacing=down_across and down_across[::-1],
        slope=number(rescale, "RescaleSlope", 1.0) if rescale is not None else whole.slope,
        intercept=number(rescale, "RescaleIntercept", 0.0) if rescale is not None else whole.intercept,
        rescale="slope" if rescale is not None else whole.rescale,
        units=_units(rescale, header, whole),
        apart=apart,
    )


def _units(rescale: Dataset | None, header: Dataset, whole: Frame) -> str:
    """As `units_of`, of a frame."""
    if rescale is None:
        return whole.units
    said = units_of(rescale)
    return "HU" if not said and header.get("Modality") == "CT" else "" if said == "US" else said


def _further_dimensions(header: Dataset) -> list[tuple[int, str]]:
    """Places in the frames' dimension index of what is neither position nor stack (PS3.3 C.7.6.17)."""
    from pydicom.datadict import keyword_for_tag

    spatial = {"ImagePositionPatient", "StackID", "InStackPositionNumber", "ImageOrientationPatient"}
    spatial |= {"PlanePositionSequence", "PlaneOrientationSequence"}
    keywords = [
        keyword_for_tag(item.DimensionIndexPointer) if item.get("DimensionIndexPointer") else ""
        for item in header.get("DimensionIndexSequence") or []
    ]
    return [(n, f"dimension {keyword or n + 1}") for n, keyword in enumerate(keywords) if keyword not in spatial]
