"""Axial, coronal and sagittal pictures of what a viewer shows, blended as it blends. No Qt, no OpenGL.

The planes lie along napari's world, which is (I, P, L) here: cut without a flip, each is radiological.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_xai.layers import WORLD, is_scan, to_ras, to_world
from xai_io.pictures.slices import direction

__all__ = ["PLANES", "Grid", "Plane", "Seen", "base", "colored", "painted", "patient_mm", "position", "shown_layers"]

STEPS = 1024  # of a colour table
DIAGONAL = 1e-6  # of a voxel

Colors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Plane:
    """One of the three planes.

    Attributes
    ----------
    axis, rows, columns : the world's axis that it is cut across, and those that run down and to the right.
    """

    name: str
    axis: int
    rows: int
    columns: int


PLANES: Mapping[str, Plane] = {
    plane.name: plane
    for plane in (
        Plane("axial", 0, 1, 2),
        Plane("coronal", 1, 0, 2),
        Plane("sagittal", 2, 0, 1),
    )
}


@dataclass(frozen=True)
class Grid:
    """The voxels of the pictures, which lie along the world's axes: those of the layer that is lowest.

    Attributes
    ----------
    shape, spacing, origin : along the world's axes; the spacing and the first voxel's centre in its unit.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]

    @classmethod
    def of(cls, layer: Any) -> "Grid":
        """The layer's own voxels; of one that is turned in the world, voxels of their size around it."""
        affine = to_world(layer)
        linear = affine[:3, :3]
        if np.allclose(linear, np.diag(np.diag(linear)), atol=DIAGONAL) and (np.diag(linear) > 0).all():
            shape, spacing, origin = layer.data.shape, np.diag(linear), affine[:3, 3]
        else:
            corners = np.stack(np.meshgrid(*[(0, n - 1) for n in layer.data.shape], indexing="ij"), -1).reshape(-1, 3)
            world = corners @ linear.T + affine[:3, 3]
            spacing = np.full(3, np.linalg.norm(linear, axis=0).min())
            origin = world.min(0)
            shape = np.floor((world.max(0) - origin) / spacing + DIAGONAL).astype(int) + 1
        (i, j, k), (a, b, c), (x, y, z) = map(int, shape), map(float, spacing), map(float, origin)
        return cls((i, j, k), (a, b, c), (x, y, z))

    def index(self, point: Sequence[float]) -> npt.NDArray[np.float64]:
        """Where a point of the world lies between the voxels; what lies outside is moved to the rim."""
        where = (np.asarray(point, dtype=np.float64)[-3:] - self.origin) / self.spacing
        return np.clip(where, 0, np.array(self.shape) - 1)

    def voxel(self, point: Sequence[float]) -> tuple[int, int, int]:
        """The voxel at a point of the world."""
        i, j, k = np.floor(self.index(point) + 0.5).astype(int)  # a half goes up, as in napari's own slices
        top = [n - 1 for n in self.shape]
        return min(int(i), top[0]), min(int(j), top[1]), min(int(k), top[2])

    def point(self, index: Sequence[float]) -> tuple[float, float, float]:
        """Where voxels, or what lies between them, are in the world."""
        x, y, z = np.asarray(index, dtype=np.float64) * self.spacing + self.origin
        return float(x), float(y), float(z)


class Seen:
    """A layer that is painted otherwise than the viewer shows it: some of its attributes have other values."""

    def __init__(self, layer: Any, **changes: Any) -> None:
        self._layer, self._changes = layer, changes

    def __getattr__(self, name: str) -> Any:
        """The layer's own, unless it was changed."""
        return self._changes[name] if name in self._changes else getattr(self._layer, name)


def base(layers: Iterable[Any]) -> Any | None:
    """The layer whose voxels the pictures have: the lowest scan that is seen, else the lowest volume."""
    found = shown_layers(layers)
    scans = [layer for layer in found if is_scan(layer)]
    return next(iter(scans or found), None)


def shown_layers(layers: Iterable[Any]) -> list[Any]:
    """What can be painted: images and labels that are seen and have three axes, the lowest first."""
    return [layer for layer in layers if layer.visible and is_volume(layer)]


def is_volume(layer: Any) -> bool:
    """Whether it is an image or labels with three axes and one resolution."""
    kind = getattr(layer, "_type_string", "")
    return kind in ("image", "labels") and layer.ndim == 3 and not layer.multiscale and not getattr(layer, "rgb", False)


