"""What every method is: a frozen declaration of its settings, and a formula.

A method's fields are its command-line flags, its form in the viewer and its record. Adding a method is
one frozen dataclass with its formula (`attribute`, or `explain` for one sample) and `cost`; validation,
provenance and the search for silent failures are here, once.
"""

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import metadata
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from methods3d.baselines import digest
from methods3d.errors import ParameterError, VolumeError
from methods3d.layers import LayerUnit
from methods3d.meter import part_of
from methods3d.types import (
    Attribution,
    Cost,
    Explainable,
    Progress,
    Provenance,
    Scores,
    Target,
    Volume5d,
    silent,
)

__all__ = ["Method", "OneByOne", "Relevance", "described", "each_sample", "recorded", "setting"]

GAP_TOLERANCE = (
    0.05  # of what was promised (or of the score, if that is more), above which a broken promise is reported
)


def setting(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    reads: Callable[[Any], Any] | None = None,
) -> Any:
    """A method's field: default, one line of help, and the values that are allowed.

    Parameters
    ----------
    above, at_least, at_most : limits of a number.
    choices : usual texts.
    reads : what makes of the value what it stands for, and raises where it stands for nothing; the result's text is
        what the record says.
    """
    limits = {"above": above, "at_least": at_least, "at_most": at_most}
    return field(default=default, metadata={"help": help, "choices": choices, "reads": reads} | limits)


