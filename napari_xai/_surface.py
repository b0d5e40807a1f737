"""Relevance in 3D: surfaces around what is shown of a map, as napari layers where the map lies. No Qt."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["COLORS", "MOST_FACES", "Surface", "shown_from", "surface", "surface_layers"]

MOST_FACES = 400_000  # more are drawn no better, and software turns them slowly
MOST_VOXELS = 256**3  # that a surface is first looked for in; larger boxes are read in steps
AT_ONCE = 128**3  # voxels; marching cubes stops every other thread meanwhile
COLORS = {1: (1.0, 0.27, 0.08), -1: (0.1, 0.45, 1.0)}  # half of full relevance, as in the pictures
SIDES = {1: "raises the score", -1: "lowers the score"}


class Surface(NamedTuple):
    """Where a map reaches a level.

    Attributes
    ----------
    vertices, faces : (n, 3) in the map's indices, and (m, 3) of them.
    step : voxels from which one was read, along each axis; above 1 fine detail is gone.
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    step: int


def shown_from(layer: Any) -> dict[int, float]:
    """The magnitude from which a relevance layer shows either sign: sign -> value; no entry for a hidden sign."""
    limit = float(layer.contrast_limits[1])
    places = np.linspace(-1, 1, 2049)
    seen = layer.colormap.map((places + 1) / 2)[:, 3] > 0
    signs = {sign: np.abs(places[seen & (np.sign(places) == sign)]) for sign in (1, -1)}
    return {sign: float(found.min()) * limit for sign, found in signs.items() if found.size}


def surface(values: npt.NDArray[Any], level: float, sign: int) -> Surface | None:
    """Where sign x values reach a level; closed at the volume's faces; None where they do not reach it.

    A surface with too many faces is made again from every second, third ... voxel.
    """
    reached = values >= level if sign > 0 else values <= -level
    if not reached.any():
        return None
    kept = [np.flatnonzero(reached.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    del reached
    low = np.array([max(int(one[0]) - 1, 0) for one in kept])
    box = tuple(slice(int(a), int(one[-1]) + 2) for a, one in zip(low, kept, strict=True))
    inside = sign * np.nan_to_num(np.asarray(values[box], dtype=np.float32))
    step = max(1, int(np.ceil((inside.size / MOST_VOXELS) ** (1 / 3))))
    while True:
        # The largest of each block, so that nothing small is stepped over; nothing lies outside.
        part = np.pad(_largest(inside, step), 1)
        top = np.nextafter(part.max(), np.float32(0))
        vertices, faces = _marched(part, min(level, top))
        if len(faces) <= MOST_FACES or min(part.shape) <= 8:
            break
        step += 1
    place = (vertices - 1) * step + (step - 1) / 2 + low
    return Surface(place.astype(np.float32), faces.astype(np.int32), step)


def surface_layers(found: dict[int, Surface | None], layer: Any) -> list[tuple[Any, dict[str, Any], str]]:
    """Surfaces of a map's signs as napari layers (data, options, type), where the map's own layer lies."""
    own = layer.metadata.get("napari_xai", {})
    made = []
    for sign, one in found.items():
        if one is None:
            continue
        colors = np.array([(*COLORS[sign], 1.0)] * 2)
        options = {
            "name": f"{layer.name}: {SIDES[sign]}",
            "colormap": {"name": f"surface {SIDES[sign]}", "colors": colors},
            "contrast_limits": (0, 1),
            "shading": "smooth",
            "blending": "translucent",
            "metadata": {"napari_xai": {"role": "surface", "scan": own.get("scan"), "map": own.get("map")}},
            **{name: getattr(layer, name) for name in ("affine", "scale", "translate", "units", "axis_labels")},
        }
        made.append(((one.vertices, one.faces, np.ones(len(one.vertices), np.float32)), options, "surface"))
    return made


def _marched(values: npt.NDArray[np.float32], level: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Marching cubes, a slab of slices after the other, whose surfaces are one where they meet."""
    from skimage.measure import marching_cubes

    thick = max(1, AT_ONCE // values[0].size)
    starts = range(0, len(values) - 1, thick)
    vertices, faces, count = [np.zeros((0, 3), np.float32)], [np.zeros((0, 3), np.int32)], 0
    for start in starts:
        slab = values[start : start + thick + 1]
        if slab.min() <= level <= slab.max() and slab.min() < slab.max():
            some, of_them, _, _ = marching_cubes(slab, level)  # type: ignore[no-untyped-call]
            vertices.append(some + np.array([start, 0, 0], np.float32))
            faces.append(of_them + count)
            count += len(some)
    places, corners = np.concatenate(vertices), np.concatenate(faces)
    seam = np.flatnonzero(np.isin(places[:, 0], starts[1:]))
    _, first, same = np.unique(places[seam], axis=0, return_index=True, return_inverse=True)
    one = np.arange(len(places), dtype=np.int32)
    one[seam] = seam[first][same.ravel()]
    return places, one[corners]


def _largest(values: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    if step == 1:
        return values
    from skimage.measure import block_reduce

    found: npt.NDArray[np.float32] = block_reduce(values, step, np.max, cval=0)  # type: ignore[no-untyped-call]
    return found
