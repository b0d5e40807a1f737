"""Volumes as napari layers, turned so that 2D is radiological and 3D is not mirrored. Needs no napari.

The world that napari shows is (I, P, L): slices from superior to inferior, rows towards posterior, columns
towards the patient's left. In 2D that is the radiological convention; and since (I, P, L) is a proper rotation of
(R, A, S), a hand stays the same hand in 3D. Arrays are transposed and flipped as views, never copied.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np

from xai_io import Volume

__all__ = ["LayerData", "label_layer", "relevance_layers", "scan_layers", "volume_of"]

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

AXES = ("I", "P", "L")
LABELS = ("S-I", "A-P", "R-L")
# (x, y, z) in RAS to (-z, -y, -x).
WORLD = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
OBLIQUE = 1e-4  # of the voxel size, above which an axis does not lie along the world's


def scan_layers(scan: Volume, name: str = "scan") -> list[LayerData]:
    """One grey image layer for each channel of a scan, with a window from the 1st to the 99.5th percentile."""
    return [
        (
            _turned(scan, channel),
            {
                "name": name if scan.channels == 1 else f"{name}, channel {c}",
                "colormap": "gray",
                "contrast_limits": _window(channel),
                **placed(scan),
            },
            "image",
        )
        for c, channel in enumerate(scan.data)
    ]


def label_layer(labels: Volume, name: str) -> LayerData:
    """A label map on the scan's grid; hidden at first, so that the scan is seen."""
    return _turned(labels, labels.data[0]), {"name": name, "visible": False, **placed(labels)}, "labels"


def relevance_layers(relevance: Volume, name: str, record: Mapping[str, Any]) -> list[LayerData]:
    """One overlay for each input channel: diverging, symmetric about zero, transparent at zero.

    All channels share one scale. The record travels in the layer's metadata.
    """
    magnitude = np.abs(relevance.data[relevance.data != 0])
    limit = float(np.percentile(magnitude, 99.5)) if magnitude.size else 1.0
    return [
        (
            _turned(relevance, channel),
            {
                "name": name if relevance.channels == 1 else f"{name}, channel {c}",
                "colormap": ("relevance", diverging_colors()),
                "contrast_limits": (-limit, limit),
                "blending": "translucent_no_depth",
                "opacity": 0.8,
                **placed(relevance, provenance=dict(record)),
            },
            "image",
        )
        for c, channel in enumerate(relevance.data)
    ]


def diverging_colors(steps: int = 257) -> np.ndarray:
    """(steps, 4) RGBA from blue over transparent to red; the middle one is exactly zero relevance."""
    t = np.linspace(-1, 1, steps)[:, None]
    strength = np.abs(t)
    red, blue = np.array([[1.0, 0.25, 0.1]]), np.array([[0.15, 0.45, 1.0]])
    return np.hstack([np.where(t >= 0, red, blue), np.clip(1.5 * strength, 0, 1)])


def placed(volume: Volume, **more: Any) -> dict[str, Any]:
    """Where a volume lies in napari's world: affine, units, axis labels; its own grid in the metadata."""
    affine = WORLD @ volume.affine @ nib.orientations.inv_ornt_aff(_turn(volume), volume.shape)
    own = {"affine_ras_mm": volume.affine.tolist(), "shape": list(volume.shape), "modality": volume.modality}
    own |= {"units": volume.units, **more}
    return {
        "affine": _upright(affine, tuple(volume.shape[int(a)] for a in np.argsort(_turn(volume)[:, 0]))),
        "units": ("mm", "mm", "mm"),
        "axis_labels": LABELS,
        "metadata": {"napari_xai": own},
    }


def volume_of(data: np.ndarray, metadata: Mapping[str, Any]) -> Volume:
    """The volume that a layer made here shows: (1, i, j, k) in the file's own order, with the true affine.

    Raises
    ------
    KeyError : the layer was not made here; its metadata do not say where it lies.
    """
    own = metadata["napari_xai"]
    blank = Volume(np.broadcast_to(np.float32(0), (1, *own["shape"])), np.array(own["affine_ras_mm"]))
    back = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(AXES), nib.orientations.io_orientation(blank.affine)
    )
    values = nib.orientations.apply_orientation(np.asarray(data), back)
    return Volume(values[None], blank.affine, own.get("units", ""), own.get("modality", ""))


def _turn(volume: Volume) -> np.ndarray:
    own = nib.orientations.io_orientation(volume.affine)
    return np.asarray(nib.orientations.ornt_transform(own, nib.orientations.axcodes2ornt(AXES)))


def _turned(volume: Volume, channel: np.ndarray) -> np.ndarray:
    return np.asarray(nib.orientations.apply_orientation(channel, _turn(volume)))


def _upright(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine itself; for an oblique scan one without rotation that keeps spacing and centre.

    napari slices along its world's axes: an oblique scan would be cut askew. It is shown in its own axes
    instead, and its true affine stays in the metadata.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    straight = np.diag([*spacing, 1.0])
    if np.abs(affine[:3, :3] - straight[:3, :3]).max() <= OBLIQUE * spacing.min():
        return affine
    centre = (np.array(shape) - 1) / 2
    straight[:3, 3] = affine[:3, :3] @ centre + affine[:3, 3] - spacing * centre
    return straight


def _window(channel: np.ndarray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(channel, [1, 99.5]))
    return (low, high) if high > low else (float(channel.min()), float(channel.max()) or 1.0)
