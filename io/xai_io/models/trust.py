"""Which models the user has said may run the code that they bring: remembered by what they are, not where they lie."""

from __future__ import annotations

import json
import re
from pathlib import Path

from .._files import CONFIG_FOLDER, config_folder, written_aside
from ..errors import ModelError

_HASH = re.compile(r"[0-9a-f]{64}")


def trusted(hash: str) -> bool:
    """Whether the user has said that the model of this hash may run its code; where nothing can be read, no."""
    try:
        return hash in _remembered()
    except ModelError:
        return False


def remember(hash: str) -> None:
    """Trust the model of this hash from now on, and nothing that it may become.

    Raises
    ------
    ModelError
        If it is no hash of a model, or the file of trusted models is damaged.
    ExportError
        If the file cannot be written.
    """
    if not _HASH.fullmatch(hash):
        raise ModelError(f"{hash[:80]!r} is no hash of a model; give the 64 hexadecimal digits of its SHA-256.")
    _write(_remembered() | {hash})


def forget(hash: str) -> None:
    """Trust the model of this hash no longer; errors as `remember`."""
    known = _remembered()
    if hash in known:
        _write(known - {hash})


def _file() -> Path:
    return config_folder() / "trusted_models.json"


def _remembered() -> set[str]:
    file = _file()
    try:
        known = json.loads(file.read_bytes())["sha256"]
        if isinstance(known, list) and all(isinstance(one, str) and _HASH.fullmatch(one) for one in known):
            return set(known)
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ModelError(f"{file}, which holds the hashes of trusted models, cannot be read; delete it, or correct it.")


def _write(hashes: set[str]) -> None:
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"{file.parent} cannot be made ({error.strerror}); set {CONFIG_FOLDER} to a folder that can be written to."
        ) from error
    with written_aside(file, overwrite=True) as stream:
        stream.write(json.dumps({"sha256": sorted(hashes)}, indent=2).encode())
