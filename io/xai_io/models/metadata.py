"""What a bundle's metadata say about the network's input and output, in whatever shape they come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT"}


def described(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a LoadedModel that metadata (of the form of a bundle's metadata.json) know of."""
    image = _entry(metadata, "inputs", "image")
    output = _entry(metadata, "outputs", "pred")
    names = _numbered(image.get("channel_def"))
    shape = image.get("spatial_shape")
    if not (isinstance(shape, list) and shape and all(type(size) is int and size > 0 for size in shape)):
        shape = None  # "*" or "16*n": any size, or any multiple
    channels = image.get("num_channels")
    return {
        "task": _task(metadata, output),
        "modality": _MODALITIES.get(str(image.get("modality", "")).upper(), ""),
        "classes": _numbered(output.get("channel_def")),
        "in_channels": channels if type(channels) is int and channels > 0 else None,
        "channel_names": tuple(names[number] for number in sorted(names)),
        "patch_shape": tuple(shape) if shape else None,
    }


def _entry(metadata: Mapping[str, Any], side: str, preferred: str) -> Mapping[str, Any]:
    """Return the description of one input or output: the usual one, else the first."""
    data: Any = metadata.get("network_data_format")
    for key in (side, None):
        if not isinstance(data, Mapping):
            return {}
        data = data.get(key) if key else data.get(preferred, next(iter(data.values()), None))
    return data if isinstance(data, Mapping) else {}


def _numbered(channels: Any) -> dict[int, str]:
    """Names by channel number; nothing where the metadata number them in another way."""
    try:
        return {int(number): str(name) for number, name in channels.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _task(metadata: Mapping[str, Any], output: Mapping[str, Any]) -> Literal["classification", "segmentation", ""]:
    """Read what kind of answer the network gives from its output's format, else from the words for its task."""
    words = f"{output.get('format')} {output.get('type')} {metadata.get('task')} {metadata.get('name')}".lower()
    at = {
        kind: words.find(stem)
        for kind, stem in (("segmentation", "segment"), ("classification", "classif"), ("classes", "classes"))
    }
    met = sorted((place, kind) for kind, place in at.items() if place >= 0)
    if not met:
        return ""
    return "segmentation" if met[0][1] == "segmentation" else "classification"
