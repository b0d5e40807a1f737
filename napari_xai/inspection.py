"""What a scan or a model is, and what will be done with it, before anything is done."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods3d import Methods3dError, TorchModel
from xai_io import LoadedModel, Volume, load_model, read_volume

__all__ = ["inspected", "probe_shape"]

PROBE = 64  # voxels along each axis of a trial input where the model names no size


def inspected(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """A scan's or a model's description, JSON-ready, without anything about the patient.

    Raises
    ------
    XaiIOError : the path is neither.
    """
    if (path / "configs").is_dir() or path.suffix in (".ts", ".pt", ".pth"):
        return _model(load_model(path, trust=trust))
    return _scan(read_volume(path))


def _scan(scan: Volume) -> dict[str, Any]:
    low, high = float(scan.data.min()), float(scan.data.max())
    oblique = float(np.sort(np.abs(scan.affine[:3, :3] / scan.spacing), axis=0)[1].max())
    return {
        "kind": "scan",
        "format": scan.source.format,
        "modality": scan.modality or "unknown",
        "voxels": list(scan.shape),
        "channels": scan.channels,
        "voxel size in mm": [round(s, 4) for s in scan.spacing],
        "axes point to": scan.axcodes,
        "oblique by degrees": round(float(np.degrees(np.arcsin(min(1.0, oblique)))), 2),
        "values": [low, high],
        "unit of the values": scan.units or "unknown",
        "type": str(scan.data.dtype),
    }


def _model(loaded: LoadedModel) -> dict[str, Any]:
    windows = loaded.windows
    plan = [f"{type(t).__name__}" for t in loaded.preprocessing] or ["none: the scan's voxels go in as they are"]
    how = (
        "the whole scan at once"
        if windows is None
        else f"windows of {windows.roi_size}, overlap {windows.overlap}, {windows.mode} blending"
    )
    return {
        "kind": "model",
        "name": loaded.name,
        "form": loaded.form,
        "task": loaded.task or "unknown",
        "network": type(loaded.network).__name__,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "input channels": loaded.in_channels,
        "classes": [f"{k}: {name}" for k, name in loaded.classes.items()] or ["not named"],
        "preprocessing": plan,
        "grid": "the scan's own" if loaded.spacing is None else f"{loaded.spacing} mm",
        "runs over": how,
        "labels by": loaded.activation or "argmax" if loaded.threshold is None else f"probability > {loaded.threshold}",
        "methods": _suited(loaded),
        "layers": _layers(loaded),
        "sha256": loaded.hash,
    }


def probe_shape(loaded: LoadedModel) -> tuple[int, ...]:
    """Voxels of an input of the model's usual size."""
    size = loaded.windows.roi_size if loaded.windows else loaded.patch_shape or PROBE
    shape = (size,) * 3 if isinstance(size, int) else tuple(size)
    return tuple(n if n > 0 else PROBE for n in shape)


def _suited(loaded: LoadedModel) -> str:
    if loaded.form == "torchscript":
        return "gradient and perturbation methods; Grad-CAM and LRP need the network itself, not TorchScript"
    return "all"


def _layers(loaded: LoadedModel) -> list[str]:
    """Names, channels and shapes of the layers that put out a volume, for one input of the usual size."""
    if loaded.form == "torchscript":
        return ["a TorchScript model does not show its layers"]
    shape = probe_shape(loaded)
    try:
        layers = TorchModel(loaded.network).layers(torch.zeros(1, loaded.in_channels or 1, *shape))
    except Methods3dError as error:
        return [f"not read for an input of {shape}: {error}"]
    return [f"{layer.name}: {layer.channels} x {' x '.join(map(str, layer.shape))}" for layer in layers]
