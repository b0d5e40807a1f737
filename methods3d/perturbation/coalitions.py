"""What features are worth together: LIME, KernelSHAP, Shapley sampling."""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import FILLINGS, BaselineLike, filler_of, filling
from methods3d.edits import edited_volume
from methods3d.features import FEATURES, FeaturesLike, Presence, features
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["LIME", "KernelSHAP", "ShapleySampling"]


class _Coalitions(OneByOne):
    """Scores of the scan with some of its features, and what they say of each feature."""

    features: FeaturesLike
    fill: BaselineLike
    shared = True  # whether a feature's value is shared by its voxels, so that the map adds up

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Each feature's value, over its voxels."""
        presence = Presence(x, model.info, features(self.features), filler_of(model, x, self.fill))
        rows = self.coalitions(presence.count)
        meter = Meter(progress, len(rows))
        base = model.scores(edited_volume(x, presence.edit(torch.zeros(presence.count))), target)
        found: list[Tensor] = []

        def so_far() -> Tensor:
            scores = torch.cat([score.new_zeros(0), *found]).double().cpu()
            values = self.values(rows[: len(scores)].double(), scores, float(base), float(score))
            return presence.spread(values, evenly=self.shared)

        for some in model.edited(x, target, (presence.edit(row) for row in rows)):
            found.append(some)
            meter.add(len(some), so_far)
        values = so_far()
        few = len(rows) < presence.count
        return Relevance(
            values,
            score,
            extensive=self.shared,
            gap=score - base - values.sum() if self.shared else None,
            warnings=(f"{len(rows)} samples say little of {presence.count} features: take more",) if few else (),
            chosen={"count": presence.count},
        )

    @abstractmethod
    def coalitions(self, count: int) -> Tensor:
        """Which features are present in which sample, (n, count) of 0 and 1."""

    @abstractmethod
    def values(self, rows: Tensor, scores: Tensor, base: float, score: float) -> Tensor:
        """What each feature is worth (count,), from the first samples' scores, and those without and with all."""


@dataclass(frozen=True, kw_only=True)
class LIME(_Coalitions):
    """A linear model of the score, fitted to scans some of whose features are gone; near the whole scan it counts most.

    When: to see which regions tip a classifier, with few of them. Values are per region, not per voxel.
    """

    name: ClassVar[str] = "lime"
    title: ClassVar[str] = "LIME"
    source: ClassVar[str] = (
        "Ribeiro, Singh, Guestrin 2016, eq. 1 and sec. 3.4 (cosine distance), ridge instead of lasso"
    )
    shared = False

    features: FeaturesLike = setting("supervoxels(100)", "what is taken out", choices=FEATURES, reads=features)
    samples: int = setting(500, "random selections of features", at_least=2)
    width: float = setting(0.25, "of the kernel, in cosine distance from the whole scan", above=0)
    ridge: float = setting(1.0, "penalty on the squared weights", at_least=0)
    fill: BaselineLike = setting("tissue", "what takes their place", choices=FILLINGS, reads=filling)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def coalitions(self, count: int) -> Tensor:
        """Each feature present or not, by the toss of a coin; the whole scan first."""
        rows = torch.rand(self.samples, count, generator=torch.Generator().manual_seed(self.seed)).round()
        rows[0] = 1
        return rows

    def values(self, rows: Tensor, scores: Tensor, base: float, score: float) -> Tensor:
        """Weights of argmin sum exp(-d^2 / width^2) (T - w z - w0)^2 + ridge |w|^2."""
        present = rows.sum(1)
        distance = 1 - (present / rows.shape[1]).sqrt()  # cosine of the angle with the vector of ones
        weight = torch.exp(-(distance**2) / self.width**2)
        mean_z, mean_t = (weight @ rows) / weight.sum(), (weight @ scores) / weight.sum()
        z, t = rows - mean_z, scores - mean_t  # the intercept is not penalised
        matrix = (z * weight[:, None]).T @ z + self.ridge * torch.eye(rows.shape[1], dtype=z.dtype)
        found: Tensor = torch.linalg.lstsq(matrix, (z * weight[:, None]).T @ t[:, None], driver="gelsd").solution
        return found[:, 0]

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A prediction for every selection, without any feature, and the score."""
        return Cost(forward=model.passes(shape) * (3 + self.samples), backward=0)


@dataclass(frozen=True, kw_only=True)
class KernelSHAP(_Coalitions):
    """Shapley values by the weighted regression that they solve; they add up to the change in score exactly.

    Where all selections of features are no more than the samples, all are run once, and the values are exact.

    When: fair shares of regions or sequences, interactions included.
    """

    name: ClassVar[str] = "kernel-shap"
    title: ClassVar[str] = "KernelSHAP"
    source: ClassVar[str] = "Lundberg, Lee 2017, theorem 2; paired samples: Covert, Lee 2021, sec. 4.1"

    features: FeaturesLike = setting("supervoxels(50)", "what is taken out", choices=FEATURES, reads=features)
    samples: int = setting(512, "random selections of features", at_least=2)
    fill: BaselineLike = setting("tissue", "what takes their place", choices=FILLINGS, reads=filling)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def coalitions(self, count: int) -> Tensor:
        """Sizes by the Shapley kernel, members at random, each with its complement; or all there are."""
        if self._all(count):
            return torch.tensor([*product((0.0, 1.0), repeat=count)])[1:-1].reshape(-1, count)
        generator = torch.Generator().manual_seed(self.seed)
        sizes = torch.arange(1, count, dtype=torch.float64)
        chances = 1 / (sizes * (count - sizes))  # of a size; members of one size are equally likely
        drawn = 1 + torch.multinomial(chances, -(-self.samples // 2), replacement=True, generator=generator)
        rows = torch.zeros(len(drawn), count)
        for row, size in zip(rows, drawn.tolist(), strict=True):
            row[torch.randperm(count, generator=generator)[:size]] = 1
        return torch.stack([rows, 1 - rows], 1).reshape(-1, count)[: self.samples]

    def values(self, rows: Tensor, scores: Tensor, base: float, score: float) -> Tensor:
        """argmin sum k(z) (T - base - w z)^2 with sum w = score - base: the last weight is what the others leave."""
        count, change = rows.shape[1], score - base
        if count == 1:
            return torch.tensor([change], dtype=torch.float64)
        weight = torch.ones(len(rows), dtype=torch.float64)  # drawn by the kernel, they count alike
        if self._all(count):
            size = rows.sum(1)
            choices = torch.exp(
                torch.lgamma(torch.tensor(count + 1.0)) - torch.lgamma(size + 1) - torch.lgamma(count - size + 1)
            )
            weight = (count - 1) / (choices.double() * size * (count - size))
        root = weight.sqrt()[:, None]
        z = (rows[:, :-1] - rows[:, -1:]) * root
        t = (scores - base - rows[:, -1] * change)[:, None] * root
        first = torch.linalg.lstsq(z, t, driver="gelsd").solution[:, 0]
        return torch.cat([first, change - first.sum()[None]])

    def _all(self, count: int) -> bool:
        """Whether all selections can be run."""
        return count < 20 and 2**count - 2 <= self.samples

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A prediction for every selection, without any feature, and the score."""
        return Cost(forward=model.passes(shape) * (3 + self.samples), backward=0)


