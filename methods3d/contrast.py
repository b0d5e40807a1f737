"""A class set against the others, as the target from which contrastive methods start."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from methods3d.errors import TargetError
from methods3d.targets import Regression, Weighted
from methods3d.types import Box, Mask, Output, Scores, Target

__all__ = ["Contrast", "Contrasted"]


@dataclass(frozen=True)
class Contrast(Target):
    """A class against the others, for methods that start from the relevance r = (dT/dY) Y of the logits.

    With s = dT/dY of the target `of`, class k is explained where s_k > 0: the class of a score or of a region,
    the first class of a margin. With sums over the region's voxels, the n classes get

        others     R_k = sum s_k y_k            R_m = -R_k / (n - 1)       CLRP1 (Gu, Yang, Tresp 2019)
        softmax    R_k = sum s_k p_k (1 - p_k)  R_m = -sum s_k p_k p_m     SGLRP (Iwana, Kuroki, Uchida 2019)

    with p the softmax over the classes; where s is positive for several classes, theirs are added up. So the sum
    is 0: what one class gains the others lose. It is bound as the score sum_m w_m y_m with w held fixed.

    A classifier's weights are the papers', w = R / y. The papers have no regions: there a class's R_m is shared by
    the voxels in proportion to q |y_m|, where q is s_k (or s_k p_k p_m), so that w = sign(y_m) q R_m / sum q |y_m|.
    Voxel by voxel w = r / y would have no bound where a logit passes through zero, and in windows, whose
    predictions differ a little from the stitched one, such voxels would be all that is seen.

    A class all of whose logits are exactly zero can hand on nothing.

    Attributes
    ----------
    of : what is explained: a class score, a margin or a region.
    by : how the other classes share what is held against the explained one: alike, or by their probability.
    """

    of: Target
    by: Literal["others", "softmax"] = "others"
    linear = False  # until it is bound: the weights depend on the prediction

    def bind(self, output: Output) -> "Contrasted":
        """Decide each logit's relevance."""
        if isinstance(self.of, Regression):
            raise TargetError(
                "A contrast sets a class against the others, but a regressed value is none: explain the value itself."
            )
        bound = self.of.bind(output)
        if output.shape[1] < 2:
            raise TargetError("A contrast needs at least two logits, but the model has one: explain the score itself.")
        box = _read(bound, output)
        y, s = _slopes(bound, output, box)
        s = s.clamp(min=0)
        if not (s > 0).flatten(1).any(1).all():
            raise TargetError(
                f"{type(self.of).__name__} rises with no logit, so there is no class to set against the others: "
                "give a class or a region."
            )
        weights = _against_others(s, y) if self.by == "others" else _against_softmax(s, y)
        return Contrasted(weights, box, bound(output.detach()))

    def sample(self, n: int, batch: int) -> "Contrast":
        """The contrast of one sample's target."""
        return replace(self, of=self.of.sample(n, batch))

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """What the target itself reads."""
        return self.of.support(shape)

    def __call__(self, output: Output) -> Scores:
        """The relevance of this very output's logits, added up: about zero."""
        return self.bind(output.detach())(output)


@dataclass(frozen=True, eq=False)
class Contrasted(Weighted):
    """A Contrast once bound: the logits, weighted.

    Attributes
    ----------
    explained : (b,) the value of the target that the contrast is of.
    """

    explained: Scores = field(default_factory=lambda: torch.empty(0))

    def sample(self, n: int, batch: int) -> Target:
        """One sample's weights."""
        if len(self.weights) == 1:
            return self
        return Contrasted(self.weights[n : n + 1], self.box, self.explained[n : n + 1])


def _read(bound: Target, output: Output) -> Box | None:
    """The box of the voxels that a score reads, if it says so and is a sum over voxels: others need no weights."""
    if output.ndim != 5 or bound.sample(0, len(output)).within((slice(0, 1),) * 3) is None:
        return None
    mask = bound.support((output.shape[2], output.shape[3], output.shape[4]))
    if mask is None or not bool(mask.any()):
        return None
    i, j, k = (slice(int(at.min()), int(at.max()) + 1) for at in mask.nonzero(as_tuple=True))
    return i, j, k


def _slopes(bound: Target, output: Output, box: Box | None) -> tuple[Output, Tensor]:
    """The output in a box, and the score's derivative there."""
    if box is None:
        y, parts = output.detach(), [bound]
    else:
        y = output.detach()[(slice(None), slice(None), *box)]
        parts = [part for n in range(len(y)) if (part := bound.sample(n, len(y)).within(box)) is not None]
    found = []
    with torch.enable_grad():
        for n, part in enumerate(parts):
            leaf = (y if box is None else y[n : n + 1]).clone().requires_grad_()
            score = part(leaf * 1)
            slope = torch.autograd.grad(score.sum(), leaf)[0] if score.requires_grad else torch.zeros_like(leaf)
            found.append(slope)
    return y, torch.cat(found)


def _against_others(s: Tensor, y: Tensor) -> Tensor:
    """The explained class as it is; the others by q = s_k."""
    return s - _spread(_others(s), _others(_over_voxels(s * y)) / (y.shape[1] - 1), y)


def _against_softmax(s: Tensor, y: Tensor) -> Tensor:
    """Every class by q = |r|, where r_m = p_m (s_m (1 - p_m) - sum_{j != m} s_j p_j)."""
    p = y.softmax(1)
    top = p.argmax(1, keepdim=True)
    rest = (1 - p).scatter(1, top, p.scatter(1, top, 0.0).sum(1, keepdim=True))  # 1 - p is rounded where p is near one
    r = p * (s * rest - _others(s * p))
    return _spread(r.abs(), _over_voxels(r), y)


def _spread(q: Tensor, total: Tensor, y: Tensor) -> Tensor:
    """Weights w with sum w y = total for each class, where w y is in proportion to q |y|."""
    limits = torch.finfo(y.dtype)
    rounding = limits.eps * y.abs().flatten(1).amax(1).clamp(min=limits.eps).view(-1, *(1,) * (y.ndim - 1))
    return q * torch.where(y >= 0, 1.0, -1.0).to(y) * (total / (_over_voxels(q * (y.abs() + rounding)) + limits.tiny))


def _others(of: Tensor) -> Tensor:
    """What all other classes have together."""
    return of.sum(1, keepdim=True) - of


def _over_voxels(of: Tensor) -> Tensor:
    return of if of.ndim == 2 else of.sum((2, 3, 4), keepdim=True)
