"""The viewer itself: napari hands plugins a proxy of it, whose layers are new objects each time."""

import sys
from typing import Any

__all__ = ["own_viewer", "viewer_in_use"]


def own_viewer(viewer: Any) -> Any:
    """What a proxy stands for: its layers can be told apart by `is`, and known again."""
    return getattr(viewer, "__wrapped__", viewer)


def viewer_in_use() -> Any:
    """The viewer that has a window and is in use, or None; napari is never imported for this."""
    napari = sys.modules.get("napari")
    return napari.current_viewer() if napari is not None and "napari._qt.qt_main_window" in sys.modules else None
