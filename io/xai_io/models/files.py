"""Which files a model consists of, and its hash over them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, UntrustedModel
from .allowed import nothing
from .config import ENDS, read_config
from .resolver import Resolver
from .weights import is_exported, is_torchscript

FORMS = (
    "a MONAI bundle folder (configs/metadata.json, configs/inference.json or .yaml, models/model.pt), a TorchScript or "
    "torch.export (.pt2) file, or weights (.pt, .safetensors) with a network.json or .yaml beside them"
)
_WEIGHTS = (".pt", ".pth", ".ts", ".pt2", ".safetensors")


@dataclass(frozen=True)
class ModelFiles:
    """Files of one model.

    Parameters
    ----------
    root
        The bundle's folder, from which its code may import; else the folder of the one file.
    config, metadata
        Which network it is and how it is used; None where no file says so.
    weights
        Tensors for a network that the config describes.
    program
        A network that needs no description: TorchScript or torch.export.
    bundle
        Whether it is a folder.
    """

    root: Path
    config: Path | None = None
    metadata: Path | None = None
    weights: Path | None = None
    program: Path | None = None
    bundle: bool = False

    @classmethod
    def of(cls, path: Path, network: Path | None) -> ModelFiles:
        """Files of the model at `path`; `network` is the config of weights that do not lie beside theirs.

        Raises
        ------
        ModelError
            If there is no model, or `network` is given where the model brings its own.
        """
        if not path.exists():
            raise ModelError(f"{path} does not exist; name {FORMS}.")
        weights = path.is_file() and _holds_weights(path)
        if network is not None and not weights:
            raise ModelError(f"{path} brings its own network; a network file is for weights alone: leave it out.")
        if path.is_dir():
            return cls._of_bundle(path)
        if not weights:
            return cls(path.parent, program=path)
        if network is None:
            network = _first(path.parent, "network")
        if network is None:
            raise ModelError(
                f"{path} holds weights but not their network; give a network file (JSON or YAML with network_def, as "
                f"in a bundle), or lay it beside as network.json; or name {FORMS}."
            )
        return cls(path.parent, config=network, metadata=network, weights=path)

    @classmethod
    def _of_bundle(cls, root: Path) -> ModelFiles:
        config, metadata = _first(root / "configs", "inference"), root / "configs" / "metadata.json"
        if config is None:
            raise ModelError(f"{root} has no configs/inference.json, .yaml or .yml; name {FORMS}.")
        if not metadata.is_file():
            raise ModelError(f"{root} has no configs/metadata.json; name {FORMS}.")
        found = sorted(file for file in (root / "models").glob("*") if file.suffix in _WEIGHTS)
        found.sort(key=lambda file: file.stem != "model")
        programs = [file for file in found if is_torchscript(file) or is_exported(file)]
        programs.sort(key=lambda file: (file.stem != "model", not is_exported(file)))  # it shows its layers
        weights = [file for file in found if file not in programs and file.suffix not in (".ts", ".pt2")]
        for kind in (weights, programs):
            if len(kind) > 1:
                kind[:] = _named(config, root, kind) or kind
            if len(kind) > 1 and kind[0].stem != "model":
                raise ModelError(
                    f"{root} has {len(kind)} models and none is called model; name the one to load models/model.pt."
                )
        if not found:
            raise ModelError(f"{root} has no models/model.pt, .safetensors, .pt2 or .ts; name {FORMS}.")
        return cls(root, config, metadata, next(iter(weights), None), next(iter(programs), None), bundle=True)

    @property
    def name(self) -> str:
        """What the model is called where its metadata do not say."""
        return self.root.resolve().name if self.bundle else (self.weights or self.program or self.root).stem

    @property
    def hash(self) -> str:
        """SHA-256 over names, sizes and bytes of all that it computes with or could run, whatever folder it lies in."""
        files = {file.name: file for file in (self.config, self.weights, self.program) if file is not None}
        if self.bundle:
            # Every file: there is none that the bundle's own code could not read, and be steered by.
            files = {file.relative_to(self.root).as_posix(): file for file in _all_files(self.root)}
        total = hashlib.sha256()
        for name, file in sorted(files.items()):
            try:
                total.update(f"{name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise ModelError(f"{file} cannot be read ({error.strerror}); check it.") from error
        return total.hexdigest()

    def neighbour(self, name: str) -> Mapping[str, Any] | None:
        """Another config of the bundle, which a macro of its config names; None outside of it, or if there is none."""
        root = self.root.resolve()
        for folder in (root, root / "configs"):
            file = (folder / name).resolve()
            if self.bundle and file.is_file() and file.is_relative_to(root) and file.suffix in ENDS:
                return read_config(file)
        return None


def _all_files(root: Path) -> Iterator[Path]:
    """Files under a folder, also behind links to folders: code can be imported from there."""
    met = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        where = os.path.realpath(folder)
        if where in met:  # a link back up
            inner.clear()
            continue
        met.add(where)
        yield from (file for name in names if (file := Path(folder, name)).is_file())


def _named(config: Path, root: Path, files: Sequence[Path]) -> list[Path]:
    """Those of several files that the config loads; where it does not say so as data, those that it names at all."""
    entries = {**read_config(config), "bundle_root": str(root)}
    resolver = Resolver(entries)
    loaded = set()
    for place in _entries(entries, "load_path"):
        with contextlib.suppress(ModelError, UntrustedModel):
            loaded.add(Path(str(resolver.value(place, nothing))).name)
    text = config.read_text(encoding="utf-8", errors="replace")
    return [file for file in files if file.name in loaded] or [
        file for file in files if re.search(rf"(?<![\w.-]){re.escape(file.name)}(?![\w-])", text)
    ]


def _entries(config: Mapping[str, Any], key: str) -> Iterator[str]:
    """Ids of all entries of this name, each node of the config being looked at once: YAML's may share their inside."""
    met: set[int] = set()
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        place, node = left.pop()
        if not isinstance(node, Mapping | list) or id(node) in met:
            continue
        met.add(id(node))
        inner = node.items() if isinstance(node, Mapping) else enumerate(node)
        found = [(f"{place}::{name}" if place else str(name), value) for name, value in inner]
        yield from (at for at, _ in found if at.rpartition("::")[2] == key)
        left += found


def _first(folder: Path, stem: str) -> Path | None:
    return next((file for file in (folder / f"{stem}{end}" for end in ENDS) if file.is_file()), None)


def _holds_weights(path: Path) -> bool:
    """Whether a file is to be read as tensors alone: no program, and called as weights are."""
    if is_torchscript(path) or is_exported(path):
        return False
    if path.suffix in (".pt", ".pth", ".safetensors"):
        return True
    raise ModelError(f"{path} is not a model in a form that can be loaded; name {FORMS}.")
