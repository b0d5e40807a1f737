"""Guided integrated gradients: a path that avoids where the network is noisy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import BASELINES, BaselineLike, baseline
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["GuidedIG"]

NEAR = 1e-9  # of the whole way, at which a step has arrived


@dataclass(frozen=True, kw_only=True)
class GuidedIG(OneByOne):
    """Gradients gathered along a path that moves the voxels first whose gradient is smallest.

    So less of the map is gathered where the score is steep for reasons that have nothing to do with the scan. The path
    keeps within a corridor around the straight one. Its sum is the change in score, up to the steps' coarseness.

    When: integrated gradients look like noise.
    """

    name: ClassVar[str] = "guided-ig"
    title: ClassVar[str] = "Guided IG"
    source: ClassVar[str] = "Kapishnikov et al. 2021, arXiv:2106.09788, alg. 1 with anchors (sec. 4.2) as the corridor"

    steps: int = setting(64, "steps of the path", at_least=1)
    fraction: float = setting(0.1, "share of the voxels that one move takes, at least", above=0, at_most=1)
    corridor: float = setting(
        0.05, "how far from the straight path a voxel may be, as a share of the way", at_least=0, at_most=1
    )
    baseline: BaselineLike = setting("tissue", "what stands for 'nothing there'", choices=BASELINES, reads=baseline)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Sum over moves of dT/dx times the move; the gap is T(x) - T(x0) - sum."""
        start = model.reference(x, baseline(self.baseline))
        way = x - start
        meter = Meter(progress, self.steps)
        place, values = start.clone(), torch.zeros_like(x)
        whole = float(way.abs().sum())
        for step in range(1, self.steps + 1):
            (gradient,) = model.gradients([place], target, progress=lambda *_: meter.add(0))
            before = place
            place = self._moved(place, gradient.values.abs(), start, way, step / self.steps, whole)
            values += (place - before) * gradient.values
            meter.add()
        gap = score - model.scores(start, target) - values.sum()
        return Relevance(values, score, extensive=True, gap=gap)

    def _moved(
        self, place: Volume5d, steep: Tensor, start: Volume5d, way: Volume5d, t: float, whole: float
    ) -> Volume5d:
        """Where the path is at t: (1 - t) of all that lies between baseline and scan is left to go."""
        first = start + max(t - self.corridor, 0.0) * way
        last = start + min(t + self.corridor, 1.0) * way
        behind = (place - start) * way.sign() < (first - start) * way.sign()
        place = torch.where(behind, first, place)
        steep = steep.clone()
        while True:
            left, wanted = float((start + way - place).abs().sum()), whole * (1 - t)
            if left - wanted <= NEAR * whole:
                return place
            room = (last - place).abs()
            steep[room <= NEAR * way.abs()] = torch.inf  # nothing to move
            some = steep <= _lowest(steep, self.fraction)
            some &= torch.isfinite(steep)
            gained = float((room * some).sum())
            if not gained:
                return place  # the corridor ends here
            share = min((left - wanted) / gained, 1.0)
            place = torch.where(some, torch.lerp(place, last, share), place)
            if share < 1:
                return place  # a part of the way was enough

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward and backward a step, and the two ends of the path."""
        n = model.passes(shape)
        return Cost(forward=n * (self.steps + 2), backward=n * self.steps)


def _lowest(values: Tensor, fraction: float) -> Tensor:
    """The value at or below which this fraction of all voxels lies, or all that are finite."""
    finite = values[torch.isfinite(values)]
    if not finite.numel():
        return values.new_tensor(-torch.inf)
    return finite.kthvalue(min(finite.numel(), max(1, round(fraction * values.numel())))).values
