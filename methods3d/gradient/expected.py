"""Expected gradients and gradient SHAP: integrated gradients over a set of baselines, by sampling."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import BaselineLike, baselines
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["SET", "ExpectedGradients", "GradientSHAP"]

SET = "tissue; blur(4); blur(8); blur(16)"


@dataclass(frozen=True, kw_only=True)
class ExpectedGradients(OneByOne):
    """Gradients at random places between random baselines and the scan, times the way.

    The map sums to the mean change in score.

    When: no single baseline is right. With other patients' scans as baselines ("scan:PATH; scan:PATH") it asks what
    makes this scan differ from them.
    """

    name: ClassVar[str] = "expected-gradients"
    title: ClassVar[str] = "Expected gradients"
    source: ClassVar[str] = "Erion, Janizek, Sturmfels, Lundberg, Lee 2021, eq. 3"

    samples: int = setting(64, "random places", at_least=1)
    baselines: BaselineLike | tuple[BaselineLike, ...] = setting(
        SET, "what may stand for 'nothing there', with ; between them", reads=baselines
    )
    seed: int = setting(0, "of the random numbers", at_least=0)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Mean of (x - x0) dT/dx at x0 + t (x - x0); the gap is T(x) - mean T(x0) - sum."""
        return _sampled(model, x, target, score, progress, self, noise=0.0)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward and backward a sample, the scan and each baseline."""
        n = model.passes(shape)
        return Cost(forward=n * (self.samples + 1 + len(baselines(self.baselines))), backward=n * self.samples)


@dataclass(frozen=True, kw_only=True)
class GradientSHAP(OneByOne):
    """Expected gradients of a scan with noise on it: smoother, and no longer quite complete.

    When: as expected gradients, where these are grainy.
    """

    name: ClassVar[str] = "gradient-shap"
    title: ClassVar[str] = "Gradient SHAP"
    source: ClassVar[str] = "Lundberg, Lee 2017; as sampled by the shap library's GradientExplainer: noise on the scan"

    samples: int = setting(64, "random places", at_least=1)
    noise: float = setting(0.02, "standard deviation of the noise, as a share of the scan's range", at_least=0)
    baselines: BaselineLike | tuple[BaselineLike, ...] = setting(
        SET, "what may stand for 'nothing there', with ; between them", reads=baselines
    )
    seed: int = setting(0, "of the random numbers", at_least=0)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Mean of (x + e - x0) dT/dx at x0 + t (x + e - x0); the gap is T(x) - mean T(x0) - sum."""
        return _sampled(model, x, target, score, progress, self, noise=self.noise)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward and backward a sample, the scan and each baseline."""
        n = model.passes(shape)
        return Cost(forward=n * (self.samples + 1 + len(baselines(self.baselines))), backward=n * self.samples)


def draws(x: Volume5d, samples: int, count: int, noise: float, seed: int) -> Iterator[tuple[int, float, Tensor]]:
    """Which of the baselines, where on the way, and the scan with its noise.

    Baselines take turns, and the places of each are one in each of as many equal parts of the way as it has turns, so
    that few samples are spread better than by chance alone.
    """
    generator = torch.Generator().manual_seed(seed)
    width = noise * float(x.max() - x.min())
    turns = [len(range(n, samples, count)) for n in range(count)]
    for n, chance in enumerate(torch.rand(samples, generator=generator).tolist()):
        t = (n // count + chance) / turns[n % count]
        noisy = x
        if width:
            noisy = x + width * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        yield n % count, t, noisy


def _sampled(
    model: Explainable,
    x: Volume5d,
    target: Target,
    score: Scores,
    progress: Progress,
    method: ExpectedGradients | GradientSHAP,
    noise: float,
) -> Relevance:
    blanks = [model.reference(x, one) for one in baselines(method.baselines)]
    meter = Meter(progress, method.samples)
    ways: list[Volume5d] = []

    def points() -> Iterator[Volume5d]:
        for n, t, end in draws(x, method.samples, len(blanks), noise, method.seed):
            ways.append(end - blanks[n])
            yield torch.lerp(blanks[n], end, t)

    total = torch.zeros_like(x)
    for gradient in model.gradients(points(), target, progress=lambda *_: meter.add(0)):
        total += ways.pop(0) * gradient.values
        meter.add()
    used = [blank for n, blank in enumerate(blanks) if n < method.samples]
    # Baselines that come up once more than others count as often as they came.
    turns = torch.tensor([len(range(n, method.samples, len(blanks))) for n in range(len(used))])
    bases = torch.cat([model.scores(blank, target) for blank in used])
    values = total / method.samples
    gap = score - (bases * turns.to(bases)).sum() / method.samples - values.sum()
    return Relevance(values, score, extensive=True, gap=gap)
