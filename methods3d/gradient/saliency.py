"""Methods made of the input gradient alone: saliency, input x gradient."""

from dataclasses import dataclass
from typing import ClassVar

from methods3d.method import Method, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Target, Volume5d

__all__ = ["InputXGradient", "Saliency"]


@dataclass(frozen=True, kw_only=True)
class Saliency(Method):
    """How strongly the score reacts to each voxel: the gradient, or its magnitude.

    When: for a first look, and to see where a small change would matter most. It does not say what the score is made
    of, and is grainy.
    """

    name: ClassVar[str] = "saliency"
    title: ClassVar[str] = "Saliency"
    source: ClassVar[str] = "Simonyan, Vedaldi, Zisserman 2014, sec. 3: M = |dT/dx|"

    absolute: bool = setting(True, "magnitude only, as in the paper; off keeps the sign")

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """|dT/dx|."""
        scores, gradient, *_ = model.gradient(x, target, progress=progress)
        return Relevance(gradient.abs_() if self.absolute else gradient, scores, extensive=False)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward, one backward."""
        n = model.passes(shape)
        return Cost(forward=n, backward=n)


@dataclass(frozen=True, kw_only=True)
class InputXGradient(Method):
    """The first-order share of each voxel in the score: its value times the gradient.

    When: a cheap, signed map whose sum means something; for networks without biases it is complete.
    """

    name: ClassVar[str] = "input-x-gradient"
    title: ClassVar[str] = "Input × gradient"
    source: ClassVar[str] = "Shrikumar et al. 2016, arXiv:1605.01713: R = x dT/dx"

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """R = x dT/dx."""
        scores, gradient, *_ = model.gradient(x, target, progress=progress)
        return Relevance(gradient.mul_(x), scores, extensive=True)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward, one backward."""
        n = model.passes(shape)
        return Cost(forward=n, backward=n)
