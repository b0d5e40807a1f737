"""DeepLIFT: the difference in score to a baseline, shared among the voxels by what their difference did."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from methods3d.baselines import flat_tissue
from methods3d.method import Method, Relevance, setting
from methods3d.propagate import unruled
from methods3d.rules.rescale import Rescale
from methods3d.types import Cost, Explainable, Progress, Target, Volume5d

__all__ = ["DeepLIFT"]


@dataclass(frozen=True, kw_only=True)
class DeepLIFT(Method):
    """Each voxel's share in how far the scan's score lies from a baseline's; sums to that difference."""

    name: ClassVar[str] = "deeplift"
    source: ClassVar[str] = "Shrikumar, Greenside, Kundaje 2017, eq. 1 to 3 and sec. 3.5.2 (rescale rule)"

    baseline: float | None = setting(
        None, "value that stands for 'nothing there', on the model's intensity scale; none: flat tissue, air as it is"
    )

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """(x - x0) * multipliers; the gap is T(x) - T(x0) - sum.

        The default x0 is flat tissue: at zero, networks with instance norm are singular (they undo the scaling of
        the whole scan), and so are the multipliers.
        """
        x0 = flat_tissue(x, model.info.air) if self.baseline is None else torch.full_like(x, self.baseline)
        # Once: both scores have to be of the same region or class.
        bound, scores = model.bind(x, target)
        found = model.gradient(x, bound, rules=Rescale(), reference=x0, progress=progress)
        values = (x - x0) * found.values
        gap = scores - model.scores(x0, bound) - values.flatten(1).sum(1)
        return Relevance(values, scores, extensive=True, gap=gap, warnings=unruled(found.uncovered))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Both scores, a pass over the scan and one over the baseline; one back."""
        n = model.passes(shape)
        return Cost(forward=4 * n, backward=n)
