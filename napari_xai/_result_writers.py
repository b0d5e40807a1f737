"""A relevance layer saved from napari's menu in any of the exports, where the run that made it is known."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from napari_xai._report import Report, scan_layer, seen_window, why_not
from napari_xai._settings import keeps_identity
from napari_xai._viewer import viewer_in_use
from napari_xai._workplace import Result, Workplace, found_result
from napari_xai.exports import EXPORTS
from xai_io import Display, ExportError, Identity

__all__ = [
    "write_everything",
    "write_html",
    "write_montage",
    "write_parametric_map",
    "write_pdf",
    "write_regions",
    "write_segmentation",
    "write_zarr",
]


def write_export(export: str, path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write one export of the map, shown as it is in the viewer; napari has asked before it overwrites a file.

    Raises
    ------
    ExportError : the map was not made in this window, or cannot be had in this format.
    """
    place, result = _known(meta)
    to = Path(path)
    file = Path(EXPORTS[export].file)
    if to.suffix.casefold() != file.suffix:
        to = to.with_name(to.name + "".join(file.suffixes))
    display, identity = _display(place, result), Identity(keep=keeps_identity())
    return [str(result.explanation.save_as(to, export, display=display, identity=identity))]


write_html = partial(write_export, "html")
write_pdf = partial(write_export, "pdf")
write_montage = partial(write_export, "montage")
write_regions = partial(write_export, "regions")
write_zarr = partial(write_export, "zarr")
write_parametric_map = partial(write_export, "pm")
write_segmentation = partial(write_export, "seg")


def write_everything(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write every export that can be had of the map into a folder; errors as `write_export`."""
    place, result = _known(meta)
    display, identity = _display(place, result), Identity(keep=keeps_identity())
    lacking = why_not(result, display, identity)
    names = [name for name in EXPORTS if name not in lacking]
    made = result.explanation.save(path, names, display=display, identity=identity, overwrite=True)
    return [str(one) for one in made.values()]


def _display(place: Workplace, result: Result) -> Display:
    """As the map is seen in the viewer, in the window of the scan's first channel, which is the one in pictures."""
    viewer = viewer_in_use()
    window = None if viewer is None else seen_window(scan_layer(viewer.layers, result))
    return Report(window=window).display(result, place)


def _known(meta: Mapping[str, Any]) -> tuple[Workplace, Result]:
    own = meta.get("metadata", {}).get("napari_xai", {})
    found = found_result(own.get("map", "")) if own.get("role") == "relevance" else None
    if found is None:
        raise ExportError(
            "Only a relevance map that was made in this window can be saved in this format: explain the scan again, "
            "or save the layer as NIfTI."
        )
    return found
