"""One picture of a scan and its relevance in three planes, drawn without any display."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ._files import written_aside
from .display import Display, display_for
from .errors import ExportError
from .volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plane: TypeAlias = Literal["axial", "coronal", "sagittal"]

NOTICE = "Research use only, not for diagnosis."

_FIXED = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis a plane is perpendicular to, of (R, A, S)
_LETTERS = ("LR", "PA", "IS")
_OBLIQUE = 0.2  # share of a direction from which its second letter is worth printing (about 12 degrees)
_PEAK_MM = 4.0  # the peak is looked for among block means of this size, so that one voxel does not decide
_CELL, _EDGE, _BAR, _HEAD, _LINE = 2.1, 0.32, 1.4, 0.42, 0.19  # inches
_TALLEST = 1.5  # of a panel, over its width
_DPI = 120
_INK, _DIM = "#f2f2f2", "#a8a8a8"


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
    peak
        Whether it goes through the peak of the relevance.
    """

    scan: npt.NDArray[Any]
    relevance: npt.NDArray[Any]
    size: tuple[float, float]
    edges: tuple[str, str, str, str]
    position: str
    peak: bool


def write_montage(
    path: str | os.PathLike[str],
    scan: Volume,
    relevance: Volume,
    *,
    caption: Mapping[str, str] | None = None,
    display: Display | None = None,
    planes: Sequence[Plane] = ("axial", "coronal", "sagittal"),
    columns: int = 5,
    overwrite: bool = False,
) -> None:
    """Write a PNG of slices around the peak of the relevance, the scan in grey and the relevance in colour over it.

    The convention is radiological: in axial and coronal slices the patient's right is on the viewer's left, in
    sagittal ones the front is. An oblique scan is cut along its own axes, named after the anatomical planes nearest
    to them. Window, threshold and range are printed, and that it is for research use.

    Parameters
    ----------
    path
        The .png file.
    scan, relevance
        On one grid; of several scan channels the first is shown, the relevance has one.
    caption
        What to print below, name by name: method, target, model, ...
    display
        How to show them; derived from the data if None (see `display_for`).
    planes, columns
        A row for each plane, with so many slices.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    ExportError
        If the two are not on one grid, or the file cannot be written.
    """
    if relevance.channels != 1 or relevance.shape != scan.shape or not np.allclose(relevance.affine, scan.affine):
        raise ExportError(
            f"{path} was not drawn because a relevance of shape {relevance.data.shape} was given for a scan of "
            f"{scan.data.shape}; pass one channel on the scan's own grid."
        )
    display = display or display_for(scan, relevance)
    rows = {plane: slices(scan, relevance, plane, columns) for plane in planes}
    figure = _figure(rows, display, dict(caption or {}), signed=bool((relevance.data < 0).any()))
    with written_aside(path, overwrite=overwrite) as file:
        figure.savefig(file, format="png", dpi=_DPI, facecolor="black", metadata={"Software": None})


def slices(scan: Volume, relevance: Volume, plane: Plane, columns: int) -> list[Panel]:
    """Cut slices of one plane, the middle one through the peak of the relevance where the scan has room around it."""
    turn = nib.orientations.io_orientation(scan.affine)
    grey, values = (nib.orientations.apply_orientation(v.data[0], turn) for v in (scan, relevance))
    affine = scan.affine @ nib.orientations.inv_ornt_aff(turn, scan.shape)  # of axes nearest to (R, A, S)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    peak = _peak(values, spacing)
    fixed = _FIXED[plane]
    across, up = (axis for axis in range(3) if axis != fixed)
    panels = []
    for index in _indices(values.shape[fixed], int(peak[fixed]), columns):
        here = peak.copy()
        here[fixed] = index
        letters = [_letters(affine[:3, axis]) for axis in (across, up)]
        # High index (right, front, top) comes first on the picture: both axes are turned round.
        picture = [np.moveaxis(volume, fixed, 0)[index, ::-1, ::-1].T for volume in (grey, values)]
        panels.append(
            Panel(
                scan=picture[0],
                relevance=picture[1],
                size=(grey.shape[up] * float(spacing[up]), grey.shape[across] * float(spacing[across])),
                edges=(letters[0][1], letters[0][0], letters[1][1], letters[1][0]),
                position=_position((affine[:3, :3] @ here + affine[:3, 3])[fixed], fixed),
                peak=index == peak[fixed],
            )
        )
    return panels


