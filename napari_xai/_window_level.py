"""Which values of a scan are black and white: presets by modality, and dragging with the right mouse button. No Qt."""

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from napari_xai.layers import is_scan
from xai_io import CT_WINDOWS, Volume, display_window

__all__ = ["drag", "dragged", "presets", "reset", "set_window", "uppermost"]

DOUBLE = 200.0  # pixels of a drag to the right that make the window twice as wide
WHOLE = 400.0  # pixels of a drag downwards that move the level by the window's width
SAMPLED = 2_000_000  # voxels that percentiles are read from
RIGHT = 2  # the button, as vispy numbers them

_BEFORE: "WeakKeyDictionary[Any, tuple[float, float]]" = WeakKeyDictionary()  # layer -> its window before any drag


def presets(data: Any, own: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Windows (black, white) by name that suit a scan's layer: those of CT in HU, else what the values are like.

    Parameters
    ----------
    data, own : the layer's values, and what its metadata say under "napari_xai".
    """
    if own.get("units") == "HU":
        return {name: (level - width / 2, level + width / 2) for name, (level, width) in CT_WINDOWS.items()}
    step = max(1, round((data.size / SAMPLED) ** (1 / 3)))
    sample = np.asarray(data[::step, ::step, ::step])
    found = {"usual": display_window(Volume(sample[None], np.eye(4)))}
    for share in (0.5, 2):
        low, high = (float(x) for x in np.percentile(sample, (share, 100 - share)))
        found[f"{share:g} to {100 - share:g} % of the values"] = (low, high)
    if own.get("units") == "SUVbw":
        found |= {f"SUV 0 to {most}": (0.0, float(most)) for most in (5, 10, 20)}
    return {name: window for name, window in found.items() if window[0] < window[1]}


def dragged(window: tuple[float, float], right: float, down: float) -> tuple[float, float]:
    """A window after a drag by so many pixels: to the right it is wider, upwards the picture is brighter."""
    low, high = window
    level = (low + high) / 2 + down / WHOLE * (high - low)
    width = (high - low) * 2 ** (right / DOUBLE)
    return level - width / 2, level + width / 2


def uppermost(viewer: Any) -> Any:
    """The scan's layer that is seen: the selected one, else the uppermost visible one; None if there is none."""
    active = viewer.layers.selection.active
    for layer in ([] if active is None else [active]) + list(reversed(viewer.layers)):
        if layer.visible and is_scan(layer):
            return layer
    return None


def drag(viewer: Any, event: Any) -> Iterator[None]:
    """Change window and level of the scan that is seen; napari calls this when a mouse button is pressed."""
    layer = uppermost(viewer)
    if event.button != RIGHT or layer is None or viewer.dims.ndisplay != 2:
        return
    event.handled = True  # else the camera zooms
    start, window = np.array(event.pos, float), tuple(layer.contrast_limits)
    yield
    while event.type == "mouse_move":
        event.handled = True
        right, down = np.array(event.pos, float) - start
        _BEFORE.setdefault(layer, window)
        set_window(layer, dragged(window, right, down))
        yield
    event.handled = True


def reset(viewer: Any, event: Any) -> None:
    """Undo all drags on the scan that is seen; napari calls this on a double click."""
    layer = uppermost(viewer)
    if event.button == RIGHT and layer is not None and layer in _BEFORE:
        event.handled = True
        set_window(layer, _BEFORE.pop(layer))


def set_window(layer: Any, window: tuple[float, float]) -> None:
    """Show values in this window; the slider's range grows with it."""
    low, high = layer.contrast_limits_range
    layer.contrast_limits_range = (min(low, window[0]), max(high, window[1]))
    layer.contrast_limits = window
