"""Slices of a scan and its relevance, cut in three planes and turned as radiologists look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ..display import Plane, Sign
from ..errors import ExportError
from ..volume import Volume

_FIXED = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis a plane is perpendicular to, of (R, A, S)
_LETTERS = ("LR", "PA", "IS")
_OBLIQUE = 0.2  # share of a direction from which its second letter is worth printing (about 12 degrees)
_PEAK_MM = 4.0  # the peak is looked for among block means of this size, so that one voxel does not decide


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice as it is looked at: rows from top to bottom, columns from the viewer's left to right.

    Parameters
    ----------
    scan, relevance
        Values (rows, columns).
    size
        Height and width in mm.
    edges
        Anatomical letters at the left, right, top and bottom.
    position
        Where the slice lies, e.g. ``"S 12.5 mm"``.
    through
        Whether it goes through the point that the slices were cut around.
    labels
        Whole numbers (rows, columns) of a label map, if there is one.
    """

    scan: npt.NDArray[Any]
    relevance: npt.NDArray[Any]
    size: tuple[float, float]
    edges: tuple[str, str, str, str]
    position: str
    through: bool
    labels: npt.NDArray[Any] | None = None


def slices(
    scan: Volume,
    relevance: Volume,
    plane: Plane,
    count: int,
    *,
    centre: tuple[float, float, float] | None = None,
    labels: Volume | None = None,
) -> list[Panel]:
    """Cut slices of one plane, the middle one through a point where the scan has room around it.

    Parameters
    ----------
    scan, relevance, labels
        On one grid, their first channels.
    plane
        Perpendicular to the scan's axis nearest to the anatomical one.
    count
        How many slices; fewer where the scan has fewer.
    centre
        The point, RAS mm; None for the peak of the relevance.

    Raises
    ------
    ExportError
        If the point lies outside of the scan.
    """
    turn = nib.orientations.io_orientation(scan.affine)
    affine = scan.affine @ nib.orientations.inv_ornt_aff(turn, scan.shape)  # of axes nearest to (R, A, S)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volumes = [scan, relevance] if labels is None else [scan, relevance, labels]
    turned = [nib.orientations.apply_orientation(volume.data[0], turn) for volume in volumes]
    shape = turned[0].shape
    point = np.rint(np.linalg.inv(affine) @ [*(centre or peak_mm(relevance)), 1.0])[:3].astype(np.int64)
    if (point < 0).any() or (point >= shape).any():
        raise ExportError(
            f"Slices through ({', '.join(f'{mm:g}' for mm in centre or ())}) mm were asked for, which lies outside of "
            "the scan; pass a point inside, in RAS mm."
        )
    fixed = _FIXED[plane]
    across, up = (axis for axis in range(3) if axis != fixed)
    edges = [_letters(affine[:3, axis]) for axis in (across, up)]
    panels = []
    for index in _indices(shape[fixed], int(point[fixed]), count):
        here = point.copy()
        here[fixed] = index
        # High index (right, front, top) comes first on the picture: both axes are turned round.
        pictures = [np.moveaxis(volume, fixed, 0)[index, ::-1, ::-1].T for volume in turned]
        panels.append(
            Panel(
                scan=pictures[0],
                relevance=pictures[1],
                size=(shape[up] * float(spacing[up]), shape[across] * float(spacing[across])),
                edges=(edges[0][1], edges[0][0], edges[1][1], edges[1][0]),
                position=direction((affine[:3, :3] @ here + affine[:3, 3])[fixed], fixed) + " mm",
                through=bool(index == point[fixed]),
                labels=None if labels is None else pictures[2],
            )
        )
    return panels


def peak_mm(relevance: Volume, sign: Sign = "both") -> tuple[float, float, float]:
    """RAS mm of the strongest voxel in the block of a few mm whose mean is strongest; the middle of a map of zeros."""
    values = relevance.data[0]
    if sign != "both":
        values = np.maximum(values, 0) if sign == "positive" else np.minimum(values, 0)
    means = values if np.isfinite(values.sum()) else np.nan_to_num(values)
    blocks = [max(1, round(_PEAK_MM / mm)) for mm in relevance.spacing]
    for axis, block in enumerate(blocks):
        means = _summed(means, axis, block)
    peak = np.array(values.shape) // 2
    if means.any():
        strongest = np.unravel_index(np.abs(means).argmax(), means.shape)
        start = np.array([n * block for n, block in zip(strongest, blocks, strict=True)])
        inside = np.abs(values[tuple(slice(s, s + b) for s, b in zip(start, blocks, strict=True))])
        peak = start + np.unravel_index(np.nan_to_num(inside).argmax(), inside.shape)
    x, y, z = (relevance.affine @ [*peak, 1.0])[:3].tolist()
    return x, y, z


def _summed(values: npt.NDArray[Any], axis: int, block: int) -> npt.NDArray[Any]:
    """Sums of every `block` neighbours along an axis; the last may be fewer."""
    values = np.moveaxis(values, axis, 0)
    total = values[::block].copy(order="K")
    for offset in range(1, block):
        part = values[offset::block]
        total[: len(part)] += part
    return np.moveaxis(total, 0, axis)


def _indices(count: int, peak: int, columns: int) -> list[int]:
    """Choose slices around the peak, evenly apart, all inside; in the order of rising index."""
    columns = min(columns, count)
    step = max(1, min(round(0.07 * count), (count - 1) // max(1, columns - 1)))
    first = peak - step * (columns // 2)
    while first < 0:
        first += step
    while first + step * (columns - 1) > count - 1:
        first -= step
    return [first + step * n for n in range(columns)] if first >= 0 else list(range(columns))


def _letters(direction: npt.NDArray[np.float64]) -> tuple[str, str]:
    """Anatomical letters at the low and the high end of an axis, two where it is oblique."""
    share = direction / np.linalg.norm(direction)
    order = [axis for axis in np.argsort(-np.abs(share)) if abs(share[axis]) > _OBLIQUE][:2]
    high = "".join(_LETTERS[axis][int(share[axis] > 0)] for axis in order)
    low = "".join(_LETTERS[axis][int(share[axis] < 0)] for axis in order)
    return low, high


def direction(mm: float, axis: int) -> str:
    """Name a place along x, y or z (RAS mm) by its anatomical letter, e.g. ``"S 12.5"``."""
    return f"{_LETTERS[axis][int(mm >= 0)]} {abs(mm):.1f}"
