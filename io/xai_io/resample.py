"""Values from one grid in the patient to another, by way of the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .volume import Volume

if TYPE_CHECKING:
    from torch import Tensor

SLAB = 2**22  # voxels sampled at once: their coordinates cost 12 bytes each


def resampled_to(volume: Volume, grid: Volume, *, mode: Literal["linear", "nearest", "adjoint"] = "linear") -> Volume:
    """Lay a volume's values over another grid.

    Parameters
    ----------
    volume
        Values (C, I, J, K) and where they lie.
    grid
        Whose shape and affine the result gets; its values are not read.
    mode
        ``"linear"`` and ``"nearest"`` read the volume at each voxel centre of `grid`, zero outside of it.
        ``"adjoint"`` is the transpose of linear sampling from `grid` to `volume`: every value is handed to the
        voxels of `grid` that it would have been interpolated from, so that the sum is kept, but for what lies
        outside of `grid`.

    Returns
    -------
    Volume
        (C, *grid.shape) float32 (integers keep their type with ``"nearest"``) with the affine of `grid`.
    """
    import torch

    data = torch.as_tensor(np.ascontiguousarray(volume.data))
    values = data.to(torch.float32)
    if mode == "adjoint":
        out = _adjoint(values, volume.affine, grid.affine, grid.shape)
    else:
        out = torch.empty((len(values), *grid.shape))
        for start, points in _slabs(grid.shape, grid.affine, volume.affine):
            out[:, start : start + len(points)] = _sampled(values, points, mode)
    if mode == "nearest" and not data.is_floating_point():
        out = out.round().to(data.dtype)
    return Volume(out.numpy(), grid.affine, volume.units, volume.modality, grid.source)


def _slabs(shape: tuple[int, int, int], affine: np.ndarray, into: np.ndarray) -> list[tuple[int, Tensor]]:
    """Voxel coordinates in the grid `into` of the voxel centres of (shape, affine), a few I planes at a time."""
    import torch

    across = torch.as_tensor(np.linalg.inv(into) @ affine)
    j, k = (torch.arange(n, dtype=torch.float64) for n in shape[1:])
    plane = j[:, None, None] * across[:3, 1] + k[None, :, None] * across[:3, 2] + across[:3, 3]
    thick = max(1, SLAB // (shape[1] * shape[2]))
    slabs = []
    for start in range(0, shape[0], thick):
        i = torch.arange(start, min(start + thick, shape[0]), dtype=torch.float64)
        slabs.append((start, i[:, None, None, None] * across[:3, 0] + plane))
    return slabs


def _sampled(values: Tensor, points: Tensor, mode: str) -> Tensor:
    """Values (C, I, J, K) at voxel coordinates (i, j, k, 3), zero outside the grid's outermost voxels' edges."""
    import torch
    import torch.nn.functional as F

    size = torch.tensor(values.shape[1:], dtype=torch.float64)
    # grid_sample wants x (last axis) first, in units where the outermost edges are -1 and 1.
    where = ((2 * points + 1) / size - 1).flip(-1).to(torch.float32)
    inside = ((points >= -0.5 - 1e-6) & (points <= size - 0.5 + 1e-6)).all(-1)
    how = "nearest" if mode == "nearest" else "bilinear"
    found = F.grid_sample(values[None], where[None], mode=how, padding_mode="border", align_corners=False)[0]
    return found * inside


def _adjoint(values: Tensor, affine: np.ndarray, grid_affine: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    """Transpose of sampling a volume of `shape` linearly at the voxels of `values`."""
    import torch

    total = torch.zeros((len(values), *shape))
    for start, points in _slabs((values.shape[1], values.shape[2], values.shape[3]), affine, grid_affine):
        with torch.enable_grad():
            source = torch.zeros_like(total, requires_grad=True)
            seen = _sampled(source, points, "linear")
            (back,) = torch.autograd.grad(seen, source, values[:, start : start + len(points)])
        total += back
    return total