def _peak(values: npt.NDArray[Any], spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Index of the strongest voxel in the block of a few mm whose mean is strongest, whatever its sign."""
    means = values if np.isfinite(values.sum()) else np.nan_to_num(values)
    blocks = [max(1, round(_PEAK_MM / mm)) for mm in spacing.tolist()]
    for axis, block in enumerate(blocks):
        means = _summed(means, axis, block)
    if not means.any():
        return np.array(values.shape) // 2
    start = [n * block for n, block in zip(np.unravel_index(np.abs(means).argmax(), means.shape), blocks, strict=True)]
    inside = np.abs(values[tuple(slice(s, s + b) for s, b in zip(start, blocks, strict=True))])
    within = np.unravel_index(np.nan_to_num(inside).argmax(), inside.shape)
    return np.array(start, dtype=np.int64) + np.array(within, dtype=np.int64)


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


def _position(mm: float, axis: int) -> str:
    return f"{_LETTERS[axis][int(mm >= 0)]} {abs(mm):.1f} mm"


def _figure(
    rows: Mapping[Plane, Sequence[Panel]], display: Display, caption: Mapping[str, str], *, signed: bool
) -> Figure:
    """Lay out rows of panels, the colour bar to their right, the text below; sizes in inches, from the top left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(len(panels) for panels in rows.values())
    heights = [_CELL * min(_TALLEST, panels[0].size[0] / panels[0].size[1]) for panels in rows.values()]
    width = _EDGE + columns * _CELL + _BAR
    lines = _lines(caption, display, int(width * 11.5))
    text_top = max(1.9, _HEAD + sum(heights) + (len(rows) - 1) * (_HEAD - 0.16))
    height = text_top + 0.12 + _LINE * len(lines) + 0.1
    figure = Figure(figsize=(width, height), facecolor="black")
    FigureCanvasAgg(figure)

    def axes(left: float, top: float, wide: float, high: float) -> Axes:
        box = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        box.set_facecolor("black")
        box.set_axis_off()
        return box

    top = _HEAD - 0.12
    for (plane, panels), high in zip(rows.items(), heights, strict=True):
        _write(figure, 0.5 * _EDGE / width, 1 - (top + high / 2) / height, plane, size=11, rotation=90, color=_DIM)
        for column, panel in enumerate(panels):
            _draw(axes(_EDGE + column * _CELL + 0.02, top, _CELL - 0.04, high), panel, display, first=column == 0)
        top += high + _HEAD - 0.16
    bar_high = min(3.2, text_top - 1.1)
    bar = axes(width - _BAR + 0.35, (text_top - bar_high) / 2 + 0.1, 0.2, bar_high)
    _draw_bar(bar, display, bar_high, signed=signed)
    for n, (line, color) in enumerate(lines):
        _write(
            figure,
            _EDGE / width,
            1 - (text_top + 0.12 + _LINE * (n + 0.5)) / height,
            line,
            size=9,
            color=color,
            ha="left",
        )
    return figure


def _draw(box: Axes, panel: Panel, display: Display, *, first: bool) -> None:
    """Draw one slice with its overlay, its letters and its place."""
    from matplotlib.colors import ListedColormap

    high, wide = panel.size
    extent = (0.0, wide, 0.0, high)
    low, top = display.window
    box.imshow(panel.scan, cmap="gray", vmin=low, vmax=top, extent=extent, interpolation="bilinear")
    colors = ListedColormap(display.table(), bad=(0, 0, 0, 0))
    box.imshow(
        np.clip(panel.relevance, -display.limit, display.limit),
        cmap=colors,
        vmin=-display.limit,
        vmax=display.limit,
        extent=extent,
        interpolation="nearest",
    )
    left, right, up, down = panel.edges
    marks = [(0.02, 0.5, left, "left", "center"), (0.98, 0.5, right, "right", "center")]
    if first:
        marks += [(0.5, 0.985, up, "center", "top"), (0.5, 0.015, down, "center", "bottom")]
    for x, y, letter, ha, va in marks:
        _mark(box, x, y, letter, ha, va)
    color = "#ffd75f" if panel.peak else _INK
    box.set_title(
        panel.position + (" (peak)" if panel.peak else ""), fontsize=9.5, color=color, pad=3, family="DejaVu Sans"
    )
    if first:
        _draw_scale(box, wide, high)


def _draw_scale(box: Axes, wide: float, high: float) -> None:
    """A bar of a round length at the lower right, so that sizes can be judged."""
    length = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm < wide / 2.5), 1)
    box.plot([0.95 * wide - length, 0.95 * wide], [0.05 * high] * 2, color=_INK, linewidth=2, solid_capstyle="butt")
    _mark(box, 0.95 - length / wide / 2, 0.065, f"{length} mm", "center", "bottom")


