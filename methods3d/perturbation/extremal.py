"""Extremal perturbation: the smooth mask of a given size that keeps the most of the score."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import BASELINES, BaselineLike, baseline
from methods3d.cells import interpolated
from methods3d.errors import ParameterError
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.smoothing import smoothed
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["ExtremalPerturbation"]

AREA_WEIGHT, GROWTH = 300.0, 1.0035  # of the penalty on the mask's size: at first, and a step, as in the paper
RATE = 0.05
TIE = 1e-3


@dataclass(frozen=True, kw_only=True)
class ExtremalPerturbation(OneByOne):
    """Which part of the scan, of a given size, keeps the most of the score when all else is blurred; from 0 to 1.

    The mask is fitted by gradients; its size is held by comparing its cells' sorted values with those of a mask of
    just that size, which is one cell at least. It is smooth because its cells are smoothed (the paper's maximum
    convolution would need a kernel at every voxel), so that a mask of one cell peaks below one. The score is told in
    shares of what is lost without any mask. Adam instead of momentum.

    When: the question is what suffices, and how large it has to be.
    """

    name: ClassVar[str] = "extremal-perturbation"
    title: ClassVar[str] = "Extremal perturbation"
    source: ClassVar[str] = "Fong, Patrick, Vedaldi 2019, arXiv:1910.08485, eq. 3 and 5, in 3D"

    area: float = setting(0.02, "size of the mask, as a share of the tissue", above=0, at_most=0.9)
    steps: int = setting(100, "steps of the fit", at_least=1)
    cell: float = setting(8.0, "edge of the mask's cells in mm (voxels where the spacing is unknown)", above=0)
    baseline: BaselineLike = setting("blur(8)", "what stands where the mask hides", choices=BASELINES, reads=baseline)

    def check(self, model: Explainable, x: Volume5d) -> None:
        """No cell larger than the scan."""
        extent = [n * s for n, s in zip(x.shape[2:], model.info.spacing or (1.0, 1.0, 1.0), strict=True)]
        if self.cell > max(extent):
            raise ParameterError(
                f"extremal-perturbation: cell is {self.cell:g} mm, but the scan is {max(extent):g} mm long: "
                "give less than that."
            )

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Mask m with the largest T(m x + (1 - m) x0) - w |sorted m - r|^2, r a mask of just the size."""
        spacing = model.info.spacing or (1.0, 1.0, 1.0)
        empty = model.reference(x, baseline(self.baseline))
        way = x - empty
        lost = float((score - model.scores(empty, target)).abs().clamp(min=torch.finfo(x.dtype).tiny))
        tissue = ((x - model.info.air).abs() > (x.max() - x.min()) / 20).any(1)[0]
        size = self.area * float(tissue.sum()) / tissue.numel()

        grid = [max(2, round(n * s / self.cell)) for n, s in zip(x.shape[2:], spacing, strict=True)]
        cells = torch.full((1, 1, *grid), 0.5, dtype=x.dtype, device=x.device, requires_grad=True)
        template = torch.zeros(cells.numel(), dtype=x.dtype, device=x.device)
        template[min(round((1 - size) * len(template)), len(template) - 1) :] = 1
        fit, weight = torch.optim.Adam([cells], lr=RATE), AREA_WEIGHT
        meter = Meter(progress, self.steps)

        def mask() -> Tensor:
            return smoothed(interpolated(cells, x.shape[2:]), self.cell / 2, spacing).clamp(0, 1)

        def slope() -> Tensor:
            """The score's derivative in the cells."""
            with torch.enable_grad():
                m = mask()
            (found,) = model.gradients([empty + m.detach() * way], target, progress=lambda *_: meter.add(0))
            return torch.autograd.grad(m, cells, (found.values * way).sum(1, keepdim=True))[0]

        for _ in range(self.steps):
            up = model.recalled(slope).to(cells)
            # Cells of the same value, as all are at first, are told apart by what they do for the score.
            places = (
                (cells.detach() + TIE * up / up.abs().max().clamp(min=torch.finfo(x.dtype).tiny)).flatten().argsort()
            )
            with torch.enable_grad():
                penalty = weight * (cells.flatten()[places] - template).pow(2).mean()
            (down,) = torch.autograd.grad(penalty, cells)
            cells.grad = down - up / lost
            fit.step()
            with torch.no_grad():
                cells.clamp_(0, 1)
            weight *= GROWTH
            meter.add(1, lambda: mask().detach())
        with torch.no_grad():
            values = mask()
        kept = model.scores(empty + values * way, target)
        return Relevance(values, score, extensive=False, chosen={"score of what is kept": float(f"{float(kept):.6g}")})

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward and backward a step, and the scores of the scan, of nothing and of what is kept."""
        n = model.passes(shape)
        return Cost(forward=n * (self.steps + 3), backward=n * self.steps)
