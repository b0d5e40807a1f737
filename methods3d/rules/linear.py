"""Rules for linear functions: linear layers, convolutions, transposed convolutions.

Notation: contributions z_ij = x_i w_ij, s_j = sum_i z_ij, y_j = s_j + b_j, positive and negative parts
P_j and N_j of s_j, a_j = P_j - N_j. Every rule shares the relevance R_j of an output among its inputs,
R_i = sum_j share_ij R_j. Inputs may have either sign. P and N cost one more linear function, whatever
the rule: with a_j = sum_i |x_i| |w_ij|, P = (s + a) / 2 and N = (s - a) / 2.

A share is written as terms (z_j, v_j): z_j is a sum of contributions with its graph, which hands on the
relevance of the value v_j; the values add up to y_j. Denominators that may cancel are stabilised by epsilon
times their root mean square, sample by sample, where the papers have an absolute epsilon; sums of one sign
need none.

Biases: the papers leave them their share; here they go to the inputs by |contribution| on request
(`spread`), so that nothing is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.errors import ParameterError
from methods3d.rules.weighted import Weighted

__all__ = ["Absolute", "AlphaBeta", "Epsilon", "Flat", "Gamma", "LinearRule", "WSquare", "ZBox", "ZPlus", "Zero"]

Terms = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LinearRule:
    """How a linear function's relevance is shared among its inputs."""

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]] = frozenset({"linear", "conv"})
    epsilon = 1e-6  # of the root mean square of the denominators; a field where it can be chosen
    one_sided: ClassVar[bool] = False  # some output may have nothing to hand its relevance to
    needs_voxels: ClassVar[bool] = False  # shares among voxels rather than among their values

    def terms(self, layer: Weighted) -> Terms:
        """The sums that hand on relevance, and the values that they stand for."""
        raise NotImplementedError


@dataclass(frozen=True)
class Zero(LinearRule):
    """LRP-0: share_ij = z_ij / y_j (Bach et al. 2015, eq. 56)."""

    name: ClassVar[str] = "lrp-0"
    epsilon = 0.0

    def terms(self, layer: Weighted) -> Terms:
        """S + b."""
        return [(layer.with_bias(layer.s, layer.b), layer.y)]


@dataclass(frozen=True)
class Epsilon(LinearRule):
    """LRP-epsilon: share_ij = z_ij / (y_j + epsilon sign(y_j)) (Bach et al. 2015, eq. 58).

    epsilon is in root mean squares of the layer's output, not absolute.
    """

    name: ClassVar[str] = "epsilon"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse what would turn signs around."""
        _at_least_zero("epsilon", self.epsilon)

    def terms(self, layer: Weighted) -> Terms:
        """S + b."""
        return [(layer.with_bias(layer.s, layer.b), layer.y)]


@dataclass(frozen=True)
class Gamma(LinearRule):
    """Generalised gamma: like-signed contributions are favoured.

    share_ij = (z_ij + gamma max(0, z_ij)) / (y_j + gamma P_j) where y_j >= 0, and with min and N_j where
    it is negative (Montavon et al. 2019, eq. 10.5.2; for inputs of both signs Andeol et al. 2021). The
    denominator is never smaller than |y_j|, so that nothing explodes.
    """

    name: ClassVar[str] = "gamma"
    gamma: float = 0.25
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse what would turn signs around."""
        _at_least_zero("gamma", self.gamma)
        _at_least_zero("epsilon", self.epsilon)

    def terms(self, layer: Weighted) -> Terms:
        """S + b + gamma P, or N."""
        like = torch.where(layer.y >= 0, (layer.s + layer.a) / 2, (layer.s - layer.a) / 2)
        return [(layer.with_bias(layer.s, layer.b) + self.gamma * like, layer.y)]


@dataclass(frozen=True)
class ZPlus(LinearRule):
    """z+, which is alpha 1, beta 0: share_ij = max(0, z_ij) / P_j (Montavon et al. 2017, eq. 16).

    As generalised to inputs of both signs (Bach et al. 2015, eq. 60). A bias that is not spread keeps
    max(0, b_j) / (P_j + max(0, b_j)); a spread one leaves the shares as they are.
    """

    name: ClassVar[str] = "z-plus"
    one_sided: ClassVar[bool] = True
    epsilon = 0.0

    def terms(self, layer: Weighted) -> Terms:
        """P."""
        return [(_part(layer, layer.positive, 1), layer.y)]


