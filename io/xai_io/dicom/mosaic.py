"""Siemens mosaic: the slices of one volume side by side in one image, described in a private (CSA) header."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .frame import Frame, number

if TYPE_CHECKING:
    from pydicom import Dataset


def tiles(header: Dataset, whole: Frame) -> Iterator[Frame]:
    """Yield the slices of a mosaic, each with its own place; without its private header the mosaic as it is, refused.

    ImagePositionPatient is where the corner of one slice of the mosaic's size would be, around the same centre as
    the real slices. Slices follow one another along the CSA header's SliceNormalVector, which may run either way.
    (https://nipy.org/nibabel/dicom/dicom_mosaic.html; read by nibabel)
    """
    count, normal = _described(header) or (0, np.zeros(3))
    between = number(header, "SpacingBetweenSlices", 0.0)
    side = max(math.ceil(math.sqrt(count)), 1)
    columns, rows = whole.shape[0] // side, whole.shape[1] // side
    trouble = whole.trouble
    if count < 1:
        trouble = "it is a Siemens mosaic without its private header (CSA), which says how its slices are stacked"
    elif between <= 0 or not (whole.position and whole.orientation and whole.spacing):
        trouble = "it is a Siemens mosaic without its place or SpacingBetweenSlices"
    elif (columns * side, rows * side) != whole.shape:
        trouble = f"it is a Siemens mosaic whose {count} slices do not fill it as they should, so that it was changed"
    if trouble or not (whole.position and whole.orientation and whole.spacing):
        yield dataclasses.replace(whole, position=None, trouble=trouble)
        return
    row, column = np.reshape(whole.orientation, (2, 3))
    if not np.isclose(abs(np.cross(row, column) @ normal), 1.0, atol=1e-3):
        raise ValueError("the slices of a mosaic are not stacked along their normal")
    across, down = whole.spacing
    corner = np.array(whole.position)
    corner += row * across * (whole.shape[0] - columns) / 2 + column * down * (whole.shape[1] - rows) / 2
    upward = np.cross(row, column)  # the same to more digits
    upward *= np.sign(upward @ normal) / np.linalg.norm(upward)
    apart = {**whole.apart, "instance": float(whole.instance_number)}  # each mosaic is a volume
    for tile in range(count):
        position = tuple((corner + tile * between * upward).tolist())
        yield dataclasses.replace(whole, tile=tile, tiles=side, shape=(columns, rows), position=position, apart=apart)


def _described(header: Dataset) -> tuple[int, np.ndarray] | None:
    """Number of slices and their stacking direction, from the CSA header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel's DICOM wrappers, not used here, are announced as unfinished
        from nibabel.nicom import csareader
    csa = csareader.get_csa_header(header)
    if csa is None:
        return None
    count, normal = csareader.get_n_mosaic(csa), csareader.get_slice_normal(csa)
    if not count or normal is None:
        return None
    return int(count), np.array(normal, dtype=np.float64)
