"""Trained networks from disk, with all that their files say about how they are to be used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _allowed, _pipeline, _weights
from ._pipeline import Activation, WindowSettings
from ._resolver import Resolver
from .errors import ModelError, UntrustedModel

if TYPE_CHECKING:
    from torch import nn

_FORMS = (
    "a MONAI bundle folder (configs/metadata.json, configs/inference.json or .yaml, models/model.pt) "
    "or a TorchScript file"
)
_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT"}
_RUNNABLE = ("configs/**/*", "scripts/**/*.py", "*.py")


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A network ready to predict, and how it wants its input and calls its output.

    Parameters
    ----------
    network
        On the CPU, in eval mode, its parameters not asking for gradients.
    name, task, modality
        As the bundle's metadata say; `task` is ``"classification"``, ``"segmentation"`` or ``""``, `modality` is
        ``"CT"``, ``"MR"``, ``"PT"`` or ``""``.
    preprocessing
        MONAI dictionary transforms on the key ``"image"``, to be applied in order to a channel-first MetaTensor
        whose affine is RAS+ mm. Loading, channel order and device are left out: the scan's reader has done them.
    windows
        How the bundle slides over a whole scan; None if it predicts in one piece.
    classes
        Name of each output channel that has one.
    in_channels, channel_names
        Of the input; None and empty where nothing says.
    activation, threshold
        How the bundle turns outputs into probabilities, and these into labels (None: by argmax, or not said).
    spacing
        Voxel size in mm of the grid the network sees along its axes; None if that is the scan's own.
    patch_shape
        Voxels of one input if that is fixed.
    hash
        SHA-256 of weights, configs and scripts.
    form
        ``"bundle"``, ``"torchscript"`` (whose inside no method can look into), or ``"module"``: a network that
        was handed over alive, not loaded from disk.
    """

    network: nn.Module = field(repr=False)
    name: str
    task: Literal["classification", "segmentation", ""] = ""
    modality: str = ""
    preprocessing: tuple[Any, ...] = field(default=(), repr=False)
    windows: WindowSettings | None = None
    classes: Mapping[int, str] = field(default_factory=dict)
    in_channels: int | None = None
    channel_names: tuple[str, ...] = ()
    activation: Activation | None = None
    threshold: float | None = None
    spacing: tuple[float, ...] | None = None
    patch_shape: tuple[int, ...] | None = None
    hash: str
    form: Literal["bundle", "torchscript", "module"]


