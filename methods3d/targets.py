"""What is asked of a model: a class, a margin, a region of the segmentation, a regression value.

Networks with one logit have two classes: 1 scores the logit, 0 its negative.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from methods3d.errors import TargetError
from methods3d.types import Box, Mask, Output, Scores, Target

__all__ = ["ClassMargin", "ClassScore", "PredictedRegion", "RegionScore", "Regression", "Weighted"]


def class_count(output: Output) -> int:
    """Number of classes: one logit stands for two."""
    return max(2, output.shape[1])


def class_logit(output: Output, k: int) -> Tensor:
    """Channel k of the output, (b, *spatial); the signed logit for a one-logit network."""
    if output.shape[1] == 1:
        return output[:, 0] if k == 1 else -output[:, 0]
    return output[:, k]


def _check_class(k: int, output: Output) -> None:
    n = class_count(output)
    if k not in range(n):
        raise TargetError(f"Class {k} does not exist: the model has {n} classes; choose 0 to {n - 1}.")


def _check_vector(output: Output, target: str) -> None:
    if output.ndim != 2:
        raise TargetError(
            f"{target} needs one score per class, but the output is a volume of shape {tuple(output.shape)}: "
            "use PredictedRegion(k) for the voxels predicted as class k, or RegionScore(k, mask) for a given region."
        )


def _check_spatial(output: Output, target: str) -> None:
    if output.ndim != 5:
        raise TargetError(
            f"{target} needs a voxel-wise output (b, k, i, j, k), but the model puts out {tuple(output.shape)}: "
            "use ClassScore(k) or ClassMargin(k) for a classifier."
        )


def _as_logits(output: Output) -> Tensor:
    """(b, k) logits with k >= 2, whatever the network's form."""
    return torch.cat([-output, output], dim=1) if output.shape[1] == 1 else output


@dataclass(frozen=True)
class ClassScore(Target):
    """The logit of class k of a classifier; of the predicted class, sample by sample, if k is None."""

    k: int | None = None
    linear = True

    def bind(self, output: Output) -> Target:
        """Decide the predicted class."""
        _check_vector(output, "ClassScore")
        if self.k is None:
            return PickedClass(chosen=_as_logits(output).argmax(1), against=None)
        _check_class(self.k, output)
        return self

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """All voxels."""
        return None

    def __call__(self, output: Output) -> Scores:
        """The class's logit."""
        if self.k is None:
            return self.bind(output.detach())(output)
        return class_logit(output, self.k)


@dataclass(frozen=True)
class ClassMargin(Target):
    """How far the logit of class k lies above that of class `against` (the runner-up if None).

    k None means the predicted class. Both are decided once, on the clean scan, sample by sample.
    """

    k: int | None = None
    against: int | None = None
    linear = True

    def bind(self, output: Output) -> Target:
        """Decide the predicted class and the runner-up."""
        _check_vector(output, "ClassMargin")
        for c in (self.k, self.against):
            if c is not None:
                _check_class(c, output)
        if self.k is not None and self.k == self.against:
            raise TargetError(f"A margin needs two classes, but class {self.k} was given twice.")
        logits = _as_logits(output)
        rows = torch.arange(len(logits), device=logits.device)

        def best(but: Tensor) -> Tensor:
            rest = logits.clone()
            rest[rows, but] = -torch.inf
            return rest.argmax(1)

        given = {
            c: logits.new_full((len(logits),), c, dtype=torch.long) for c in (self.k, self.against) if c is not None
        }
        if self.k is not None:
            chosen = given[self.k]
        else:
            chosen = best(given[self.against]) if self.against is not None else logits.argmax(1)
        return PickedClass(chosen=chosen, against=given[self.against] if self.against is not None else best(chosen))

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """All voxels."""
        return None

    def __call__(self, output: Output) -> Scores:
        """The margin."""
        return self.bind(output.detach())(output)


