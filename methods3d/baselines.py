"""Baselines: what stands for 'nothing there', for a whole scan or for what is taken out of it.

>>> print(baseline("blur(8)"), baseline(0.5))
blur(8) 0.5
"""

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from methods3d.errors import ParameterError
from methods3d.smoothing import harmonic, smoothed
from methods3d.types import Box, Explainable, Mask, ModelInfo, Reference, Volume5d

__all__ = [
    "BASELINES",
    "FILLINGS",
    "Air",
    "Baseline",
    "BaselineLike",
    "Blur",
    "Constant",
    "Inpaint",
    "Neighbours",
    "Scan",
    "Tissue",
    "Without",
    "baseline",
    "baselines",
    "digest",
    "filler_of",
    "filling",
    "written",
]

SHELL = 3.0  # mm around a hole whose tissue stands for what is next to it


class Baseline(ABC):
    """What a scan would be with nothing in it, or in a part of it."""

    name: ClassVar[str]

    @abstractmethod
    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """The scan x with nothing in it.

        Raises
        ------
        ParameterError : it does not fit the scan, or stands for a part of one only.
        """

    def filler(self, x: Volume5d, info: ModelInfo) -> Callable[[Mask], Volume5d]:
        """What gives x with nothing inside a mask (i, j, k); what the masks have in common is worked out once."""
        empty = self.volume(x, info)
        return lambda mask: torch.where(mask.to(x.device), empty, x)

    def boxes(self, x: Volume5d, info: ModelInfo) -> Callable[[Box], Tensor]:
        """What gives the values (c, *box) of the one sample x with nothing inside a box."""
        empty = self.volume(x, info)
        return lambda box: empty[(0, slice(None), *box)]

    def check_fit(self, x: Volume5d) -> None:
        """Raise ParameterError where it does not fit the scan."""
        return

    def __str__(self) -> str:
        """As it is written and read."""
        return self.name


@dataclass(frozen=True)
class Constant(Baseline):
    """One value everywhere, on the model's intensity scale."""

    value: float
    name: ClassVar[str] = "constant"

    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """The value."""
        return torch.full_like(x, self.value)

    def __str__(self) -> str:
        """The value."""
        return written(self.value)


@dataclass(frozen=True)
class Air(Baseline):
    """The background's value everywhere."""

    name: ClassVar[str] = "air"

    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """Air."""
        return torch.full_like(x, info.air)


@dataclass(frozen=True)
class Tissue(Baseline):
    """All tissue at its channel's mean, and air as it is: anatomy's outline without its contents.

    Tissue is what differs from air by more than a twentieth of the channel's range.
    """

    name: ClassVar[str] = "tissue"

    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """Flat tissue."""
        low, high = x.flatten(2).aminmax(dim=2)
        tissue = (x - info.air).abs() > ((high - low) / 20)[:, :, None, None, None]
        total, count = (x * tissue).flatten(2).sum(2), tissue.flatten(2).sum(2).clamp(min=1)
        return torch.where(tissue, (total / count)[:, :, None, None, None], x)


@dataclass(frozen=True)
class Blur(Baseline):
    """The scan smoothed by a Gaussian, along each axis alike in mm (in voxels where the spacing is unknown)."""

    sigma: float
    name: ClassVar[str] = "blur"

    def __post_init__(self) -> None:
        """Refuse a width that is none."""
        if not self.sigma > 0:
            raise ParameterError(f"blur: sigma is {self.sigma:g} mm, but has to be above 0.")

    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """Smoothed."""
        return smoothed(x, self.sigma, info.spacing or (1.0, 1.0, 1.0))

    def __str__(self) -> str:
        """With its width."""
        return f"blur({written(self.sigma)})"


@dataclass(frozen=True, eq=False)
class Scan(Baseline):
    """Another scan, (c, i, j, k) or (1, c, i, j, k) on the model's grid, as its preprocessing leaves it."""

    other: Tensor | Reference
    name: ClassVar[str] = "scan"

    def __eq__(self, other: object) -> bool:
        """Of the very same volume."""
        return isinstance(other, Scan) and other.other is self.other

    def __hash__(self) -> int:
        """By the volume."""
        return hash(id(self.other))

    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """The other scan, for every sample."""
        self.check_fit(x)
        return _there(self.other, "the baseline's scan").to(x).expand_as(x).clone()

    def check_fit(self, x: Volume5d) -> None:
        """On the same grid, with the same channels."""
        shape = tuple(_there(self.other, "the baseline's scan").shape)
        if shape not in (tuple(x.shape[1:]), (1, *x.shape[1:])):
            raise ParameterError(
                f"The baseline has the shape {shape}, but the model is given {tuple(x.shape[1:])}: "
                "give a scan (c, i, j, k) on the same grid."
            )

    def __str__(self) -> str:
        """By its content: a path could name a patient."""
        return f"scan({digest(self.other)})"


