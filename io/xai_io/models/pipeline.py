"""What a bundle does around its network: transforms before, windows, activation and threshold after."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..errors import ModelError, UntrustedModel
from . import allowed
from .resolver import OWN_KEYS, Allowed, Resolver, Step

Activation: TypeAlias = Literal["softmax", "sigmoid"]

_LARGEST_WINDOW = 2**16  # voxels along an axis
_UNDERSTOOD = ("Activationsd", "AsDiscreted")
# Where a part stands if it has no entry of its own: reference ids of monai.bundle.properties.InferProperties.
_INLINE = {
    "preprocessing": "dataset::transform",
    "inferer": "evaluator::inferer",
    "postprocessing": "evaluator::postprocessing",
}
# Settings of a sliding window that say where and how fast it runs, which is ours to choose.
_ELSEWHERE = {"sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh", "buffer_steps", "buffer_dim"}

_RESIZING = ("Resized", "Zoomd", "Affined")


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """Sliding windows under MONAI's own names and defaults (see `monai.inferers.SlidingWindowInferer`)."""

    roi_size: int | tuple[int, ...]
    sw_batch_size: int = 1
    overlap: float | tuple[float, ...] = 0.25
    mode: str = "constant"
    sigma_scale: float | tuple[float, ...] = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0


def network(resolver: Resolver, weights: Mapping[str, Any]) -> Any:
    """Build the network a config describes; the weights, still to be loaded over random ones, say how large it is."""
    import torch

    from .bounded import Bounded

    # The initial weights are thrown away; the caller's seed is not.
    with torch.random.fork_rng(devices=[]), Bounded(weights):
        built = resolver.value("network_def", allowed.network)
    if not isinstance(built, torch.nn.Module):
        raise ModelError("The bundle's network_def is not a network; name one of monai.networks.nets there.")
    return built


def in_channels(resolver: Resolver) -> int | None:
    """Channels that the config's network takes, where it says so."""
    for name in ("in_channels", "n_input_channels", "in_chans"):
        if resolver.has(f"network_def::{name}"):
            given = resolver.value(f"network_def::{name}", allowed.nothing)
            return given if type(given) is int and given > 0 else None
    return None


def preprocessing(resolver: Resolver) -> tuple[tuple[Any, ...], tuple[float, ...] | None, list[str]]:
    """Transforms on the key "image" in order, and the voxel size in mm they end on (None: the scan's own).

    Last the names of what is left out, because the scan's reader has done it.
    """
    transforms, spacing, left_out = [], None, []
    for step in list(_steps(resolver, "preprocessing")):  # all of them, before any is worked out
        name = allowed.canonical(step.target)
        if name in allowed.REPLACED:
            left_out.append(name)
            transforms += _loading(resolver, step) if name == "LoadImaged" else []
            continue
        transform = resolver.value(step.id, allowed.transform) if step.built is None else step.built
        keys = getattr(transform, "keys", ())
        if "image" not in keys:
            raise ModelError(
                f"The bundle's {step.id!r} ({step.target}) works on {', '.join(map(str, keys)) or 'no key'}; only the "
                "key 'image' is handed over: rename it in the config."
            )
        transforms.append(transform)
        if name == "Spacingd":
            spacing = _spacing(transform)
        elif name in _RESIZING:
            spacing = None
    return tuple(transforms), spacing, left_out


def _loading(resolver: Resolver, step: Step) -> list[Any]:
    """What else a LoadImaged does to the image than to read it: MONAI's readers can turn it on the way.

    Raises
    ------
    ModelError
        If it turns it in a way that would have to be guessed.
    """

    def argument(name: str, usual: bool) -> Any:
        for place in (f"{step.id}::{name}", f"{step.id}::reader::{name}"):
            if step.built is None and resolver.has(place):
                return resolver.value(place, allowed.nothing)
        return usual

    for name, usual in (("reverse_indexing", False), ("affine_lps_to_ras", True)):
        if argument(name, usual) != usual:
            raise ModelError(
                f"The bundle's {step.id!r} loads images with {name}={not usual}, which turns them away from their "
                "affine; leave it out."
            )
    orient = allowed.transform("Orientationd") if argument("as_closest_canonical", False) else None
    return [orient(keys="image", axcodes="RAS")] if orient is not None else []


def windows(resolver: Resolver) -> WindowSettings | None:
    """Settings of the config's sliding windows; None where it runs the network once on the whole image."""
    steps = list(_steps(resolver, "inferer"))
    if not steps:
        return None
    name = steps[0].target.rpartition(".")[2] if len(steps) == 1 else ""
    if name == "SimpleInferer":
        return None
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise ModelError(
            f"The bundle predicts with the inferer {name or 'it computes'!r}; only SlidingWindowInferer and "
            "SimpleInferer are understood: name one of them in the config."
        )
    given = resolver.raw(steps[0].id)
    known = {field.name for field in dataclasses.fields(WindowSettings)} | _ELSEWHERE | set(OWN_KEYS)
    strange = sorted(str(key) for key in given if key not in known) if isinstance(given, Mapping) else []
    if strange:
        raise ModelError(
            f"The bundle's {name} has the setting {strange[0][:40]!r}, which is not understood; "
            f"{', '.join(sorted(known - set(OWN_KEYS)))} are: correct the config."
        )
    found: dict[str, Any] = {}
    for field in dataclasses.fields(WindowSettings):
        if resolver.has(f"{steps[0].id}::{field.name}"):
            value = resolver.value(f"{steps[0].id}::{field.name}", allowed.nothing)
            found[field.name] = tuple(value) if isinstance(value, list) else value
            if not _sensible(field.name, found[field.name]):
                raise ModelError(
                    f"The bundle's SlidingWindowInferer has the {field.name} {str(value)[:40]!r}, which MONAI's cannot "
                    "have; correct the config."
                )
    if "roi_size" not in found:
        raise ModelError("The bundle's SlidingWindowInferer has no roi_size; add it to the config.")
    return WindowSettings(**found)


