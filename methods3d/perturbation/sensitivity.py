"""How much of the score's variation is a feature's: Sobol indices and HSIC."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import FILLINGS, BaselineLike, filler_of, filling
from methods3d.features import FEATURES, FeaturesLike, Presence, features
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["HSIC", "Sobol"]


@dataclass(frozen=True, kw_only=True)
class Sobol(OneByOne):
    """The share of the score's variance that a feature has a part in, alone and with others; no sign.

    Features fade in and out by amounts between 0 and 1, drawn from a scrambled Sobol sequence.

    When: interactions matter, and there is time for many predictions.
    """

    name: ClassVar[str] = "sobol"
    title: ClassVar[str] = "Sobol indices"
    source: ClassVar[str] = "Fel, Cadene, Chalvidal, Cord, Vigouroux, Serre 2021, eq. 3; Jansen's estimator"

    features: FeaturesLike = setting("supervoxels(50)", "what fades in and out", choices=FEATURES, reads=features)
    samples: int = setting(16, "amounts drawn; best a power of 2", at_least=2)
    fill: BaselineLike = setting("tissue", "what takes their place", choices=FILLINGS, reads=filling)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """S_f = mean of (T(A) - T(A with f's amounts from B))^2 / (2 Var T), the variance over A and B together."""
        presence = Presence(x, model.info, features(self.features), filler_of(model, x, self.fill))
        n, count = self.samples, presence.count
        a, b = self.designs(count)
        rows = [*a, *b]
        for f in range(count):
            changed = a.clone()
            changed[:, f] = b[:, f]
            rows += [*changed]

        def shares(scores: Tensor) -> Tensor:
            """Of the features whose scores are complete; the others have none yet."""
            variance = scores[: 2 * n].var().clamp(min=torch.finfo(scores.dtype).tiny)
            complete = scores[2 * n : len(scores) // n * n].view(-1, n)
            found = (scores[:n] - complete).pow(2).mean(1) / (2 * variance)
            return torch.cat([found, found.new_zeros(count - len(found))])

        values = _watched(model, x, target, presence, rows, progress, shares)
        return Relevance(values, score, extensive=False, chosen={"count": count})

    def designs(self, count: int) -> tuple[Tensor, Tensor]:
        """A and B: amounts (samples, count) each."""
        engine = torch.quasirandom.SobolEngine(2 * count, scramble=True, seed=self.seed)  # type: ignore[no-untyped-call]
        drawn = engine.draw(self.samples)
        return drawn[:, :count], drawn[:, count:]

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """So many predictions for every feature and two more, and the score."""
        count = features(self.features).about(shape, model.info)
        return Cost(forward=model.passes(shape) * (2 + self.samples * (count + 2)), backward=0)


@dataclass(frozen=True, kw_only=True)
class HSIC(OneByOne):
    """How far the score depends on whether a feature is there, by itself, in whatever way (Hilbert-Schmidt); no sign.

    When: as Sobol indices, with far fewer predictions: their number does not grow with that of the features.
    """

    name: ClassVar[str] = "hsic"
    title: ClassVar[str] = "HSIC"
    source: ClassVar[str] = "Novello, Fel, Vigouroux 2022, eq. 5 and 7: binary kernel for masks, Gaussian for scores"

    features: FeaturesLike = setting("supervoxels(100)", "what comes and goes", choices=FEATURES, reads=features)
    samples: int = setting(500, "random selections of features", at_least=2)
    fill: BaselineLike = setting("tissue", "what takes their place", choices=FILLINGS, reads=filling)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """tr(K H L H) / (n - 1)^2 with K = 1/2 - (z - z')^2, L Gaussian of the median distance of scores that differ.

        H takes means away, so that of K only 2 z z' is left: with centred z the trace is 2 z^T L z.
        """
        presence = Presence(x, model.info, features(self.features), filler_of(model, x, self.fill))
        rows = self.selections(presence.count)

        def dependence(scores: Tensor) -> Tensor:
            distance = (scores[:, None] - scores).abs()
            apart = distance[distance > 0]
            width = apart.median() if apart.numel() else scores.new_ones(())
            near = torch.exp(-(distance**2) / (2 * width**2))
            z = rows[: len(scores)].to(near)
            z = z - z.mean(0)
            return 2 * (z * (near @ z)).sum(0) / (len(scores) - 1) ** 2

        values = _watched(model, x, target, presence, [*rows], progress, dependence)
        return Relevance(values, score, extensive=False, chosen={"count": presence.count})

    def selections(self, count: int) -> Tensor:
        """Each feature there or not, by the toss of a coin: (samples, count)."""
        return torch.rand(self.samples, count, generator=torch.Generator().manual_seed(self.seed)).round()

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A prediction for every selection, and the score."""
        return Cost(forward=model.passes(shape) * (2 + self.samples), backward=0)


def _watched(
    model: Explainable,
    x: Volume5d,
    target: Target,
    presence: Presence,
    rows: list[Tensor],
    progress: Progress,
    values: Callable[[Tensor], Tensor],
) -> Volume5d:
    """What values(scores) says of each feature, once the scores of all rows of amounts are known; partly before."""
    meter, found = Meter(progress, len(rows)), torch.zeros(0, dtype=torch.float64)

    def so_far() -> Volume5d:
        return presence.spread(values(found))

    for some in model.edited(x, target, (presence.edit(row) for row in rows)):
        found = torch.cat([found, some.double().cpu()])
        meter.add(len(some), so_far if len(found) > 2 * len(rows) // (2 + presence.count) else None)
    return so_far()
