"""Products of two activations: attention, squeeze-and-excitation, attention gates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from methods3d.functions import carried, carries
from methods3d.rewriting import Rewriting
from methods3d.rules.activations import activation, worked_in_place
from methods3d.rules.weighted import exactly

__all__ = ["AttnLRP", "gate", "product", "quotient", "scaled_dot_product_attention", "softmax"]


@dataclass(frozen=True)
class AttnLRP:
    """Attention's weights and gates carry relevance too (Achtibat et al. 2024).

    softmax by its first-order expansion, R_i = x_i (R_i - y_i sum_j R_j) (prop. 3.1), whose constant term
    is booked under "softmax"; both matrix products shared evenly (prop. 3.3); a gate's relevance goes to
    what opens it (prop. 3.2), except for f(0), which is booked.
    """

    name: ClassVar[str] = "attnlrp"
    kinds: ClassVar[frozenset[str]] = frozenset({"softmax", "gate"})


def product(mode: Rewriting, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Each of the n factors gets an n-th of the relevance (Achtibat et al. 2024, prop. 3.3)."""
    n = carried((*args, *kwargs.values()))
    if n < 2:
        return NotImplemented  # a product with a constant is linear
    y = func(*args, **kwargs)
    out = y / n + (y - y / n).detach()
    return args[0].copy_(out) if worked_in_place(func, (), {}) else out


def quotient(mode: Rewriting, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """All of it belongs to what is divided; the divisor is a scale, and held fixed."""
    if len(args) < 2 or not carries(args[0]) or not carries(args[1]):
        return NotImplemented
    return func(args[0], args[1].detach(), *args[2:], **kwargs)


def gate(mode: Rewriting, func: Callable[..., Tensor], input: Tensor, *args: Any, fixed: bool, **kwargs: Any) -> Tensor:
    """Held fixed, or an activation like others."""
    if not fixed:
        return activation(mode, func, input, *args, **kwargs)
    in_place = worked_in_place(func, args, kwargs)
    opened = func(input.detach().clone(), *args, **kwargs)
    if in_place:
        input.copy_(opened)  # for whoever looks at the tensor rather than at what is returned
    return opened


def softmax(
    mode: Rewriting, func: Callable[..., Tensor], input: Tensor, *args: Any, fixed: bool, **kwargs: Any
) -> Tensor:
    """Held fixed, or expanded to first order."""
    y = func(input.detach(), *args, **kwargs)
    if fixed:
        return y
    dim = kwargs.get("dim", args[0] if args else -1)
    x = torch.where(y > 0, input.to(y.dtype), 0.0)  # what is masked out was minus infinity
    linear = y * (x - (y * x).sum(dim, keepdim=True))
    return exactly(y, linear + mode.constant("softmax", y - linear.detach()))


def scaled_dot_product_attention(
    mode: Rewriting,
    func: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    fixed: bool,
) -> Any:
    """Softmax(q k / sqrt(d)) v, as one function."""
    if fixed:
        return func(query.detach(), key.detach(), value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        return NotImplemented
    scores = product(mode, torch.matmul, query * (query.shape[-1] ** -0.5 if scale is None else scale), key.mT)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        barred = attn_mask.logical_not() if attn_mask.dtype == torch.bool else None
        scores = scores.masked_fill(barred, -torch.inf) if barred is not None else scores + attn_mask
    return product(mode, torch.matmul, softmax(mode, torch.softmax, scores, -1, fixed=False), value)
