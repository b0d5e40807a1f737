"""Salient relevance: regions that stand out of a relevance volume, rather than its single voxels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.errors import ParameterError
from methods3d.lrp.propagate import relevance_of
from methods3d.method import Method, Relevance, setting
from methods3d.rules import COMPOSITES, Propagation, composite
from methods3d.types import Cost, Explainable, Progress, Target, Volume5d

__all__ = ["SalientRelevance", "salience"]

SCALES = (1.0, 0.8, 0.5, 0.3)
APART = 3.0  # c: how much less unlikeness counts among patches that are far apart
ATTENDED = 0.8  # of the largest salience
CHUNK = 2**22  # distances that are held at once
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class SalientRelevance(Method):
    """Where relevance stands out: context-aware saliency of the LRP volume, between 0 and 1 (see salience).

    Relevance of either sign stands out, and values are not in units of the score: use LRP to know what speaks for
    the target, and this to see which regions to look at. One volume for all channels, whose relevance is summed.

    When: relevance has to be read as regions.
    """

    name: ClassVar[str] = "salient-relevance"
    title: ClassVar[str] = "Salient relevance"
    source: ClassVar[str] = (
        "Li, Tian, Mueller, Chen 2019, arXiv:1712.08268, in 3D; salience: Goferman, Zelnik-Manor, Tal 2012"
    )

    composite: str = setting(
        "gamma", "rules of LRP: a composite's name, or written out", choices=tuple(COMPOSITES), reads=composite
    )
    bias: Literal["spread", "absorb"] = setting(
        "spread", "biases and norm shifts go to the inputs by |contribution|, or are booked as absorbed"
    )
    patch: int = setting(5, "edge of the patches that are compared, in cells (an odd number)", at_least=1)
    neighbours: int = setting(64, "how many of the most similar patches a patch is compared with", at_least=1)
    resolution: int = setting(48, "cells along the longest axis (at most)", at_least=1)

    def __post_init__(self) -> None:
        """Refuse patches without a centre."""
        super().__post_init__()
        if self.patch % 2 == 0:
            raise ParameterError(f"{self.name}: patch is {self.patch}, but has to be an odd number.")

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """The salience of the sum over channels of LRP's relevance, sample by sample."""
        rules = Propagation(composite(self.composite), self.bias)
        half = 1000  # LRP is the first half of the work, comparing patches the second

        def first_half(done: int, total: int, partial: Tensor | None = None) -> None:
            progress(half * done // max(total, 1), 2 * half)

        found = relevance_of(model, x, target, rules, first_half)
        maps = []
        for n, relevance in enumerate(found.values.sum(1)):

            def second_half(done: float, n: int = n) -> None:
                progress(half + int(half * (n + done) / len(x)), 2 * half)

            maps.append(
                salience(
                    relevance,
                    model.info.spacing or (1.0, 1.0, 1.0),
                    patch=self.patch,
                    neighbours=self.neighbours,
                    resolution=self.resolution,
                    report=second_half,
                )
            )
        values = torch.stack(maps)[:, None]
        return replace(found, values=values, extensive=False, absorbed={}, gap=None)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """As LRP."""
        n = model.passes(shape) * Propagation(composite(self.composite), self.bias).sums
        return Cost(forward=n, backward=n)


def salience(
    volume: Tensor,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    patch: int = 5,
    neighbours: int = 64,
    resolution: int = 48,
    report: Callable[[float], None] = lambda done: None,
) -> Tensor:
    """How much each place of a volume (i, j, k) differs from all that is like it: context-aware saliency in 3D.

    On a grid of cubic cells (the mean of their voxels), with the cells' values scaled to [0, 1] and the positions
    of patches p in units of the volume's longest extent (after Goferman et al. 2012):

        d(p_i, p_j) = d_value / (1 + c d_position),           d_value = root mean square of p_i - p_j, c = 3
        S_i = 1 - exp(-mean of d over the K most similar p_j)
        S   = mean over the scales 1, 0.8, 0.5, 0.3 of the grid, divided by its maximum
        S_i (1 - distance to the nearest focus),              foci: where S > 0.8

    so that what repeats somewhere is not salient, however strong, least of all if it repeats far away.

    Differences to the papers: cells and voxels instead of pixels and of CIE L*a*b* colours; a patch's K neighbours
    are of its own scale (not also of its half and quarter); S is divided by its maximum before the foci are taken,
    since d is below 1 and S below 1 - 1/e. As in the papers patches overlap by half. Time grows with the sixth power
    of the resolution; memory hardly does, since distances are held some rows at a time.

    Parameters
    ----------
    volume : (i, j, k), on any device.
    spacing : voxel size in mm.
    patch, neighbours, resolution : as in SalientRelevance; K is less where there are not as many patches.
    report : hears how much is done, from 0 to 1; may raise Cancelled.

    Returns
    -------
    (i, j, k) between 0 and 1; all zero for a constant volume, and all NaN where there is any.
    """
    step = max(1, patch // 2)
    extent = [n * s for n, s in zip(volume.shape, spacing, strict=True)]
    grids = [_grid(volume.shape, extent, scale, step, resolution) for scale in SCALES]
    base = _cells(volume, grids[0])
    low, high = base.aminmax()
    if bool(high == low) or not bool(torch.isfinite(high - low)):
        return volume.new_full(volume.shape, 0.0 if high == low else torch.nan)
    # Around the median, so that differences among background patches are not lost in rounding.
    middle, width = base.median(), high - low
    work = [_patches(grid, step) ** 2 for grid in grids]
    sizes = [[e / g / max(extent) for e, g in zip(extent, grid, strict=True)] for grid in grids]  # of a cell
    total = torch.zeros_like(base)
    for n, grid in enumerate(grids):
        cells = (_cells(volume, grid) - middle) / width
        parts = []
        for done, part in _unlike(cells, sizes[n], patch, step, neighbours):
            parts.append(part)
            report((sum(work[:n]) + done * work[n]) / sum(work))
        found = 1 - torch.exp(-torch.cat(parts).flip(0))
        found = _resized(found.view(*((g - 1) // step + 1 for g in grid)), grid, corners=True)
        total += _resized(found, grids[0])
    total /= total.max().clamp(min=torch.finfo(total.dtype).tiny)
    away = _distance(total > ATTENDED, sizes[0], total)
    return _resized(total * (1 - away).clamp(min=0), (volume.shape[0], volume.shape[1], volume.shape[2]))


def _grid(shape: torch.Size, extent: list[float], scale: float, step: int, resolution: int) -> Shape:
    """Cells along each axis, as nearly cubes as a patch at every `step` cells from edge to edge allows."""
    edge = max(extent) / (scale * min(resolution, max(shape)))
    i, j, k = (step * max(0, int(e / edge / step + 0.5) - 1) + 1 for e in extent)
    return i, j, k


def _patches(grid: Shape, step: int) -> int:
    i, j, k = ((g - 1) // step + 1 for g in grid)
    return i * j * k


def _cells(volume: Tensor, grid: Shape) -> Tensor:
    return F.adaptive_avg_pool3d(volume[None, None], grid)[0, 0]


def _resized(volume: Tensor, shape: Shape, *, corners: bool = False) -> Tensor:
    return F.interpolate(volume[None, None], shape, mode="trilinear", align_corners=corners)[0, 0]


def _unlike(cells: Tensor, size: list[float], patch: int, step: int, neighbours: int) -> Iterator[tuple[float, Tensor]]:
    """The mean distance of each patch to those that are most like it, last patch first, and how much is done."""
    padded = F.pad(cells[None, None], (patch // 2,) * 6, mode="replicate")[0, 0]
    windows = padded.unfold(0, patch, step).unfold(1, patch, step).unfold(2, patch, step)
    i, j, k = windows.shape[:3]
    patches = windows.reshape(-1, patch**3)
    n = len(patches)
    nearest = min(neighbours, n - 1)
    if nearest < 1:
        yield 1.0, torch.zeros_like(patches[:, 0])
        return
    squares = patches.pow(2).sum(1)
    # 1 / (1 + c d)^2 by offset; those of one patch to all others are a block, and the last patch has the first.
    offsets = [
        torch.arange(1 - m, m, dtype=cells.dtype, device=cells.device) * s * step
        for m, s in zip((i, j, k), size, strict=True)
    ]
    a, b, c = torch.meshgrid(*offsets, indexing="ij")
    near = (1 + APART * (a**2 + b**2 + c**2).sqrt()).pow(-2)
    blocks = near.unfold(0, i, 1).unfold(1, j, 1).unfold(2, k, 1)
    backwards, its_squares = patches.flip(0), squares.flip(0)[:, None]
    rows = max(1, CHUNK // (k * n))
    for u in range(i):
        for v in range(0, j, rows):
            some = slice((u * j + v) * k, (u * j + min(v + rows, j)) * k)
            d = torch.addmm(squares, backwards[some], patches.T, alpha=-2).add_(its_squares[some]).clamp_(min=0)
            weights = blocks[u, v : v + rows]
            d.view(weights.shape).mul_(weights)
            places = torch.arange(some.start, some.stop, device=d.device)
            d[places - some.start, n - 1 - places] = torch.inf  # itself
            least = d.topk(nearest, dim=1, largest=False, sorted=False).values
            yield some.stop / n, (least / patch**3).sqrt_().mean(1)


def _distance(mask: Tensor, size: list[float], like: Tensor) -> Tensor:
    """The distance to the nearest True cell, exact: the least square, one axis after the other."""
    squared = torch.where(mask, 0.0, torch.inf).to(like)
    for axis, edge in enumerate(size):
        along = torch.arange(mask.shape[axis], dtype=squared.dtype, device=squared.device) * edge
        lines = squared.movedim(axis, -1)
        squared = torch.stack([(lines + (along - at) ** 2).amin(-1) for at in along], -1).movedim(-1, axis)
    return squared.sqrt()