@dataclass(frozen=True)
class PickedClass(Target):
    """ClassScore and ClassMargin once bound: the chosen class of each sample, less another's logit."""

    chosen: Tensor  # (b,) or (1,), which then serves every row
    against: Tensor | None
    linear = True

    def bind(self, output: Output) -> Target:
        return self

    def sample(self, n: int, batch: int) -> Target:
        if len(self.chosen) == 1 and (self.against is None or len(self.against) == 1):
            return self

        def only(c: Tensor) -> Tensor:
            return c[n : n + 1] if len(c) > 1 else c

        return PickedClass(only(self.chosen), None if self.against is None else only(self.against))

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        return None

    def __call__(self, output: Output) -> Scores:
        logits = _as_logits(output)

        def pick(c: Tensor) -> Tensor:
            return logits.gather(1, c.to(logits.device).expand(len(logits))[:, None])[:, 0]

        return pick(self.chosen) if self.against is None else pick(self.chosen) - pick(self.against)


@dataclass(frozen=True, eq=False)
class RegionScore(Target):
    """The mean logit of class k over a region of the segmentation: organ, lesion, border or voxel.

    Attributes
    ----------
    k : the class.
    mask : (i, j, k) bool on the model's grid, one region for all samples; or (b, i, j, k).
    voxels : of the region that the mean is taken over, if the mask is a part of it; None: the mask's own.
    """

    k: int
    mask: Tensor
    voxels: int | None = None
    linear = True

    def bind(self, output: Output) -> Target:
        """Check class and region against the output."""
        _check_spatial(output, "RegionScore")
        _check_class(self.k, output)
        mask = self.mask.bool()
        self._check_grid(tuple(output.shape[2:]))
        mask = mask if mask.ndim == 4 else mask[None]
        self._check_batch(len(output))
        self._check_filled()
        return replace(self, mask=mask)

    def sample(self, n: int, batch: int) -> Target:
        """The region of one sample."""
        self._check_batch(batch)
        return replace(self, mask=self.mask[n : n + 1]) if self.mask.ndim == 4 and len(self.mask) > 1 else self

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """The region; of all samples together, where each has its own."""
        self._check_grid(shape)
        self._check_filled()
        return self.mask.any(0) if self.mask.ndim == 4 else self.mask.bool()

    def within(self, box: Box) -> Target:
        """The mean's share of what lies in a box."""
        return RegionScore(self.k, self.mask[(..., *box)].bool(), self.voxels or self._count)

    @cached_property
    def _count(self) -> int:
        return int(self.mask.bool().sum())

    def _check_filled(self) -> None:
        """Of a part of a region, nothing is asked."""
        if self.voxels is None and not self.mask.flatten(-3).bool().any(-1).all():
            raise TargetError("The region is empty: give a mask with at least one voxel inside the model's view.")

    def _check_grid(self, shape: tuple[int, ...]) -> None:
        if self.mask.ndim not in (3, 4) or tuple(self.mask.shape[-3:]) != tuple(shape):
            raise TargetError(
                f"The region has shape {tuple(self.mask.shape)}, but the model's grid is {tuple(shape)}: "
                "give a mask (i, j, k) on the same grid, or (b, i, j, k)."
            )

    def _check_batch(self, batch: int) -> None:
        if self.mask.ndim == 4 and len(self.mask) not in (1, batch):
            raise TargetError(
                f"There are {len(self.mask)} regions for {batch} sample(s): give one for all, or one for each."
            )

    def __call__(self, output: Output) -> Scores:
        """Mean logit over the region."""
        mask = self.mask.to(output.device).bool()
        mask = (mask if mask.ndim == 4 else mask[None]).expand(len(output), -1, -1, -1)
        rows = zip(class_logit(output, self.k), mask, strict=True)
        # The region's voxels alone: weights for all of them would take as much memory as the scan.
        return torch.stack([logit[its].sum() / (self.voxels or its.sum()) for logit, its in rows])


