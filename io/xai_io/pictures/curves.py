"""Curves beside those of controls, drawn without any display."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from .._files import written_aside

_DPI = 120


def write_curves(
    path: str | os.PathLike[str],
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[Sequence[float]]]]],
    *,
    across: str,
    up: str,
    notice: str = "",
    overwrite: bool = False,
) -> None:
    """Write a PNG with one panel of curves for each title, side by side.

    Parameters
    ----------
    panels
        Title -> (places along the logarithmic axis, name -> its curves); the first name is drawn strongly, the
        others, controls, thinly. A place of 0 is left out.
    across, up
        What the axes mean.
    notice
        Small print below.

    Raises
    ------
    ExportError
        If the file exists and `overwrite` is False, or cannot be written.
    """
    png = curves(panels, across=across, up=up, notice=notice)
    with written_aside(path, overwrite=overwrite) as file:
        file.write(png)


def curves(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[Sequence[float]]]]],
    *,
    across: str,
    up: str,
    notice: str = "",
) -> bytes:
    """Draw what `write_curves` writes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    every: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, (places, lines)) in zip(every, panels.items(), strict=True):
        for number, (name, some) in enumerate(lines.items()):
            for first, values in enumerate(some):
                style = {"color": "#c03028", "linewidth": 2.2} if number == 0 else {"color": "#909090", "linewidth": 1}
                shown = [(x, y) for x, y in zip(places, values, strict=True) if x > 0]
                axes.plot(*zip(*shown, strict=True), label=None if first else name, **style)
        axes.set(title=title, xlabel=across, xscale="log")
        axes.axhline(0, color="#d0d0d0", linewidth=0.8, zorder=0)
        axes.axhline(1, color="#d0d0d0", linewidth=0.8, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel(up)
    every[-1].legend(frameon=False)
    if notice:
        figure.supxlabel(notice, fontsize=8, color="#606060")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()
