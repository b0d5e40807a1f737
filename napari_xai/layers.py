"""Volumes as napari layers, turned so that 2D is radiological and 3D is not mirrored. Needs no napari.

The world that napari shows is (I, P, L): slices from superior to inferior, rows towards posterior, columns
towards the patient's left. In 2D that is the radiological convention; and since (I, P, L) is a proper rotation of
(R, A, S), a hand stays the same hand in 3D. Arrays are transposed and flipped as views, never copied.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeAlias
from uuid import uuid4
from weakref import WeakValueDictionary

import nibabel as nib
import numpy as np

from xai_io import Display, GeometryError, ScanError, Source, Volume, display_range
from xai_io.display import display_window

__all__ = [
    "LABELS",
    "WORLD",
    "LayerData",
    "grid_of",
    "label_layer",
    "on_one_grid",
    "relevance_layers",
    "same_grid",
    "scan_layers",
    "scan_of",
    "to_ras",
    "to_world",
    "volume_of",
]

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

AXES = ("I", "P", "L")
LABELS = ("S-I", "A-P", "R-L")
# (x, y, z) in RAS to (-z, -y, -x).
WORLD = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
OBLIQUE = 1e-4  # of the voxel size, above which an axis does not lie along the world's
SAME = 0.01  # of the voxel size, up to which voxels lie in the same place; files round their affines
THRESHOLD = 0.1  # of the range, below which nothing is shown

# Values of scans as they were read: where a layer has others, its scan is not that of its file any more.
_READ: "WeakValueDictionary[int, np.ndarray]" = WeakValueDictionary()


def scan_layers(scan: Volume, name: str = "scan") -> list[LayerData]:
    """One grey image layer for each channel of a scan, in the window that pictures of it have.

    Only the first of several channels is visible. The layers' metadata say which of them make up one scan.
    """
    key = uuid4().hex
    turned = [_turned(scan, channel) for channel in scan.data]
    _READ.update({id(values): values for values in turned})
    return [
        (
            turned[c],
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


def relevance_layers(
    relevance: Volume, name: str, record: Mapping[str, Any], channels: Sequence[str] = ()
) -> list[LayerData]:
    """Overlays on the scan: diverging, symmetric about zero, transparent at zero.

    Scale, colours and threshold are those of exported pictures. Of several input channels there is one layer each,
    hidden at first, and their sum on top; all on one scale. The record travels in the layers' metadata.

    Parameters
    ----------
    channels : names of the model's input channels, where it has any.
    """
    maps = [("", relevance.data[0], True)]
    if relevance.channels > 1:
        names = channels if len(channels) == relevance.channels else [f"channel {c}" for c in range(relevance.channels)]
        maps = [(part, channel, False) for part, channel in zip(names, relevance.data, strict=True)]
        maps.append(("all channels", relevance.data.sum(0), True))
    limit = display_range(relevance.with_data(maps[-1][1][None]))
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
    without rotation, with its spacing and centre; its axis labels say so, as "~S-I", about S-I, and its true affine is
    in the metadata.
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
        "axis_labels": tuple(f"~{label}" for label in LABELS) if oblique else LABELS,
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
    blank, shown = _blank(own), _shown_shape(own)
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
    blank = _blank(metadata["napari_xai"])
    return np.asarray(blank.affine @ nib.orientations.inv_ornt_aff(_turn(blank), blank.shape))


def to_world(layer: Any) -> np.ndarray:
    """From the indices of a layer with three axes to the world that napari shows (4, 4)."""
    origin = np.asarray(layer.data_to_world(np.zeros(3)), dtype=np.float64)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([np.asarray(layer.data_to_world(one)) - origin for one in np.eye(3)])
    affine[:3, 3] = origin
    return affine


def same_grid(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two layers have the same voxels in the same places of the patient, in whatever order files store them.

    Parameters
    ----------
    one, other : what the metadata of layers made here say under "napari_xai".
    """
    shape = _shown_shape(one)
    if shape != _shown_shape(other):
        return False
    first, second = (to_ras({"napari_xai": own}) for own in (one, other))
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))])
    off = np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1)
    return bool(off.max() < SAME * np.linalg.norm(first[:3, :3], axis=0).min())


def grid_of(layer: Any, layers: Iterable[Any] = ()) -> Mapping[str, Any] | None:
    """What is known of where a layer's voxels lie in the patient: metadata with "affine_ras_mm" and "shape".

    A layer that does not say so itself, such as labels painted over a scan, has the grid of the layers that it lies
    on. napari's world alone cannot tell, as oblique scans are shown in their own axes there: where layers of several
    true grids are shown in this place, or none is, and where a layer was cropped, the answer is None.

    Parameters
    ----------
    layers : on which it may lie.
    """
    if (own := _placed_as(layer)) is not None:
        return own
    if layer.ndim != 3:
        return None
    shape, affine = np.shape(layer.data), to_world(layer)
    found = [
        own
        for other in layers
        if (own := _placed_as(other)) is not None
        and other.data.shape == shape
        and np.allclose(to_world(other), affine, atol=1e-3)
    ]
    return found[0] if found and all(same_grid(own, found[0]) for own in found) else None


def on_one_grid(one: Any, other: Any, layers: Iterable[Any] = ()) -> bool:
    """Whether two layers have the same voxels in the same places of the patient.

    Parameters
    ----------
    layers : all that are open; in the light of them, it may be in doubt on which one labels were painted.
    """
    known = [one, other, *layers]
    first, second = grid_of(one, known), grid_of(other, known)
    return first is not None and second is not None and same_grid(first, second)


def is_scan(layer: Any) -> bool:
    """Whether an image layer shows a scan; labels that were made of one keep its metadata, but have no window."""
    return layer.metadata.get("napari_xai", {}).get("role") == "scan" and hasattr(layer, "contrast_limits")


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
    if any(_READ.get(id(data)) is not data for data, _ in layers):  # its files do not hold these values
        channels = {c: replace(volume, source=Source()) for c, volume in channels.items()}
    if wanted == 1:
        return channels[0]
    return channels[0].with_data(np.concatenate([channels[c].data for c in range(wanted)]), units=channels[0].units)


def _placed_as(layer: Any) -> Mapping[str, Any] | None:
    """What a layer's own metadata say of its grid; None where they do not, or where its values were cropped since."""
    own: Mapping[str, Any] = layer.metadata.get("napari_xai", {})
    return own if "affine_ras_mm" in own and np.shape(layer.data) == _shown_shape(own) else None


def _blank(own: Mapping[str, Any]) -> Volume:
    """A volume of zeros, which takes no memory, on a layer's grid."""
    return Volume(np.broadcast_to(np.float32(0), (1, *own["shape"])), np.array(own["affine_ras_mm"]))


def _shown_shape(own: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a layer's data, which lie along napari's world, not in the file's order."""
    blank = _blank(own)
    return tuple(blank.shape[int(a)] for a in np.argsort(_turn(blank)[:, 0]))


def _turn(volume: Volume) -> np.ndarray:
    own = nib.orientations.io_orientation(volume.affine)
    return np.asarray(nib.orientations.ornt_transform(own, nib.orientations.axcodes2ornt(AXES)))


def _turned(volume: Volume, channel: np.ndarray) -> np.ndarray:
    return np.asarray(nib.orientations.apply_orientation(channel, _turn(volume)))
