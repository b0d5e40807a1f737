"""What to do about a scan that is not one regular volume of numbers: said beforehand, and recorded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

from ..errors import ScanError


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Answers to what a DICOM series, or `on_nan` any scan, may leave open; without one, such a scan is refused.

    Parameters
    ----------
    on_gap
        Missing slices: refuse, or fill each linearly between its neighbours.
    on_tilt
        Slices that are not stacked upright (gantry tilt): refuse; keep the values and say the shear in the affine; or
        deskew, which resamples every slice linearly within its plane onto an upright grid that holds them all.
    on_duplicate
        Several images at one place: refuse, or take the one with the lowest or the highest instance number.
    on_spacing
        Slices at varying distances: refuse, or resample linearly along K onto their smallest distance.
    frame
        Of a 4D series: the volume with this number, from 1; None for all, as channels.
    suv
        Of PET: values as they are, or standardised uptake by body weight.
    on_nan
        Voxels that are NaN, as the background of statistical and PET maps often is: refuse, or count as 0.

    Raises
    ------
    ScanError
        If an answer is not one of these.
    """

    on_gap: Literal["reject", "fill"] = "reject"
    on_tilt: Literal["reject", "keep-shear", "deskew"] = "reject"
    on_duplicate: Literal["reject", "first", "last"] = "reject"
    on_spacing: Literal["reject", "resample"] = "reject"
    frame: int | None = None
    suv: Literal["off", "bw"] = "off"
    on_nan: Literal["reject", "zero"] = "reject"

    def __post_init__(self) -> None:
        """Refuse answers that are none."""
        hints = get_type_hints(type(self))
        for choice in fields(self):
            value = getattr(self, choice.name)
            if choice.name == "frame":
                if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                    raise ScanError(f"frame={value!r} was given; number a volume of the series from 1, or pass None.")
            elif value not in get_args(hints[choice.name]):
                allowed = ", ".join(map(repr, get_args(hints[choice.name])))
                raise ScanError(f"{choice.name}={value!r} was given; only {allowed} are allowed: pass one of them.")
