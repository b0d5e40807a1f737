"""Weights from disk: tensors that are only tensors, and TorchScript that only computes."""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError, UntrustedModel

_NESTS = ("state_dict", "model_state_dict", "model", "network", "net")  # where training scripts put the weights
_MOST_UNPACKED = 2**27  # bytes
# TorchScript can open files too: these two operators write wherever they are told to. Operators outside aten and
# prim come from libraries that may add more.
_WRITES = re.compile(rb"\b(?:from_file|save)\b|\bops\s*\.\s*(?!(?:aten|prim|prims|quantized)\b)\w+")


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive; whatever its name is."""
    return "constants.pkl" in _records(path)


def is_exported(path: Path) -> bool:
    """Whether the file is an archive of `torch.export`; whatever its name is."""
    records = _records(path)
    return "archive_format" in records and any(name.startswith("models/") for name in records)


def read_torchscript(path: Path, *, trust: bool) -> Any:
    """Load a TorchScript module on the CPU in eval mode.

    Raises
    ------
    UntrustedModel
        If the script could write files and `trust` is False.
    ModelError
        If the archive is damaged.
    """
    import torch

    for name, code in _archived(path, "code/").items():
        found = _WRITES.search(code) if name.lower().endswith(".py") else None
        if found and not trust:
            raise UntrustedModel(
                f"{path} is TorchScript that uses {found[0].decode()!r}, which can reach files on this machine; "
                "if you trust where it comes from, trust=True loads it.",
                entry=path.name,
                what=f"TorchScript that uses {found[0].decode()}",
            )
    try:
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        for parameter in module.parameters():  # TorchScript has no requires_grad_ of its own
            parameter.requires_grad_(False)
        return module.eval()
    except Exception as error:  # damaged archives fail in many ways
        raise _damaged_script(path, error) from error


def extra_files(path: Path) -> Mapping[str, bytes]:
    """Files that a TorchScript archive carries beside its code; errors as `read_torchscript`."""
    return {name.removeprefix("extra/"): content for name, content in _archived(path, "extra/").items()}


def _archived(path: Path, folder: str) -> dict[str, bytes]:
    """Records of a TorchScript archive, by the reader that will load it, so that both see one file.

    That reader finds records whatever the case of their names: so must what looks through them.
    """
    import torch

    try:
        refuse_bomb(path)
        archive = torch._C.PyTorchFileReader(str(path))
        names = archive.get_all_records()
        found = {name: archive.get_record(name) for name in names if name.lower().startswith(folder)}
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("two records whose names differ in case only")
    except Exception as error:  # likewise
        raise _damaged_script(path, error) from error
    if "model.json" in names:  # a format that keeps its code elsewhere
        raise ModelError(f"{path} is TorchScript of an outdated format; export it again.")
    return found


def read_weights(path: Path, *, trust: bool) -> dict[str, Any]:
    """Read a state dict, taken out of a checkpoint's nesting if need be.

    Raises
    ------
    UntrustedModel
        If unpickling it would run code and `trust` is False.
    ModelError
        If the file is damaged or holds no state dict.
    """
    import torch

    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        refuse_bomb(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives fail in many ways
        if not (isinstance(error, pickle.UnpicklingError) and _wants_code(error)):
            raise _damaged(path, error) from error
        if not trust:
            raise UntrustedModel(
                f"{path} holds more than weights and unpickling it would run code; save a plain state_dict, or if you "
                "trust where it comes from, trust=True runs it.",
                entry=path.name,
                what="a pickle of more than weights",
            ) from error
        try:
            content = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as failure:
            raise _damaged(path, failure) from failure
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    for _ in range(3):
        nests = [name for name in _NESTS if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
        if not nests:
            break
        content = content[nests[0]]
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise ModelError(f"{path} holds no state dict; save network.state_dict() there.")
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Any] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} is no safetensors file, or a damaged one ({_first_line(error)}); copy it again."
        ) from error
    return found


def fit(network: Any, weights: Mapping[str, Any], path: Path) -> None:
    """Load weights into a network whose every key and shape they match, but for one module around it when trained.

    Raises
    ------
    ModelError
        Naming the first key that is missing, left over, or of another shape, and how many there are.
    """
    wanted = network.state_dict()
    inner = {key.partition(".")[2]: value for key, value in weights.items()}
    if len({key.partition(".")[0] for key in weights}) == 1 and inner.keys() == wanted.keys():
        weights = inner  # saved from DataParallel or a training wrapper: "module.", "model.", "net."
    missing = [key for key in wanted if key not in weights]
    spare = [key for key in weights if key not in wanted]
    other = [key for key in wanted if key in weights and wanted[key].shape != weights[key].shape]
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, first {missing[0]!r}")
    if spare:
        faults.append(f"{len(spare)} not in the network, first {spare[0]!r}")
    if other:
        key = other[0]
        shapes = f"{tuple(weights[key].shape)} for {tuple(wanted[key].shape)}"
        faults.append(f"{len(other)} of another shape, first {key!r}: {shapes}")
    if faults:
        raise ModelError(
            f"The weights in {path} do not fit the network ({'; '.join(faults)}); "
            "use the configuration they were trained with."
        )
    network.load_state_dict(dict(weights), strict=True)


def refuse_not_finite(network: Any, name: str) -> None:
    """Refuse weights from a training that diverged, whose every map would be NaN; a mask may well hold -inf.

    Raises
    ------
    ModelError
        Naming the first of them.
    """
    for key, value in (*network.named_parameters(), *network.named_buffers()):
        if value.is_floating_point() and not bool((value < math.inf).all()):
            raise ModelError(
                f"The weights of {name} hold NaN or infinity, first in {key[:80]!r}, where only finite numbers predict "
                "anything; take a checkpoint from before the training diverged."
            )


def _records(path: Path) -> set[str]:
    """Names inside a PyTorch archive without its top folder; empty if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return set()


def refuse_bomb(path: Path) -> None:
    """Refuse an archive that unpacks to far more than its own size: torch compresses code, never tensors."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [record for record in archive.infolist() if record.compress_type != zipfile.ZIP_STORED]
    if sum(record.file_size for record in packed) > _MOST_UNPACKED:
        raise ValueError("it unpacks to far more than its size")


def _wants_code(error: pickle.UnpicklingError) -> bool:
    """Whether torch refused a pickle because it names a function or class, not because it is damaged."""
    return any(words in str(error) for words in ("GLOBAL ", "unrecognized function", "Tried to instantiate"))


def _damaged_script(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} is a damaged TorchScript file ({_first_line(error)}); copy or export it again.")


def _damaged(path: Path, error: Exception) -> ModelError:
    why = "its pickle breaks off" if isinstance(error, pickle.UnpicklingError) else _first_line(error)
    return ModelError(f"{path} is no file of PyTorch weights, or a damaged one ({why}); copy it again.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
