"""Trained networks from disk, with all that their files say about how they are to be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..errors import ModelError, UntrustedModel
from . import allowed, pipeline, weights
from .config import parsed, read_config
from .files import FORMS, ModelFiles
from .metadata import described
from .pipeline import Activation, WindowSettings
from .resolver import Resolver
from .trust import remember, trusted

if TYPE_CHECKING:
    from torch import nn

Form: TypeAlias = Literal["bundle", "weights", "exported", "torchscript", "module"]
PathLike: TypeAlias = str | os.PathLike[str]


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
        ``"bundle"``; ``"weights"`` with a network file; ``"exported"`` by torch.export, a graph of operators;
        ``"torchscript"``, whose inside no method can look into; or ``"module"``: a network that was handed over alive,
        not loaded from disk.
    left_out
        The bundle's transforms before and after the network that are not run, by name: the reader, the way back and
        the exports do their work.
    ran
        What of the model's own code was run, as ids in its config and names of files; empty where it is data.
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
    form: Form
    left_out: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()


def load_model(
    path: PathLike, trust: bool | Literal["remember"] = False, *, network: PathLike | None = None
) -> LoadedModel:
    """Load a network from disk, without running code that came with it.

    A MONAI bundle folder; a TorchScript or `torch.export` (.pt2) file; or weights (a state dict, safetensors) with a
    network file: a config as a bundle's inference.json, of which only ``network_def`` is needed.
    Configs are read as data: networks, transforms and inferers of MONAI by name, literals, references. Weights are
    read as tensors only.

    Parameters
    ----------
    path
        The folder or file.
    trust
        Run the code that the model brings where it needs that (expressions, scripts, pickles). Only for models
        from a source you would run a program from. ``"remember"``: also from now on, until a file of it changes. A
        model that was remembered needs no trust.
    network
        The network file of weights, where it is not network.json or .yaml beside them.

    Raises
    ------
    UntrustedModel
        If it needs code and `trust` is False; the message names the entry.
    ModelError
        If it is no model of these forms, its config is broken, or the weights do not fit the network or are not finite.
    """
    if trust not in (True, False, "remember"):
        raise ModelError(f"trust is {trust!r}; give True, False or 'remember'.")
    files = ModelFiles.of(Path(path), None if network is None else Path(network))
    known = files.hash
    loaded = _loaded(files, known, trust=bool(trust) or trusted(known))
    if trust == "remember":
        remember(known)
    return loaded


def model_hash(path: PathLike, *, network: PathLike | None = None) -> str:
    """SHA-256 of all that a model computes with or could run: what trust is bound to. Parameters as in `load_model`."""
    return ModelFiles.of(Path(path), None if network is None else Path(network)).hash


def needs_trust(path: PathLike, *, network: PathLike | None = None) -> dict[str, str]:
    """All that would be refused of a model without trust: id in its config, or file -> what stands there.

    Parameters and errors as in `load_model`. Empty where the model is data.
    """
    files = ModelFiles.of(Path(path), None if network is None else Path(network))
    found: dict[str, str] = {}
    source = _Source.of(files, trust=False)
    if files.weights is not None:
        found |= pipeline.refused_entry(source.resolver, "network_def", allowed.network)
        try:
            weights.read_weights(files.weights, trust=False)
        except UntrustedModel as refused:
            found[refused.entry] = refused.what
    if files.program is not None and (found or files.weights is None):
        found = {}  # a program serves in place of a network that needs code
        if not weights.is_exported(files.program):
            try:
                weights.read_torchscript(files.program, trust=False)
            except UntrustedModel as refused:
                found[refused.entry] = refused.what
    return found | pipeline.refused(source.resolver)


@dataclass(frozen=True)
class _Source:
    """A model's config and metadata, ready to be asked."""

    resolver: Resolver
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, files: ModelFiles, *, trust: bool) -> _Source:
        extra: Mapping[str, bytes] = {}
        if files.config is None and files.program is not None and not weights.is_exported(files.program):
            extra = weights.extra_files(files.program)  # where MONAI's export puts them
        config, metadata = (
            read_config(file) if file is not None else parsed(extra.get(name, b"{}"), Path(name))
            for file, name in ((files.config, "inference.json"), (files.metadata, "metadata.json"))
        )
        if "_target_" in config:  # a network file that is the network_def itself
            config = {"network_def": config}
        config = {**config, "_meta_": metadata}
        if files.bundle:
            config["bundle_root"] = str(files.root)
        if not trust:
            return cls(Resolver(config, files.neighbour), metadata)
        from .trusted import TrustedResolver

        root = files.root if files.bundle else None  # beside a single file lies what its hash does not cover
        return cls(TrustedResolver(config, files.neighbour, root), metadata)


def _loaded(files: ModelFiles, hash: str, *, trust: bool) -> LoadedModel:
    """Load the network with its weights, else (or if that needs code) the program."""
    source = _Source.of(files, trust=trust)
    resolver = source.resolver
    network: Any = None
    form: Form = "bundle" if files.bundle else "weights"
    ran: list[str] = []
    if files.weights is not None and resolver.has("network_def"):
        try:
            network = _with_weights(resolver, files.weights, ran, trust=trust)
        except UntrustedModel:
            if files.program is None:
                raise
    if network is None and files.program is not None:
        if weights.is_exported(files.program):
            from .exported import read_exported

            network, form = read_exported(files.program).eval(), "exported"
        else:
            network, form = _script(files.program, ran, trust=trust), "torchscript"
    if network is None:
        lacks = "network_def" if files.weights is not None else "weights"
        raise ModelError(f"{files.config or files.root} has no {lacks}; name {FORMS}.")
    weights.refuse_not_finite(network, files.name)
    transforms, spacing, replaced = pipeline.preprocessing(resolver)
    activation, threshold, unused = pipeline.postprocessing(resolver)
    known = described(source.metadata)
    if form == "exported":
        _, channels, *shape = network.input_shape
        known["in_channels"] = channels or known["in_channels"]
        known["patch_shape"] = tuple(shape) if all(shape) else known["patch_shape"]
    elif (channels := pipeline.in_channels(resolver)) is not None:
        known["in_channels"] = channels
    return LoadedModel(
        network=network,
        name=str(source.metadata.get("name") or files.name),
        preprocessing=transforms,
        windows=pipeline.windows(resolver),
        activation=activation,
        threshold=threshold,
        spacing=spacing,
        hash=hash,
        form=form,
        left_out=(*replaced, *unused),
        ran=tuple(dict.fromkeys([*resolver.ran, *ran])),
        **known,
    )


def _with_weights(resolver: Resolver, file: Path, ran: list[str], *, trust: bool) -> Any:
    """Build the network of a config, and load its weights; an unsafe file's name is added to `ran`."""
    try:
        values = weights.read_weights(file, trust=False)
    except UntrustedModel:
        if not trust:
            raise
        ran.append(file.name)
        values = weights.read_weights(file, trust=True)
    network = pipeline.network(resolver, values)
    weights.fit(network, values, file)
    return network.eval().requires_grad_(False)


def _script(file: Path, ran: list[str], *, trust: bool) -> Any:
    """Load TorchScript; an unsafe file's name is added to `ran`."""
    try:
        return weights.read_torchscript(file, trust=False)
    except UntrustedModel:
        if not trust:
            raise
        ran.append(file.name)
        return weights.read_torchscript(file, trust=True)
