"""Activations and gates: the relevance of f(x) is x's."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods3d.rewriting import Rewriting
from methods3d.rules.weighted import exactly

__all__ = ["ACTIVATIONS", "GATES", "activation", "passed", "worked_in_place"]

# Of both signs or neither homogeneous: what they put out goes to what they were given.
ACTIVATIONS = (
    *("silu", "silu_", "gelu", "gelu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "mish", "mish_"),
    *("hardswish", "hardswish_", "hardtanh", "hardtanh_", "relu6", "clamp", "clamp_", "clip", "softplus"),
    *("tanh", "tanh_", "softsign", "softshrink", "hardshrink", "threshold", "_threshold", "logsigmoid", "log_sigmoid"),
)
# Between zero and one: they open and close what they are multiplied with.
GATES = ("sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_")


def worked_in_place(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call changes its input; takes the wish for it out of `kwargs`."""
    name = getattr(func, "__name__", "").partition(".")[0]
    named = name.startswith("__i") if name.endswith("__") else name.endswith("_")
    return named or any(a is True for a in (*args, kwargs.pop("inplace", False)))


def activation(mode: Rewriting, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """f(x) = x (f(x) / x): R_i = R_j."""
    in_place = worked_in_place(func, args, kwargs)
    x = input.detach()
    y = func(x.clone(), *args, **kwargs)
    out = passed(mode, input, y, at_zero=func(x.new_zeros(1), *args, **kwargs))
    return input.copy_(out) if in_place else out


def passed(mode: Rewriting, input: Tensor, y: Tensor, at_zero: Tensor | None = None) -> Tensor:
    """The value y, whose relevance passes to the input element by element.

    What f gives for nothing, f(0), is a constant; so is all of it where the input is zero.
    """
    x = input.detach()
    rest = x.new_zeros(1) if at_zero is None else at_zero
    limits = torch.finfo(x.dtype)
    # The difference to f(0) is rounded near zero.
    still = x.abs() < torch.where(rest == 0, limits.tiny, limits.eps**0.5)
    out = input * torch.where(still, 0.0, (y - rest) / torch.where(still, 1.0, x))
    return exactly(y, out + mode.constant("activation", y - out.detach()))
