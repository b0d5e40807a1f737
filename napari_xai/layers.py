"""Volumes as napari layers, turned so that 2D is radiological and 3D is not mirrored. Needs no napari.

The world that napari shows is (I, P, L): slices from superior to inferior, rows towards posterior, columns
towards the patient's left. In 2D that is the radiological convention; and since (I, P, L) is a proper rotation of
(R, A, S), a hand stays the same hand in 3D. Arrays are transposed and flipped as views, never copied.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

import nibabel as nib
import numpy as np

from xai_io import Display, GeometryError, ScanError, Source, Volume, display_range
from xai_io.display import display_window

__all__ = [
    "LABELS",
    "WORLD",
    "LayerData",
    "label_layer",
    "relevance_layers",
    "scan_layers",
    "scan_of",
    "to_ras",
    "volume_of",
]

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

AXES = ("I", "P", "L")
LABELS = ("S-I", "A-P", "R-L")
# (x, y, z) in RAS to (-z, -y, -x).
WORLD = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
OBLIQUE = 1e-4  # of the voxel size, above which an axis does not lie along the world's
THRESHOLD = 0.1  # of the range, below which nothing is shown


def scan_layers(scan: Volume, name: str = "scan") -> list[LayerData]:
    """One grey image layer for each channel of a scan, in the window that pictures of it have.

    Only the first of several channels is visible. The layers' metadata say which of them make up one scan.
    """
    key = uuid4().hex
    return [
        (
            _turned(scan, channel),
            {
                "name": name if scan.channels == 1 else f"{name}, channel {c}",
                "colormap": "gray",
                "contrast_limits": display_window(scan.with_data(channel[None], units=scan.units)),
                "visible": c == 0,
                **placed(scan, role="scan", scan=key, channel=c, channels=scan.channels, source=scan.source),
            },
            "image",
        )
        for c, channel in enumerate(scan.data)
    ]


def label_layer(labels: Volume, name: str) -> LayerData:
    """A label map on the scan's grid; hidden at first, so that the scan is seen."""
    options = {"name": name, "visible": False, "opacity": 0.5, **placed(labels, role="prediction")}
    return _turned(labels, labels.data[0]), options, "labels"


def relevance_layers(relevance: Volume, name: str, record: Mapping[str, Any]) -> list[LayerData]:
    """Overlays on the scan: diverging, symmetric about zero, transparent at zero.

    Scale, colours and threshold are those of exported pictures. Of several input channels there is one layer each,
    hidden at first, and their sum on top; all on one scale. The record travels in the layers' metadata.
    """
    maps = [("", relevance.data[0], True)]
    if relevance.channels > 1:
        maps = [(f"channel {c}", channel, False) for c, channel in enumerate(relevance.data)]
        maps.append(("all channels", relevance.data.sum(0), True))
    limit = max(display_range(relevance.with_data(values[None])) for _, values, _ in maps)
    colors = Display(window=(0, 1), limit=limit, threshold=THRESHOLD * limit).table()
    return [
        (
            _turned(relevance, values),
            {
                "name": f"{name}, {part}" if part else name,
                "colormap": {"name": "relevance", "colors": colors},
                "contrast_limits": (-limit, limit),
                "blending": "translucent_no_depth",
                "visible": visible,
                **placed(relevance, role="relevance", provenance=dict(record), part=part),
            },
            "image",
        )
        for part, values, visible in maps
    ]


def activation_layers(activation: Volume, names: Sequence[str], **own: Any) -> list[LayerData]:
    """What a model's layer puts out, an image over the scan for each channel; only the first is visible."""
    made = []
    for n, (name, values) in enumerate(zip(names, activation.data, strict=True)):
        low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
        options = {
            "name": name,
            "colormap": "inferno",
            "contrast_limits": (low, high if high > low else low + 1),
            "blending": "translucent_no_depth",
            "opacity": 0.7,
            "visible": n == 0,
            **placed(activation.with_data(values[None]), role="activation", **own),
        }
        made.append((_turned(activation, values), options, "image"))
    return made


