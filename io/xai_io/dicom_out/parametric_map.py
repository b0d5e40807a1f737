"""Relevance as a DICOM Parametric Map: every value as it is, on the scan's own slices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..volume import Volume
from .identity import Identity
from .patient import burned_in
from .result import SCHEME, Result, digest, on_grid, short
from .writing import write_dataset

_SERIES_NUMBER = 9001


def write_parametric_map(
    path: str | os.PathLike[str],
    scan: Volume,
    relevance: Volume,
    *,
    record: Mapping[str, Any],
    identity: Identity | None = None,
    overwrite: bool = False,
) -> None:
    """Write relevance as a Parametric Map (PS3.3 A.75): float32 frames at the source's positions.

    Each frame refers to the source's image of that slice, none where the slice was filled in. Values are mapped to
    themselves (real-world value mapping: relevance, no units), qualified as RESEARCH, and carry the method in the
    derivation of each frame; question, parameters, model and its hash stand in the image comments. Where text is burned
    into the scan, the map says so of itself too, although the standard foresees no such map.

    Parameters
    ----------
    path
        The .dcm file.
    scan
        Read from DICOM, on its own grid.
    relevance
        (C, I, J, K) on that grid; the sum of several channels is written, as float32.
    record
        How it was made (see `Result`).
    identity
        Whose result it is; nobody's if None.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    ExportError
        If the scan has no DICOM series, the relevance is not on its grid or not finite, or the file cannot be
        written or would identify the patient.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    frames = np.ascontiguousarray(on_grid(scan, relevance, "relevance"), dtype=np.float32)
    result = Result.of(scan, record, identity)
    low, high = float(frames.min()), float(frames.max())
    limit = max(abs(low), abs(high)) or 1.0
    method = hd.sr.CodedConcept(short(result.method), SCHEME, short(result.method))
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="RELEVANCE",
        lut_explanation="Relevance: share of the model's score, signed",
        unit=codes.UCUM.NoUnits,
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=hd.sr.CodedConcept("relevance", SCHEME, "Relevance of a voxel to a model's score"),
    )
    how = hd.sr.CodeContentItem(name=codes.SCT.MeasurementMethod, value=method)
    mapping.QuantityDefinitionSequence.append(how)
    image = hd.pm.ParametricMap(
        result.slices(),
        frames,
        **result.equipment("parametric map", digest(frames)),
        series_number=_SERIES_NUMBER,
        instance_number=1,
        contains_recognizable_visual_features=True,  # maps may follow the face of a scan; nobody looked
        real_world_value_mappings=[mapping],
        # LINEAR would take 1 off a width that is often smaller.
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=0.0, window_width=float(f"{2 * limit:.6g}"), voi_lut_function="LINEAR_EXACT"
            )
        ],
        content_label="RELEVANCE",
        content_description="Relevance of each voxel to a model's score",
        derivation=method,
    )
    image.ImageComments = result.comments
    if burned_in(scan):
        # What multiplies by the input can show the text. The standard knows no map but NO; whoever trusts it must not.
        image.BurnedInAnnotation = "YES"
    image.Laterality = result.series.first.get("Laterality")  # required of paired organs; may be empty
    result.finished(result.referring(image), f"Relevance ({result.method}), research only")
    write_dataset(path, image, scan, result.identity, overwrite=overwrite)