def _sensible(name: str, value: Any) -> bool:
    """Whether a setting of windows is of the kind that MONAI documents."""
    if name == "mode":
        return value in ("constant", "gaussian")
    if name == "padding_mode":
        return isinstance(value, str)
    numbers = value if isinstance(value, tuple) else (value,)
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        return False
    if name in ("roi_size", "sw_batch_size"):
        return all(isinstance(n, int) and n < _LARGEST_WINDOW for n in numbers) and (
            name == "roi_size" or numbers[0] > 0
        )
    return name == "cval" or all(0 <= n < (1 if name == "overlap" else math.inf) for n in numbers)


def postprocessing(resolver: Resolver) -> tuple[Activation | None, float | None, list[str]]:
    """Activation of the output, the threshold it is cut at (None: argmax, or not said), and what is left out."""
    left_out = []
    activation: Activation | None = None
    threshold: float | None = None
    for step in list(_steps(resolver, "postprocessing")):
        name = allowed.canonical(step.target)
        if step.built is not None or name not in _UNDERSTOOD:
            left_out.append(name)  # what comes after (inverting, saving) is not ours to run
            continue
        if not _of_prediction(resolver, step.id):
            continue

        def argument(name: str, id: str = step.id) -> Any:
            return _for_prediction(resolver, id, name)

        if name == "Activationsd":
            if argument("softmax"):
                activation = "softmax"
            elif argument("sigmoid"):
                activation = "sigmoid"
            elif argument("other") is not None:  # trusted code, whose result is a probability or not
                raise ModelError(
                    f"The bundle's {step.id!r} has an activation of its own ('other'), of which nothing is known; "
                    "say softmax or sigmoid instead."
                )
        elif not argument("argmax"):
            cut = argument("threshold")
            if cut is None and argument("rounding") == "torchrounding":  # which comes after, as in MONAI
                cut = 0.5
            threshold = float(cut) if isinstance(cut, int | float) and not isinstance(cut, bool) else None
    return activation, threshold, left_out


def refused(resolver: Resolver) -> dict[str, str]:
    """What of a config would be refused without trust around the network: id -> what stands there."""
    found: dict[str, str] = {}
    for part in ("preprocessing", "inferer", "postprocessing"):
        try:
            for step in list(_steps(resolver, part)):
                if part == "preprocessing" and allowed.canonical(step.target) not in allowed.REPLACED:
                    found |= resolver.refusals(step.id, allowed.transform)
                elif part == "inferer":
                    for field in dataclasses.fields(WindowSettings):
                        found |= refused_entry(resolver, f"{step.id}::{field.name}")
                elif part == "postprocessing" and allowed.canonical(step.target) in _UNDERSTOOD:
                    for name in ("softmax", "sigmoid", "other", "argmax", "threshold", "rounding", "keys"):
                        found |= refused_entry(resolver, f"{step.id}::{name}")
        except UntrustedModel as code:
            found[code.entry] = code.what
    return found


def refused_entry(resolver: Resolver, id: str, allow: Allowed = allowed.nothing) -> dict[str, str]:
    """The same for one entry, which may be missing."""
    return resolver.refusals(id, allow) if resolver.has(id) else {}


def _steps(resolver: Resolver, part: str) -> Iterator[Step]:
    """Steps of a part of the config, where it stands or where MONAI's evaluator has it."""
    for place in (part, _INLINE[part]):
        if resolver.has(place) and resolver.raw(place) is not None:
            return resolver.steps(place)
    return iter(())


def _of_prediction(resolver: Resolver, id: str) -> bool:
    """Whether a transform of the postprocessing works on the prediction, not on a label beside it."""
    if not resolver.has(f"{id}::keys"):
        return True
    keys = resolver.value(f"{id}::keys", allowed.nothing)
    return "pred" in ([keys] if isinstance(keys, str) else keys)


def _for_prediction(resolver: Resolver, id: str, name: str) -> Any:
    """Argument of a transform; where it has one value a key, the one for the prediction."""
    if not resolver.has(f"{id}::{name}"):
        return None
    value = resolver.value(f"{id}::{name}", allowed.nothing)
    keys = resolver.value(f"{id}::keys", allowed.nothing) if resolver.has(f"{id}::keys") else "pred"
    if isinstance(value, list) and value:
        return value[keys.index("pred") if isinstance(keys, list) and "pred" in keys else 0]
    return value


def _spacing(transform: Any) -> tuple[float, ...] | None:
    pixdim = getattr(getattr(transform, "spacing_transform", None), "pixdim", ())
    values = tuple(float(mm) for mm in pixdim)
    return values if values and all(mm > 0 for mm in values) else None
