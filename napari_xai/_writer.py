"""Layers saved from napari as NIfTI, in the scan's own voxel order and with its true affine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_xai._record import check_record_place, write_record
from napari_xai._viewer import viewer_in_use
from napari_xai.layers import LABELS, WORLD, grid_of, volume_of
from xai_io import ExportError, Volume, write_nifti

__all__ = ["layer_volume", "write_layer"]

TO_MM = {"meter": 1e3, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3}


def write_layer(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """Write one image or labels layer; napari has asked before it overwrites a file.

    Of a relevance map it is the map itself, not what smoothing or a mask show of it; its record, and how it is looked
    at, go into a JSON file beside it, so that it can be opened again as what it is.

    Raises
    ------
    GeometryError, ExportError : where the layer lies in the patient is unknown, or the file cannot be written.
    """
    own = meta.get("metadata", {}).get("napari_xai") or _grid_under(data)
    if own:
        meta = {**meta, "metadata": {"napari_xai": own}}
    if own.get("role") != "relevance":
        write_nifti(path, layer_volume(data, meta), overwrite=True)
        return [path]
    from napari_xai._overlay import unfiltered  # here, because it imports PyTorch, which takes seconds

    check_record_place(Path(path))
    write_nifti(path, layer_volume(unfiltered(data), meta), overwrite=True)
    return [path, str(write_record(Path(path), own["provenance"], part=own.get("part", ""), look=own.get("look")))]


def layer_volume(data: Any, meta: Mapping[str, Any]) -> Volume:
    """The volume that a layer shows.

    Layers made here give back their file's own grid. Others, such as labels painted over a scan, lie in the world
    that this plugin fills, if their axis labels and units say so; their affine is composed of all that moves them.

    Raises
    ------
    GeometryError : the layer has been cropped or resampled since it was opened.
    ExportError : it is no plain 3D volume, or nothing says where it lies in the patient.
    """
    if meta.get("multiscale") or meta.get("rgb"):
        raise ExportError("The layer is multiscale or in colour: only a plain volume can be saved as NIfTI.")
    values = np.asarray(data)
    if "napari_xai" in meta.get("metadata", {}):
        return volume_of(values, meta["metadata"])
    if values.ndim != 3:
        raise ExportError(f"The layer has {values.ndim} axes: only a volume with 3 can be saved as NIfTI.")
    if tuple(meta.get("axis_labels", ())) != LABELS:
        raise ExportError(
            f"The layer's axis labels do not say how it lies in the patient: only {', '.join(LABELS)} can be saved as "
            "NIfTI; make the layer with Paint in the Explain dock, or over a scan that napari-xai has opened."
        )
    units = [str(unit) for unit in meta.get("units", ())]
    if len(units) != 3 or any(unit not in TO_MM for unit in units):
        raise ExportError(f"The layer's units are {', '.join(units) or 'unknown'}: set them to a length, such as mm.")
    to_mm = np.diag([*(TO_MM[unit] for unit in units), 1.0])
    return Volume(values[None], np.linalg.inv(WORLD) @ to_mm @ _data_to_world(meta))


def _grid_under(data: Any) -> dict[str, Any]:
    """The grid of the scan that a layer lies on in the viewer, such as labels painted over a tilted one; else {}."""
    viewer = viewer_in_use()
    for layer in () if viewer is None else viewer.layers:
        if layer.data is data:
            found = grid_of(layer, viewer.layers) or {}
            return {name: found[name] for name in ("affine_ras_mm", "shape") if name in found}
    return {}


def _data_to_world(meta: Mapping[str, Any]) -> np.ndarray:
    """Compose napari's transforms: affine * (rotate * shear * scale + translate)."""
    inner = np.eye(4)
    inner[:3, :3] = np.asarray(meta["rotate"]) @ _shear(np.asarray(meta["shear"])) @ np.diag(meta["scale"])
    inner[:3, 3] = meta["translate"]
    return np.asarray(np.asarray(meta["affine"]) @ inner)


def _shear(shear: np.ndarray) -> np.ndarray:
    """The shear matrix: given whole, or by its upper triangle."""
    if shear.ndim == 2:
        return shear
    matrix = np.eye(3)
    matrix[np.triu_indices(3, 1)] = shear
    return matrix