def painted(layers: Iterable[Any], grid: Grid, plane: Plane, point: Sequence[float]) -> npt.NDArray[np.uint8]:
    """The plane through a point of the world as the viewer shows it: (rows, columns, 3).

    Parameters
    ----------
    layers : such as `shown_layers` gives, the lowest first.
    """
    picture = np.zeros((grid.shape[plane.rows], grid.shape[plane.columns], 3), np.float32)
    for number, layer in enumerate(layers):
        values, inside = _cut(layer, grid, plane, grid.voxel(point)[plane.axis])
        colors = colored(layer, values)
        if inside is not None:
            colors[~inside] = 0
        _blend(picture, colors, layer, inside, lowest=number == 0)
    return np.asarray(np.rint(255 * np.clip(picture, 0, 1)), dtype=np.uint8)


def colored(layer: Any, values: npt.NDArray[Any]) -> Colors:
    """A layer's colours (..., 4) of values, as it shows them; its opacity aside."""
    if layer._type_string == "labels":
        return np.asarray(layer.colormap.map(values), dtype=np.float32)
    low, high = layer.contrast_limits
    table = layer.colormap.map(np.linspace(0, 1, STEPS) ** layer.gamma).astype(np.float32)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32((STEPS - 1) / (high - low))
    unknown = np.isnan(scaled)
    scaled[unknown] = 0
    colors: Colors = np.take(table, (np.clip(scaled, 0, STEPS - 1) + np.float32(0.5)).astype(np.intp), axis=0)
    if unknown.any():
        colors[unknown] = layer.colormap.nan_color
    return colors


def patient_mm(layer: Any, index: Sequence[float]) -> tuple[float, float, float]:
    """Where an index of a layer's data lies in the patient: RAS mm, through the true affine of an oblique scan."""
    own = layer.metadata.get("napari_xai")
    if own is None:
        x, y, z, _ = np.linalg.inv(WORLD) @ [*layer.data_to_world(index), 1]
    else:
        x, y, z, _ = to_ras(layer.metadata) @ [*index, 1]
    return float(x), float(y), float(z)


def position(mm: Sequence[float]) -> str:
    """A point of the patient as radiologists write it: "L 12.0, P 40.5, S 8.0 mm"."""
    return ", ".join(direction(value, axis) for axis, value in enumerate(mm)) + " mm"


def _cut(layer: Any, grid: Grid, plane: Plane, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """A layer's values in one slice of the grid, the nearest voxel's; and where it has any, None: everywhere."""
    grid_to_world = np.diag([*grid.spacing, 1.0])
    grid_to_world[:3, 3] = grid.origin
    to_data = np.linalg.inv(to_world(layer)) @ grid_to_world
    if layer.data.shape == grid.shape and np.allclose(to_data, np.eye(4), atol=1e-3):
        return np.asarray(layer.data[(slice(None),) * plane.axis + (number,)]), None
    rows, columns = np.ogrid[: grid.shape[plane.rows], : grid.shape[plane.columns]]
    where: dict[int, Any] = {plane.axis: number, plane.rows: rows, plane.columns: columns}
    index, inside = [], np.array(True)
    for to, size in zip(to_data[:3], layer.data.shape, strict=True):
        along = np.floor(sum(to[axis] * where[axis] for axis in range(3)) + to[3] + 0.5).astype(np.intp)
        inside = inside & (along >= 0) & (along < size)
        index.append(np.clip(along, 0, size - 1))
    shape = (grid.shape[plane.rows], grid.shape[plane.columns])
    values = np.broadcast_to(np.asarray(layer.data)[tuple(index)], shape)
    return values, np.broadcast_to(inside, shape)


def _blend(picture: Colors, colors: Colors, layer: Any, inside: npt.NDArray[np.bool_] | None, *, lowest: bool) -> None:
    """Lay a layer's colours over what lies below, in place."""
    color, alpha, mode = colors[..., :3], colors[..., 3:] * np.float32(layer.opacity), str(layer.blending)
    if lowest or mode.startswith("translucent"):
        picture += (color - picture) * alpha
        return
    if mode == "additive":
        found = np.minimum(picture + color * alpha, 1)
    elif mode == "minimum":
        found = np.minimum(picture, color)
    elif mode == "multiplicative":
        found = picture * color
    else:
        found = color
    picture[...] = found if inside is None else np.where(inside[..., None], found, picture)