@dataclass(frozen=True, kw_only=True)
class ShapleySampling(_Coalitions):
    """Shapley values by random orders: what the score gains when a feature joins those before it, on average.

    Orders come in pairs, one the other's reverse. The values add up to the change in score exactly.

    When: as KernelSHAP; each order is unbiased by itself, and more can be added at any time.
    """

    name: ClassVar[str] = "shapley-sampling"
    title: ClassVar[str] = "Shapley sampling"
    source: ClassVar[str] = "Castro, Gomez, Tejada 2009, sec. 3; Strumbelj, Kononenko 2010, alg. 1"

    features: FeaturesLike = setting("supervoxels(50)", "what is taken out", choices=FEATURES, reads=features)
    orders: int = setting(8, "random orders", at_least=1)
    fill: BaselineLike = setting("tissue", "what takes their place", choices=FILLINGS, reads=filling)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def coalitions(self, count: int) -> Tensor:
        """Those before each feature of each order, but for none and all."""
        rows = [torch.zeros(0, count)]
        for order in self._orders(count):
            place = order.argsort()
            rows += [(place < n).float()[None] for n in range(1, count)]
        return torch.cat(rows)

    def values(self, rows: Tensor, scores: Tensor, base: float, score: float) -> Tensor:
        """Mean gain over orders that are complete; where none is yet, of the gains that are known."""
        count = rows.shape[1]
        total, times = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for n, order in enumerate(self._orders(count)):
            known = scores[n * (count - 1) : (n + 1) * (count - 1)]
            complete = len(known) == count - 1
            if not complete and n:
                break
            steps = torch.cat([scores.new_tensor([base]), known, scores.new_tensor([score] if complete else [])])
            joined = order[: len(steps) - 1]
            total[joined] += steps.diff()
            times[joined] += 1
        return total / times.clamp(min=1)

    def _orders(self, count: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = [torch.randperm(count, generator=generator) for _ in range(-(-self.orders // 2))]
        return [order for one in drawn for order in (one, one.flip(0))][: self.orders]

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """For every order a prediction for each feature, without any, and the score."""
        count = features(self.features).about(shape, model.info)
        return Cost(forward=model.passes(shape) * (3 + self.orders * count), backward=0)
