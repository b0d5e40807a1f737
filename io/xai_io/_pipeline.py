"""What a bundle does around its network: transforms before, windows, activation and threshold after."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ._resolver import Resolver, Step
from .errors import ModelError

Activation: TypeAlias = Literal["softmax", "sigmoid"]

# Transforms a config may ask for without trust. On the list is what is deterministic, works on the image alone,
# takes only numbers and words, and runs nothing it is given. Not on it: Lambda*, *TorchVision*, *TorchIO*, CuCIM*
# (call what they are given), Load*, Save*, *Writer* (files), Rand* (a prediction is not drawn by lot), Copy*,
# Delete*, Concat*, Mask* (other keys than the image), Transpose*, Squeeze* (axes the affine does not follow).
_TRANSFORMS = frozenset(
    # spatial
    "Affined Flipd Orientationd Resized Rotate90d Rotated Spacingd Zoomd "
    # crop and pad
    "BorderPadd CenterScaleCropd CenterSpatialCropd CropForegroundd DivisiblePadd ResizeWithPadOrCropd SpatialCropd "
    "SpatialPadd "
    # intensity
    "AdjustContrastd ClipIntensityPercentilesd GaussianSharpend GaussianSmoothd HistogramNormalized MedianSmoothd "
    "NormalizeIntensityd SavitzkyGolaySmoothd ScaleIntensityRangePercentilesd ScaleIntensityRanged ScaleIntensityd "
    "ShiftIntensityd StdShiftIntensityd ThresholdIntensityd "
    # utility
    "CastToTyped EnsureTyped RepeatChanneld ToTensord".split()
)
# `read_volume` hands over the channel-first image that these would have made; the device is ours to choose.
_REPLACED = frozenset(
    ["LoadImaged", "EnsureChannelFirstd", "AddChanneld", "AsChannelFirstd", "ToDeviced", "DataStatsd", "Identityd", "ToMetaTensord"]
)
_OURS = ("device", "track_meta")  # arguments that would move the image away, or forget where it lies
_RESIZING = ("Resized", "Zoomd", "Affined")

# Networks of MONAI that fetch files or other libraries when they are built.
_FETCHING = frozenset(
    ["TorchVisionFCModel", "HoVerNet", "MILModel", "MultiModal", "Transchex", "BertPreTrainedModel", "CellSamWrapper"]
)
_NETWORK_FUNCTIONS = re.compile(r"resnet\d+|MedNe[Xx]t\w+|vista3d132")


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


def network(resolver: Resolver) -> Any:
    """Build the network a config describes, with weights still to be loaded over the random ones."""
    import torch

    with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away; the caller's seed is not
        built = resolver.value("network_def", _network)
    if not isinstance(built, torch.nn.Module):
        raise ModelError("The bundle's network_def is not a network; name one of monai.networks.nets there.")
    return built


def preprocessing(resolver: Resolver) -> tuple[tuple[Any, ...], tuple[float, ...] | None]:
    """Transforms on the key "image" in order, and the voxel size in mm they end on (None: the scan's own)."""
    transforms, spacing = [], None
    for step in _steps(resolver, "preprocessing"):
        name = _canonical(step.target)
        if name in _REPLACED:
            continue
        transform = resolver.value(step.id, _transform) if step.built is None else step.built
        keys = getattr(transform, "keys", ())
        if "image" not in keys:
            raise ModelError(
                f"The bundle's {step.id!r} ({step.target}) works on {', '.join(map(str, keys)) or 'no key'}; only the key "
                "'image' is handed over: rename it in the config."
            )
        transforms.append(transform)
        if name == "Spacingd":
            spacing = _spacing(transform)
        elif name in _RESIZING:
            spacing = None
    return tuple(transforms), spacing


def windows(resolver: Resolver) -> WindowSettings | None:
    """Settings of the config's sliding windows; None where it runs the network once on the whole image."""
    if not resolver.has("inferer"):
        return None
    steps = list(resolver.steps("inferer"))
    name = steps[0].target.rpartition(".")[2] if len(steps) == 1 else ""
    if name == "SimpleInferer":
        return None
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise ModelError(
            f"The bundle predicts with the inferer {name or 'it computes'!r}; only SlidingWindowInferer and SimpleInferer are "
            "understood: name one of them in the config."
        )
    found = {}
    for field in dataclasses.fields(WindowSettings):
        if resolver.has(f"{steps[0].id}::{field.name}"):
            value = resolver.value(f"{steps[0].id}::{field.name}", nothing)
            found[field.name] = tuple(value) if isinstance(value, list) else value
    if "roi_size" not in found:
        raise ModelError("The bundle's SlidingWindowInferer has no roi_size; add it to the config.")
    return WindowSettings(**found)


def postprocessing(resolver: Resolver) -> tuple[Activation | None, float | None]:
    """Activation of the output, and the threshold it is cut at (None: argmax, or not said)."""
    activation: Activation | None = None
    threshold: float | None = None
    for step in _steps(resolver, "postprocessing"):
        name = _canonical(step.target)
        if step.built is not None or name not in ("Activationsd", "AsDiscreted"):
            continue  # what comes after (inverting, saving) is not ours to run

        def argument(name: str, id: str = step.id) -> Any:
            return _for_prediction(resolver, id, name)

        if name == "Activationsd":
            if argument("softmax"):
                activation = "softmax"
            elif argument("sigmoid"):
                activation = "sigmoid"
        elif not argument("argmax"):
            cut = argument("threshold")
            threshold = float(cut) if isinstance(cut, int | float) and not isinstance(cut, bool) else None
    return activation, threshold


def _steps(resolver: Resolver, id: str) -> Iterator[Step]:
    return resolver.steps(id) if resolver.has(id) else iter(())


def _for_prediction(resolver: Resolver, id: str, name: str) -> Any:
    """Argument of a transform; where it has one value a key, the one for the prediction."""
    if not resolver.has(f"{id}::{name}"):
        return None
    value = resolver.value(f"{id}::{name}", nothing)
    keys = resolver.value(f"{id}::keys", nothing) if resolver.has(f"{id}::keys") else "pred"
    if isinstance(value, list) and value:
        return value[keys.index("pred") if isinstance(keys, list) and "pred" in keys else 0]
    return value


def _spacing(transform: Any) -> tuple[float, ...] | None:
    pixdim = getattr(getattr(transform, "spacing_transform", None), "pixdim", ())
    values = tuple(float(mm) for mm in pixdim)
    return values if values and all(mm > 0 for mm in values) else None


def _canonical(target: str) -> str:
    """MONAI's class name behind any of its spellings (SpacingD, SpacingDict, monai.transforms.Spacingd)."""
    import monai.transforms

    name = target.rpartition(".")[2]
    found = vars(monai.transforms).get(name)
    return found.__name__ if isinstance(found, type) else name


def _from(package: str, target: str) -> Any:
    """Whatever a bare name, or a full one inside the package, names among the package's public parts."""
    import importlib

    prefix, _, name = target.rpartition(".")
    if prefix and not f"{prefix}.".startswith(f"{package}."):
        return None
    return vars(importlib.import_module(package)).get(name)


def nothing(target: str) -> None:
    """Allow no component: settings are numbers and words."""


def _network(target: str) -> Callable[..., Any] | None:
    """Build a network of monai.networks.nets by name, never fetching weights: its own are loaded strictly."""
    import torch

    found = _from("monai.networks.nets", target)
    if isinstance(found, type):
        if not issubclass(found, torch.nn.Module) or found.__name__ in _FETCHING:
            return None
    elif not (callable(found) and _NETWORK_FUNCTIONS.fullmatch(found.__name__)):
        return None
    if "pretrained" in inspect.signature(found).parameters:

        def build(**arguments: Any) -> Any:
            return found(**{**arguments, "pretrained": False})

        return build
    return found  # type: ignore[no-any-return]


def _transform(target: str) -> Callable[..., Any] | None:
    """Build an allowed dictionary transform by name, without the arguments that are ours."""
    found = _from("monai.transforms", target)
    if not isinstance(found, type) or found.__name__ not in _TRANSFORMS:
        return None

    def build(keys: str | Sequence[str], **arguments: Any) -> Any:
        several = not isinstance(keys, str) and len(keys) > 1
        if several:  # with the label that training also had; only the image is there
            arguments["allow_missing_keys"] = True
        return found(keys, **{name: value for name, value in arguments.items() if name not in _OURS})

    return build
