"""Whether planes stacked in the patient make one regular grid, and if not, where and by how much they do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import GeometryError

Array = npt.NDArray[np.float64]
Kind = Literal[
    "regular",
    "duplicate",
    "displaced",
    "varying spacing",
    "gap",
    "tilt",
    "mixed orientation",
    "localiser",
    "single slice",
    "no geometry",
    "colour",
    "damaged",
]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_PLACE_MM = 0.01
_OFF_GRID_MM = 0.09  # how far a slice may lie from its place on the regular grid: three coordinates rounded to 0.1 mm
_OFF_GRID_SHARE = (0.01, 0.3)  # but at least and at most these shares of the slice spacing
_TILT_DEGREES = 0.1
_RARE = 0.25  # share of steps that may be gaps; where more are wider, the spacing varies by design


@dataclass(frozen=True)
class Verdict:
    """What the geometry of a series is.

    Parameters
    ----------
    kind
        ``"regular"``, or the first thing that is not.
    sentence
        Where and how much, all of it, without a full stop.
    """

    kind: Kind
    sentence: str


@dataclass(frozen=True)
class Stack:
    """Parallel planes in the order of K.

    Parameters
    ----------
    order
        Which of the planes given lies at each place, duplicates next to each other.
    slots
        For each of these, the number of its place among the places that are taken.
    along
        (slots,) distance in mm of each taken place along the normal.
    places
        (slots,) which slice of a regular grid each is; gaps leave numbers out. Empty where spacing varies.
    step, start
        From one slice of the regular grid to the next, and the first one's position, LPS+ mm. Where the spacing
        varies, `step` is what one mm along the normal moves.
    row, column
        Unit vectors of increasing column and row index, LPS+.
    found
        Everything that is not regular.
    verdict
        The same in words.
    """

    order: tuple[int, ...] = field(repr=False)
    slots: tuple[int, ...] = field(repr=False)
    along: Array = field(repr=False)
    places: npt.NDArray[np.int64] = field(repr=False)
    step: Array
    start: Array
    row: Array
    column: Array
    found: tuple[Kind, ...]
    verdict: Verdict

    @property
    def slices(self) -> int:
        """How many slices the grid has, missing ones included."""
        return int(self.places[-1]) + 1 if len(self.places) else len(self.along)

    @property
    def shear(self) -> Array:
        """How much one step moves along row and column, in mm: (0, 0) in an upright stack."""
        return np.array([self.step @ self.row, self.step @ self.column])

    def affine(self, spacing: tuple[float, ...]) -> Array:
        """Voxel to RAS+ mm, with the plane's spacing along a row and along a column."""
        lps = np.eye(4)
        lps[:3] = np.column_stack([self.row * spacing[0], self.column * spacing[1], self.step, self.start])
        return _LPS_TO_RAS @ lps


def axes(orientation: tuple[float, ...]) -> tuple[Array, Array]:
    """Unit vectors along a row and along a column.

    Raises
    ------
    GeometryError
        If they are not two perpendicular vectors of unit length, but for rounding.
    """
    row, column = np.reshape(orientation, (2, 3))
    lengths = np.linalg.norm([row, column], axis=1)
    if abs(row @ column) > 1e-3 or np.abs(lengths - 1).max() > 1e-3:
        raise GeometryError("image orientation that is not two perpendicular unit vectors")
    return row / lengths[0], column / lengths[1]


def stacked(positions: Array, row: Array, column: Array) -> Stack:
    """Order parallel planes along row x column, and judge them.

    Parameters
    ----------
    positions
        (planes, 3) in LPS+ mm, two planes or more, not all at one place.
    """
    normal = np.cross(row, column)
    height = positions @ normal
    order = np.argsort(height, kind="stable")
    positions, height = positions[order], height[order]
    slots = slots_of(height)
    first = np.searchsorted(slots, np.arange(slots[-1] + 1))
    along = height[first]
    places, between = _places(along)
    varies = not len(places)
    # one line through all planes, not through two rounded ones: what one step, or one mm, moves
    scale = (along - along[0]) if varies else places.astype(np.float64)
    middle = scale.mean()
    step = ((scale - middle) @ (positions[first] - positions[first].mean(0))) / ((scale - middle) @ (scale - middle))
    start = positions[first].mean(0) - middle * step
    off = positions - (start + scale[slots][:, None] * step)
    if varies:
        off -= np.outer(off @ normal, normal)
    found: list[tuple[Kind, str]] = []
    copies = np.bincount(slots)
    if copies.max() > 1:
        at = int(np.argmax(copies > 1)) + 1
        words = "two slices" if len(slots) - len(copies) == 1 else f"{len(slots) - len(copies)} slices too many"
        found.append(("duplicate", f"{words} at the same place, first at place {at} of {len(copies)}"))
    aside = np.linalg.norm(off, axis=1)
    if aside.max() > _off_grid(float(np.median(np.diff(along)))):
        found.append(
            ("displaced", f"slice {int(slots[aside.argmax()]) + 1} lies {aside.max():.2f} mm beside the stack")
        )
    steps = np.diff(along)
    if varies:
        found.append(("varying spacing", f"slices {steps.min():.2f} to {steps.max():.2f} mm apart"))
    elif (wide := np.flatnonzero(np.diff(places) > 1)).size:
        missing = int(places[-1]) + 1 - len(places)
        where = ", ".join(f"{steps[n]:.1f} mm after slice {n + 1}" for n in wide[:5])
        where += ", ..." if len(wide) > 5 else ""
        found.append(("gap", f"a gap of {where} of {len(along)} ({between:.1f} mm are usual: {missing} missing)"))
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1.0, 1.0)))
    drift = float(along[-1] - along[0]) * np.tan(np.radians(tilt))  # mm over the whole stack
    if tilt > _TILT_DEGREES and drift > 2 * _OFF_GRID_MM:  # else rounded positions can look like it
        found.append(("tilt", f"a tilt of {tilt:.1f} degrees between the slices and their stacking direction"))
    verdict = Verdict(found[0][0], "; ".join(words for _, words in found)) if found else Verdict("regular", "regular")
    kinds = tuple(kind for kind, _ in found)
    return Stack(tuple(order.tolist()), tuple(slots.tolist()), along, places, step, start, row, column, kinds, verdict)


def slots_of(height: Array) -> npt.NDArray[np.int64]:
    """Number the places of sorted heights: planes closer than a hundredth of a mm share one."""
    steps = np.diff(height)
    apart = min(_SAME_PLACE_MM, 0.2 * float(steps.max(initial=0.0)))
    return np.concatenate([[0], np.cumsum(steps > apart)])


def _places(along: Array) -> tuple[npt.NDArray[np.int64], float]:
    """Which slices of an evenly spaced stack lie at these heights, and its spacing; none where it is not even."""
    steps = np.diff(along)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # the median, and a step that is there
    usual = float(steps[(steps < 1.5 * usual) & (steps > 0.5 * usual)].mean())
    counted = np.round(steps / usual)
    if (counted < 1).any() or (counted > 1).mean() > _RARE or counted.sum() > 1e5:
        return np.empty(0, np.int64), usual
    places = np.concatenate([[0], np.cumsum(counted)]).astype(np.int64)
    slope, begin = np.polyfit(places, along - along[0], 1)
    if np.abs(along - along[0] - begin - slope * places).max() > _off_grid(float(slope)):
        return np.empty(0, np.int64), usual
    return places, float(slope)


def _off_grid(spacing: float) -> float:
    """How far in mm a slice may lie from its place."""
    least, most = _OFF_GRID_SHARE
    return max(min(_OFF_GRID_MM, most * spacing), least * spacing)
