"""Methods made of the input gradient alone: saliency, input x gradient, integrated gradients."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from methods3d.baselines import flat_tissue
from methods3d.method import Method, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Target, Volume5d

__all__ = ["InputXGradient", "IntegratedGradients", "Saliency"]


@dataclass(frozen=True, kw_only=True)
class Saliency(Method):
    """How strongly the score reacts to each voxel: the gradient, or its magnitude."""

    name: ClassVar[str] = "saliency"
    source: ClassVar[str] = "Simonyan, Vedaldi, Zisserman 2014, sec. 3: M = |dT/dx|"

    absolute: bool = setting(True, "magnitude only, as in the paper; off keeps the sign")

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """|dT/dx|."""
        scores, gradient, *_ = model.gradient(x, target, progress=progress)
        return Relevance(gradient.abs() if self.absolute else gradient, scores, extensive=False)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward, one backward."""
        n = model.passes(shape)
        return Cost(forward=n, backward=n)


@dataclass(frozen=True, kw_only=True)
class InputXGradient(Method):
    """The first-order share of each voxel in the score: its value times the gradient."""

    name: ClassVar[str] = "input-x-gradient"
    source: ClassVar[str] = "Shrikumar et al. 2016, arXiv:1605.01713: R = x dT/dx"

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """X dT/dx."""
        scores, gradient, *_ = model.gradient(x, target, progress=progress)
        return Relevance(x * gradient, scores, extensive=True)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward, one backward."""
        n = model.passes(shape)
        return Cost(forward=n, backward=n)


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Method):
    """The gradient gathered along the straight path from a baseline to the scan; sums to the change in score."""

    name: ClassVar[str] = "integrated-gradients"
    source: ClassVar[str] = "Sundararajan, Taly, Yan 2017, eq. 1, by Gauss-Legendre quadrature"

    steps: int = setting(32, "points along the path", at_least=1)
    baseline: float | None = setting(
        None, "value that stands for 'nothing there', on the model's intensity scale; none: flat tissue, air as it is"
    )
    batch: int = setting(4, "points evaluated at once", at_least=1)

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """(x - x0) * integral of dT/dx along the path; the gap is T(x) - T(x0) - sum.

        The default x0 is flat tissue: from zero, networks with instance norm are singular (they undo the
        scaling of the whole scan, so that all of the change lies at the very start of the path).
        """
        # Nodes and weights of the integral over [0, 1]; no point lies on the (often singular) baseline itself.
        nodes, weights = (torch.as_tensor(v, dtype=x.dtype) / 2 for v in np.polynomial.legendre.leggauss(self.steps))
        nodes = nodes + 0.5
        values, scores, gaps = [], [], []
        for n in range(len(x)):
            end = x[n : n + 1]
            start = flat_tissue(end, model.info.air) if self.baseline is None else torch.full_like(end, self.baseline)
            # Once: a region that moved along the path would break the sum.
            bound, score = model.bind(end, target.sample(n, len(x)))
            mean = torch.zeros_like(end)
            for i in range(0, self.steps, self.batch):
                so_far = partial(progress, n * self.steps + i, len(x) * self.steps)
                t = nodes[i : i + self.batch].to(x.device).view(-1, 1, 1, 1, 1)
                w = weights[i : i + self.batch].to(x.device).view(-1, 1, 1, 1, 1)
                points = start + t * (end - start)
                # Windows done move no bar that counts steps, but a run can be cancelled there.
                found = model.gradient(points, bound, progress=lambda *_, report=so_far: report())
                mean += (w * found.values).sum(0, keepdim=True)
                progress(n * self.steps + min(i + self.batch, self.steps), len(x) * self.steps)
            values.append((end - start) * mean)
            scores.append(score)
            gaps.append(score - model.scores(start, bound) - values[-1].sum())
        return Relevance(torch.cat(values), torch.cat(scores), extensive=True, gap=torch.cat(gaps))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward and backward a step, and the two ends of the path."""
        n = model.passes(shape)
        return Cost(forward=n * (self.steps + 2), backward=n * self.steps)