def placed(volume: Volume, **more: Any) -> dict[str, Any]:
    """Where a volume lies in napari's world: affine, units, axis labels; its own grid in the metadata.

    napari slices along its world's axes: an oblique scan would be cut askew. It is shown in its own axes instead,
    without rotation, with its spacing and centre; its axis labels say so, and its true affine is in the metadata.
    """
    turn = _turn(volume)
    affine = WORLD @ volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)
    centre = (np.array(volume.shape)[np.argsort(turn[:, 0])] - 1) / 2
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    upright = np.diag([*spacing, 1.0])
    upright[:3, 3] = affine[:3, :3] @ centre + affine[:3, 3] - spacing * centre
    oblique = bool(np.abs(affine[:3, :3] - upright[:3, :3]).max() > OBLIQUE * spacing.min())
    own = {"affine_ras_mm": volume.affine.tolist(), "shape": list(volume.shape), "modality": volume.modality}
    return {
        "affine": upright,
        "units": ("mm", "mm", "mm"),
        "axis_labels": tuple(f"{label} (oblique)" for label in LABELS) if oblique else LABELS,
        "metadata": {"napari_xai": own | {"units": volume.units, **more}},
    }


def volume_of(data: np.ndarray, metadata: Mapping[str, Any]) -> Volume:
    """The volume that a layer made here shows: (1, i, j, k) in the file's own order, with the true affine.

    Raises
    ------
    GeometryError : the layer was not made here, or its values have been cropped or resampled since.
    """
    own = metadata.get("napari_xai")
    if own is None:
        raise GeometryError("The layer does not say where it lies in the patient: open the scan with napari-xai.")
    blank = Volume(np.broadcast_to(np.float32(0), (1, *own["shape"])), np.array(own["affine_ras_mm"]))
    turn = _turn(blank)
    shown = tuple(blank.shape[int(a)] for a in np.argsort(turn[:, 0]))
    if np.shape(data) != shown:
        raise GeometryError(
            f"The layer has the shape {np.shape(data)}, but its grid in the patient has {shown}: "
            "use the layer as it was opened, neither cropped nor resampled."
        )
    back = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(AXES), nib.orientations.io_orientation(blank.affine)
    )
    values = nib.orientations.apply_orientation(np.asarray(data), back)
    return Volume(
        values[None], blank.affine, own.get("units", ""), own.get("modality", ""), own.get("source", Source())
    )


def to_ras(metadata: Mapping[str, Any]) -> np.ndarray:
    """From the indices of a layer made here to RAS mm (4, 4): the true affine of its scan, oblique or not."""
    own = metadata["napari_xai"]
    blank = Volume(np.broadcast_to(np.float32(0), (1, *own["shape"])), np.array(own["affine_ras_mm"]))
    return np.asarray(blank.affine @ nib.orientations.inv_ornt_aff(_turn(blank), blank.shape))


def scan_of(layers: Sequence[tuple[np.ndarray, Mapping[str, Any]]]) -> Volume:
    """The scan that the (data, metadata) of its channels' layers show, in whatever order they are given.

    Raises
    ------
    ScanError : a channel is missing.
    GeometryError : as in `volume_of`.
    """
    channels = {metadata["napari_xai"]["channel"]: volume_of(data, metadata) for data, metadata in layers}
    wanted = max(metadata["napari_xai"]["channels"] for _, metadata in layers)
    missing = [str(c) for c in range(wanted) if c not in channels]
    if missing:
        raise ScanError(f"The layer of channel {', '.join(missing)} of the scan was removed: open the scan again.")
    if wanted == 1:
        return channels[0]
    return channels[0].with_data(np.concatenate([channels[c].data for c in range(wanted)]), units=channels[0].units)


def _turn(volume: Volume) -> np.ndarray:
    own = nib.orientations.io_orientation(volume.affine)
    return np.asarray(nib.orientations.ornt_transform(own, nib.orientations.axcodes2ornt(AXES)))


def _turned(volume: Volume, channel: np.ndarray) -> np.ndarray:
    return np.asarray(nib.orientations.apply_orientation(channel, _turn(volume)))
