"""Integrated gradients: along the straight line from a baseline, and along the scan coming into focus."""

from dataclasses import dataclass
from typing import ClassVar

from methods3d.baselines import BASELINES, BaselineLike, baseline
from methods3d.errors import ParameterError
from methods3d.gradient.path import Line, Path, gathered_along
from methods3d.method import OneByOne, Relevance, setting
from methods3d.smoothing import sharpening, smoothed
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["BlurIG", "IntegratedGradients"]


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(OneByOne):
    """The gradient gathered along the straight path from a baseline to the scan; sums to the change in score.

    The path is split where one quadrature is not exact enough, until the gap is below the tolerance, or 12 times as
    many points are spent.

    When: a signed, complete map for any differentiable network. The answer is relative to the baseline: flat tissue
    asks what the anatomy's contents did, air what everything did. From zero or air, networks with instance norm are
    singular, as they undo the scaling of the whole scan.
    """

    name: ClassVar[str] = "integrated-gradients"
    title: ClassVar[str] = "Integrated gradients"
    source: ClassVar[str] = "Sundararajan, Taly, Yan 2017, eq. 1, by Gauss-Legendre quadrature"

    steps: int = setting(32, "points along the path, to begin with", at_least=1)
    tolerance: float = setting(
        0.02, "share of the change in score that may be missing; above it more points are taken (0: never)", at_least=0
    )
    baseline: BaselineLike = setting("tissue", "what stands for 'nothing there'", choices=BASELINES, reads=baseline)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """(x - x0) * integral of dT/dx along the path; the gap is T(x) - T(x0) - sum."""
        start = model.reference(x, baseline(self.baseline))
        found = gathered_along(
            Line(start, x), model, target, score, points=self.steps, tolerance=self.tolerance, progress=progress
        )
        return Relevance(found.values, score, extensive=True, gap=found.gap, chosen={"points": found.points})

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward and backward a point, and the path's ends; up to 12 times as many where the gap is too large."""
        n = model.passes(shape)
        return Cost(forward=n * (self.steps + 2), backward=n * self.steps)


@dataclass(frozen=True)
class _Focus(Path):
    """The scan coming into focus: smoothed by (1 - t)^2 sigma, in mm along every axis.

    Squared, because most of what a scan holds comes into focus last.
    """

    scan: Volume5d
    sigma: float
    spacing: tuple[float, float, float]

    def point(self, t: float) -> Volume5d:
        """Smoothed."""
        return smoothed(self.scan, (1 - t) ** 2 * self.sigma, self.spacing)

    def velocity(self, t: float) -> Volume5d:
        """How fast it sharpens."""
        return -2 * (1 - t) * self.sigma * sharpening(self.scan, (1 - t) ** 2 * self.sigma, self.spacing)


@dataclass(frozen=True, kw_only=True)
class BlurIG(OneByOne):
    """Gradients gathered while the scan comes into focus: no baseline value, and it tells at which scale.

    When: where every constant baseline is a value that means something, as in standardised MR. Sums to the change in
    score from the most blurred scan.
    """

    name: ClassVar[str] = "blur-ig"
    title: ClassVar[str] = "Blur IG"
    source: ClassVar[str] = (
        "Xu, Venugopalan, Sundararajan 2020, eq. 5, in 3D with sigma in mm; Gauss-Legendre in the root of sigma"
    )

    sigma: float = setting(20.0, "the strongest smoothing, in mm (voxels where the spacing is unknown)", above=0)
    steps: int = setting(32, "points along the path, to begin with", at_least=1)
    tolerance: float = setting(
        0.02, "share of the change in score that may be missing; above it more points are taken (0: never)", at_least=0
    )

    def check(self, model: Explainable, x: Volume5d) -> None:
        """No smoothing wider than the scan."""
        extent = max(n * s for n, s in zip(x.shape[2:], model.info.spacing or (1.0, 1.0, 1.0), strict=True))
        if self.sigma > extent:
            raise ParameterError(
                f"blur-ig: sigma is {self.sigma:g} mm, but the scan is {extent:g} mm long at most: give less than that."
            )

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Integral of dT/dx dx/dsigma; the gap is T(x) - T(most blurred) - sum."""
        spacing = model.info.spacing or (1.0, 1.0, 1.0)
        found = gathered_along(
            _Focus(x, self.sigma, spacing), model, target, score,
            points=self.steps, tolerance=self.tolerance, progress=progress,
        )  # fmt: skip
        return Relevance(found.values, score, extensive=True, gap=found.gap, chosen={"points": found.points})

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward and backward a point, and the path's ends; up to 12 times as many where the gap is too large."""
        n = model.passes(shape)
        return Cost(forward=n * (self.steps + 2), backward=n * self.steps)
