"""DeepLIFT: the difference in score to a baseline, shared among the voxels by what their difference did."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from methods3d.baselines import BASELINES, Baseline, BaselineLike, baseline, baselines
from methods3d.gradient.expected import SET
from methods3d.meter import part_of
from methods3d.method import OneByOne, Relevance, setting
from methods3d.rules.rescale import Rescale
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["DeepLIFT", "DeepLIFTSHAP"]


@dataclass(frozen=True, kw_only=True)
class DeepLIFT(OneByOne):
    """Each voxel's share in how far the scan's score lies from a baseline's; sums to that difference.

    When: a complete map at the price of two gradients. Exact also on instance and group norm, SiLU and attention.
    """

    name: ClassVar[str] = "deeplift"
    title: ClassVar[str] = "DeepLIFT"
    source: ClassVar[str] = "Shrikumar, Greenside, Kundaje 2017, eq. 1 to 3 and sec. 3.5.2 (rescale rule)"

    baseline: BaselineLike = setting("tissue", "what stands for 'nothing there'", choices=BASELINES, reads=baseline)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """(x - x0) * multipliers; the gap is T(x) - T(x0) - sum.

        The default x0 is flat tissue: at zero, networks with instance norm are singular (they undo the scaling of
        the whole scan), and so are the multipliers.
        """
        return _compared(model, x, target, score, baseline(self.baseline), progress)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Both scores, a pass over the scan and one over the baseline; one back."""
        n = model.passes(shape)
        return Cost(forward=4 * n, backward=n)


@dataclass(frozen=True, kw_only=True)
class DeepLIFTSHAP(OneByOne):
    """The mean of DeepLIFT over several baselines; sums to the mean difference in score.

    When: no single baseline is right, and expected gradients take too long.
    """

    name: ClassVar[str] = "deeplift-shap"
    title: ClassVar[str] = "DeepLIFT SHAP"
    source: ClassVar[str] = "Lundberg, Lee 2017, sec. 4.2 (Deep SHAP)"

    baselines: BaselineLike | tuple[BaselineLike, ...] = setting(
        SET, "what may stand for 'nothing there', with ; between them", reads=baselines
    )

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """The mean over the baselines."""
        every = baselines(self.baselines)
        found = [
            _compared(model, x, target, score, one, part_of(progress, n, len(every))) for n, one in enumerate(every)
        ]
        gaps = [f.gap for f in found if f.gap is not None]
        return Relevance(
            sum((f.values for f in found), torch.zeros_like(x)) / len(found),
            score,
            extensive=True,
            gap=sum(gaps, torch.zeros_like(score)) / len(found),
            warnings=tuple(dict.fromkeys(w for f in found for w in f.warnings)),
        )

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """For each baseline as DeepLIFT; the scan's score once."""
        n, many = model.passes(shape), len(baselines(self.baselines))
        return Cost(forward=n * (3 * many + 1), backward=n * many)


def _compared(
    model: Explainable, x: Volume5d, target: Target, score: Scores, with_what: Baseline, progress: Progress
) -> Relevance:
    x0 = model.reference(x, with_what)
    found = model.gradient(x, target, rules=Rescale(), reference=x0, progress=progress)
    values = (x - x0) * found.values
    gap = score - model.scores(x0, target) - values.sum()
    return Relevance(values, score, extensive=True, gap=gap, warnings=found.warnings)
