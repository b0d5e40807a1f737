"""Values from one grid in the patient to another, by way of the world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from .errors import GeometryError
from .volume import Volume

if TYPE_CHECKING:
    from torch import Tensor

Sampling: TypeAlias = Literal["linear", "nearest", "sum-preserving"]

SLAB = 2**18  # voxels sampled at once: their coordinates cost 24 bytes each
_EDGE = 1e-4  # of a voxel: what lies on a grid's edge lies in it, whatever the affines round


def resampled_to(volume: Volume, grid: Volume, mode: Sampling = "linear") -> Volume:
    """Lay a volume's values over another grid (see `Volume.resampled_to`)."""
    if mode not in get_args(Sampling):
        raise GeometryError(
            f"mode={mode!r} was given; only {', '.join(get_args(Sampling))} are allowed: pass one of them."
        )
    across = _moves(volume, grid)
    if across is not None:
        data = _moved(volume.data, across, grid.shape)
        data = data if mode == "nearest" else data.astype(np.float32, copy=False)
    elif mode == "nearest":
        data = np.zeros((volume.channels, *grid.shape), volume.data.dtype)
        for planes, points in _slabs(grid, volume):
            data[:, planes] = _nearest(volume.data, points)
    elif mode == "linear":
        import torch

        values = torch.as_tensor(np.ascontiguousarray(volume.data, np.float32))
        data = np.empty((volume.channels, *grid.shape), np.float32)
        for planes, points in _slabs(grid, volume):
            data[:, planes] = _linear(values, points).numpy()
    else:
        data = _handed_out(volume, grid)
    return Volume(data, grid.affine, volume.units, volume.modality, grid.source)


def covered(grid: Volume, by: Volume) -> npt.NDArray[np.bool_]:
    """Which voxels (I, J, K) of a grid have their centre within another, out to its outermost voxels' edges."""
    inside = np.empty(grid.shape, np.bool_)
    for planes, points in _slabs(grid, by):
        inside[planes] = _within(points, by.shape)
    return inside


def _moves(volume: Volume, grid: Volume) -> npt.NDArray[np.int64] | None:
    """Voxel of `grid` to voxel of `volume`, where their centres coincide: turned, cropped or padded; None elsewhere."""
    across = np.linalg.inv(volume.affine) @ grid.affine
    whole = np.rint(across)
    reach = np.array([*grid.shape, 1])  # what the far corner makes of an error
    turn = np.abs(whole[:3, :3])
    if (np.abs(across - whole) @ reach > _EDGE).any() or (turn.sum(0) != 1).any() or (turn.sum(1) != 1).any():
        return None
    return whole.astype(np.int64)


def _moved(values: npt.NDArray[Any], across: npt.NDArray[np.int64], shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Values (C, I, J, K) on a grid of the same voxel centres: nothing is computed, so nothing is rounded."""
    moved = np.zeros((len(values), *shape), values.dtype)
    axes = np.abs(across[:3, :3]).argmax(0)
    values = values.transpose(0, *(axes + 1))
    there, here = [slice(None)], [slice(None)]
    for axis, (row, n, room) in enumerate(zip(axes, values.shape[1:], shape, strict=True)):
        first = across[row, 3]
        if across[row, axis] < 0:
            values, first = np.flip(values, axis + 1), n - 1 - first
        start, stop = max(0, -first), max(0, -first, min(room, n - first))
        here.append(slice(start, stop))
        there.append(slice(start + first, stop + first))
    moved[tuple(here)] = values[tuple(there)]
    return moved


def _slabs(grid: Volume, into: Volume) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Voxel coordinates (3, i, j, k) in `into` of the voxel centres of `grid`, a few I planes at a time."""
    across = np.linalg.inv(into.affine) @ grid.affine
    i, j, k = (np.arange(n) * across[:3, axis, None] for axis, n in enumerate(grid.shape))
    plane = j[:, None, :, None] + k[:, None, None, :] + across[:3, 3, None, None, None]
    thick = max(1, SLAB // (grid.shape[1] * grid.shape[2]))
    for start in range(0, grid.shape[0], thick):
        planes = slice(start, min(start + thick, grid.shape[0]))
        yield planes, i[:, planes, None, None] + plane


def _within(points: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which voxel coordinates (3, i, j, k) lie in the voxels of a grid."""
    inside = np.ones(points.shape[1:], np.bool_)
    for along, n in zip(points, shape, strict=True):
        inside &= (along >= -0.5 - _EDGE) & (along <= n - 0.5 + _EDGE)
    return inside


def _nearest(values: npt.NDArray[Any], points: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Values (C, I, J, K) of the voxels that voxel coordinates (3, i, j, k) lie in, zero outside the grid."""
    shape = values.shape[1:]
    voxels = (np.clip(np.rint(along), 0, n - 1).astype(np.intp) for along, n in zip(points, shape, strict=True))
    found: npt.NDArray[Any] = values[(slice(None), *voxels)]
    found[:, ~_within(points, shape)] = 0
    return found


def _linear(values: Tensor, points: npt.NDArray[np.float64]) -> Tensor:
    """Values (C, I, J, K) interpolated at voxel coordinates (3, i, j, k).

    Out to the grid's edge its outermost voxels count, beyond it there is nothing.
    """
    import torch
    import torch.nn.functional as F

    shape = values.shape[1:]
    # grid_sample wants x (last axis) first, in units where the outermost edges are -1 and 1. In float32 a place is
    # known to 6e-8 of the grid's length: 3e-5 voxels of 512.
    scaled = [torch.as_tensor((2 * points[axis] + 1) / shape[axis] - 1).to(torch.float32) for axis in (2, 1, 0)]
    where = torch.stack(scaled, -1)
    found = F.grid_sample(values[None], where[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    return found * torch.as_tensor(_within(points, tuple(shape)))


def _handed_out(volume: Volume, grid: Volume) -> npt.NDArray[np.float32]:
    """Transpose of interpolating `grid` at the voxels of `volume`: each value goes where it would have come from."""
    import torch

    values = torch.as_tensor(np.ascontiguousarray(volume.data, np.float32))
    total = torch.zeros((len(values), *grid.shape))
    for planes, points in _slabs(volume, grid):
        # Only the part of the grid that these planes reach, and a voxel more, so that its border is the grid's own.
        first = np.clip(np.floor(points.min((1, 2, 3))) - 1, 0, None).astype(int)
        last = np.clip(np.ceil(points.max((1, 2, 3))) + 2, None, grid.shape).astype(int)
        if (first >= last).any():
            continue
        with torch.enable_grad():
            part = torch.zeros((len(values), *(last - first).tolist()), requires_grad=True)
            found = _linear(part, points - first[:, None, None, None])
            (back,) = torch.autograd.grad(found, part, values[:, planes])
        total[(slice(None), *map(slice, first, last))] += back
    handed: npt.NDArray[np.float32] = total.numpy()
    return handed
