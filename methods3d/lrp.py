"""Layer-wise relevance propagation: the score, redistributed layer by layer to the voxels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from methods3d.method import Method, Relevance, setting
from methods3d.rules import GammaEpsilon
from methods3d.types import Cost, Explainable, Progress, Target, Volume5d

__all__ = ["LRP"]


@dataclass(frozen=True, kw_only=True)
class LRP(Method):
    """The score redistributed backwards, layer by layer; relevance plus what was absorbed is the score."""

    name: ClassVar[str] = "lrp"
    source: ClassVar[str] = "Bach et al. 2015; gamma rule: Montavon et al. 2019, eq. 10.5.2, for inputs of both signs"

    gamma: float = setting(0.25, "how much like-signed contributions are favoured; 0 is LRP-epsilon", at_least=0)
    epsilon: float = setting(1e-6, "stabiliser, relative to the layer's output", at_least=0)
    bias: Literal["spread", "absorb"] = setting(
        "spread", "biases go to the inputs by |contribution|, or are booked as absorbed"
    )

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """Input x gradient of the rewritten network; the gap is score - sum - absorbed."""
        rules = GammaEpsilon(gamma=self.gamma, epsilon=self.epsilon, bias=self.bias)
        scores, gradient, absorbed, uncovered = model.gradient(x, target, rules=rules, progress=progress)
        values = x * gradient
        gap = scores - values.flatten(1).sum(1) - sum(absorbed.values())
        warnings = (
            (f"no rule covers {', '.join(sorted(uncovered))}: plain gradients were used there",) if uncovered else ()
        )
        return Relevance(values, scores, extensive=True, absorbed=absorbed, gap=gap, warnings=warnings)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One pass each way; every linear function is run twice unless gamma is 0 and biases are absorbed."""
        n = model.passes(shape) * (2 if self.gamma or self.bias == "spread" else 1)
        return Cost(forward=n, backward=n)
