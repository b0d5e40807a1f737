"""How a scan and its relevance are shown: one preset for pictures, reports and viewers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .volume import Volume

_SOFT_TISSUE = (-160.0, 240.0)  # level 40, width 400: the window CT is first looked at with
_RED = np.array([[0.72, 0.05, 0.08], [1.0, 0.27, 0.08], [1.0, 0.84, 0.25]])  # little, half, full relevance
_BLUE = np.array([[0.08, 0.16, 0.78], [0.10, 0.45, 1.0], [0.55, 0.92, 1.0]])
_HEADROOM = 1.25  # bright tissue is shown light grey, so that colours stand out on it
_ENOUGH = 2_000_000  # voxels a percentile is read from


@dataclass(frozen=True, kw_only=True)
class Display:
    """Settings that decide every pixel of an overlay.

    Parameters
    ----------
    window
        Scan values shown black and white.
    limit
        Relevance shown in full colour; the range is symmetric, -limit to limit.
    threshold
        Relevance below which (in magnitude) nothing is shown.
    colormap
        ``"red-blue"``: red raises the score and blue lowers it, lighter and denser with magnitude; or the name of
        a diverging colour map of matplotlib.
    """

    window: tuple[float, float]
    limit: float
    threshold: float
    colormap: str = "red-blue"

    @property
    def level(self) -> float:
        """Scan value shown mid-grey."""
        return (self.window[0] + self.window[1]) / 2

    @property
    def width(self) -> float:
        """Range of scan values from black to white."""
        return self.window[1] - self.window[0]

    def table(self, steps: int = 513) -> npt.NDArray[np.float64]:
        """Colours (steps, 4) RGBA of relevance from -limit to limit: transparent at zero and below the threshold."""
        signed = np.linspace(-1.0, 1.0, steps)
        magnitude = np.abs(signed)
        cut = min(self.threshold / self.limit, 1.0)
        rise = np.clip((magnitude - cut) / max(1.0 - cut, 1e-9), 0.0, 1.0)
        alpha = np.where(magnitude > cut, 0.25 + 0.7 * np.sqrt(rise), 0.0) if cut > 0 else 0.95 * np.sqrt(rise)
        return np.column_stack([self._colors(signed), alpha])

    def _colors(self, signed: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        if self.colormap != "red-blue":
            import matplotlib

            return np.asarray(matplotlib.colormaps[self.colormap]((signed + 1) / 2))[:, :3]
        stops, magnitude = (0.0, 0.5, 1.0), np.abs(signed)
        red, blue = (np.column_stack([np.interp(magnitude, stops, c) for c in colors.T]) for colors in (_RED, _BLUE))
        return np.where(signed[:, None] >= 0, red, blue)


def display_for(scan: Volume, relevance: Volume) -> Display:
    """Derive a preset from the data: the scan's usual window, the relevance's range, a tenth of it as threshold."""
    limit = display_range(relevance)
    return Display(window=display_window(scan), limit=limit, threshold=0.1 * limit)


def display_range(relevance: Volume) -> float:
    """Magnitude below which nine tenths of all relevance lie; 1 for a map that is zero.

    Weighted by relevance, not by voxels: a percentile of the voxels saturates the whole of a small lesion in
    which all relevance lies, and shows nothing of a map that is spread out.
    """
    magnitude = np.abs(relevance.data[np.isfinite(relevance.data)], dtype=np.float32)
    top = float(magnitude.max(initial=0.0))
    if top == 0:
        return 1.0
    mass, edges = np.histogram(magnitude, bins=4096, range=(0, top), weights=magnitude)
    below = np.cumsum(mass) / mass.sum()
    return float(edges[1:][np.searchsorted(below, 0.9)])


def display_window(scan: Volume) -> tuple[float, float]:
    """Scan values shown black and white: soft tissue in HU, else from the 1st percentile to just above the 99.5th."""
    if scan.units == "HU":
        return _SOFT_TISSUE
    step = max(1, round((scan.data[0].size / _ENOUGH) ** (1 / 3)))
    sample = scan.data[0, ::step, ::step, ::step]
    low = float(np.percentile(sample, 1))
    inside = sample[sample > low]  # a background of one value would swamp the rest
    high = float(np.percentile(inside, 99.5)) if inside.size else low + 1.0
    return low, low + _HEADROOM * (high - low)