@dataclass(frozen=True)
class Inpaint(Baseline):
    """A hole filled by the smoothest values that meet what surrounds it (Laplace's equation)."""

    name: ClassVar[str] = "inpaint"

    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """Not of a whole scan."""
        self.refuse()
        return x

    def refuse(self) -> None:
        """Raise ParameterError: nothing surrounds a whole scan."""
        raise ParameterError(
            f"{self.name!r} fills a part of a scan from what surrounds it, and nothing surrounds a whole scan: "
            f"write '{self.name}:MASK' for what lies in a mask, or take 'tissue', 'air' or 'blur(8)'."
        )

    def filler(self, x: Volume5d, info: ModelInfo) -> Callable[[Mask], Volume5d]:
        """Harmonic inside the mask."""
        return lambda mask: harmonic(x, mask, info.spacing or (1.0, 1.0, 1.0))

    def boxes(self, x: Volume5d, info: ModelInfo) -> Callable[[Box], Tensor]:
        """From the box's surroundings alone."""
        reach = self._reach(info)

        def values(box: Box) -> Tensor:
            i, j, k = (slice(max(s.start - r, 0), s.stop + r) for s, r in zip(box, reach, strict=True))
            a, b, c = (slice(s.start - lo.start, s.stop - lo.start) for s, lo in zip(box, (i, j, k), strict=True))
            here = x[..., i, j, k]
            hole = torch.zeros(here.shape[2:], dtype=torch.bool, device=x.device)
            hole[a, b, c] = True
            return self.filler(here, info)(hole)[0, :, a, b, c]

        return values

    def _reach(self, info: ModelInfo) -> list[int]:
        """How many voxels around a hole count."""
        return [1, 1, 1]


