"""What a user has settled once: the plugin's settings in napari's preferences, and models that were opened. No Qt."""

import json
from pathlib import Path
from typing import Any

from xai_io import ExportError, write_json
from xai_io._files import config_folder

__all__ = ["keeps_identity", "recent_models", "remember_model", "running"]

MOST = 8  # models that are remembered
FILE = "recent.json"
PAGE = "Explain 3D models (napari-xai)"  # of the preferences, as the manifest calls the plugin


def running() -> dict[str, Any]:
    """Where and in how much memory models run, as `napari_xai.Explainer.of` takes it; may take seconds.

    Raises
    ------
    ExplainError : one of the two cannot be used.
    """
    # Here, because they import PyTorch, which takes seconds.
    from methods3d import ParameterError
    from methods3d.memory import bytes_of
    from napari_xai.errors import ExplainError
    from napari_xai.explainer import device_named

    said = _settings("running")
    device, memory = str(getattr(said, "device", "")).strip() or "auto", str(getattr(said, "memory", "")).strip()
    try:
        device_named(device)
        bytes_of(memory or None)
    except (ExplainError, ParameterError) as error:
        raise ExplainError(f"{str(error).rstrip('.')}, in Preferences > {PAGE}.") from error
    return {"device": device, "memory": memory or None}


def keeps_identity() -> bool:
    """Whether results belong to the patient unless something else is said."""
    return bool(getattr(_settings("results"), "keep_identity", False))


def recent_models() -> tuple[Path, ...]:
    """Models of the user's own that were opened, the latest first; those that are gone are left out."""
    try:
        names = json.loads((config_folder() / FILE).read_text(encoding="utf-8"))["models"]
        paths = [Path(name) for name in names]
        return tuple(path for path in paths if path.exists())
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def remember_model(path: Path) -> None:
    """Put a model first among those that were opened; where nothing can be written, nothing is remembered."""
    path = path.absolute()
    names = [str(path), *(str(one) for one in recent_models() if one != path)]
    try:
        config_folder().mkdir(parents=True, exist_ok=True)
        write_json(config_folder() / FILE, {"models": names[:MOST]}, overwrite=True)
    except (OSError, ExportError):
        return


def _settings(group: str) -> Any:
    """A group of settings; None where napari does not know the plugin, as in a script."""
    from napari.settings import get_plugin_settings

    try:
        return getattr(get_plugin_settings("napari-xai"), group)
    except (KeyError, AttributeError):
        return None
