"""Guided backpropagation and the deconvnet: gradients that only increases of the score pass through activations.

Not relevance: nothing is conserved, and input x gradient means nothing. A network's activations let through
another gradient; all other functions have their own, so that with g what arrives at y = f(x) there goes on

    gradient            f'(x) g
    guided              f'(x) max(0, g)
    deconvnet                 max(0, g)

to x. Known of both: the map looks much like the scan's edges, and hardly depends on the class (Adebayo et
al. 2018; Nie, Zhang, Patel 2018). The maps are not linear in the seed either, so that a scan in windows has the
sum of its windows' maps, which is not quite the map that it would have as a whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from methods3d.rewriting import Handler, Rewriting

__all__ = ["Deconvnet", "GuidedBackprop", "Guiding"]

# ReLU and what stands in its place: unbounded above or cut off there, near zero or linear below.
RELUS = (
    *("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "softplus"),
    *("threshold", "threshold_", "_threshold"),  # the last is what torch.nn.functional calls its own
    *("leaky_relu", "leaky_relu_", "prelu", "_prelu_kernel", "rrelu", "rrelu_", "rrelu_with_noise"),
    *("elu", "elu_", "selu", "selu_", "celu", "celu_"),
    *("silu", "silu_", "gelu", "gelu_", "mish", "mish_", "hardswish", "hardswish_"),
)


@dataclass(frozen=True)
class GuidedBackprop:
    """Guided backpropagation (Springenberg et al. 2015): f'(x) max(0, g); for ReLU [x > 0] max(0, g)."""

    def rewriting(self, batch: int) -> "Guiding":
        """The mode for one forward pass."""
        return Guiding(guided, batch)


@dataclass(frozen=True)
class Deconvnet:
    """The deconvolutional network (Zeiler & Fergus 2014, sec. 2.1): max(0, g), whatever x.

    Max pooling hands on to where the maximum was, as the paper's switches do and every gradient does.
    """

    def rewriting(self, batch: int) -> "Guiding":
        """The mode for one forward pass."""
        return Guiding(deconvolved, batch)


class Guiding(Rewriting):
    """One forward pass whose activations have another gradient; no account is kept.

    Without any such activation (`met` stays False) the map is the plain gradient.
    """

    def __init__(self, handler: Handler, batch: int) -> None:
        super().__init__(dict.fromkeys(RELUS, handler), batch)

    def covers(self, name: str, args: Any) -> bool:
        """Always: the plain gradient is meant. (A torch.autograd.Function may be an activation: it is noted.)"""
        return True

    def _book_constants(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """None: a gradient has no account."""
        return args, kwargs


def guided(mode: Guiding, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """f'(x) max(0, g): what arrives is cut before the activation's own derivative."""
    copy = input.clone()
    y = func(copy, *args, **kwargs)
    in_place = y is copy
    if y.requires_grad:  # not under no_grad
        y.register_hook(_increase)  # type: ignore[no-untyped-call]
    return input.copy_(y) if in_place else y


def deconvolved(mode: Guiding, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """max(0, g): the activation's value, on a graph that is the identity's."""
    copy = input.detach().clone()
    y = func(copy, *args, **kwargs)
    in_place = y is copy
    out = y + (input - input.detach())  # of a finite input exactly zero: the value stays
    if out.requires_grad:
        out.register_hook(_increase)  # type: ignore[no-untyped-call]
    return input.copy_(out) if in_place else out


def _increase(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)
