"""Regions of relevance as a DICOM Segmentation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ExportError
from ..regions import Region
from ..volume import Volume
from .identity import Identity
from .result import SCHEME, Result, digest, on_grid, short
from .writing import write_dataset

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept

_SERIES_NUMBER = 9003
_COLORS = {1: (230, 60, 30), -1: (40, 110, 240), 0: (150, 150, 150)}  # red raises the score, blue lowers it
_WORDS = {1: "positive", -1: "negative", 0: "neutral"}


def write_segmentation(
    path: str | os.PathLike[str],
    scan: Volume,
    labels: Volume,
    regions: Sequence[Region],
    *,
    record: Mapping[str, Any],
    identity: Identity | None = None,
    overwrite: bool = False,
) -> None:
    """Write regions as a Segmentation (PS3.3 A.51): BINARY, one segment each, numbered from 1 in the order given.

    A segment is labelled "positive relevance, cluster 1", is of category "Spatial and Relational Concept" and of a
    private type that says whether it raises or lowers the score, and names the method as its algorithm. Slices
    without a region have no frame. Frames refer to the source's images.

    Parameters
    ----------
    path
        The .dcm file.
    scan
        Read from DICOM, on its own grid.
    labels
        Whole numbers (1, I, J, K) on that grid.
    regions
        What to write of them (see `clusters`).
    record
        How the map was made (see `Result`).
    identity
        Whose result it is; nobody's if None.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    ExportError
        If there is no region, or one that no voxel has; the scan has no DICOM series; the labels are not on its grid;
        or the file cannot be written or would identify the patient.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if not regions or labels.channels != 1 or not np.issubdtype(labels.data.dtype, np.integer):
        raise ExportError(
            f"{len(regions)} regions in labels of type {labels.data.dtype} with {labels.channels} channels were given; "
            "pass at least one region of integer labels in one channel: with a lower threshold there may be one."
        )
    frames = on_grid(scan, labels, "label map")
    result = Result.of(scan, record, identity)
    segments = np.zeros(frames.shape, np.uint8 if len(regions) < 256 else np.uint16)
    for number, region in enumerate(regions, start=1):
        inside = frames == region.number
        if not inside.any():
            raise ExportError(f"Region {region.number} was given, and no voxel has that label; pass its own label map.")
        segments[inside] = number
    content = digest(segments)
    image = hd.seg.Segmentation(
        result.slices(),
        segments,
        hd.seg.SegmentationTypeValues.BINARY,
        [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=segment_label(region),
                segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
                segmented_property_type=region_type(region),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=result.algorithm(),
                tracking_uid=result.uid("region", content, str(number)),
                tracking_id=f"relevance region {number}",
                display_color=hd.color.CIELabColor.from_rgb(*_COLORS[region.sign]),
            )
            for number, region in enumerate(regions, start=1)
        ],
        **result.equipment("segmentation", content),
        series_number=_SERIES_NUMBER,
        instance_number=1,
        content_label="RELEVANCE",
        content_description="Regions of a model's relevance on a scan",
    )
    image.ImageComments = result.comments
    result.finished(result.referring(image), f"Relevance regions ({result.method}), research only")
    write_dataset(path, image, scan, result.identity, overwrite=overwrite)


def segment_label(region: Region) -> str:
    """What a region's segment is called."""
    return short(f"{_WORDS[region.sign]} relevance, {region.name}")


def region_type(region: Region) -> CodedConcept:
    """What a region is: of relevance that raises, lowers, or on the whole does not change the score."""
    from highdicom.sr import CodedConcept

    word = _WORDS[region.sign]
    return CodedConcept(f"relevance-{word[:3]}", SCHEME, f"Region of {word} relevance to a model's score")