@dataclass(frozen=True)
class Neighbours(Inpaint):
    """A hole filled with the mean of the tissue next to it, within 3 mm (of all that is there, if there is but air)."""

    name: ClassVar[str] = "neighbours"

    def filler(self, x: Volume5d, info: ModelInfo) -> Callable[[Mask], Volume5d]:
        """The mean over a shell, channel by channel."""
        reach = self._reach(info)

        def fill(mask: Mask) -> Volume5d:
            mask = mask.to(x.device)
            grown = mask[None, None].float()
            for axis, r in enumerate(reach):
                size = [1, 1, 1]
                size[axis] = 2 * r + 1
                grown = torch.nn.functional.max_pool3d(grown, size, 1, [n // 2 for n in size])
            shell = (grown[0, 0] > 0) & ~mask
            if not bool(shell.any()):
                return x
            tissue = shell & (x != info.air)
            shell = torch.where(tissue.flatten(2).any(2)[:, :, None, None, None], tissue, shell)
            mean = (x * shell).flatten(2).sum(2) / shell.flatten(2).sum(2)
            return torch.where(mask, mean[:, :, None, None, None], x)

        return fill

    def _reach(self, info: ModelInfo) -> list[int]:
        """Three mm."""
        return [max(1, round(SHELL / step)) for step in info.spacing or (SHELL,) * 3]


@dataclass(frozen=True, eq=False)
class Without(Baseline):
    """The scan as it is outside a mask (i, j, k), and filled inside: its complement, or what surrounds it, drawn in."""

    mask: Tensor | Reference
    fill: Baseline
    name: ClassVar[str] = "without"

    def check_fit(self, x: Volume5d) -> None:
        """On the same grid, and not empty."""
        mask = _there(self.mask, "the baseline's mask")
        if tuple(mask.shape) != tuple(x.shape[2:]) or not bool((mask != 0).any()):
            raise ParameterError(
                f"The baseline's mask has the shape {tuple(mask.shape)} and {int((mask != 0).sum())} voxels in it, but "
                f"the model's grid is {tuple(x.shape[2:])}: give a mask (i, j, k) on the same grid that is not empty."
            )

    def volume(self, x: Volume5d, info: ModelInfo) -> Volume5d:
        """Filled inside the mask."""
        self.check_fit(x)
        mask = _there(self.mask, "the baseline's mask") != 0
        return self.fill.filler(x, info)(mask)

    def __str__(self) -> str:
        """With its mask's content and filling."""
        return f"{self.fill} in mask({digest(self.mask)})"


BaselineLike: TypeAlias = Baseline | Tensor | float | str
BASELINES = ("tissue", "air", "0", "blur(8)")  # to choose from, for a whole scan
FILLINGS = (*BASELINES, "inpaint", "neighbours")
_PLAIN: dict[str, Baseline] = {b.name: b for b in (Tissue(), Air(), Inpaint(), Neighbours())}


def baseline(given: BaselineLike) -> Baseline:
    """A whole scan's baseline from a number, a scan's tensor, or text.

    Text is a number, "tissue" (all tissue at its mean), "air", "blur(SIGMA)" in mm, "scan:PATH", "inpaint:PATH"
    or "neighbours:PATH" (what lies in the mask, filled from its surroundings), "complement:PATH" (the same with
    flat tissue).

    Raises
    ------
    ParameterError : the text is none of these.
    """
    found = filling(given)
    if isinstance(found, Inpaint):
        found.refuse()
    return found


def filling(given: BaselineLike) -> Baseline:
    """What takes the place of a part of a scan: as `baseline`, or "inpaint" or "neighbours".

    Raises
    ------
    ParameterError : the text is none of these.
    """
    if isinstance(given, Baseline):
        return given
    if isinstance(given, Tensor):
        return Scan(given)
    text = str(given).strip()
    kind, colon, path = text.partition(":")
    if colon and path.strip():
        if kind == "scan":
            return Scan(Reference(path.strip(), "scan"))
        if kind in ("inpaint", "neighbours", "complement"):
            return Without(Reference(path.strip(), "mask"), _PLAIN["tissue" if kind == "complement" else kind])
    if text in _PLAIN:
        return _PLAIN[text]
    blur = re.fullmatch(r"blur\(\s*([^()]+?)\s*\)", text)
    try:
        number = float(blur[1] if blur else text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ParameterError(
            f"The baseline {text!r} is not known: give a number, {', '.join(map(repr, _PLAIN))}, 'blur(SIGMA)' in mm, "
            "'scan:PATH', or 'inpaint:MASK', 'neighbours:MASK', 'complement:MASK' with a mask's path."
        )
    return Blur(number) if blur else Constant(number)


def filler_of(model: Explainable, x: Volume5d, given: BaselineLike) -> Baseline:
    """A filling as the model has it: at a layer, a whole scan's baseline is the layer's activation on it."""
    found = filling(given)
    return found if isinstance(found, Inpaint) else Scan(model.reference(x, found))


def baselines(given: BaselineLike | tuple[BaselineLike, ...]) -> tuple[Baseline, ...]:
    """Several baselines: a tuple, a tensor (n, c, i, j, k), or texts with ; between them."""
    if isinstance(given, Tensor) and given.ndim == 5:
        return tuple(Scan(one) for one in given)
    if isinstance(given, str):
        given = tuple(part for part in given.split(";") if part.strip())
        if not given:
            raise ParameterError("The set of baselines is empty: name at least one, such as 'tissue'.")
    return tuple(baseline(one) for one in given) if isinstance(given, tuple) else (baseline(given),)


def written(value: float) -> str:
    """A number with all its digits, without an exponent: as it can be read again."""
    return np.format_float_positional(value, trim="-")


def digest(content: Any) -> str:
    """The first digits of a volume's SHA-256; "unread" for one that is not read yet."""
    if not isinstance(content, Tensor):
        return "unread"
    raw = content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{' x '.join(map(str, content.shape))}, sha256 {hashlib.sha256(raw).hexdigest()[:8]}"


def _there(volume: Tensor | Reference, what: str) -> Tensor:
    if not isinstance(volume, Tensor):
        raise ParameterError(
            f"{what[:1].upper()}{what[1:]} is a reference that nobody has read: "
            "napari_xai.explain reads paths; give a tensor on the model's grid here."
        )
    return volume
