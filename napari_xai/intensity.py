"""What a model's own intensity scaling makes possible."""

from collections.abc import Sequence
from typing import Any

__all__ = ["intensity_bounds"]


def intensity_bounds(preprocessing: Sequence[Any]) -> tuple[float, float] | None:
    """The lowest and highest value that MONAI's transforms can leave in a scan, or None if it has no bounds.

    The last transform that scales intensities decides; a clipping one bounds them, a standardising one does not.
    """
    bounds = None
    for transform in preprocessing:
        scaler = getattr(transform, "scaler", None)
        name = type(transform).__name__.removesuffix("Dict")
        if name in ("ScaleIntensityRanged", "ScaleIntensityRangePercentilesd") and scaler is not None:
            clipped = scaler.clip and scaler.b_min is not None and not getattr(scaler, "relative", False)
            bounds = (float(scaler.b_min), float(scaler.b_max)) if clipped else None
        elif name == "ScaleIntensityd" and scaler is not None:
            bounds = None if scaler.minv is None else (float(scaler.minv), float(scaler.maxv))
        elif "Intensity" in name:
            bounds = None
    return bounds