@dataclass(frozen=True)
class AlphaBeta(LinearRule):
    """alpha-beta: share_ij = alpha max(0, z_ij) / P_j - beta min(0, z_ij) / N_j (Bach et al. 2015, eq. 60).

    alpha - beta = 1. Biases that are not spread are counted with the part of their own sign.
    """

    name: ClassVar[str] = "alpha-beta"
    one_sided: ClassVar[bool] = True
    epsilon = 0.0
    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what would not conserve."""
        if not (self.beta >= 0 and abs(self.alpha - self.beta - 1) < 1e-9):
            raise ParameterError(
                f"alpha-beta({self.alpha:g}, {self.beta:g}): give alpha - beta = 1 with beta at least 0."
            )

    def terms(self, layer: Weighted) -> Terms:
        """Alpha P and -beta N."""
        positive = (_part(layer, layer.positive, 1), self.alpha * layer.y)
        return [positive, (_part(layer, layer.negative, -1), -self.beta * layer.y)] if self.beta else [positive]


@dataclass(frozen=True)
class Absolute(LinearRule):
    """By magnitude: share_ij = |z_ij| / a_j (the norm of contributions; Vukadin et al. 2024, eq. 8)."""

    name: ClassVar[str] = "absolute"
    one_sided: ClassVar[bool] = True
    epsilon = 0.0

    def terms(self, layer: Weighted) -> Terms:
        """The sum of |z|."""
        a = layer.a
        if layer.b is not None and not layer.spread:
            a = a + layer.mode.constant("bias", layer.b.abs().expand(a.shape))
        return [(a, layer.y)]


@dataclass(frozen=True)
class WSquare(LinearRule):
    """w^2: share_ij = w_ij^2 / sum_i w_ij^2 (Montavon et al. 2017, eq. 12); for the layer that reads the scan."""

    name: ClassVar[str] = "w-square"
    one_sided: ClassVar[bool] = True
    epsilon = 0.0
    needs_voxels: ClassVar[bool] = True

    def terms(self, layer: Weighted) -> Terms:
        """The sum of w^2."""
        assert layer.voxels is not None  # the composite looked
        return [(layer.of(layer.voxels, layer.w**2), layer.y)]


@dataclass(frozen=True)
class Flat(LinearRule):
    """Flat: share_ij = 1 / (number of inputs of j) (Lapuschkin et al. 2017); for the layer that reads the scan."""

    name: ClassVar[str] = "flat"
    one_sided: ClassVar[bool] = True
    epsilon = 0.0
    needs_voxels: ClassVar[bool] = True

    def terms(self, layer: Weighted) -> Terms:
        """The number of inputs."""
        assert layer.voxels is not None  # the composite looked
        return [(layer.of(layer.voxels, torch.ones_like(layer.w)), layer.y)]


@dataclass(frozen=True)
class ZBox(LinearRule):
    """z^B: share_ij = (z_ij - l w+_ij - h w-_ij) / sum of the same (Montavon et al. 2017, eq. 20).

    For the layer that reads the scan. l and h are the lowest and highest value that a voxel may have:
    given, or the model's own intensity scaling, or else the scan's range.
    """

    name: ClassVar[str] = "z-box"
    one_sided: ClassVar[bool] = True
    needs_voxels: ClassVar[bool] = True
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Refuse a box that is none."""
        if self.low is None and self.high is None:
            return
        if self.low is None or self.high is None or not -float("inf") < self.low < self.high < float("inf"):
            raise ParameterError(
                f"z-box({self.low}, {self.high}): give the lowest and the highest value of a voxel, or neither."
            )

    def terms(self, layer: Weighted) -> Terms:
        """S - l w+ - h w-."""
        assert layer.voxels is not None and self.low is not None and self.high is not None  # the composite looked
        box = layer.of(self.low * layer.voxels, layer.w.clamp(min=0))
        box = box + layer.of(self.high * layer.voxels, layer.w.clamp(max=0))
        return [(layer.s - box, layer.y)]


def _part(layer: Weighted, part: Tensor, sign: int) -> Tensor:
    """One sign's contributions, and the biases of that sign where they are not spread."""
    if layer.b is None or layer.spread:
        return part
    same = sign * (sign * layer.b).clamp(min=0)
    return part + layer.mode.constant("bias", same.expand(part.shape))


def _at_least_zero(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ParameterError(f"{name} is {value:g}, but has to be at least 0.")
