"""Normalisation: the statistics' scale is held fixed, the centring is linear, the shift is spread or booked.

An eval batch norm's shift is the main leak of LRP. Spread, it goes by magnitude to the contributions that the
norm's input was made of, through sums, means and changes of layout, as if the norm had been folded into the
linear functions there; where these are not known it goes to the norm's own input.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods3d.rewriting import Rewriting
from methods3d.rules.activations import passed
from methods3d.rules.weighted import shifted

__all__ = ["NORMS", "Fixed", "Normalised", "Pass"]


@dataclass(frozen=True)
class Normalised:
    """One call of a norm: y = centred * scale + shift, whose scale depends on the input through its variance alone.

    Attributes
    ----------
    x : the input.
    centred : x less its mean, where the norm takes one of x itself; else x.
    scale, shift : what it is multiplied with and added to, without a graph; None where there is none.
    """

    x: Tensor
    centred: Tensor
    scale: Tensor
    shift: Tensor | None


@dataclass(frozen=True)
class Fixed:
    """What multiplies an activation is held fixed: a norm's scale, a gate, attention's weights (CP-LRP).

    Norms: Binder et al. 2016, sec. 3; gates: Arras et al. 2017; attention: Ali et al. 2022, eq. 9 to 12.
    """

    name: ClassVar[str] = "fixed"
    kinds: ClassVar[frozenset[str]] = frozenset({"norm", "softmax", "gate"})

    def normalised(self, mode: Rewriting, norm: Normalised, *, spread: bool) -> Tensor:
        """Centred and scaled, and the shift."""
        y = norm.centred * norm.scale
        if norm.shift is None:
            return y
        shift = norm.shift.to(y.dtype).expand(y.shape)
        if not spread:
            return y + mode.constant("norm", shift)
        return shifted(mode, y, shift, mode.reach_of(norm.x) * norm.scale.abs())


@dataclass(frozen=True)
class Pass:
    """Relevance passes through the norm as it is (identity rule: Achtibat et al. 2024, sec. 3.3.3)."""

    name: ClassVar[str] = "pass"
    kinds: ClassVar[frozenset[str]] = frozenset({"norm"})

    def normalised(self, mode: Rewriting, norm: Normalised, *, spread: bool) -> Tensor:
        """R_i = R_j."""
        y = norm.centred * norm.scale
        return passed(mode, norm.x, (y if norm.shift is None else y + norm.shift).detach())


# --- the norms themselves: from torch's arguments to centred, scale and shift ---


def _per_channel(value: Tensor | None, like: Tensor) -> Tensor | None:
    return None if value is None else value.view(1, -1, *(1,) * (like.ndim - 2))


def _centred(x: Tensor, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # a variance overflows half precision, as in torch's own
    scale = (x.detach().var(dims, unbiased=False, keepdim=True) + eps).rsqrt()
    return x - x.mean(dims, keepdim=True), scale


def _times(scale: Tensor, weight: Tensor | None) -> Tensor:
    return scale if weight is None else scale * weight


def _running(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Normalised:
    scale = _times((var + eps).rsqrt(), weight)
    shift = -mean * scale if bias is None else bias - mean * scale
    wide = [v.view(1, -1, *(1,) * (x.ndim - 2)) for v in (scale, shift)]
    return Normalised(x, x, *wide)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalised:
    """torch.nn.functional.batch_norm's arguments."""
    if not training and running_mean is not None and running_var is not None:
        return _running(input, running_mean, running_var, weight, bias, eps)
    centred, scale = _centred(input, (0, *range(2, input.ndim)), eps)
    return Normalised(input, centred, _times(scale, _per_channel(weight, input)), _per_channel(bias, input))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Normalised:
    """torch.nn.functional.instance_norm's arguments."""
    if not use_input_stats and running_mean is not None and running_var is not None:
        return _running(input, running_mean, running_var, weight, bias, eps)
    centred, scale = _centred(input, tuple(range(2, input.ndim)), eps)
    return Normalised(input, centred, _times(scale, _per_channel(weight, input)), _per_channel(bias, input))


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Normalised:
    """torch.nn.functional.group_norm's arguments."""
    grouped = input.reshape(len(input), num_groups, -1)
    centred, scale = _centred(grouped, (-1,), eps)
    scale = scale.expand(grouped.shape).reshape(input.shape)
    return Normalised(
        input, centred.reshape(input.shape), _times(scale, _per_channel(weight, input)), _per_channel(bias, input)
    )


def layer_norm(
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Normalised:
    """torch.nn.functional.layer_norm's arguments."""
    centred, scale = _centred(input, tuple(range(-len(normalized_shape), 0)), eps)
    return Normalised(input, centred, _times(scale, weight), bias)


def _operator(norm: Callable[..., Normalised]) -> Callable[..., Normalised]:
    """The same for an exported program, whose operators take weight and bias before the statistics."""

    def given(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        *rest: Any,
    ) -> Normalised:
        return norm(input, mean, var, weight, bias, *rest[:3])

    return given


NORMS: Mapping[str, Callable[..., Normalised]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
}
OPERATORS: Mapping[str, Callable[..., Normalised]] = {
    **NORMS,
    "batch_norm": _operator(batch_norm),
    "instance_norm": _operator(instance_norm),
}
