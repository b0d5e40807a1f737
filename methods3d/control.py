"""Controls that every comparison needs: maps that know nothing of the model."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from methods3d.method import OneByOne, Relevance, setting
from methods3d.smoothing import FWHM, smoothed
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["Edges", "InputItself", "RandomMap"]


class _Control(OneByOne):
    """A map that the model has no part in but for its score."""

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """The map of the scan alone."""
        progress(1, 1)
        return Relevance(self.control(x, model.info.spacing or (1.0, 1.0, 1.0)), score, extensive=False)

    @abstractmethod
    def control(self, x: Volume5d, spacing: tuple[float, float, float]) -> Volume5d:
        """The map."""

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """The score alone."""
        return Cost(forward=model.passes(shape), backward=0)


@dataclass(frozen=True, kw_only=True)
class RandomMap(_Control):
    """Smooth noise: what a map is worth that knows nothing at all.

    When: always, beside any measure of a map.
    """

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random map"
    source: ClassVar[str] = "a control: Gaussian noise, smoothed"

    width: float = setting(8.0, "full width at half maximum of the smoothing in mm; 0: none", at_least=0)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def control(self, x: Volume5d, spacing: tuple[float, float, float]) -> Volume5d:
        """Noise of mean 0 and variance 1 before it is smoothed."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return smoothed(noise, self.width / FWHM, spacing) if self.width else noise


@dataclass(frozen=True, kw_only=True)
class Edges(_Control):
    """The scan's edges: a map that looks convincing, and knows nothing of the model.

    When: to see whether a method does more than an edge detector (Adebayo et al. 2018).
    """

    name: ClassVar[str] = "edges"
    title: ClassVar[str] = "Edges"
    source: ClassVar[str] = "a control: Adebayo et al. 2018, sec. 5.1; gradient magnitude of the scan, per mm"

    width: float = setting(4.0, "full width at half maximum of the smoothing before it, in mm; 0: none", at_least=0)

    def control(self, x: Volume5d, spacing: tuple[float, float, float]) -> Volume5d:
        """Length of the gradient by central differences."""
        smooth = smoothed(x, self.width / FWHM, spacing) if self.width else x
        total = torch.zeros_like(x)
        for axis, step in zip((2, 3, 4), spacing, strict=True):
            if x.shape[axis] > 1:
                total += torch.gradient(smooth, spacing=step, dim=axis)[0] ** 2
        return total.sqrt()


@dataclass(frozen=True, kw_only=True)
class InputItself(_Control):
    """The scan itself: where it is bright.

    When: to see whether a method does more than point at what is bright, as lesions in the samples are.
    """

    name: ClassVar[str] = "input"
    title: ClassVar[str] = "The scan itself"
    source: ClassVar[str] = "a control: M = x"

    def control(self, x: Volume5d, spacing: tuple[float, float, float]) -> Volume5d:
        """A copy."""
        return x.clone()
