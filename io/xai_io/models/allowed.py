"""What a bundle's config may build without trust: an allow-list by name, and what each name builds."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# On the list is what is deterministic, works on the image alone, takes only numbers and words, and runs nothing it is
# given. Not on it: Lambda*, *TorchVision*, *TorchIO*, CuCIM* (call what they are given), Load*, Save* (files), Rand*
# (a prediction is not drawn by lot), Copy*, Delete*, Concat*, Mask* (other keys than the image), Transpose*, Squeeze*
# (move axes behind the affine's back).
_SPATIAL = {"Affined", "Flipd", "Orientationd", "Resized", "Rotate90d", "Rotated", "Spacingd", "Zoomd"}
_CROP_AND_PAD = {
    "BorderPadd",
    "CenterScaleCropd",
    "CenterSpatialCropd",
    "CropForegroundd",
    "DivisiblePadd",
    "ResizeWithPadOrCropd",
    "SpatialCropd",
    "SpatialPadd",
}
_INTENSITY = {
    "AdjustContrastd",
    "ClipIntensityPercentilesd",
    "GaussianSharpend",
    "GaussianSmoothd",
    "HistogramNormalized",
    "MedianSmoothd",
    "NormalizeIntensityd",
    "SavitzkyGolaySmoothd",
    "ScaleIntensityRangePercentilesd",
    "ScaleIntensityRanged",
    "ScaleIntensityd",
    "ShiftIntensityd",
    "StdShiftIntensityd",
    "ThresholdIntensityd",
}
_UTILITY = {"CastToTyped", "EnsureTyped", "RepeatChanneld", "ToTensord"}
_TRANSFORMS = _SPATIAL | _CROP_AND_PAD | _INTENSITY | _UTILITY

# `read_volume` hands over the channel-first image that these would have made, and the device is ours to choose.
REPLACED = {
    "AddChanneld",
    "AsChannelFirstd",
    "DataStatsd",
    "EnsureChannelFirstd",
    "Identityd",
    "LoadImaged",
    "ToDeviced",
}
_OURS = ("device", "track_meta")  # arguments that would move the image away, or forget where it lies

# Networks that fetch files, or need other libraries, when they are built.
_FETCHING = {
    "BertPreTrainedModel",
    "CellSamWrapper",
    "HoVerNet",
    "MILModel",
    "MultiModal",
    "TorchVisionFCModel",
    "Transchex",
}
_NETWORK_FUNCTIONS = re.compile(r"resnet\d+|MedNe[Xx]t\w+|vista3d132")


_GONE = {"SwinUNETR": "img_size"}  # arguments of older MONAI versions that shaped no weight


_LARGEST = 2**17  # of a network's arguments; a larger one would only make lists and loops without end


def canonical(target: str) -> str:
    """MONAI's class name behind any spelling of a transform (SpacingD, SpacingDict, monai.transforms.Spacingd)."""
    found = _public("monai.transforms", target.rpartition(".")[2])
    return found.__name__ if isinstance(found, type) else target.rpartition(".")[2]


def nothing(target: str) -> None:
    """Allow no component: settings are numbers and words."""


def network(target: str) -> Callable[..., Any] | None:
    """Build a network of monai.networks.nets by name, never fetching weights: its own are loaded strictly."""
    import torch

    found = _public("monai.networks.nets", target)
    if isinstance(found, type):
        if not issubclass(found, torch.nn.Module) or found.__name__ in _FETCHING:
            return None
    elif not (callable(found) and _NETWORK_FUNCTIONS.fullmatch(found.__name__)):
        return None

    def build(**arguments: Any) -> Any:
        _refuse_huge(arguments)
        if "pretrained" in inspect.signature(found).parameters:
            arguments["pretrained"] = False
        arguments.pop(_GONE.get(found.__name__, ""), None)
        return found(**arguments)

    return build


def transform(target: str) -> Callable[..., Any] | None:
    """Build an allowed dictionary transform by name, without the arguments that are ours."""
    found = _public("monai.transforms", target)
    if not isinstance(found, type) or found.__name__ not in _TRANSFORMS:
        return None

    def build(keys: str | Sequence[str], **arguments: Any) -> Any:
        if not isinstance(keys, str) and len(keys) > 1:  # with the label that training also had, and that is not there
            arguments["allow_missing_keys"] = True
        if found.__name__ == "Orientationd":  # the reader's world is RAS+, whatever a tensor's metadata would say
            arguments.setdefault("labels", (("L", "R"), ("P", "A"), ("I", "S")))
        return found(keys, **{name: value for name, value in arguments.items() if name not in _OURS})

    return build


def _refuse_huge(arguments: Any) -> None:
    if isinstance(arguments, Mapping | list | tuple):
        for one in arguments.values() if isinstance(arguments, Mapping) else arguments:
            _refuse_huge(one)
    elif isinstance(arguments, int | float) and abs(arguments) > _LARGEST:
        raise ValueError(f"a network with {arguments:.6g} of anything is not built")


def _public(package: str, target: str) -> Any:
    """Whatever a bare name, or a full one inside the package, names among the package's public parts."""
    prefix, _, name = target.rpartition(".")
    if prefix and not f"{prefix}.".startswith(f"{package}."):
        return None
    return vars(importlib.import_module(package)).get(name)
