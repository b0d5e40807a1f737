"""Regions that are pointed at: the predicted component under the cursor, or a ball around it. No Qt."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_xai.errors import ExplainError

__all__ = ["ball", "component"]

Voxels = npt.NDArray[np.uint8]


def component(labels: np.ndarray, at: tuple[int, ...]) -> tuple[int, Voxels]:
    """The label at a voxel, and the connected voxels (faces, edges, corners) that have it.

    Raises
    ------
    ExplainError : nothing is predicted there.
    """
    label = int(labels[at]) if _inside(labels.shape, at) else 0
    if label == 0:
        raise ExplainError("Nothing is predicted there: click on a structure that the model predicts.")
    found, _ = ndimage.label(labels == label, structure=np.ones((3,) * labels.ndim))
    return label, (found == found[at]).astype(np.uint8)


def ball(shape: tuple[int, ...], spacing: npt.ArrayLike, at: tuple[int, ...], diameter: float) -> Voxels:
    """The voxels whose centres lie in a ball around a voxel, by mm; that voxel at least.

    Raises
    ------
    ExplainError : the voxel lies outside.
    """
    if not _inside(shape, at):
        raise ExplainError("That place lies outside of the scan: click inside.")
    found = np.zeros(shape, np.uint8)
    sizes = np.asarray(spacing, float)
    reach = np.ceil(diameter / 2 / sizes).astype(int)
    box = tuple(slice(max(0, a - r), a + r + 1) for a, r in zip(at, reach, strict=True))
    offsets = np.meshgrid(
        *[(np.arange(s.start, min(s.stop, n)) - a) * d for s, n, a, d in zip(box, shape, at, sizes, strict=True)],
        indexing="ij",
    )
    found[box] = np.sqrt(sum(one**2 for one in offsets)) <= diameter / 2
    found[at] = 1
    return found


def _inside(shape: tuple[int, ...], at: tuple[int, ...]) -> bool:
    return all(0 <= a < n for a, n in zip(at, shape, strict=True))
