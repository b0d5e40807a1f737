"""Any method on noisy copies of the scan: the mean, the mean square, or the variance of its maps."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from methods3d.gradient.saliency import Saliency
from methods3d.meter import part_of
from methods3d.method import Method, OneByOne, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["SmoothGrad", "SquareGrad", "VarGrad"]


class _Noisy(OneByOne):
    """What the three have in common; they differ in what they make of the copies' maps.

    Copies are drawn one after the other and summed up as they come, so that memory does not grow with their number.
    """

    of: Method
    samples: int
    noise: float
    seed: int

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Mean and sum of squared deviations of the maps (Welford), of which `_map` makes one."""
        generator = torch.Generator().manual_seed(self.seed)
        width = self.noise * float(x.max() - x.min())
        mean = spread = torch.zeros(())
        inner: Relevance | None = None
        warned: dict[str, None] = {}
        for n in range(self.samples):
            noisy = x + width * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            inner = self.of.attribute(model, noisy, target, part_of(progress, n, self.samples))
            warned |= dict.fromkeys(inner.warnings)
            off = inner.values - mean
            mean = mean + off / (n + 1)
            spread = spread + off * (inner.values - mean)
        assert inner is not None  # there is at least one copy
        return self._map(replace(inner, scores=score, absorbed={}, gap=None, warnings=tuple(warned)), mean, spread)

    @abstractmethod
    def _map(self, inner: Relevance, mean: Volume5d, spread: Volume5d) -> Relevance:
        """The map, from the copies' mean and their sum of squared deviations."""

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """As many times as the method itself, and the score."""
        once = self.of.cost(model, shape)
        return Cost(self.samples * once.forward + model.passes(shape), self.samples * once.backward)


@dataclass(frozen=True, kw_only=True)
class SmoothGrad(_Noisy):
    """The mean of a method's maps over noisy copies of the scan: less grain.

    When: any map that is grainy. Of a method whose maps add up, the mean still does, to the mean score of the copies.
    """

    name: ClassVar[str] = "smoothgrad"
    title: ClassVar[str] = "SmoothGrad"
    source: ClassVar[str] = "Smilkov et al. 2017, arXiv:1706.03825, sec. 3"

    of: Method = setting(Saliency(absolute=False), "the method whose maps are averaged")
    samples: int = setting(25, "noisy copies", at_least=1)
    noise: float = setting(0.1, "standard deviation of the noise, as a share of the scan's range", above=0)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def _map(self, inner: Relevance, mean: Volume5d, spread: Volume5d) -> Relevance:
        """Mean of M(x + e) over noise e."""
        return replace(inner, values=mean)


@dataclass(frozen=True, kw_only=True)
class SquareGrad(_Noisy):
    """The mean square of a method's maps over noisy copies of the scan: where it is strong, whatever its sign.

    When: to see where, sharply, and not whether for or against.
    """

    name: ClassVar[str] = "squaregrad"
    title: ClassVar[str] = "SquareGrad"
    source: ClassVar[str] = "Hooker, Erhan, Kindermans, Kim 2019, arXiv:1806.10758, sec. 4 (SmoothGrad-Squared)"

    of: Method = setting(Saliency(absolute=False), "the method whose maps are squared")
    samples: int = setting(25, "noisy copies", at_least=1)
    noise: float = setting(0.1, "standard deviation of the noise, as a share of the scan's range", above=0)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def _map(self, inner: Relevance, mean: Volume5d, spread: Volume5d) -> Relevance:
        """Mean of M(x + e)^2 over noise e: its mean squared plus its variance."""
        return replace(inner, values=mean**2 + spread / self.samples, extensive=False)


@dataclass(frozen=True, kw_only=True)
class VarGrad(_Noisy):
    """The variance of a method's maps over noisy copies of the scan: where it hangs on details.

    When: to see where a map cannot be relied on, or as an edge-like saliency of its own.
    """

    name: ClassVar[str] = "vargrad"
    title: ClassVar[str] = "VarGrad"
    source: ClassVar[str] = "Adebayo et al. 2018, arXiv:1810.03307, sec. 2"

    of: Method = setting(Saliency(absolute=False), "the method whose maps vary")
    samples: int = setting(25, "noisy copies", at_least=2)
    noise: float = setting(0.1, "standard deviation of the noise, as a share of the scan's range", above=0)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def _map(self, inner: Relevance, mean: Volume5d, spread: Volume5d) -> Relevance:
        """Variance of M(x + e) over noise e."""
        return replace(inner, values=spread / self.samples, extensive=False)