@dataclass(frozen=True)
class PredictedRegion(Target):
    """The mean logit of class k over the voxels predicted as k.

    Attributes
    ----------
    k : the class.
    by : "argmax" (mutually exclusive classes), or the probability above which a voxel counts as k
        (overlapping classes: each channel's own sigmoid).
    """

    k: int
    by: Literal["argmax"] | float = "argmax"
    linear = True

    def bind(self, output: Output) -> Target:
        """Decide the region, once, on the clean prediction."""
        _check_spatial(output, "PredictedRegion")
        _check_class(self.k, output)
        if self.by != "argmax" and not (isinstance(self.by, int | float) and 0 <= self.by < 1):
            raise TargetError(
                f"A region is predicted by 'argmax' or above a probability in [0, 1), not by {self.by!r}."
            )
        logit = class_logit(output, self.k)
        if self.by != "argmax":
            mask = torch.sigmoid(logit) > self.by
        elif output.shape[1] == 1:
            mask = logit > 0
        else:
            mask = output.argmax(1) == self.k
        if not mask.flatten(1).any(1).all():
            raise TargetError(
                f"Class {self.k} is predicted in no voxel, so there is no region to explain: "
                "choose another class, or give a region of your own (RegionScore)."
            )
        return RegionScore(self.k, mask)

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """Unknown until bound."""
        return None

    def __call__(self, output: Output) -> Scores:
        """Mean logit over the region predicted in this very output."""
        return self.bind(output.detach())(output)


@dataclass(frozen=True)
class Regression(Target):
    """A regressed value k, measured from a reference: y_k - y0.

    Without a reference value, "why is it this large" has no answer (Letzgus et al., IEEE SPM 2022).
    """

    k: int = 0
    reference: float = 0.0
    linear = False  # affine: its value is not <dT/dY, Y> unless the reference is zero

    def bind(self, output: Output) -> Target:
        """Check that the value exists."""
        _check_vector(output, "Regression")
        n = output.shape[1]
        if self.k not in range(n):
            raise TargetError(
                f"Value {self.k} does not exist: the model regresses {n}; choose {'0' if n == 1 else f'0 to {n - 1}'}."
            )
        return self

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """All voxels."""
        return None

    def __call__(self, output: Output) -> Scores:
        """Distance from the reference."""
        return output[:, self.k] - self.reference


@dataclass(frozen=True, eq=False)
class Weighted(Target):
    """A weighted sum of outputs.

    Attributes
    ----------
    weights : (b or 1, n, *spatial), each output's.
    box : where the weights lie, if they are not for all voxels: others have none.
    """

    weights: Tensor
    box: Box | None = None
    linear = True

    def bind(self, output: Output) -> Target:
        """Bound already."""
        return self

    def sample(self, n: int, batch: int) -> Target:
        """One sample's weights."""
        return self if len(self.weights) == 1 else Weighted(self.weights[n : n + 1], self.box)

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """Voxels with a weight, of all samples together; all of a classifier's."""
        if self.weights.ndim != 5:
            return None
        weighted = (self.weights != 0).any(1).any(0)
        if self.box is None:
            return weighted
        mask = torch.zeros(shape, dtype=torch.bool, device=weighted.device)
        mask[self.box] = weighted
        return mask

    def within(self, box: Box) -> Target | None:
        """The weights in a box."""
        if self.weights.ndim != 5:
            return None
        if self.box is None:
            return Weighted(self.weights[(slice(None), slice(None), *box)])
        own, there = [], []  # what both boxes have, in that of the weights and in the other
        for mine, other in zip(self.box, box, strict=True):
            first, last = other.start or 0, mine.stop if other.stop is None else other.stop
            start, stop = max(mine.start, first), min(mine.stop, last)
            if start >= stop:
                return Weighted(self.weights[:, :, :0, :0, :0], (slice(0, 0),) * 3)
            own.append(slice(start - mine.start, stop - mine.start))
            there.append(slice(start - first, stop - first))
        return Weighted(self.weights[(slice(None), slice(None), *own)], (there[0], there[1], there[2]))

    def __call__(self, output: Output) -> Scores:
        """The weighted sum."""
        read = output if self.box is None else output[(slice(None), slice(None), *self.box)]
        return (read * self.weights.to(output)).flatten(1).sum(1)
