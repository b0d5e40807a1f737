"""How a relevance map is looked at: the display that pictures share, and what of the map is left out. No Qt."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_xai.errors import ExplainError
from xai_io import Display, Volume, display_for, write_json

__all__ = ["COLORMAPS", "Look", "read_look", "write_look"]

COLORMAPS = ("red-blue", "RdBu_r", "coolwarm", "seismic", "PuOr_r", "PiYG_r")
ROOM = 1.25  # the limit over the threshold, at least: colours need a range to differ in
FINEST = 100.0  # the same, at most: more, and the threshold would lie between two of the colours
STEPS = 1024  # colours of a map: those that the viewer's shader looks up, zero in the middle between two of them


@dataclass(frozen=True, kw_only=True)
class Look:
    """Everything that decides how one map is seen.

    Attributes
    ----------
    display : window, colours, threshold and opacity, which exports use as well; its limit makes room for the threshold.
    limit : relevance in full colour, as it was wished for.
    percentile : of |relevance|, which the threshold follows from map to map; None where it is a value of its own.
    smoothing : full width at half maximum of a Gaussian, in mm; 0 shows the map as it is.
    between : scan values between which relevance is shown; None is no bound.
    """

    display: Display
    limit: float
    percentile: float | None = None
    smoothing: float = 0.0
    between: tuple[float | None, float | None] = (None, None)

    def __post_init__(self) -> None:
        """Refuse what no map could be looked at with."""
        low, high = self.between
        if not 0 <= self.smoothing < 1000:
            raise ExplainError(f"A smoothing of {self.smoothing:g} mm was given: choose 0 or more, below 1000.")
        if self.percentile is not None and not 0 <= self.percentile < 100:
            raise ExplainError(f"The percentile {self.percentile:g} was given: choose 0 or more, below 100.")
        if low is not None and high is not None and low > high:
            raise ExplainError(f"Scan values from {low:g} to {high:g} were given: choose the lower one first.")

    @classmethod
    def like(cls, display: Display) -> "Look":
        """Nothing is left out."""
        return cls(display=display, limit=display.limit)

    @classmethod
    def usual(cls, scan: Volume, relevance: Volume) -> "Look":
        """What every map begins with: window, limit and threshold are those of exported pictures."""
        return cls.like(display_for(scan, relevance))

    # --- changed ----------------------------------------------------------------------------

    def with_threshold(self, threshold: float, percentile: float | None = None) -> "Look":
        """Show what reaches a magnitude; a limit that is too near or too far follows, and comes back when it can."""
        limit = max(self.limit, ROOM * threshold)
        if threshold > 0:
            limit = min(limit, FINEST * threshold)
        display = replace(self.display, threshold=threshold, limit=limit)
        return replace(self, display=display, percentile=percentile)

    def with_limit(self, limit: float) -> "Look":
        """Show this magnitude in full colour."""
        return replace(self, limit=limit).with_threshold(self.display.threshold, self.percentile)

    def with_display(self, **changes: Any) -> "Look":
        """Change window, colormap or opacity."""
        return replace(self, display=replace(self.display, **changes))

    def with_window(self, level: float, width: float) -> "Look":
        """Show the scan in a window."""
        return self.with_display(window=(level - width / 2, level + width / 2))

    # --- shown ------------------------------------------------------------------------------

    @property
    def colors(self) -> npt.NDArray[np.float64]:
        """RGBA of relevance from -limit to limit: transparent below the threshold, and where the sign is left out.

        The viewer interpolates between these steps: the first one beyond the threshold is transparent, too, else what
        is below would shine faintly.
        """
        table, limit = self.display.table(STEPS), self.display.limit
        at, step = np.linspace(-limit, limit, STEPS, retstep=True)
        table[np.abs(at) < self.display.threshold + step, 3] = 0
        return table

    @property
    def alters(self) -> bool:
        """Whether what is shown is another array than the map itself, a mask aside."""
        return self.smoothing > 0 or self.between != (None, None)

    @property
    def words(self) -> str:
        """What was done to the map, in words; "" if nothing."""
        low, high = self.between
        said = [f"smoothed by {self.smoothing:g} mm"] if self.smoothing else []
        bounds = [f"from {low:g}"] if low is not None else []
        bounds += [f"to {high:g}"] if high is not None else []
        said += [f"where the scan is {' '.join(bounds)}"] if bounds else []
        return ", ".join(said)

    # --- kept -------------------------------------------------------------------------------

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready; its "display" is what the command line takes."""
        filters = {
            "limit": self.limit,
            "percentile": self.percentile,
            "smoothing_mm": self.smoothing,
            "between": list(self.between),
        }
        return {"display": self.display.record, "filters": filters}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Look":
        """Read back a record; one of a display alone, or a provenance.json, will do.

        Raises
        ------
        ExplainError, ExportError : something is missing, unknown or wrong.
        """
        display = Display.of(record.get("display", record))
        filters = record.get("filters", {}) if "display" in record else {}
        try:
            low, high = filters.get("between", (None, None))
            percentile = filters.get("percentile")
            return cls(
                display=display,
                limit=float(filters.get("limit", display.limit)),
                percentile=None if percentile is None else float(percentile),
                smoothing=float(filters.get("smoothing_mm", 0)),
                between=(None if low is None else float(low), None if high is None else float(high)),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise ExplainError("The preset's filters are not such as this program writes.") from error


def read_look(path: str | os.PathLike[str]) -> Look:
    """Read a preset: one that was saved here, a display's record, or an earlier provenance.json.

    Raises
    ------
    ExplainError : it is none of these.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError("no object")
    except (OSError, ValueError, TypeError) as error:
        name = Path(path).name
        raise ExplainError(f"{name} is no preset: choose one that was saved here, or a provenance.json.") from error
    return Look.of(record)


def write_look(path: str | os.PathLike[str], look: Look) -> None:
    """Save a preset as JSON; whoever chose the file has agreed to overwrite it."""
    write_json(path, look.record, overwrite=True)
