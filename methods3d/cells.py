"""Maps at a layer's resolution on the voxels of the input."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["interpolated", "shared_by_voxels"]


def interpolated(cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Cells (b, m, i', j', k') read at the voxels of another grid over the same extent, linearly."""
    return F.interpolate(cells, size=tuple(shape), mode="trilinear", align_corners=False)


def shared_by_voxels(cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Cells (b, m, i', j', k') on a finer grid, each shared evenly by the voxels that it covers; the sum is kept.

    A voxel that two cells meet in is covered by both.
    """
    with torch.enable_grad():
        fine = torch.zeros(*cells.shape[:2], *shape, dtype=cells.dtype, device=cells.device, requires_grad=True)
        pooled = F.adaptive_avg_pool3d(fine, list(cells.shape[2:]))  # type: ignore[arg-type]
        return torch.autograd.grad(pooled, fine, cells)[0]
