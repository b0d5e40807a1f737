"""Pictures of a scan and its relevance in three planes, drawn without any display."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .._files import written_aside
from ..display import Display, display_for
from ..errors import ExportError
from ..volume import Volume
from .font import drawable
from .sheet import BRIGHT, DIM, INK, Kind, Picture, Sheet
from .slices import Panel, peak_mm, slices

NOTICE = "Research use only, not for diagnosis."

_CELL, _EDGE, _BAR, _HEAD, _LINE = 2.06, 0.34, 1.4, 0.3, 0.19  # inches
_NARROW, _WIDE = 0.04, 0.16  # inches between panels of one plane, and of several
_KEY = (7.6, 3.2)  # inches that the key slices fit into: all planes side by side, the tallest of them
_TALLEST = 1.5  # of a panel, over its width


def write_montage(
    path: str | os.PathLike[str],
    scan: Volume,
    relevance: Volume,
    *,
    caption: Mapping[str, str] | None = None,
    display: Display | None = None,
    columns: int = 5,
    overwrite: bool = False,
) -> tuple[str, ...]:
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
        How to show them, and which planes, a row for each; derived from the data if None (see `display_for`).
    columns
        Slices of each plane.
    overwrite
        Whether a file that is already there may be replaced.

    Returns
    -------
    tuple of str
        Every word that was drawn into the pixels.

    Raises
    ------
    ExportError
        If the two are not on one grid, or the file cannot be written.
    """
    picture = montage(scan, relevance, display or display_for(scan, relevance), columns=columns, caption=caption or {})
    with written_aside(path, overwrite=overwrite) as file:
        file.write(picture.png)
    return picture.words


def montage(
    scan: Volume, relevance: Volume, display: Display, *, columns: int = 5, caption: Mapping[str, str] | None = None
) -> Picture:
    """Draw what `write_montage` writes; without the lines below if `caption` is None."""
    check_grids(scan, relevance)
    centre = display.centre or peak_mm(relevance, display.sign)
    rows = []
    for plane in display.planes:
        panels = slices(scan, relevance, plane, columns, centre=centre)
        high = _CELL * min(_TALLEST, panels[0].size[0] / panels[0].size[1])
        mark = "" if display.centre else " (peak)"
        rows.append(
            _Row(plane, [_Cell(p, "relevance", _CELL, high, p.position + mark * p.through, p.through) for p in panels])
        )
    width = _EDGE + max(len(row.cells) for row in rows) * (_CELL + _NARROW) + _BAR
    lines = [] if caption is None else _lines(caption, display, int(width * 11.5))
    return _laid_out(rows, width, _NARROW, lines, display, relevance)


def key_slices(scan: Volume, relevance: Volume, display: Display, labels: Volume | None = None) -> Picture:
    """Draw one slice of each plane: a row of the scan alone, one of relevance over it, one of predicted outlines.

    All slices have one scale. They go through the display's centre, or through the peak of the relevance.
    """
    check_grids(scan, relevance)
    centre = display.centre or peak_mm(relevance, display.sign)
    panels = [slices(scan, relevance, plane, 1, centre=centre, labels=labels)[0] for plane in display.planes]
    inch = min(_KEY[0] / sum(p.size[1] for p in panels), _KEY[1] / max(p.size[0] for p in panels))  # per mm
    kinds: list[tuple[str, Kind]] = [("scan", "scan"), ("relevance", "relevance")]
    if labels is not None:
        kinds.append(("prediction", "prediction"))
    rows = []
    for name, kind in kinds:
        titles = [
            f"{plane}, {p.position}" if kind == "scan" else "" for plane, p in zip(display.planes, panels, strict=True)
        ]
        sizes = [(max(0.5, inch * p.size[1]), max(0.3, inch * p.size[0])) for p in panels]
        cells = [_Cell(p, kind, *size, title, False) for p, size, title in zip(panels, sizes, titles, strict=True)]
        rows.append(_Row(name, cells))
    width = _EDGE + sum(cell.wide + _WIDE for cell in rows[0].cells) + _BAR
    return _laid_out(rows, width, _WIDE, [], display, relevance)


def check_grids(scan: Volume, drawn: Volume) -> None:
    """Refuse a map that is not one channel on the scan's own grid."""
    if drawn.channels != 1 or drawn.shape != scan.shape or not np.allclose(drawn.affine, scan.affine):
        raise ExportError(
            f"A map of shape {drawn.data.shape} was given for a scan of {scan.data.shape}, and nothing was "
            "drawn; pass one channel on the scan's own grid."
        )


@dataclass(frozen=True, eq=False)
class _Cell:
    """A panel and what it shows; sizes in inches."""

    panel: Panel
    kind: Kind
    wide: float
    high: float
    title: str
    strong: bool


@dataclass(frozen=True, eq=False)
class _Row:
    name: str
    cells: list[_Cell]

    @property
    def head(self) -> float:
        """Inches above the cells."""
        return _HEAD if any(cell.title for cell in self.cells) else _NARROW

    @property
    def high(self) -> float:
        return max(cell.high for cell in self.cells)


def _laid_out(
    rows: list[_Row], width: float, gap: float, lines: list[tuple[str, str]], display: Display, relevance: Volume
) -> Picture:
    """Lay out rows of cells, the colour bar to their right, the text below."""
    text_top = max(2.2, sum(row.head + row.high for row in rows)) + 0.1
    sheet = Sheet(width, text_top + (_LINE * len(lines) + 0.15 if lines else 0), display)
    top = 0.0
    for row in rows:
        top += row.head
        left = _EDGE
        sheet.words(0.5 * _EDGE, top + row.high / 2, row.name, size=11, rotation=90, color=DIM)
        for column, cell in enumerate(row.cells):
            down = top + (row.high - cell.high) / 2
            # All cells of a row of one plane have the same letters and scale: the first says them for all.
            alike = column > 0 and row.cells[0].panel.edges == cell.panel.edges
            sheet.panel(left, down, cell.wide, cell.high, cell.panel, cell.kind, all_edges=not alike)
            if cell.title:
                sheet.words(left + cell.wide / 2, top - 0.12, cell.title, color=BRIGHT if cell.strong else INK)
            left += cell.wide + gap
        top += row.high
    bar_high = min(3.2, text_top - 1.1)
    signed = bool((relevance.data < 0).any())
    sheet.bar(width - _BAR + 0.35, (text_top - bar_high) / 2 + 0.15, bar_high, relevance.units, signed=signed)
    for n, (line, color) in enumerate(lines):
        sheet.words(_EDGE, text_top + _LINE * (n + 0.5), line, size=9, color=color, ha="left")
    return sheet.picture()


def _lines(caption: Mapping[str, str], display: Display, most: int) -> list[tuple[str, str]]:
    """Lines below the picture with their colours, none longer than fits."""
    said = {name: drawable(str(words)) for name, words in caption.items() if "not for diagnosis" not in str(words)}
    said["display"] = (
        f"level {display.level:.4g}, width {display.width:.4g}; relevance ±{display.limit:.3g}, {display.words}; "
        f"radiological view (patient's right on the left)"
    )
    lines = []
    for name, words in said.items():
        lines += [(line, INK) for line in textwrap.wrap(f"{name}: {words}", most, subsequent_indent="    ")]
    return [*lines, (NOTICE, BRIGHT)]
