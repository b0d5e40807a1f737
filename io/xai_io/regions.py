"""Where relevance lies: clusters of it, or given structures, as numbers in mm and shares."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ._files import written_aside
from .display import Sign, shown
from .errors import ExportError
from .volume import Volume

_MOST_LABELS = 65535  # uint16
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run

_HEADER = (
    "number",
    "name",
    "effect on the score",
    "voxels",
    "volume (mm3)",
    "share of absolute relevance (0 to 1)",
    "mean relevance",
    "peak relevance",
    "peak x (mm, RAS)",
    "peak y (mm, RAS)",
    "peak z (mm, RAS)",
)


@dataclass(frozen=True, kw_only=True)
class Region:
    """One region of a relevance map.

    Parameters
    ----------
    number
        Its value in the label map.
    name
        What it is called.
    voxels, volume_mm3
        Its size.
    share
        Of all |relevance| on the scan, from 0 to 1.
    mean, peak
        Relevance, signed: the mean over its voxels, and the value that is largest in magnitude.
    peak_mm
        Where the peak is: RAS mm (x, y, z) of the voxel's centre.
    """

    number: int
    name: str
    voxels: int
    volume_mm3: float
    share: float
    mean: float
    peak: float
    peak_mm: tuple[float, float, float]

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """Whether the region as a whole raises the score (1), lowers it (-1), or neither (0)."""
        return 1 if self.mean > 0 else -1 if self.mean < 0 else 0


def clusters(
    relevance: Volume, threshold: float, *, sign: Sign = "both", least_mm3: float = 10.0, most: int = 20
) -> tuple[Volume, tuple[Region, ...]]:
    """Find where relevance that reaches a threshold hangs together, positive and negative apart.

    Voxels that touch at a face, an edge or a corner belong together (26 neighbours).

    Parameters
    ----------
    relevance
        Values (1, I, J, K).
    threshold
        Least magnitude, above 0: a `Display`'s threshold lists exactly what is seen.
    sign
        Clusters of both signs, or of one.
    least_mm3
        Smaller clusters are left out.
    most
        So many are kept, those with the largest shares of all |relevance|.

    Returns
    -------
    Volume
        uint16 labels (1, I, J, K) on the same grid: 0 outside, then 1, 2, ... in falling order of share.
    tuple of Region
        One for each label, in the same order.

    Raises
    ------
    ExportError
        If the relevance has several channels, or the settings allow no cluster.
    """
    from scipy import ndimage

    values = _one_channel(relevance)
    if not (threshold > 0 and math.isfinite(threshold)) or most not in range(1, _MOST_LABELS + 1):
        raise ExportError(
            f"Clusters above {threshold:g}, at most {most}, were asked for; pass a threshold above 0 and a number "
            f"from 1 to {_MOST_LABELS}."
        )
    everything = shown(values, threshold, sign) & np.isfinite(values)
    box = _box(everything)
    inside, mask = values[box], everything[box]
    raises, count = ndimage.label(mask & (inside > 0), np.ones((3, 3, 3)))
    lowers, more = ndimage.label(mask & (inside < 0), np.ones((3, 3, 3)))
    found, some = np.where(inside[mask] > 0, raises[mask], lowers[mask] + count), np.abs(inside[mask])
    sizes, sums = np.bincount(found, minlength=1), np.bincount(found, some, minlength=1)
    candidates = np.nonzero((sizes > 0) & (sizes * _voxel_mm3(relevance) >= least_mm3 * (1 - 1e-9)))[0]
    kept = candidates[np.argsort(-sums[candidates], kind="stable")][:most]
    numbers = np.zeros(count + more + 1, np.uint16)
    numbers[kept] = np.arange(1, len(kept) + 1)
    labels = np.zeros(values.shape, np.uint16)
    labels[box][mask] = numbers[found]
    volume = relevance.with_data(labels[None])
    names = {number: f"cluster {number}" for number in range(1, len(kept) + 1)}
    return volume, tuple(sorted(region_table(relevance, volume, names), key=lambda region: region.number))


def region_table(relevance: Volume, labels: Volume, names: Mapping[int, str]) -> tuple[Region, ...]:
    """Measure relevance in each structure of a label map: a prediction, organs, clusters.

    Parameters
    ----------
    relevance
        Values (1, I, J, K).
    labels
        Whole numbers from 0 to 65535 (1, I, J, K), of any type, on the same grid.
    names
        Of the labels; one without a name is called by its number. 0 counts only if it has a name.

    Returns
    -------
    tuple of Region
        In falling order of share. A label that no voxel has is left out.

    Raises
    ------
    ExportError
        If the two are not on one grid, or the labels are not such numbers.
    """
    from scipy import ndimage

    values = _one_channel(relevance)
    if labels.data.shape != relevance.data.shape or not np.allclose(labels.affine, relevance.affine):
        raise ExportError(
            f"Labels of shape {labels.data.shape} were given for a relevance of {relevance.data.shape}; pass one "
            "channel on the same grid."
        )
    given = labels.data[0]
    low, high = float(given.min()), float(given.max())
    if not (low >= 0 and high <= _MOST_LABELS) or (given.dtype.kind == "f" and (given % 1).any()):
        raise ExportError(f"Labels from {low:g} to {high:g} were given; pass whole numbers from 0 to {_MOST_LABELS}.")
    numbers = given.astype(np.uint16)
    everywhere = tuple(slice(0, n) for n in values.shape)
    boxes: dict[int, tuple[slice, ...]] = {0: everywhere} if 0 in names else {}
    found = ndimage.find_objects(numbers)
    boxes |= {number: box for number, box in enumerate(found, start=1) if box is not None}
    total = float(np.abs(values).sum(dtype=np.float64))
    if not math.isfinite(total):
        total = float(np.abs(values[np.isfinite(values)]).sum(dtype=np.float64))
    regions = [
        _measured(relevance, values[box], numbers[box] == number, box, total, number, names)
        for number, box in boxes.items()
    ]
    return tuple(sorted((region for region in regions if region.voxels), key=lambda region: -region.share))


def write_regions(path: str | os.PathLike[str], regions: Sequence[Region], *, overwrite: bool = False) -> None:
    """Write a table of regions as CSV (RFC 4180, UTF-8), one line each, units in the header, positions in RAS mm.

    A name that a spreadsheet would take for a formula gets an apostrophe before it.

    Raises
    ------
    ExportError
        If the file exists and `overwrite` is False, or cannot be written.
    """
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(_HEADER)
    for one in regions:
        name = f"'{one.name}" if one.name.startswith(_FORMULA) else one.name
        numbers = [one.volume_mm3, one.share, one.mean, one.peak, *one.peak_mm]
        lines.writerow([one.number, name, effect(one), one.voxels, *(f"{value:.9g}" for value in numbers)])
    with written_aside(path, overwrite=overwrite) as file:
        file.write(text.getvalue().encode())


def effect(region: Region) -> str:
    """What the region as a whole does to the score, in a word."""
    return {1: "raises", -1: "lowers", 0: "neither"}[region.sign]


def _measured(
    relevance: Volume,
    values: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    box: tuple[slice, ...],
    total: float,
    number: int,
    names: Mapping[int, str],
) -> Region:
    """Measure what a mask selects of the values in a box of the grid."""
    some = np.nan_to_num(values[mask].astype(np.float64), posinf=0, neginf=0)
    if not some.size:
        return Region(number=number, name="", voxels=0, volume_mm3=0, share=0, mean=0, peak=0, peak_mm=(0, 0, 0))
    top = int(np.abs(some).argmax())
    at = np.unravel_index(np.flatnonzero(mask)[top], mask.shape)
    index = [part.start + int(n) for part, n in zip(box, at, strict=True)]
    x, y, z = (relevance.affine @ [*index, 1.0])[:3].tolist()
    return Region(
        number=number,
        name=names.get(number, f"label {number}"),
        voxels=some.size,
        volume_mm3=some.size * _voxel_mm3(relevance),
        share=float(np.abs(some).sum()) / total if total else 0.0,
        mean=float(some.mean()),
        peak=float(some[top]),
        peak_mm=(x, y, z),
    )


def _one_channel(relevance: Volume) -> npt.NDArray[Any]:
    if relevance.channels != 1:
        raise ExportError(
            f"A relevance of {relevance.channels} channels was given; regions are of one: pass one, or their sum."
        )
    values: npt.NDArray[Any] = relevance.data[0]
    return values


def _voxel_mm3(volume: Volume) -> float:
    return abs(float(np.linalg.det(volume.affine[:3, :3])))


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Find the smallest box with all that is set; one voxel where nothing is."""
    box = []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        places = np.nonzero(mask.any(axis=other))[0]
        box.append(slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 1))
    return tuple(box)
