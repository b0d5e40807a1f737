"""Relevance layers, how a look is put on them, and the map that lies under what is shown. No Qt."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from napari_xai._look import Look
from napari_xai.layers import is_scan, on_one_grid
from xai_io import Display

__all__ = [
    "chosen_map",
    "filtered",
    "left_out",
    "map_key",
    "map_layers",
    "maps",
    "original",
    "paint",
    "paint_scan",
    "scan_under",
    "show_values",
    "unfiltered",
    "voxel_mm",
]

FWHM = 2.3548200450309493  # of a Gaussian, in standard deviations
NEAREST = 4.0  # standard deviations that a Gaussian reaches

# What was shown in place of a map, and the map: kept here, so that it outlives the dock and dies with its layer.
_KEPT: "WeakKeyDictionary[Any, tuple[npt.NDArray[Any], npt.NDArray[Any]]]" = WeakKeyDictionary()


# --- which layers ---------------------------------------------------------------------------


def maps(layers: Iterable[Any]) -> list[Any]:
    """The relevance layers, the topmost first."""
    return [layer for layer in reversed(list(layers)) if _own(layer).get("role") == "relevance"]


def chosen_map(layers: Any) -> Any | None:
    """The relevance layer that is selected; else the topmost that is seen, else the topmost."""
    found = maps(layers)
    active = layers.selection.active
    if active in found:
        return active
    return next((layer for layer in found if layer.visible), found[0] if found else None)


def map_key(layer: Any) -> str:
    """The key of a layer's map, which a map from a file has not had so far."""
    return str(layer.metadata["napari_xai"].setdefault("map", uuid4().hex))


def map_layers(layers: Iterable[Any], key: str) -> list[Any]:
    """All layers of one map: its channels, and their sum."""
    return [layer for layer in maps(layers) if map_key(layer) == key]


def scan_under(layers: Iterable[Any], relevance: Any) -> Any | None:
    """The layer of the scan that a map lies on: its own, or of a map from a file the topmost on the same grid.

    None where its own was closed: another on that grid may be of another patient.
    """
    key = _own(relevance).get("scan")
    found = [layer for layer in reversed(list(layers)) if is_scan(layer)]
    same = [layer for layer in found if _own(layer)["scan"] == (key or _own(layer)["scan"])]
    same = [layer for layer in same if on_one_grid(layer, relevance)]
    return min(same, key=lambda layer: (not layer.visible, _own(layer).get("channel", 0)), default=None)


def voxel_mm(layer: Any) -> tuple[float, ...]:
    """How large a voxel is along each axis of a layer's data."""
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)))
    return tuple(float(np.linalg.norm(np.asarray(layer.data_to_world(one)) - origin)) for one in np.eye(layer.ndim))


# --- what is shown --------------------------------------------------------------------------


def paint(layer: Any, look: Look) -> None:
    """Show a layer this way: colours and limits alone, so that a drag costs no more than drawing a plane."""
    from napari.utils.colormaps import AVAILABLE_COLORMAPS

    name = f"relevance {map_key(layer)[:8]}"
    AVAILABLE_COLORMAPS.pop(name, None)  # napari would keep each step of a drag under a new name, for ever
    limit = look.display.limit
    layer.colormap = {"name": name, "colors": look.colors}
    if list(layer.contrast_limits) != [-limit, limit]:
        layer.contrast_limits = (-limit, limit)
    if list(layer.contrast_limits_range) != [-limit, limit]:
        layer.contrast_limits_range = (-limit, limit)  # zero stays in the middle of napari's own slider


def paint_scan(layer: Any, display: Display) -> None:
    """Show a scan in a display's window."""
    if tuple(layer.contrast_limits) != display.window:
        layer.contrast_limits = display.window


def filtered(
    values: npt.NDArray[Any],
    mm: tuple[float, ...],
    smoothing: float,
    outside: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[Any]:
    """A copy of a map, smoothed and clipped; the map itself if there is nothing to do.

    Parameters
    ----------
    values, mm : the map, and its voxels' size.
    smoothing : full width at half maximum of a Gaussian, in mm.
    outside : where nothing is shown, as `left_out` says.
    """
    if not smoothing and outside is None:
        return values
    shown = np.array(values, dtype=np.float32)
    if smoothing:
        from scipy import ndimage

        np.nan_to_num(shown, copy=False, posinf=0, neginf=0)  # one NaN would spread
        for axis, size in enumerate(mm):  # in place, axis by axis: no more than one copy at a time
            sigma = smoothing / FWHM / size
            ndimage.gaussian_filter1d(shown, sigma, axis, output=shown, mode="nearest", truncate=NEAREST)
    if outside is not None:
        shown[outside] = 0
    return shown


def left_out(
    look: Look, *, scan: npt.NDArray[Any] | None = None, mask: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.bool_] | None:
    """Where the scan's values or a mask clip a map; None if they do not."""
    low, high = look.between if scan is not None else (None, None)
    parts = [] if mask is None else [np.asarray(mask) == 0]
    parts += [] if low is None else [np.asarray(scan) < low]
    parts += [] if high is None else [np.asarray(scan) > high]
    return np.logical_or.reduce(parts) if parts else None


def original(layer: Any) -> npt.NDArray[Any]:
    """The map itself, whatever is shown in its place."""
    kept = _KEPT.get(layer)
    data: npt.NDArray[Any] = layer.data
    return kept[1] if kept is not None and kept[0] is data else data


def unfiltered(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The map itself where these values are shown in its place; else they."""
    return next((map_ for shown, map_ in _KEPT.values() if shown is values), values)


def show_values(layer: Any, values: npt.NDArray[Any], words: str) -> None:
    """Show other values in a map's place, and say in the layer's metadata what was done; the map itself brings it back.

    A layer whose data were replaced by somebody else since then has a new map, and keeps it.
    """
    map_ = original(layer)
    own = layer.metadata["napari_xai"]
    if values is map_:
        own.pop("filtered", None)
        _KEPT.pop(layer, None)
    else:
        own["filtered"] = words
        _KEPT[layer] = values, map_
    if layer.data is not values:
        layer.data = values


def _own(layer: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = layer.metadata.get("napari_xai", {})
    return found
