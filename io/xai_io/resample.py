"""Values from one grid in the patient to another, by way of the world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .volume import Volume

if TYPE_CHECKING:
    from torch import Tensor

Sampling: TypeAlias = Literal["linear", "nearest", "sum-preserving"]

SLAB = 2**22  # voxels sampled at once: their coordinates cost 24 bytes each
_EDGE = 1e-4  # of a voxel: what lies on a grid's edge lies in it, whatever the affines round


def resampled_to(volume: Volume, grid: Volume, mode: Sampling = "linear") -> Volume:
    """Lay a volume's values over another grid (see `Volume.resampled_to`)."""
    if mode != "nearest" and _coincide(volume, grid):
        # Turned, cropped or padded: every value has its voxel, and nothing is to be rounded.
        return resampled_to(volume.with_data(volume.data.astype(np.float32), units=volume.units), grid, "nearest")
    if mode == "nearest":
        data = np.zeros((volume.channels, *grid.shape), volume.data.dtype)
        for planes, points in _slabs(grid, volume):
            data[:, planes] = _nearest(volume.data, points)
    elif mode == "linear":
        values = np.ascontiguousarray(volume.data, np.float32)
        data = np.empty((volume.channels, *grid.shape), np.float32)
        for planes, points in _slabs(grid, volume):
            data[:, planes] = _linear(values, points)
    else:
        data = _handed_out(volume, grid)
    return Volume(data, grid.affine, volume.units, volume.modality, grid.source)


def covered(grid: Volume, by: Volume) -> npt.NDArray[np.bool_]:
    """Which voxels (I, J, K) of a grid have their centre within another, out to its outermost voxels' edges."""
    inside = np.empty(grid.shape, np.bool_)
    for planes, points in _slabs(grid, by):
        inside[planes] = _within(points, by.shape)
    return inside


def _coincide(volume: Volume, grid: Volume) -> bool:
    """Whether two grids have their voxel centres in the same places, wherever each of them ends."""
    across = np.linalg.inv(volume.affine) @ grid.affine
    whole = np.rint(across)
    reach = np.array([*grid.shape, 1])  # what the far corner makes of an error
    return bool((np.abs(across - whole) @ reach < _EDGE).all()) and abs(np.linalg.det(whole)) == 1


def _slabs(grid: Volume, into: Volume) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Voxel coordinates (i, j, k, 3) in `into` of the voxel centres of `grid`, a few I planes at a time."""
    across = np.linalg.inv(into.affine) @ grid.affine
    j, k = (np.arange(n)[:, None] * across[:3, axis] for axis, n in ((1, grid.shape[1]), (2, grid.shape[2])))
    plane = j[:, None] + k[None] + across[:3, 3]
    thick = max(1, SLAB // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], thick):
        planes = slice(start, min(start + thick, grid.shape[0]))
        yield planes, np.arange(planes.start, planes.stop)[:, None, None, None] * across[:3, 0] + plane


def _within(points: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which voxel coordinates lie in the voxels of a grid."""
    within = (points >= -0.5 - _EDGE) & (points <= np.array(shape) - 0.5 + _EDGE)
    every: npt.NDArray[np.bool_] = np.logical_and.reduce(within, axis=-1)
    return every


def _nearest(values: npt.NDArray[Any], points: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Values (C, I, J, K) of the voxels that voxel coordinates (i, j, k, 3) lie in, zero outside the grid."""
    voxels = np.clip(np.rint(points), 0, np.array(values.shape[1:]) - 1).astype(np.intp)
    found: npt.NDArray[Any] = values[:, voxels[..., 0], voxels[..., 1], voxels[..., 2]]
    return np.where(_within(points, values.shape[1:]), found, values.dtype.type(0))


def _linear(values: npt.NDArray[np.float32], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Values (C, I, J, K) interpolated at voxel coordinates (i, j, k, 3), zero outside the grid."""
    import torch

    found: npt.NDArray[np.float32] = _sampled(torch.as_tensor(values), points).numpy()
    return found


def _sampled(values: Tensor, points: npt.NDArray[np.float64]) -> Tensor:
    """Linear interpolation at voxel coordinates; out to a grid's edge its outermost voxels count, beyond it nothing."""
    import torch
    import torch.nn.functional as F

    shape = tuple(values.shape[1:])
    # grid_sample wants x (last axis) first, in units where the outermost edges are -1 and 1. In float32 a place is
    # known to 6e-8 of the grid's length: 3e-5 voxels of 512.
    where = torch.as_tensor(((2 * points + 1) / shape - 1)[..., ::-1].astype(np.float32))
    found = F.grid_sample(values[None], where[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    return found * torch.as_tensor(_within(points, shape))


def _handed_out(volume: Volume, grid: Volume) -> npt.NDArray[np.float32]:
    """Transpose of interpolating `grid` at the voxels of `volume`: each value goes where it would have come from."""
    import torch

    values = torch.as_tensor(np.ascontiguousarray(volume.data, np.float32))
    total = torch.zeros((len(values), *grid.shape))
    for planes, points in _slabs(volume, grid):
        # Only the part of the grid that these planes reach, and a voxel more, so that its border is the grid's own.
        first = np.clip(np.floor(points.min((0, 1, 2))) - 1, 0, None).astype(int)
        last = np.clip(np.ceil(points.max((0, 1, 2))) + 2, None, grid.shape).astype(int)
        if (first >= last).any():
            continue
        with torch.enable_grad():
            part = torch.zeros((len(values), *(last - first).tolist()), requires_grad=True)
            (back,) = torch.autograd.grad(_sampled(part, points - first), part, values[:, planes])
        total[(slice(None), *map(slice, first, last))] += back
    handed: npt.NDArray[np.float32] = total.numpy()
    return handed
