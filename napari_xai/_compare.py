"""How far relevance maps of one scan agree, and on which scale they are seen beside each other. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from napari_xai.errors import ExplainError

__all__ = ["SCALES", "Agreement", "Comparison", "Scale", "agreement", "difference", "limits", "tissue"]

Scale: TypeAlias = Literal["own", "common", "top"]
Array: TypeAlias = npt.NDArray[Any]

SCALES: tuple[Scale, ...] = get_args(Scale)
MOST = 2_000_000  # voxels that are ranked: of more, as many are drawn, which leaves an error below 0.001
AIR = 1 / 20  # of the scan's range, up to which a voxel is air: as everywhere that tissue is told from air
ROOM = 1.25  # full colour over the value from which anything is shown, at least


@dataclass(frozen=True)
class Agreement:
    """Two maps.

    Attributes
    ----------
    rank : Spearman's correlation of their values: 1 is the same order, 0 none, -1 the reverse; NaN for a flat map.
    magnitude : the same of their magnitudes, whatever their signs.
    overlap : Dice coefficient of where each one's magnitude is among the highest: 1 is the same voxels, 0 none.
    """

    one: str
    other: str
    rank: float
    magnitude: float
    overlap: float


@dataclass(frozen=True)
class Comparison:
    """Several maps.

    Attributes
    ----------
    pairs : every two of them.
    top : of each map the magnitude that the highest percent reach, and that the highest tenth of those reach.
    voxels, percent : how many voxels were compared, and what counts as highest.
    """

    pairs: tuple[Agreement, ...]
    top: Mapping[str, tuple[float, float]]
    voxels: int
    percent: float

    @property
    def chance(self) -> float:
        """The overlap of maps that have nothing to do with each other."""
        return self.percent / 100


def agreement(maps: Mapping[str, Array], inside: Array | None = None, percent: float = 5.0) -> Comparison:
    """Compare maps of one grid, over the voxels that are inside.

    Parameters
    ----------
    maps : name -> values.
    inside : bool, of the maps' shape; None is everywhere. Where a map is not finite no map is compared.
    percent : of the voxels, what counts as highest. Voxels that tie with the last of them count too, zeros never.

    Raises
    ------
    ExplainError : the maps have several shapes, fewer than two voxels are compared, or the percentage is out of range.
    """
    shapes = {np.shape(values) for values in maps.values()}
    if len(shapes) != 1:
        raise ExplainError("The maps lie on different grids: choose maps of one scan.")
    if not 0 < percent <= 50:
        raise ExplainError(f"The highest {percent:g} % were asked for: choose above 0, up to 50.")
    kept = np.ones(shapes.pop(), bool) if inside is None else np.array(inside, dtype=bool)
    for values in maps.values():
        kept &= np.isfinite(values)
    found = {name: np.asarray(values[kept], dtype=np.float32) for name, values in maps.items()}
    voxels = int(kept.sum())
    if voxels < 2:
        raise ExplainError("There is no tissue in which the maps could be compared: the scan is of one value.")
    drawn = _drawn(voxels)
    ranks = {name: _ranks(values[drawn]) for name, values in found.items()}
    magnitudes = {name: _ranks(np.abs(values[drawn])) for name, values in found.items()}
    top = {name: (_least(values, percent), _least(values, percent / 10)) for name, values in found.items()}
    highest = {name: _reaches(values, top[name][0]) for name, values in found.items()}
    pairs = tuple(
        Agreement(
            one,
            other,
            _correlation(ranks[one], ranks[other]),
            _correlation(magnitudes[one], magnitudes[other]),
            _dice(highest[one], highest[other]),
        )
        for one, other in combinations(maps, 2)
    )
    return Comparison(pairs, top, voxels, percent)


def tissue(scan: Array) -> npt.NDArray[np.bool_]:
    """What is not air: differs from the median of the volume's faces by more than a twentieth of the scan's range.

    Of a scan without air around it, everything.
    """
    values = np.asarray(scan)
    faces = np.concatenate([np.take(values, side, axis).ravel() for axis in range(values.ndim) for side in (0, -1)])
    air = float(np.nanmedian(faces))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    found: npt.NDArray[np.bool_] = np.abs(values - np.float32(air)) > AIR * (high - low)
    return found if found.any() else np.ones_like(found)


def limits(scale: Scale, own: Mapping[str, float], comparison: Comparison | None) -> dict[str, tuple[float, float]]:
    """What of each map is shown: name -> (magnitude from which, magnitude in full colour); NaN is as it stands.

    Parameters
    ----------
    own : each map's limit in the viewer.
    """
    if scale == "common":
        return dict.fromkeys(own, (float("nan"), max(own.values())))
    if scale == "top" and comparison is not None and set(comparison.top) == set(own):
        return {name: (least, max(full, ROOM * least)) for name, (least, full) in comparison.top.items()}
    return {name: (float("nan"), limit) for name, limit in own.items()}


def difference(one: Array, limit: float, other: Array, other_limit: float) -> npt.NDArray[np.float32]:
    """One map minus another, each divided by its limit."""
    found: npt.NDArray[np.float32] = np.asarray(one, np.float32) / np.float32(limit)
    found -= np.asarray(other, np.float32) / np.float32(other_limit)
    return found


def _drawn(voxels: int) -> Any:
    """Which voxels are ranked; always the same."""
    if voxels <= MOST:
        return slice(None)
    return np.unique(np.random.default_rng(0).integers(0, voxels, MOST))


def _ranks(values: Array) -> Array:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values))


def _correlation(one: Array, other: Array) -> float:
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else float("nan")


def _least(values: Array, percent: float) -> float:
    """The magnitude that the highest percent of the voxels, and at least one, reach."""
    magnitude = np.abs(values)
    last = magnitude.size - max(1, round(magnitude.size * percent / 100))
    return float(np.partition(magnitude, last)[last])


def _reaches(values: Array, least: float) -> Array:
    magnitude = np.abs(values)
    found: Array = (magnitude >= np.float32(least)) & (magnitude > 0)
    return found


def _dice(one: Array, other: Array) -> float:
    size = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / size if size else float("nan")