def _mark(box: Axes, x: float, y: float, letter: str, ha: str, va: str) -> None:
    from matplotlib.patheffects import withStroke

    box.text(
        x, y, letter, ha=ha, va=va, transform=box.transAxes, fontsize=9.5, weight="bold", color=_INK,
        family="DejaVu Sans", path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def _draw_bar(bar: Axes, display: Display, high: float, *, signed: bool) -> None:
    """Colour bar on the grey it will mostly lie on, with limits, zero and threshold."""
    table = display.table()
    table = table if signed else table[len(table) // 2 :]
    shown = table[:, :3] * table[:, 3:] + 0.3 * (1 - table[:, 3:])
    low = -display.limit if signed else 0.0
    bar.imshow(shown[:, None], origin="lower", aspect="auto", extent=(0, 1, low, display.limit))
    ticks = [(display.limit, f"{display.limit:.2g}"), (0.0, "0"), (display.threshold, f"{display.threshold:.2g}")]
    if signed:
        ticks += [(-display.limit, f"−{display.limit:.2g}"), (-display.threshold, f"−{display.threshold:.2g}")]
    if display.threshold / (display.limit - low) * high < 0.13:  # inches: the words would run into the zero
        ticks = [tick for tick in ticks if abs(tick[0]) != display.threshold]
    for value, words in ticks:
        bar.plot([1.0, 1.25], [value, value], color=_INK, linewidth=1, clip_on=False)
        bar.text(1.45, value, words, color=_INK, fontsize=9, va="center", family="DejaVu Sans")
    bar.set_xlim(0, 1)
    bar.set_title("relevance", fontsize=9.5, color=_INK, pad=8, family="DejaVu Sans")


def _lines(caption: Mapping[str, str], display: Display, most: int) -> list[tuple[str, str]]:
    """Lines below the picture with their colours, none longer than fits."""
    said = {
        name: " ".join(str(words).split()) for name, words in caption.items() if "not for diagnosis" not in str(words)
    }
    said["display"] = (
        f"level {display.level:.4g}, width {display.width:.4g}; relevance ±{display.limit:.3g}, hidden below "
        f"{display.threshold:.3g}; radiological view (patient's right on the left)"
    )
    lines = []
    for name, words in said.items():
        lines += [(line, _INK) for line in textwrap.wrap(f"{name}: {words}", most, subsequent_indent="    ")]
    return [*lines, (NOTICE, "#ffd75f")]


def _write(
    figure: Figure, x: float, y: float, words: str, *, size: float, color: str, ha: str = "center", rotation: int = 0
) -> None:
    figure.text(
        x, y, words, fontsize=size, color=color, ha=ha, va="center", rotation=rotation, family="DejaVu Sans",
        parse_math=False,
    )  # fmt: skip
