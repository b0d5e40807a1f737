"""Layer-wise relevance propagation: the score, redistributed layer by layer to the voxels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from methods3d.lrp.propagate import relevance_of
from methods3d.method import Method, Relevance, setting
from methods3d.rules import COMPOSITES, Propagation, composite
from methods3d.types import Cost, Explainable, Progress, Target, Volume5d

__all__ = ["LRP"]


@dataclass(frozen=True, kw_only=True)
class LRP(Method):
    """The score redistributed backwards, layer by layer; relevance plus what was absorbed is the score.

    When: a signed map in units of the score, sharp and quiet, at twice the price of a gradient; the default.
    """

    name: ClassVar[str] = "lrp"
    title: ClassVar[str] = "LRP"
    source: ClassVar[str] = "Bach et al. 2015; gamma rule: Montavon et al. 2019, eq. 10.5.2, for inputs of both signs"

    composite: str = setting(
        "gamma", "rules: a composite's name, or written out", choices=tuple(COMPOSITES), reads=composite
    )
    bias: Literal["spread", "absorb"] = setting(
        "spread", "biases and norm shifts go to the inputs by |contribution|, or are booked as absorbed"
    )

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """Input x gradient of the rewritten network; the gap is score - sum - absorbed."""
        return relevance_of(model, x, target, Propagation(composite(self.composite), self.bias), progress)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One pass each way; linear functions are run twice, unless every rule is epsilon and biases are absorbed."""
        n = model.passes(shape) * Propagation(composite(self.composite), self.bias).sums
        return Cost(forward=n, backward=n)
