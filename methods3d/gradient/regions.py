"""XRAI: regions instead of voxels, ranked by the attribution in them."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.features import supervoxels
from methods3d.gradient.integrated import IntegratedGradients
from methods3d.meter import part_of
from methods3d.method import Method, OneByOne, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["XRAI"]

FINENESS = (1.0, 0.5, 0.25)  # of the supervoxels' number: regions of several sizes compete


@dataclass(frozen=True, kw_only=True)
class XRAI(OneByOne):
    """Supervoxels of several sizes, taken in the order of the attribution that each adds per voxel.

    A voxel has the mean attribution, over all channels, that its region added when it was taken: regions, not grain.

    When: a report has to name a region, or a grainy map has to be read.
    """

    name: ClassVar[str] = "xrai"
    title: ClassVar[str] = "XRAI"
    source: ClassVar[str] = "Kapishnikov, Bolukbasi, Viegas, Terry 2019, alg. 1, over SLIC supervoxels in mm"

    of: Method = setting(IntegratedGradients(), "the method whose map is summed over regions")
    count: int = setting(400, "supervoxels of the finest division, about", at_least=2, at_most=2000)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Greedily: the region with the largest mean attribution over its voxels that no region has yet."""
        inner = self.of.attribute(model, x, target, part_of(progress, 0, 2))
        attribution = inner.values.sum(1)[0]
        divisions = [supervoxels(x, max(2, round(share * self.count)), model.info)[0] for share in FINENESS]
        values = _ranked(attribution, divisions, part_of(progress, 1, 2))
        return replace(inner, values=values[None, None], scores=score, extensive=False, absorbed={}, gap=None)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """As the method that it sums up, and the score."""
        once = self.of.cost(model, shape)
        return Cost(once.forward + model.passes(shape), once.backward)


def _ranked(attribution: Tensor, divisions: list[Tensor], progress: Progress) -> Tensor:
    """Each voxel's gain: the mean attribution of its region's voxels that were left when the region was taken."""
    inside = torch.stack([d > 0 for d in divisions]).any(0)  # air is in no region
    worth = attribution[inside].double()
    rows, count = [], 0
    for division in divisions:  # regions of all divisions are numbered through; a voxel of none has number 0
        own = division[inside]
        rows.append(torch.where(own > 0, own + count, 0))
        count += int(division.max())
    members = [_by_region(row, count + 1) for row in rows]
    sums, sizes = worth.new_zeros(count + 1), worth.new_zeros(count + 1)
    for row in rows:
        sums.index_add_(0, row, worth)
        sizes.index_add_(0, row, torch.ones_like(worth))
    sizes[0] = 0
    gains, left = torch.zeros_like(worth), torch.ones_like(worth, dtype=torch.bool)
    while bool((sizes > 0).any()):
        best = int(torch.where(sizes > 0, sums / sizes.clamp(min=1), -torch.inf).argmax())
        voxels = torch.cat([row[best] for row in members])
        taken = voxels[left[voxels]]
        gains[taken] = sums[best] / sizes[best]
        left[taken] = False
        for row in rows:
            sums.index_add_(0, row[taken], -worth[taken])
            sizes.index_add_(0, row[taken], -torch.ones_like(worth[taken]))
        sizes[0] = sizes[best] = 0
        progress(int(left.logical_not().sum()), len(left))
    values = torch.zeros_like(attribution)
    values[inside] = gains.to(values)
    return values


def _by_region(row: Tensor, count: int) -> tuple[Tensor, ...]:
    """The voxels of each region."""
    return torch.split(row.argsort(stable=True), torch.bincount(row, minlength=count).tolist())
