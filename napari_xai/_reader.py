"""Scans and maps opened by napari: whatever `read_volume` reads."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np

from napari_xai._record import record_beside
from napari_xai._viewer import viewer_in_use
from napari_xai.layers import LayerData, is_scan, label_layer, placed, relevance_layers, same_grid, scan_layers
from xai_io import Volume, XaiIOError, read_volume, sniff

if TYPE_CHECKING:
    from napari_xai._look import Look

__all__ = ["get_reader", "layers_of", "name_of", "read", "read_later", "welcome"]

SUFFIXES = re.compile(r"(\.(nii|img|hdr|nrrd|nhdr|mha|mhd|dcm|zip)|(\.ome)?\.zarr)?(\.gz)?$", re.IGNORECASE)

FEW = 256  # different values that a label map has at most

Reader = Callable[[str | list[str]], list[Any]]

_WAITING: "WeakKeyDictionary[Any, list[Path]]" = WeakKeyDictionary()  # viewer -> what is being opened in it, in order


def get_reader(path: str | list[str]) -> Reader | None:
    """Return a reader if every path is a scan, else None; looks at first bytes only and never raises.

    Where a user waits in front of a window, it is `read_later`, which asks and never holds up the window; for scripts,
    which want to go on with the layers, it is `read`.
    """
    paths = path if isinstance(path, list) else [path]
    if not paths or not all(sniff(one) for one in paths):
        return None
    return read_later if viewer_in_use() is not None and _in_event_loop() else read


def read(path: str | list[str]) -> list[LayerData]:
    """Open scans as image layers, one for each channel; maps and label maps as such, as `layers_of` tells them.

    Raises
    ------
    XaiIOError : in one sentence, why a scan cannot be used; napari shows it as a notification.
    """
    paths = path if isinstance(path, list) else [path]
    found = [layer for one in paths for layer in layers_of(read_volume(one), Path(one))]
    welcome()
    return found


def read_later(path: str | list[str]) -> list[Any]:
    """Open scans in the background, asking where there is something to choose; napari is told that all went well."""
    paths = path if isinstance(path, list) else [path]
    viewer = viewer_in_use()
    welcome()
    for one in paths:
        _open_later(viewer, Path(one))
    return [(None,)]


def _open_later(viewer: Any, path: Path) -> None:
    """Open a scan when those before it are there: what a label map lies on counts, and the order in which they came."""
    waiting = _WAITING.setdefault(viewer, [])
    waiting.append(path)
    if len(waiting) == 1:
        _open_next(viewer, waiting)


def _open_next(viewer: Any, waiting: list[Path]) -> None:
    from napari_xai._task import Task

    path = waiting[0]

    def work(hear: Callable[..., None]) -> Any:
        # Here, because it imports PyTorch, which takes seconds.
        opening, _ = import_module("napari_xai._open"), import_module("napari_xai._open_dialog")
        return opening.found_in(path, hear) or opening.opened(path, progress=hear)

    def ended(found: Any) -> None:
        dialog = import_module("napari_xai._open_dialog")
        try:
            if isinstance(found, tuple):
                dialog.OpenDialog(viewer, path, found).show()
            else:
                dialog.came(viewer, path, found)
        finally:
            del waiting[0]
            if waiting:
                _open_next(viewer, waiting)

    Task(f"Opening {path.name}", work, ended=ended, parent=viewer.window._qt_window)


def layers_of(volume: Volume, path: Path) -> list[LayerData]:
    """What was read from a path as layers.

    It is a map if its record lies beside it, a label map if its values are labels and it lies on exactly the grid of an
    open scan, and else a scan.
    """
    record = record_beside(path, volume)
    if record is None:
        scan = _scan_under(volume)
        if scan and volume.channels == 1 and _are_labels(volume.data[0]):
            return [_regions(volume, name_of(path), scan)]
        return scan_layers(volume, name=name_of(path))
    part, look, key = record.pop("part", ""), _look(record.pop("look", None)), uuid4().hex
    found = relevance_layers(volume, f"{record['method']}: {record['question']}{part and f', {part}'}", record)
    for _, options, _ in found:
        own = options["metadata"]["napari_xai"]
        own |= {"map": key, "scan": _scan_under(volume), "part": own["part"] or part}
        if look is not None:
            own["look"], limit = look.record, look.display.limit
            options |= {"colormap": {"name": f"relevance {key[:8]}", "colors": look.colors}}
            options |= {"contrast_limits": (-limit, limit)}
    return found


def _regions(volume: Volume, name: str, scan: str) -> LayerData:
    """A label map on the scan with this key: regions to ask about."""
    labels = volume.data.astype(np.min_scalar_type(int(volume.data.max())))
    data, options, kind = label_layer(volume.with_data(labels), name)
    options["metadata"]["napari_xai"] |= {"role": "region", "scan": scan}
    return data, options | {"visible": True}, kind


def _are_labels(values: np.ndarray) -> bool:
    """Whether these are labels rather than an image: few whole numbers from 0 on, the same from voxel to voxel.

    The last is what tells an atlas of 200 regions from a scan of 8 bits: where neither of two neighbours is background,
    they mostly are of one region.
    """
    found: set[float] = set()
    for plane in values:  # most scans are told by the first ones
        here = np.unique(plane)
        found.update(here.tolist())
        if len(found) > FEW or here[0] < 0 or (here != np.round(here)).any():
            return False
    alike, pairs = 0, 0
    for axis in range(values.ndim):
        along = np.moveaxis(values, axis, 0)
        first, second = along[:-1], along[1:]
        inside = (first != 0) & (second != 0)
        pairs += int(np.count_nonzero(inside))
        alike += int(np.count_nonzero(inside & (first == second)))
    return 2 * alike >= pairs


def _look(record: Any) -> "Look | None":
    """How a map was looked at; None where nothing is said, or nothing that can be understood."""
    if record is None:
        return None
    from napari_xai._look import Look  # here, because it imports PyTorch, which takes seconds
    from napari_xai.errors import ExplainError

    try:
        return Look.of(record)
    except (XaiIOError, ExplainError, AttributeError):
        return None


def name_of(path: Path) -> str:
    """What the layers of a file are called."""
    return SUFFIXES.sub("", path.name)


def welcome() -> None:
    """Prepare the viewer, if there is one, for scans: letters at the edges, scale bar, window and level by mouse."""
    viewer = viewer_in_use()
    if viewer is not None:
        from napari_xai._marks import mark

        mark(viewer)


def _in_event_loop() -> bool:
    """Whether this is called for something that a user did; what a script calls runs outside of the event loop."""
    from qtpy.QtCore import QThread

    return bool(QThread.currentThread().loopLevel() > 0)


def _scan_under(volume: Volume) -> str:
    """The key of the scan in the viewer that lies on a map's grid; "" if there is none."""
    viewer, wanted = viewer_in_use(), placed(volume)["metadata"]["napari_xai"]
    for layer in () if viewer is None else viewer.layers:
        own = layer.metadata.get("napari_xai", {})
        if is_scan(layer) and same_grid(own, wanted):
            return str(own["scan"])
    return ""
