"""Gaussian smoothing of volumes, in mm, and filling a hole smoothly from what surrounds it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from methods3d.types import Mask, Volume5d

__all__ = ["FWHM", "harmonic", "sharpening", "smoothed"]

FWHM = 2.3548200450309493  # full width at half maximum of a Gaussian, in sigmas
RESIDUAL = 1e-4  # of the hole's first residual, at which its filling is smooth enough


def smoothed(x: Tensor, sigma: float, spacing: Sequence[float]) -> Tensor:
    """A volume (..., i, j, k) smoothed by a Gaussian of sigma mm along each axis; the borders are repeated.

    Linear in x and differentiable: along each axis a product with a matrix. Beyond the border, six sigma count.
    """
    for axis, step in zip((-3, -2, -1), spacing, strict=True):
        if sigma > 0 and x.shape[axis] > 1:
            matrix = _gaussian(x.shape[axis], torch.tensor(sigma / step, dtype=torch.float64))
            x = (x.movedim(axis, -1) @ matrix.to(x).T).movedim(-1, axis)
    return x


def sharpening(x: Tensor, sigma: float, spacing: Sequence[float]) -> Tensor:
    """The derivative of `smoothed` in sigma (mm), exact: each axis by itself, the others smoothed."""
    total = torch.zeros_like(x)
    for changing in (-3, -2, -1):
        part = x
        for axis, step in zip((-3, -2, -1), spacing, strict=True):
            if x.shape[axis] == 1:
                part = torch.zeros_like(x) if axis == changing else part
                continue
            width, one = torch.tensor([sigma / step, 1 / step], dtype=torch.float64)
            shares = partial(_gaussian, x.shape[axis], reach=sigma / step)
            matrix, slope = torch.func.jvp(shares, (width,), (one,))  # type: ignore[misc]
            part = (part.movedim(axis, -1) @ (slope if axis == changing else matrix).to(x).T).movedim(-1, axis)
        total += part
    return total


def _gaussian(n: int, width: Tensor, reach: float | None = None) -> Tensor:
    """Row i: the share of each voxel j in the smoothed voxel i; voxels beyond the border are the border's."""
    beyond = int(6 * float(width if reach is None else reach)) + 1
    i = torch.arange(n, dtype=torch.float64)[:, None]
    j = torch.arange(-beyond, n + beyond, dtype=torch.float64)[None]
    weight = torch.exp(-((i - j) ** 2) / (2 * width**2))
    column = j[0].long().clamp(0, n - 1)
    matrix = torch.zeros(n, n, dtype=torch.float64).index_add(1, column, weight)
    return matrix / matrix.sum(1, keepdim=True)


def harmonic(x: Volume5d, hole: Mask, spacing: Sequence[float]) -> Volume5d:
    """The volume with a hole (i, j, k) filled by the smoothest values that meet what surrounds it.

    Solves Laplace's equation inside the hole (differences in mm) by conjugate gradients; nothing flows through the
    volume's own border. A hole that takes up a whole volume is left as it is.
    """
    hole = hole.to(x.device)
    if not bool(hole.any()) or bool(hole.all()):
        return x
    # The smallest box that holds it, with a rim of what surrounds it.
    i, j, k = (slice(max(int(at.min()) - 1, 0), int(at.max()) + 2) for at in hole.nonzero(as_tuple=True))
    here, inside = x[..., i, j, k], hole[i, j, k]
    mean = (here * ~inside).flatten(2).sum(2) / (~inside).sum().clamp(min=1)
    start = torch.where(inside, mean[:, :, None, None, None], here)
    weights = [(min(spacing) / step) ** 2 for step in spacing]

    def pull(values: Tensor) -> Tensor:
        """The discrete Laplacian (negative), inside the hole."""
        total = torch.zeros_like(values)
        for axis, weight in zip((2, 3, 4), weights, strict=True):
            step = weight * values.diff(dim=axis)
            n = values.shape[axis]
            total.narrow(axis, 0, n - 1).sub_(step)
            total.narrow(axis, 1, n - 1).add_(step)
        return total * inside

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(2).sum(2)[:, :, None, None, None]

    change, left = torch.zeros_like(start), -pull(start)
    way, size = left, product(left, left)
    enough = RESIDUAL**2 * size
    for _ in range(4 * sum(inside.shape)):
        if bool((size <= enough).all()):
            break
        along = pull(way)
        stride = size / product(way, along).clamp(min=torch.finfo(x.dtype).tiny)
        change, left = change + stride * way, left - stride * along
        before, size = size, product(left, left)
        way = left + size / before.clamp(min=torch.finfo(x.dtype).tiny) * way
    filled = x.clone()
    filled[..., i, j, k] = torch.where(inside, start + change, here)
    return filled
