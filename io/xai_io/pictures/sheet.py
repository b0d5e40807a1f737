"""A black sheet that pictures are laid out on, pixel by pixel, without any display."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..display import Display
from .font import FAMILY, drawable
from .slices import Panel

Kind: TypeAlias = Literal["scan", "relevance", "prediction"]

INK, DIM, BRIGHT = "#f2f2f2", "#a8a8a8", "#ffd75f"

_DPI = 120
_OUTLINE = (90, 230, 110)  # green: neither of the map's colours
_BAR_GREY = 0.3  # of the scan beneath the colour bar


@dataclass(frozen=True)
class Picture:
    """A picture as a PNG file, and every word that was drawn into its pixels.

    Parameters
    ----------
    png
        The file's bytes.
    size
        Width and height in pixels.
    words
        What was drawn, as it was drawn.
    """

    png: bytes
    size: tuple[int, int]
    words: tuple[str, ...]


class Sheet:
    """Panels, a colour bar and words on black; places in inches from the top left, rounded to whole pixels.

    Parameters
    ----------
    width, height
        In inches.
    display
        How scan and relevance are shown.
    """

    def __init__(self, width: float, height: float, display: Display) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.size = _pixels(width), _pixels(height)
        self._display = display
        self._figure = Figure(figsize=(self.size[0] / _DPI, self.size[1] / _DPI), dpi=_DPI, facecolor="black")
        FigureCanvasAgg(self._figure)
        self._words: list[str] = []

    def picture(self) -> Picture:
        """Render what was drawn, the same bytes for the same drawing."""
        file = io.BytesIO()
        self._figure.savefig(file, format="png", dpi=_DPI, facecolor="black", metadata={"Software": None})
        return Picture(file.getvalue(), self.size, tuple(self._words))

    def panel(
        self, left: float, top: float, wide: float, high: float, panel: Panel, kind: Kind, *, all_edges: bool = True
    ) -> None:
        """Draw one slice: the scan alone, relevance over it, or the outline of a prediction; with letters at its edges.

        The letters above and below are left out unless `all_edges`, as is the bar of a round length.
        """
        size = (_pixels(wide), _pixels(high))
        scan = _resized(panel.scan, size, smooth=True)
        nothing = np.zeros_like(scan)
        values = _resized(panel.relevance, size) if kind == "relevance" else nothing
        pixels = self._display.rgb(scan, values)
        if kind == "prediction" and panel.labels is not None:
            pixels[_outlines(_resized(panel.labels, size))] = _OUTLINE
        self._paint(left, top, pixels)
        start, end, above, below = panel.edges
        marks = [(0.02, 0.5, start, "left", "center"), (0.98, 0.5, end, "right", "center")]
        if all_edges:
            marks += [(0.5, 0.015, above, "center", "top"), (0.5, 0.985, below, "center", "bottom")]
            self._scale(left, top, wide, high, panel.size[1])
        for x, y, letter, ha, va in marks:
            self.words(left + x * wide, top + y * high, letter, ha=ha, va=va, marked=True)

    def bar(self, left: float, top: float, high: float, units: str, *, signed: bool) -> None:
        """Draw the colours of the relevance on the grey they mostly lie on, with limits, zero and threshold."""
        display = self._display
        low = -display.limit if signed else 0.0
        values = np.linspace(display.limit, low, _pixels(high))[:, None].repeat(_pixels(0.2), axis=1)
        grey = np.full(values.shape, display.window[0] + _BAR_GREY * display.width)
        self._paint(left, top, display.rgb(grey, values))
        ticks = [(display.limit, f"{display.limit:.2g}"), (0.0, "0"), (display.threshold, f"{display.threshold:.2g}")]
        if signed:
            ticks += [(-display.limit, f"−{display.limit:.2g}"), (-display.threshold, f"−{display.threshold:.2g}")]
        if display.threshold / (display.limit - low) * high < 0.13:  # inches: the words would run into the zero
            ticks = [tick for tick in ticks if abs(tick[0]) != display.threshold]
        for value, number in ticks:
            y = top + (display.limit - value) / (display.limit - low) * high
            self._line(left + 0.2, left + 0.25, y, 1)
            self.words(left + 0.29, y, number, ha="left", size=9)
        self.words(left + 0.1, top - (0.34 if units else 0.17), "relevance")
        if units:
            self.words(left + 0.1, top - 0.17, f"({units})", size=8, color=DIM)

    def words(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 9.5,
        color: str = INK,
        ha: str = "center",
        va: str = "center",
        rotation: int = 0,
        marked: bool = False,
    ) -> None:
        """Write words at a place, with a black rim where they lie on a picture."""
        from matplotlib.patheffects import withStroke

        said = drawable(words)
        self._words.append(said)
        rim: dict[str, Any] = (
            {"weight": "bold", "path_effects": [withStroke(linewidth=2, foreground="black")]} if marked else {}
        )
        self._figure.text(
            *self._place(x, y), said, fontsize=size, color=color, ha=ha, va=va, rotation=rotation, family=FAMILY,
            parse_math=False, **rim,
        )  # fmt: skip

    def _scale(self, left: float, top: float, wide: float, high: float, mm: float) -> None:
        """Draw a bar of a round length at the lower right, so that sizes can be judged."""
        length = next((n for n in (100, 50, 20, 10, 5, 2, 1) if n < mm / 2.5), 1)
        end, long = left + 0.95 * wide, length / mm * wide
        self._line(end - long, end, top + 0.95 * high, 2)
        self.words(end - long / 2, top + 0.935 * high, f"{length} mm", va="bottom", marked=True)

    def _line(self, left: float, right: float, y: float, thick: float) -> None:
        from matplotlib.lines import Line2D

        ends = [self._place(left, y), self._place(right, y)]
        self._figure.add_artist(Line2D(*zip(*ends, strict=True), color=INK, linewidth=thick, solid_capstyle="butt"))

    def _paint(self, left: float, top: float, pixels: npt.NDArray[np.uint8]) -> None:
        """Put pixels on the sheet as they are."""
        self._figure.figimage(pixels, _pixels(left), self.size[1] - _pixels(top) - pixels.shape[0], origin="upper")

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return x * _DPI / self.size[0], 1 - y * _DPI / self.size[1]


def _pixels(inches: float) -> int:
    return max(1, round(inches * _DPI))


def _resized(values: npt.NDArray[Any], size: tuple[int, int], *, smooth: bool = False) -> npt.NDArray[np.float32]:
    """Lay a slice over pixels (width, height): bilinear for the scan, the nearest voxel's own value for a map."""
    from PIL import Image

    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(size, how))


def _outlines(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Find the innermost two pixels of every structure along its edge."""
    from scipy import ndimage

    kernel = np.ones((3, 3))
    edge = ndimage.maximum_filter(labels, footprint=kernel) != ndimage.minimum_filter(labels, footprint=kernel)
    inner: npt.NDArray[np.bool_] = ndimage.binary_dilation(edge) & (labels > 0)
    return inner
