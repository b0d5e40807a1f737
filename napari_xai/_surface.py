"""Relevance in 3D: surfaces around what is shown of a map, as napari layers where the map lies. No Qt."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["COLORS", "MOST_FACES", "Surface", "shown_from", "surface", "surface_layers"]

MOST_FACES = 400_000  # more are drawn no better, and software turns them slowly
MOST_VOXELS = 128**3  # that a surface is first looked for in; larger boxes are read in steps
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
    from skimage.measure import marching_cubes

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
        vertices, faces, _, _ = marching_cubes(part, min(level, top))  # type: ignore[no-untyped-call]
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


def _largest(values: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    if step == 1:
        return values
    from skimage.measure import block_reduce

    found: npt.NDArray[np.float32] = block_reduce(values, step, np.max, cval=0)  # type: ignore[no-untyped-call]
    return found