@dataclass(frozen=True, slots=True)
class Relevance:
    """What a method's formula yields; fields as in Attribution."""

    values: Volume5d
    scores: Scores
    extensive: bool
    at: str = "input"
    absorbed: Mapping[str, Scores] = field(default_factory=dict)
    gap: Scores | None = None
    warnings: tuple[str, ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)  # settings that were left to the method, as it chose them


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A 3D attribution method; subclasses are frozen, keyword-only dataclasses and final.

    Attributes
    ----------
    name : as it is called for.
    title : as it is written in the field.
    source : where it comes from.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse settings of the wrong kind or out of range before any work starts."""
        hints = get_type_hints(type(self))
        for f in fields(self):
            value = getattr(self, f.name)
            wish = _wish(value, hints[f.name]) or _range_wish(value, f.metadata)
            if wish:
                raise ParameterError(f"{self.name}: {f.name} is {value!r}, but has to be {wish}.")
            if f.metadata.get("reads"):
                f.metadata["reads"](value)

    @abstractmethod
    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """The formula."""

    @property
    def inner(self) -> tuple["Method", ...]:
        """The methods that this one is made of, at any depth."""
        own = [value for f in fields(self) if isinstance(value := getattr(self, f.name), Method)]
        return tuple(one for method in own for one in (method, *method.inner))

    def check(self, model: Explainable, x: Volume5d) -> None:
        """Refuse settings that do not fit this scan, before any work; for what a subclass alone knows.

        Raises
        ------
        ParameterError : in one sentence with what is allowed.
        """
        return

    def check_all(self, model: Explainable, x: Volume5d) -> None:
        """Refuse also baselines and label maps that do not fit, here and in methods that this one is made of."""
        for f in fields(self):
            value, reads = getattr(self, f.name), f.metadata.get("reads")
            if isinstance(value, Method):
                value.check_all(model, x)
            found = reads(value) if reads and value is not None else None
            for one in found if isinstance(found, tuple) else (found,):
                if hasattr(one, "check_fit"):
                    one.check_fit(x)
        self.check(model, x)

    @abstractmethod
    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Passes through the network for one sample of one channel on this grid, before the run."""

    def __call__(self, model: Explainable, x: Volume5d, target: Target, *, progress: Progress = silent) -> Attribution:
        """Explain a target of the model on x.

        Parameters
        ----------
        model : TorchModel or WindowedModel.
        x : (b, c, i, j, k) on the model's grid, as its preprocessing left it; it is not changed.
        target : what is to be explained; bound once on the clean x.
        progress : hears of work done; may raise Cancelled.

        Raises
        ------
        VolumeError : x is not a finite, non-constant floating-point volume, or does not fit the network.
        TargetError, LayerError, ModelOutputError, ParameterError : as their names say.
        """
        with torch.inference_mode(False):  # whose tensors have no gradients
            return self._found(model, x.clone() if x.is_inference() else x, target, progress)

    def _found(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Attribution:
        _check_volume(x)
        self.check_all(model, x)
        asked = target
        if isinstance(target, LayerUnit):
            model, target = target.on(model, x)
        device = next((p.device for p in model.network.parameters()), x.device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        # Half precision is for the network at most: coordinates, paths and sums need more.
        plain = x.detach().as_subclass(Tensor).to(torch.promote_types(x.dtype, torch.float32))
        found = self.attribute(model, plain, target, progress)
        return Attribution(
            values=found.values,
            at=found.at,
            extensive=found.extensive,
            scores=found.scores,
            absorbed=dict(found.absorbed),
            gap=found.gap,
            warnings=(*found.warnings, *_silent_failures(found), *model.warnings),
            provenance=Provenance(
                method=self.name,
                parameters=recorded(self) | dict(found.chosen),
                running=model.settings,
                target=described(asked),
                network=type(model.network).__name__,
                model_hash=model.info.model_hash,
                versions=_versions(),
                device=str(device),
                dtype=str(found.values.dtype).removeprefix("torch."),
                seconds=time.perf_counter() - started,
                peak_memory=_peak_memory(device),
            ),
        )


class OneByOne(Method):
    """A method whose formula is for one sample."""

    @abstractmethod
    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """The formula, for x (1, c, i, j, k), the target bound on it and its value there."""

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """Sample after sample; the target is bound once: a region that moved would break any comparison."""

        def explained(one: Volume5d, its_target: Target, its_progress: Progress) -> Relevance:
            bound, score = model.bind(one, its_target)
            return self.explain(model, one, bound, score, its_progress)

        return each_sample(x, target, progress, explained)


def each_sample(
    x: Volume5d, target: Target, progress: Progress, explained: Callable[[Volume5d, Target, Progress], Relevance]
) -> Relevance:
    """What `explained` finds for one sample after the other, as a batch's."""
    found = [explained(x[n : n + 1], target.sample(n, len(x)), part_of(progress, n, len(x))) for n in range(len(x))]
    first = found[0]
    if len(found) == 1:
        return first
    gaps = [f.gap for f in found if f.gap is not None]
    chosen = {name: [f.chosen[name] for f in found] for name in first.chosen}
    return Relevance(
        torch.cat([f.values for f in found]),
        torch.cat([f.scores for f in found]),
        first.extensive,
        first.at,
        {
            cause: torch.cat([f.absorbed.get(cause, torch.zeros_like(f.scores)) for f in found])
            for cause in dict.fromkeys(cause for f in found for cause in f.absorbed)
        },
        torch.cat(gaps) if gaps else None,
        tuple(dict.fromkeys(warning for f in found for warning in f.warnings)),
        {name: values[0] if all(v == values[0] for v in values) else values for name, values in chosen.items()},
    )


def recorded(method: Method) -> dict[str, Any]:
    """A method's settings as the record has them: numbers and text, volumes by their content."""

    def plain(value: Any, reads: Callable[[Any], Any] | None) -> Any:
        if isinstance(value, Method):
            return {"method": value.name} | recorded(value)
        if reads is None or value is None:
            return value
        found = reads(value)
        return "; ".join(map(str, found)) if isinstance(found, tuple) else str(found)

    return {f.name: plain(getattr(method, f.name), f.metadata.get("reads")) for f in fields(method)}


FEW = 16  # numbers that a record can show


def described(target: Any) -> str:
    """A target as the record has it: masks and weights by a digest of their content, a few numbers as they are."""
    if not is_dataclass(target):
        return type(target).__name__

    def shown(value: Any) -> str:
        if isinstance(value, Tensor):
            return repr(value.tolist()) if value.numel() <= FEW else digest(value)
        return described(value) if is_dataclass(value) else repr(value)

    values = (f"{f.name}={shown(getattr(target, f.name))}" for f in fields(target))
    return f"{type(target).__name__}({', '.join(values)})"


KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", NoneType: "None"}


def _wish(value: Any, hint: Any) -> str | None:
    """What a setting of this type has to be, if the value is not that."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return None if any(_fits(value, kind) for kind in kinds) else " or ".join(_named(kind) for kind in kinds)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    plain = get_origin(kind) or kind
    return not isinstance(plain, type) or isinstance(value, plain)


def _named(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return KINDS.get(kind, getattr(kind, "__name__", str(kind)))


def _range_wish(value: Any, allowed: Mapping[str, Any]) -> str | None:
    """What a number has to be, if it is out of range."""
    if not isinstance(value, Real):
        return None
    above, at_least, at_most = (allowed.get(key) for key in ("above", "at_least", "at_most"))
    if not math.isfinite(value):
        return "finite"
    if above is not None and value <= above:
        return f"above {above:g}"
    if at_least is not None and value < at_least:
        return f"at least {at_least:g}"
    return f"at most {at_most:g}" if at_most is not None and value > at_most else None


def _check_volume(x: Tensor) -> None:
    if x.ndim != 5 or not x.is_floating_point() or not x.numel():
        raise VolumeError(
            f"The input is a {x.dtype} tensor of shape {tuple(x.shape)}: give a floating-point (b, c, i, j, k)."
        )
    low, high = x.flatten(1).aminmax(dim=1)  # NaN if any voxel is
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise VolumeError(
            f"The input has {int((~torch.isfinite(x)).sum())} voxels that are NaN or infinite: replace them first."
        )
    if bool((low == high).any()):
        raise VolumeError(
            f"The input is constant ({low[low == high][0]:g} everywhere): there is nothing in it to explain."
        )


def _silent_failures(found: Relevance) -> tuple[str, ...]:
    """What would otherwise pass for a map."""
    caught = []
    flat = found.values.flatten(1)
    low, high = flat.aminmax(dim=1)  # NaN if any value is
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        caught.append("the map has NaN or infinite values")
    elif bool((high.maximum(-low) <= torch.finfo(flat.dtype).eps ** 2 * found.scores.abs()).any()):  # or but rounding
        caught.append("the map is zero everywhere: the target may not depend on the input here")
    elif bool((low == high).any()):
        caught.append("the map is constant")
    if not bool(torch.isfinite(found.scores).all()):
        caught.append("the score is NaN or infinite")
    elif found.gap is not None:
        promised = flat.sum(1) + sum(found.absorbed.values()) + found.gap
        shares = found.gap.abs() / promised.abs().maximum(found.scores.abs()).clamp(min=1e-12)
        share = float(shares.nan_to_num(nan=torch.inf).max())
        if share > GAP_TOLERANCE:
            caught.append(f"the completeness gap is {share:.0%} of what the map should add up to")
    return tuple(caught)


def _versions() -> dict[str, str]:
    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {"python": sys.version.split()[0]} | {
        name: version(name) for name in ("napari-xai", "torch", "monai", "numpy")
    }


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
