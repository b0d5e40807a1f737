"""What a scan or a model is, and what will be done with it, before anything is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from methods3d import Methods3dError, TorchModel
from napari_xai.errors import ExplainError
from napari_xai.reading import Reading
from napari_xai.scan_space import refuse_false_affine
from napari_xai.unsuited import unsuited
from xai_io import (
    LoadedModel,
    ScanError,
    Series,
    Volume,
    find_series,
    load_model,
    model_hash,
    needs_trust,
    read_volume,
    trusted,
)

__all__ = ["inspected", "probe_shape"]

MODELS = (".ts", ".pt", ".pth", ".pt2", ".safetensors")
VALUES = ("CastToTyped", "EnsureTyped", "RepeatChanneld", "ToTensord")  # beside MONAI's intensity transforms
PROBE = 64  # voxels along each axis of a trial input where the model names no size


def inspected(
    path: Path,
    *,
    reading: Reading = Reading(),  # noqa: B008
    trust: bool = False,
    network: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """A scan's or a model's description, JSON-ready; of the patient nothing but what a site writes as description.

    DICOM that is not one regular series is listed, series by series, with the verdict on its geometry; a series that
    `reading` chooses is described.

    Parameters
    ----------
    path : scan or model.
    reading : which series, and the answers to what it leaves open.
    trust, network : as in `xai_io.load_model`. A model that needs trust and has none is described as far as its files
        are data, with all that it needs trust for.

    Raises
    ------
    XaiIOError : the path is neither.
    """
    if network is None and not (path / "configs").is_dir() and path.suffix not in MODELS:
        found = _dicom(path, progress)
        if found and reading == Reading() and not (len(found) == 1 and found[0].verdict.kind == "regular"):
            return _listing(found)
        return _scan(read_volume(path, series=reading.series, choices=reading.choices, progress=progress))
    if reading != Reading():
        raise ExplainError(f"{path} is a model, of which there are no series or gaps: leave these flags out.")
    needed = needs_trust(path, network=network)
    if needed and not trust and not trusted(model_hash(path, network=network)):
        return _untrusted(path, network, needed)
    return _model(load_model(path, trust=trust, network=network), needed)


def _dicom(path: Path, progress: Callable[[int, int], None] | None) -> tuple[Series, ...]:
    try:
        return find_series(path, progress=progress)
    except ScanError:  # another format, or nothing: the reader says which
        return ()


def _listing(found: tuple[Series, ...]) -> dict[str, Any]:
    return {
        "kind": "series",
        "series": [
            {
                "number": number,
                "modality": one.modality or "unknown",
                "description": one.description,
                "images": one.images,
                "voxels": None if one.shape is None else list(one.shape),
                "voxel size in mm": None if one.spacing is None else [round(mm, 4) for mm in one.spacing],
                "volumes": [*one.frames],
                "geometry": one.verdict.sentence,
            }
            for number, one in enumerate(found, 1)
        ],
    }


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
        "notes": [*scan.source.notes] or ["none"],
    }


def _untrusted(path: Path, network: Path | None, needed: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": "model",
        "name": path.name,
        "needs trust": [f"{entry}: {what}" for entry, what in needed.items()],
        "trust": "not given, so that nothing of it was run and no more is known: give --trust if you know its source",
        "sha256": model_hash(path, network=network),
    }


def _model(loaded: LoadedModel, needed: dict[str, str]) -> dict[str, Any]:
    windows = loaded.windows
    shape = probe_shape(loaded)
    how = (
        "the whole scan at once"
        if windows is None
        else f"windows of {windows.roi_size}, overlap {windows.overlap}, {windows.mode} blending"
    )
    names = loaded.channel_names or ("not named",)
    channels = [f"{n}: {name}" for n, name in enumerate(names)] if len(names) > 1 else list(names)
    remembered = "remembered" if trusted(loaded.hash) else "given for this time"
    return {
        "kind": "model",
        "name": loaded.name,
        "form": loaded.form,
        "task": loaded.task or "unknown",
        "modality": loaded.modality or "unknown",
        "network": type(loaded.network).__name__,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "input channels": loaded.in_channels,
        "channel names": channels,
        "input shape": " x ".join(map(str, loaded.patch_shape)) if loaded.patch_shape else "not said",
        "classes": [f"{k}: {name}" for k, name in loaded.classes.items()] or ["not named"],
        "preprocessing": [_step(t) for t in loaded.preprocessing] or ["none: the scan's voxels go in as they are"],
        "grid": "the scan's own" if loaded.spacing is None else f"{loaded.spacing} mm",
        "runs over": how,
        "labels by": loaded.activation or "argmax" if loaded.threshold is None else f"probability > {loaded.threshold}",
        "left aside": [*loaded.left_out] or ["nothing"],
        "needs trust": [f"{entry}: {what}" for entry, what in needed.items()] or ["nothing: all of it is data"],
        "trust": remembered if needed else "not needed",
        "refused methods": _refused(unsuited(loaded, shape)) or ["none"],
        "layers": _layers(loaded, shape),
        "sha256": loaded.hash,
    }


def _step(transform: Any) -> str:
    """A transform, whether it moves voxels, and what becomes of a map on its way back."""
    name, where = type(transform).__name__, type(transform).__module__
    if where.startswith("monai.transforms.intensity.") or name in VALUES:
        return f"{name}: changes values, not places"
    if not where.startswith(("monai.transforms.spatial.", "monai.transforms.croppad.")):
        return f"{name}: not known; the way back follows the affine that it leaves"
    try:
        refuse_false_affine(transform)
    except ExplainError as error:
        return f"{name}: moves voxels, and is refused: {error}"
    return f"{name}: moves voxels; maps come back through the world by the affine that it leaves"


def _refused(unsuited: dict[str, str]) -> list[str]:
    """Methods with one reason on one line."""
    by_reason: dict[str, list[str]] = {}
    for name, why in unsuited.items():
        by_reason.setdefault(why, []).append(name)
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def probe_shape(loaded: LoadedModel) -> tuple[int, ...]:
    """Voxels of an input of the model's usual size."""
    size = loaded.windows.roi_size if loaded.windows else loaded.patch_shape or PROBE
    shape = (size,) * 3 if isinstance(size, int) else tuple(size)
    return tuple(n if n > 0 else PROBE for n in shape)


def _layers(loaded: LoadedModel, shape: tuple[int, ...]) -> list[str]:
    """Names, channels and shapes of the layers that put out a volume, for one input of the usual size."""
    if loaded.form == "torchscript":
        return ["a TorchScript model does not show its layers"]
    try:
        layers = TorchModel(loaded.network).layers(torch.zeros(1, loaded.in_channels or 1, *shape))
    except Methods3dError as error:
        return [f"not read for an input of {shape}: {error}"]
    return [f"{layer.name}: {layer.channels} x {' x '.join(map(str, layer.shape))}" for layer in layers]
