"""How a scan and its relevance are shown: one preset for pictures, reports, DICOM and viewers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import ExportError
from .volume import Volume

Plane: TypeAlias = Literal["axial", "coronal", "sagittal"]
Sign: TypeAlias = Literal["both", "positive", "negative"]

PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
SIGNS: tuple[Sign, ...] = ("both", "positive", "negative")
CT_WINDOWS: Mapping[str, tuple[float, float]] = {  # level, width in HU; radiopaedia.org, "Windowing (CT)"
    "soft tissue": (40, 400),
    "abdomen": (50, 400),
    "liver": (30, 150),
    "mediastinum": (50, 350),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "brain": (40, 80),
    "subdural": (75, 215),
    "stroke": (40, 40),
}

_RED = np.array([[0.72, 0.05, 0.08], [1.0, 0.27, 0.08], [1.0, 0.84, 0.25]])  # little, half, full relevance
_BLUE = np.array([[0.08, 0.16, 0.78], [0.10, 0.45, 1.0], [0.55, 0.92, 1.0]])
_STOPS = (0.0, 0.5, 1.0)
_FAINTEST = 0.25 / 0.95  # density at the threshold, as a share of the density of full relevance
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
    opacity
        Of full relevance, above 0 to 1.
    planes
        Planes that pictures show, in their order.
    centre
        RAS mm (x, y, z) of the point that the middle slices go through; None for the peak of the relevance.
    sign
        Relevance that is shown: ``"both"`` signs, or only what is ``"positive"`` or ``"negative"``.

    Raises
    ------
    ExportError
        If a setting is not one that anything could be shown with.
    """

    window: tuple[float, float]
    limit: float
    threshold: float
    colormap: str = "red-blue"
    opacity: float = 0.95
    planes: tuple[Plane, ...] = PLANES
    centre: tuple[float, float, float] | None = None
    sign: Sign = "both"

    def __post_init__(self) -> None:
        """Refuse settings that would show nothing, or something else than asked for."""
        try:
            low, high = (float(value) for value in self.window)
            numbers = [low, high, self.limit, self.threshold, self.opacity, *(self.centre or (0, 0, 0))]
            sound = all(math.isfinite(value) for value in numbers) and len(numbers) == 8
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ExportError(
                "A display needs finite numbers: a window (black, white), a limit, a threshold, an opacity and, if "
                f"any, a centre (x, y, z); {self.window}, {self.limit}, {self.threshold}, {self.opacity} and "
                f"{self.centre} were given."
            )
        if low >= high:
            raise ExportError(f"A window from {low:g} to {high:g} was given; pass the value shown black first.")
        if not 0 <= self.threshold < self.limit:
            raise ExportError(
                f"A threshold of {self.threshold:g} and a limit of {self.limit:g} were given; pass a threshold of 0 or "
                "more, below the limit."
            )
        if not 0 < self.opacity <= 1:
            raise ExportError(f"An opacity of {self.opacity:g} was given; pass one above 0, up to 1.")
        if self.sign not in SIGNS:
            raise ExportError(f"The sign {self.sign!r} was given; pass one of {', '.join(SIGNS)}.")
        if not self.planes or sum(plane in self.planes for plane in PLANES) != len(self.planes):
            raise ExportError(
                f"The planes {', '.join(map(str, self.planes)) or 'none'} were given; pass some of {', '.join(PLANES)}."
            )
        if self.colormap != "red-blue":
            import matplotlib

            if self.colormap not in matplotlib.colormaps:
                raise ExportError(
                    f"The colormap {self.colormap!r} was given; pass red-blue or a diverging one of matplotlib's, "
                    "such as RdBu_r or coolwarm."
                )

    @property
    def level(self) -> float:
        """Scan value shown mid-grey."""
        return (self.window[0] + self.window[1]) / 2

    @property
    def width(self) -> float:
        """Range of scan values from black to white."""
        return self.window[1] - self.window[0]

    @property
    def words(self) -> str:
        """Which relevance is shown, for captions."""
        only = "" if self.sign == "both" else f"{self.sign} only, "
        return f"{only}hidden below {'' if only else '±'}{self.threshold:.3g}"

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready; `Display.of` reads it back."""
        found = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Display:
        """Read a preset back from its record.

        Raises
        ------
        ExportError
            If a setting is missing, unknown or wrong.
        """
        if not isinstance(record, Mapping):
            raise ExportError(f"A display of type {type(record).__name__} was given; pass its settings by name.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = [str(name) for name in record if name not in fields]
        missing = [name for name, one in fields.items() if one.default is dataclasses.MISSING and name not in record]
        if unknown or missing:
            raise ExportError(
                f"A display with unknown settings ({', '.join(unknown) or 'none'}) or without needed ones "
                f"({', '.join(missing) or 'none'}) was given; pass {', '.join(fields)}."
            )
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
        }
        return cls(**settings)

    def shown(self, relevance: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which values are shown: those of the sign that reach the threshold, and are not zero or NaN."""
        return shown(relevance, self.threshold, self.sign)

    def rgb(self, scan: npt.NDArray[Any], relevance: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Blend relevance in colour over a scan in grey: the pixels of every export.

        Parameters
        ----------
        scan, relevance
            Values of one shape (...), in their own units; NaN in the scan is black, in the relevance transparent.

        Returns
        -------
        ndarray
            (..., 3) uint8.
        """
        low, high = self.window
        with np.errstate(over="ignore", invalid="ignore"):
            grey = np.clip((np.asarray(scan, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
        pixels = np.repeat(np.nan_to_num(grey)[..., None], 3, axis=-1)
        over = self.shown(relevance)
        signed = np.clip(relevance[over].astype(np.float64) / self.limit, -1, 1)
        dense = self._opacity(np.abs(signed))[:, None]
        pixels[over] = self._colors(signed) * dense + pixels[over] * (1 - dense)
        painted: npt.NDArray[np.uint8] = np.rint(255 * pixels).astype(np.uint8)
        return painted

    def table(self, steps: int = 513) -> npt.NDArray[np.float64]:
        """Colours (steps, 4) RGBA of relevance from -limit to limit: transparent at zero and below the threshold."""
        signed = np.linspace(-1.0, 1.0, steps)
        alpha = np.where(shown(signed, self.threshold / self.limit, self.sign), self._opacity(np.abs(signed)), 0.0)
        return np.column_stack([self._colors(signed), alpha])

    def _opacity(self, magnitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How dense the colour of a shown magnitude (a share of the limit) is."""
        cut = self.threshold / self.limit
        rise = np.sqrt(np.clip((magnitude - cut) / (1 - cut), 0, 1))
        return self.opacity * (rise if cut == 0 else _FAINTEST + (1 - _FAINTEST) * rise)

    def _colors(self, signed: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        if self.colormap != "red-blue":
            import matplotlib

            return np.asarray(matplotlib.colormaps[self.colormap]((signed + 1) / 2))[:, :3]
        magnitude = np.abs(signed)
        red, blue = (np.column_stack([np.interp(magnitude, _STOPS, c) for c in colors.T]) for colors in (_RED, _BLUE))
        return np.where(signed[:, None] >= 0, red, blue)


def shown(relevance: npt.NDArray[Any], threshold: float, sign: Sign = "both") -> npt.NDArray[np.bool_]:
    """Which values of a sign reach a threshold in magnitude; never zero or NaN. What is seen is listed as a region."""
    magnitude = np.abs(relevance) if sign == "both" else relevance if sign == "positive" else -relevance
    found: npt.NDArray[np.bool_] = magnitude >= threshold if threshold > 0 else magnitude > 0
    return found


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
    magnitude /= np.float32(top)  # whose sum may be too large, and whose steps too small, for their type
    mass, edges = np.histogram(magnitude, bins=4096, range=(0, 1), weights=magnitude)
    below = np.cumsum(mass, dtype=np.float64)
    return float(edges[1:][np.searchsorted(below, 0.9 * below[-1])]) * top


def display_window(scan: Volume, name: str = "") -> tuple[float, float]:
    """Scan values shown black and white.

    Parameters
    ----------
    scan
        Of several channels the first counts.
    name
        One of `CT_WINDOWS`; ``""`` for soft tissue in HU, else from the 1st percentile to just above the 99.5th.

    Raises
    ------
    ExportError
        If there is no window of that name, or the scan is not in HU, where a named window means nothing.
    """
    if name and (name not in CT_WINDOWS or scan.units != "HU"):
        raise ExportError(
            f"The window {name!r} was asked for on a scan in {scan.units or 'unknown units'}; the windows "
            f"{', '.join(CT_WINDOWS)} are for scans in HU: pass a level and a width."
        )
    if name or scan.units == "HU":
        level, width = CT_WINDOWS[name or "soft tissue"]
        return level - width / 2, level + width / 2
    step = max(1, round((scan.data[0].size / _ENOUGH) ** (1 / 3)))
    sample = scan.data[0, ::step, ::step, ::step]
    low = float(np.percentile(sample, 1))
    inside = sample[sample > low]  # a background of one value would swamp the rest
    high = float(np.percentile(inside, 99.5)) if inside.size else low + 1.0
    return low, low + _HEADROOM * (high - low)
