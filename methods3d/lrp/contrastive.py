"""Contrastive LRP: what speaks for a class more than for the others."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch

from methods3d.contrast import Contrast
from methods3d.lrp.propagate import relevance_of
from methods3d.method import Method, Relevance, setting
from methods3d.rules import COMPOSITES, Propagation, composite
from methods3d.types import Cost, Explainable, Mask, Output, Progress, Scores, Target, Volume5d

__all__ = ["CLRP"]


@dataclass(frozen=True, kw_only=True)
class CLRP(Method):
    """The relevance of the explained class, less that of the other classes: R - R_dual.

    LRP is linear in the relevance that it starts from: shares depend on activations, not on the target. So R of the
    class and R_dual of the others need one pass, with the others' relevance negative (see Contrast). Both halves
    start with the same sum; they are not scaled to arrive with the same one, as in the code of the SGLRP paper,
    whose maps also keep their sign (`positive` off).

    When: classes share evidence, and the question is what tells them apart.
    """

    name: ClassVar[str] = "clrp"
    title: ClassVar[str] = "Contrastive LRP"
    source: ClassVar[str] = (
        "Gu, Yang, Tresp 2019, arXiv:1812.02100: CLRP1; Iwana, Kuroki, Uchida 2019, arXiv:1908.04351: SGLRP"
    )

    composite: str = setting(
        "deep-taylor", "rules: a composite's name, or written out", choices=tuple(COMPOSITES), reads=composite
    )
    seeds: Literal["others", "softmax"] = setting(
        "others", "the other classes are held against this one alike (CLRP), or by their probability (SGLRP)"
    )
    positive: bool = setting(
        True, "only what speaks for the class more than for the others, as in CLRP; off keeps the sign"
    )
    bias: Literal["spread", "absorb"] = setting(
        "spread", "biases and norm shifts go to the inputs by |contribution|, or are booked as absorbed"
    )

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """max(0, R - R_dual), or R - R_dual, whose gap is 0 - sum - absorbed; `scores` are the target's own."""
        rules = Propagation(composite(self.composite), self.bias)
        heard = _Heard(Contrast(target, self.seeds))
        found = relevance_of(model, x, heard, rules, progress)
        found = replace(found, scores=torch.cat(heard.scores).to(x.device))
        if not self.positive:
            return found
        return replace(found, values=found.values.clamp(min=0), absorbed={}, gap=None)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """As LRP: one pass each way, linear functions run twice where a rule needs it."""
        n = model.passes(shape) * Propagation(composite(self.composite), self.bias).sums
        return Cost(forward=n, backward=n)


@dataclass(frozen=True, eq=False)
class _Heard(Target):
    """A contrast that writes down what it is a contrast of: the score needs no pass of its own.

    A model binds a target once for each group of samples, in their order.
    """

    contrast: Contrast
    scores: list[Scores] = field(default_factory=list)
    linear = False

    def bind(self, output: Output) -> Target:
        bound = self.contrast.bind(output)
        self.scores.append(bound.explained)
        return bound

    def sample(self, n: int, batch: int) -> Target:
        return _Heard(self.contrast.sample(n, batch), self.scores)

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        return self.contrast.support(shape)

    def __call__(self, output: Output) -> Scores:
        return self.contrast(output)
