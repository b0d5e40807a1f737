"""Which way the patient lies on the canvas: letters at the ends of the axes that napari shows. No Qt."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np

from napari_xai.layers import grid_of, to_ras, to_world

__all__ = ["askew", "edges", "ends", "letters"]

LETTERS = ("LR", "PA", "IS")
OBLIQUE = 0.2  # share of a direction from which its second letter is worth showing, about 12 degrees; as in pictures
ASKEW = 0.1  # of the voxel size, from which two layers are not shown in one place


def ends(own: Mapping[str, Any], axis: int) -> tuple[str, str]:
    """Where an axis of a layer begins and ends in the patient, as ("R", "L"), or ("RP", "LA") in an oblique scan.

    Parameters
    ----------
    own : what the layer's metadata say under "napari_xai".
    axis : of the layer's data, and of the world that it is shown in.
    """
    step = to_ras({"napari_xai": own})[:3, axis]
    direction = step / np.linalg.norm(step)
    return _codes(-direction), _codes(direction)


def edges(
    own: Mapping[str, Any], displayed: tuple[int, ...], camera: tuple[str, str] = ("down", "right")
) -> dict[str, str]:
    """The letters at the edges of a canvas that shows two axes of a layer: "left", "right", "top", "bottom".

    Parameters
    ----------
    own : as in `ends`.
    displayed : the axes that run vertically and horizontally, as in `viewer.dims.displayed`.
    camera : which way they run, as in `viewer.scene.camera.orientation2d`.
    """
    vertical, horizontal = (ends(own, axis) for axis in displayed[-2:])
    top, bottom = vertical if camera[0] == "down" else vertical[::-1]
    left, right = horizontal if camera[1] == "right" else horizontal[::-1]
    return {"left": left, "right": right, "top": top, "bottom": bottom}


def letters(
    layer: Any, layers: Iterable[Any], displayed: tuple[int, ...], camera: tuple[str, str] = ("down", "right")
) -> dict[str, str]:
    """As `edges`, of a layer among all that are open; nothing where it is not known how it lies in the patient."""
    own = grid_of(layer, layers)
    return {} if own is None else edges(own, displayed, camera)


def askew(one: Any, other: Any) -> bool:
    """Whether napari shows two layers made here along different axes of the patient: they do not lie over each other.

    Some place of the first's volume would be more than a tenth of a voxel away in the second's.
    """
    corners = np.array([(*corner, 1) for corner in product(*((-0.5, n - 0.5) for n in one.data.shape))]).T
    shown = to_world(one) @ corners
    first, second = (to_ras(layer.metadata) @ np.linalg.inv(to_world(layer)) @ shown for layer in (one, other))
    sizes = np.linalg.norm(np.vstack([to_world(layer)[:3, :3].T for layer in (one, other)]), axis=1)
    return bool(np.linalg.norm((first - second)[:3], axis=0).max() > ASKEW * sizes.min())


def _codes(direction: np.ndarray) -> str:
    order = np.argsort(-np.abs(direction))
    return "".join(LETTERS[a][int(direction[a] > 0)] for a in order if abs(direction[a]) > OBLIQUE)