def load_model(path: str | os.PathLike[str], trust: bool = False) -> LoadedModel:
    """Load a MONAI bundle folder or a TorchScript file, without running code that came with it.

    A bundle's config is read as data: networks, transforms and inferers of MONAI by name, literals, references.
    Weights are read as tensors only.

    Parameters
    ----------
    path
        The folder or file.
    trust
        Run the code that the model brings where it needs that (expressions, scripts, pickles). Only for models
        from a source you would run a program from.

    Raises
    ------
    UntrustedModel
        If it needs code and `trust` is False; the message names the entry.
    ModelError
        If it is no model of these forms, its config is broken, or the weights do not fit the network.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"{path} does not exist; name {_FORMS}.")
    if path.is_dir():
        return _bundle(path, trust)
    if _weights.is_torchscript(path):
        return _script(path, trust)
    raise ModelError(f"{path} is not a model in a form that can be loaded; name {_FORMS}.")


def _bundle(root: Path, trust: bool) -> LoadedModel:
    """Load a bundle folder: its own network with weights, else (or if that needs code) its TorchScript."""
    metadata = _mapping(root / "configs" / "metadata.json", root)
    config_file = next(
        (file for file in (root / "configs" / f"inference.{end}" for end in ("json", "yaml", "yml")) if file.is_file()),
        None,
    )
    if config_file is None:
        raise ModelError(f"{root} has no configs/inference.json, .yaml or .yml; name {_FORMS}.")
    resolver = _resolver({"bundle_root": str(root), **_mapping(config_file, root)}, metadata, root, trust)
    weights, script = _model_files(root)
    network: Any = None
    form: Literal["bundle", "torchscript"] = "bundle"
    if weights is not None and resolver.has("network_def"):
        try:
            network = _pipeline.network(resolver)
        except UntrustedModel:
            if script is None:
                raise
        else:
            _weights.fit(network, _weights.read_weights(weights, trust=trust), weights)
            network.eval().requires_grad_(False)
            script = None
    if network is None and script is not None:
        network, _ = _weights.read_torchscript(script, trust=trust)
        weights, form = script, "torchscript"
    if network is None or weights is None:
        lacks = "models/model.pt or models/model.ts" if weights is None else "network_def in its config"
        raise ModelError(f"{root} has no {lacks}; name {_FORMS}.")
    files = {weights} | {file for pattern in _RUNNABLE for file in root.glob(pattern) if file.is_file()}
    return _described(
        network, resolver, metadata, name=root.resolve().name, form=form, hash=_weights.digest(root, files)
    )


def _script(path: Path, trust: bool) -> LoadedModel:
    """Load a TorchScript file, and the config that MONAI may have put into its archive."""
    network, extra = _weights.read_torchscript(path, trust=trust)
    metadata = _parsed(extra.get("metadata.json", b"{}"), path)
    config = _parsed(extra.get("inference.json", b"{}"), path)
    resolver = _resolver(config, metadata, path.parent, trust)
    return _described(
        network, resolver, metadata, name=path.stem, form="torchscript", hash=_weights.digest(path.parent, [path])
    )


def _described(network: nn.Module, resolver: Resolver, metadata: Mapping[str, Any], **known: Any) -> LoadedModel:
    """Put together what config and metadata say."""
    transforms, spacing = _pipeline.preprocessing(resolver)
    activation, threshold = _pipeline.postprocessing(resolver)
    image = _entry(metadata, "inputs", "image")
    output = _entry(metadata, "outputs", "pred")
    names = _numbered(image.get("channel_def"))
    shape = image.get("spatial_shape")
    if not (isinstance(shape, list) and shape and all(type(size) is int and size > 0 for size in shape)):
        shape = None  # "*" or "16*n": any size, or any multiple
    return LoadedModel(
        network=network,
        name=str(metadata.get("name") or known.pop("name")),
        task=_task(metadata, output),
        modality=_MODALITIES.get(str(image.get("modality", "")).upper(), ""),
        preprocessing=transforms,
        windows=_pipeline.windows(resolver),
        classes=_numbered(output.get("channel_def")),
        in_channels=_in_channels(resolver, image),
        channel_names=tuple(names[number] for number in sorted(names)),
        activation=activation,
        threshold=threshold,
        spacing=spacing,
        patch_shape=tuple(shape) if shape else None,
        hash=known["hash"],
        form=known["form"],
    )


def _resolver(config: Mapping[str, Any], metadata: Mapping[str, Any], root: Path, trust: bool) -> Resolver:
    if not trust:
        return Resolver(config)
    from ._trusted import TrustedResolver

    return TrustedResolver(config, metadata, root)


def _model_files(root: Path) -> tuple[Path | None, Path | None]:
    """Weights and TorchScript of a bundle: model.pt and model.ts, or the only file of its kind."""
    files = sorted(file for file in (root / "models").glob("*") if file.suffix in (".pt", ".pth", ".ts"))
    files.sort(key=lambda file: file.stem != "model")
    scripts = [file for file in files if _weights.is_torchscript(file)]
    weights = [file for file in files if file not in scripts and file.suffix != ".ts"]
    for kind in (weights, scripts):
        if len(kind) > 1 and kind[0].stem != "model":
            raise ModelError(
                f"{root} has {len(kind)} models and none is called model; name the one to load models/model.pt."
            )
    return next(iter(weights), None), next(iter(scripts), None)


def _mapping(file: Path, root: Path) -> Mapping[str, Any]:
    try:
        return _parsed(file.read_bytes(), file)
    except OSError as error:
        raise ModelError(f"{root} has no configs/{file.name} that can be read; name {_FORMS}.") from error


def _parsed(content: bytes, file: Path) -> Mapping[str, Any]:
    """Parse a JSON or YAML mapping."""
    import yaml

    try:
        text = content.decode()
        parsed = yaml.safe_load(text) if file.suffix in (".yaml", ".yml") else json.loads(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ModelError(
            f"{file} is not valid JSON or YAML ({str(error).splitlines()[0][:100]}); correct it."
        ) from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{file} holds no mapping of names to values; correct it.")
    return parsed


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


def _in_channels(resolver: Resolver, image: Mapping[str, Any]) -> int | None:
    """Channels the network was built for, else those the metadata name."""
    if resolver.has("network_def::in_channels"):
        given = resolver.value("network_def::in_channels", _allowed.nothing)
    else:
        given = image.get("num_channels")
    return given if type(given) is int and given > 0 else None
