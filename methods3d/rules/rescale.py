"""DeepLIFT's rescale rule: torch's nonlinear functions, each rewritten to have multipliers for its gradient.

Linear functions need no rule, and constants have no difference: nothing is booked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload

from methods3d.functions import carried, carries, flat, function_name
from methods3d.rewriting import Handler, Rewriting
from methods3d.rules.activations import ACTIVATIONS, GATES, worked_in_place
from methods3d.rules.comparison import BILINEAR, CHOICES, DIVISIONS, Comparing, variables
from methods3d.rules.multipliers import (
    Pair,
    following,
    inverse,
    largest,
    log_sum_exp,
    multiplied,
    ratio,
    rescaled,
    soft_max,
    standardised,
)
from methods3d.rules.pooling import POOLS

__all__ = ["Rescale"]


@dataclass(frozen=True)
class Rescale:
    """DeepLIFT's multipliers by the rescale rule."""

    def rewriting(self, batch: int) -> Rewriting:
        """The mode for a pass over the reference, and one over the scan."""
        return Comparing(HANDLERS, batch)


# --- functions of one number, and of degree two ---


def elementwise(mode: Comparing, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Any function of one number."""
    in_place = worked_in_place(func, args, kwargs)
    tensors, call = variables(func, args, kwargs)
    before = mode.matched(*tensors)
    if before is None or carried(tensors) != 1:
        return NotImplemented
    (i,) = (i for i, t in enumerate(tensors) if carries(t))

    def f(value: Tensor) -> Tensor:
        return call(*tensors[:i], value.clone() if in_place else value, *tensors[i + 1 :])

    out = rescaled(f, Pair(tensors[i], before[i])).now
    return tensors[i].copy_(out) if in_place else out


# What works in place, out of place.
PLAIN: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("mul_", "multiply_", "__imul__"), torch.mul),
    **dict.fromkeys(("div_", "divide_", "true_divide_", "__itruediv__"), torch.div),
}


def product(mode: Comparing, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Any function of degree two in all activations together: the derivative halfway."""
    name = function_name(func)
    tensors, call = variables(PLAIN.get(name, func), args, kwargs)
    if len(tensors) < 2:
        return NotImplemented  # a product with a constant is linear
    before = mode.matched(*tensors)
    if before is None or carried(tensors) < 2 or (name == "einsum" and carried(tensors) > 2):  # of degree three
        return NotImplemented
    y = call(*[t.detach() for t in tensors])
    out = following(y, call(*[Pair(t, t0).halfway if carries(t) else t for t, t0 in zip(tensors, before, strict=True)]))
    return args[0].copy_(out) if name in PLAIN else out


def quotient(mode: Comparing, func: Callable[..., Tensor], input: Tensor, other: Any, *args: Any, **kwargs: Any) -> Any:
    """A product with the inverse."""
    if not isinstance(other, Tensor) or isinstance(other, nn.Parameter) or any(flat((*args, *kwargs.values()))):
        return NotImplemented  # linear; rounded quotients are not
    before = mode.matched(input, other)
    if before is None or not carries(other):
        return NotImplemented
    a, b = Pair(input, before[0]), Pair(other, before[1])
    out = following(torch.div(input.detach(), other.detach()), a.halfway * inverse(b).halfway)
    return input.copy_(out) if function_name(func) in PLAIN else out


def choice(mode: Comparing, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Linear in what is chosen from, as long as the choice is the same in both passes."""
    mode.matched(*(a for a in flat((*args, *kwargs.values())) if isinstance(a, Tensor) and a.dtype == torch.bool))
    return NotImplemented


# --- functions of one tensor ---


def of_one(rewritten: Callable[..., Any]) -> Handler:
    """A handler, of what rewrites (its name, the function of the tensor alone, the tensor in both passes, the rest)."""

    def handle(mode: Comparing, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
        before = mode.compared(input)
        if before is None:
            return NotImplemented
        return rewritten(
            mode.site.function, lambda t: func(t, *args, **kwargs), Pair(input, before[0]), *args, **kwargs
        )

    return handle


@of_one
def variance(name: str, f: Callable[[Tensor], Tensor], x: Pair, *_: Any, **__: Any) -> Tensor:
    """Of degree two: the derivative halfway."""
    return following(f(x.now.detach()), f(x.halfway))


@of_one
def length(name: str, f: Callable[[Tensor], Tensor], x: Pair, *args: Any, **kwargs: Any) -> Any:
    """A Euclidean norm or standard deviation y is the root of what is of degree two: dy = d(y^2) / (y + y0)."""
    p = kwargs.get("p", kwargs.get("ord", args[0] if args else 2))
    if name != "std" and p not in (2, "fro", None):
        return NotImplemented
    y, y0, z = f(x.now.detach()), f(x.before), f(x.halfway)
    return following(y, ratio(2 * z.detach(), y + y0, 0.0) * z)


@of_one
def glu(name: str, f: Callable[[Tensor], Tensor], x: Pair, dim: int = -1) -> Tensor:
    """One half times the other's sigmoid."""
    a, b = (Pair(*parts) for parts in zip(*(t.chunk(2, dim) for t in x), strict=True))
    return following(f(x.now.detach()), multiplied(torch.mul, a, rescaled(torch.sigmoid, b)).now)


# --- the largest of several ---


@of_one
def max_pool(name: str, f: Callable[[Tensor], Any], x: Pair, *args: Any, **kwargs: Any) -> Any:
    """Max pooling, whatever its windows; the winners' places too, if they are asked for."""
    name = name.removesuffix("_with_indices")
    n = int(name.partition("pool")[2][0])
    args = args[: 1 if name.startswith("adaptive") else 5]  # what is left is whether places are asked for
    pool = partial(getattr(F, name), **kwargs | {"return_indices": True})
    (y, at), (y0, at0) = (pool(t, *args) for t in (x.now.detach(), x.before))
    rows = (t.flatten(-n) for t in (y, y0, at, at0))
    out = largest(x.through(lambda t: t.flatten(-n)), *rows).view_as(y)
    return (out, at) if isinstance(f(x.now.detach()), tuple) else out


@of_one
def extreme(name: str, f: Callable[[Tensor], Any], x: Pair, dim: Any = (), *_: Any, **__: Any) -> Any:
    """The maximum or minimum over dimensions; its place too, if it is asked for."""
    sign = -1 if "min" in name else 1
    dims = tuple(dim if isinstance(dim, list | tuple) else [dim]) or tuple(range(x.now.ndim))
    last = tuple(range(-len(dims), 0))
    rows = x.through(lambda t: sign * t.movedim(dims, last).flatten(-len(dims)))
    (y, at), (y0, at0) = (t.detach().max(-1, keepdim=True) for t in rows)
    found = f(x.now.detach())
    out = sign * largest(rows, y, y0, at, at0)
    if isinstance(found, Tensor):
        return out.reshape(found.shape)
    return type(found)((out.reshape(found.values.shape), found.indices))


def extreme_or_larger(mode: Comparing, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The maximum or minimum over dimensions, or of two: max(a, b) = b + relu(a - b), min(a, b) = b - relu(b - a)."""
    other = kwargs.get("other", args[0] if args else None)
    if not isinstance(other, Tensor):
        return extreme(mode, func, input, *args, **kwargs)
    before = mode.matched(input, other)
    if before is None:
        return NotImplemented
    sign = -1 if "min" in mode.site.function else 1
    gain = rescaled(torch.relu, Pair(sign * (input - other), sign * (before[0] - before[1]))).now
    return following(func(input.detach(), other.detach()), other + sign * gain)


# --- softmax ---


@of_one
def softmax(name: str, f: Callable[[Tensor], Tensor], x: Pair, dim: Any = None, *_: Any, **__: Any) -> Any:
    """Softmax, log-softmax and log-sum-exp."""
    if dim is None:
        return NotImplemented
    y = f(x.now.detach())
    x = x.through(lambda t: t.to(y.dtype))
    if name == "softmax":
        return following(y, soft_max(x, dim).now)
    s, finite = log_sum_exp(x, dim)
    return following(y, s.now.reshape(y.shape) if name == "logsumexp" else finite - s.now)


def attention(
    mode: Comparing,
    func: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q k / sqrt(d)) v, by its parts."""
    mask = [] if attn_mask is None else [attn_mask]
    before = mode.compared(query, key, value, *mask)
    if before is None:
        return NotImplemented
    y = func(*(t.detach() for t in (query, key, value)), attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    q, k, v, *masks = (Pair(t, t0) for t, t0 in zip((query, key, value, *mask), before, strict=True))
    if enable_gqa:
        k, v = (t.through(lambda t: t.repeat_interleave(query.shape[-3] // t.shape[-3], -3)) for t in (k, v))
    q = q.through(lambda t: t * (t.shape[-1] ** -0.5 if scale is None else scale))
    scores = multiplied(torch.matmul, q, k.through(lambda t: t.mT)).precise
    if is_causal:
        seen = torch.ones(scores.now.shape[-2:], dtype=torch.bool, device=query.device).tril()
        masks = [Pair(seen, seen)]
    for m in masks:
        scores = Pair(*map(_masked, scores, m))
    return following(y, multiplied(torch.matmul, soft_max(scores, -1), v).now)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


# --- norms that take statistics of their input ---


def normalised(mode: Comparing, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A norm by its parts; with running statistics it is linear."""
    name = mode.site.function
    if isinstance(func, OpOverload):  # an exported program's operators have another order
        given: dict[str, Any] = {a.name: a.default_value for a in func._schema.arguments}
    else:
        given = {p.name: p.default for p in signature(getattr(F, name)).parameters.values()}
    given |= dict(zip(given, (input, *args), strict=False)) | kwargs
    running = given.get("running_mean") is not None and not given.get("training", given.get("use_input_stats"))
    before = None if running else mode.compared(input)
    if before is None:
        return func(input, *args, **kwargs)

    shape, dims, weight, eps = tuple(input.shape), tuple(range(2, input.ndim)), given["weight"], given["eps"]
    if "normalized_shape" in given:
        dims = tuple(range(-len(given["normalized_shape"]), 0))
    elif weight is not None:
        weight = weight.view(1, -1, *(1,) * (input.ndim - 2))
    if name == "batch_norm":
        dims = (0, *dims)
    if name == "group_norm":
        shape, dims = (len(input), given["num_groups"], -1), (-1,)
    x = Pair(input, *before).precise.through(lambda t: t.reshape(shape))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    z = standardised(x, dims, eps, centred=name != "rms_norm").reshape(input.shape)
    return following(func(input.detach(), *args, **kwargs), z if weight is None else z * weight)


# --- which function is which ---

ELEMENTWISE = (
    *ACTIVATIONS,
    *GATES,
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "_prelu_kernel", "rrelu", "rrelu_", "relu6_"),
    *("abs", "abs_", "absolute", "clip_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_"),
    *("threshold_", "tanhshrink", "special_expit", "logit", "erf", "erfc", "sign", "round", "floor", "ceil", "trunc"),
    *("exp", "exp_", "exp2", "expm1", "log", "log_", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos"),
    *("atan", "arctan", "sinh", "cosh", "asinh", "atanh", "pow", "pow_", "float_power", "__pow__", "__rpow__"),
    *("square", "square_", "sqrt", "sqrt_", "rsqrt", "rsqrt_", "reciprocal", "reciprocal_", "__rdiv__"),
    "__rtruediv__",
)
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(BILINEAR, product),
    **dict.fromkeys(DIVISIONS, quotient),
    **dict.fromkeys((*POOLS, *(f"{name}_with_indices" for name in POOLS)), max_pool),
    **dict.fromkeys(("max", "amax", "maximum", "min", "amin", "minimum"), extreme_or_larger),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), softmax),
    **dict.fromkeys(CHOICES, choice),
    **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"), normalised),
    **dict.fromkeys(("norm", "linalg_vector_norm", "std"), length),
    "var": variance,
    "scaled_dot_product_attention": attention,
    "glu": glu,
}
