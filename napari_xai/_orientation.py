"""Which way the patient lies on the canvas: letters at the ends of the axes that napari shows. No Qt."""

from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np

from napari_xai.layers import AXES

__all__ = ["edges", "ends"]

LETTERS = ("LR", "PA", "IS")
OBLIQUE = 0.2  # share of a direction from which its second letter is worth showing, about 12 degrees; as in pictures


def ends(own: Mapping[str, Any], axis: int) -> tuple[str, str]:
    """Where an axis of a layer begins and ends in the patient, as ("R", "L"), or ("RP", "LA") in an oblique scan.

    Parameters
    ----------
    own : what the layer's metadata say under "napari_xai".
    axis : of the layer's data, and of the world that it is shown in.
    """
    affine = np.array(own["affine_ras_mm"])
    turn = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(AXES))
    shown = affine @ nib.orientations.inv_ornt_aff(turn, own["shape"])
    direction = shown[:3, axis] / np.linalg.norm(shown[:3, axis])
    return _letters(-direction), _letters(direction)


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


def _letters(direction: np.ndarray) -> str:
    order = np.argsort(-np.abs(direction))
    return "".join(LETTERS[a][int(direction[a] > 0)] for a in order if abs(direction[a]) > OBLIQUE)
