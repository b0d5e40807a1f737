"""DeepLIFT's rescale rule: what a change of the input did, rather than what an infinitesimal one would do.

Notation: x, y, ... in the pass over the scan, x0, y0, ... in the pass over the reference, dx = x - x0.
The multiplier m of an input is its contribution to a difference per unit of its own difference,
C = m dx. Multipliers chain like derivatives, and contributions add up to the difference in score
(Shrikumar, Greenside, Kundaje 2017, eq. 1 to 3). So each nonlinear function is rewritten, keeping its
value, to have as its gradient a multiplier with m dx = dy:

- functions of one number: m = dy / dx, the rescale rule (sec. 3.5.2);
- functions of degree two (products, matrix products, squares): the derivative halfway between x and x0,
  where m dx = dy exactly; it shares a product's cross terms evenly, as Shapley values do;
- the largest of several: dy goes to one winner;
- everything else by its parts: softmax is exp, a sum and log, a norm a mean square, a root and a product.

Linear functions need no rule, and constants have no difference: nothing is booked.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten, tree_unflatten

from methods3d.errors import UnsupportedModelError
from methods3d.functions import HOMOGENEOUS, PRODUCTS, QUOTIENTS, carried, carries, flat, function_name
from methods3d.rewriting import Handler, Rewriting
from methods3d.rules.activations import ACTIVATIONS, GATES, worked_in_place
from methods3d.rules.pooling import POOLS

__all__ = ["Rescale"]


@dataclass(frozen=True)
class Rescale:
    """DeepLIFT's multipliers by the rescale rule."""

    def rewriting(self, batch: int) -> Rewriting:
        """The mode for a pass over the reference, and one over the scan."""
        return Rescaling(batch)


class Rescaling(Rewriting):
    """Two passes: over the reference, where inputs of nonlinear functions are kept, and over the scan.

    Attributes
    ----------
    kept : what the functions of the reference's pass were given and the other pass has not yet asked for, in order.
    keeping : whether this is the reference's pass.
    """

    def __init__(self, batch: int) -> None:
        super().__init__(HANDLERS, batch)
        self.kept: deque[tuple[str, list[Tensor]]] = deque()
        self.keeping = False
        self._flows = False  # whether relevance can flow through the function that is running

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The pass over the reference."""
        self.keeping = True
        try:
            yield
        finally:
            self.keeping = False

    @contextmanager
    def over(self, net: nn.Module, given: Tensor | None = None) -> Iterator[None]:
        """The mode over a network; the scan's pass (which has the input given) has to use up what was kept."""
        with super().over(net, given):
            yield
        if given is not None and self.kept:
            raise _parted("nothing", self.kept[0][0])

    def compared(self, *tensors: Tensor) -> list[Tensor] | None:
        """What these were in the reference's pass; None in that pass itself, and where no relevance can flow."""
        name = self.site.function
        if self.keeping:
            self.kept.append((name, [t.detach().clone() for t in tensors]))  # a network may go on to work on them
            return None
        before, kept = self.kept.popleft() if self.kept else ("nothing", [])
        if name != before or [t.shape for t in tensors] != [t.shape for t in kept]:
            raise _parted(name, before)
        return kept if self._flows else None

    def covers(self, name: str, args: Sequence[Any]) -> bool:
        """Whether autograd alone is right: linear in all activations together."""
        if name in BILINEAR:
            return carried(args) <= 1
        if name in DIVISIONS:
            return not any(carries(a) or isinstance(a, str) for a in flat(args[1:]))  # text: a way of rounding
        return name in LINEAR

    def noted(self, out: Tensor) -> Tensor:
        """What a function put out, which is named as uncovered if relevance reaches it."""
        self._note(out)
        return out

    def _handled(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = self.handlers.get(name)
        if handler is not None:
            self._flows = any(carries(a) for a in flat((*args, *kwargs.values())))
            return handler(self, func, *args, **kwargs)
        if name not in LINEAR and _is_composed(func):
            with self:
                return _opened(func)(*args, **kwargs)
        return NotImplemented

    def _book_constants(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A constant is the same in both passes."""
        return args, kwargs


def _parted(now: str, before: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The network takes another path for the scan ({now}) than for the reference ({before}), so that their "
        "activations cannot be compared: give another baseline, or use integrated-gradients."
    )


# --- functions of torch that are made of others ---

_ASKED = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _is_composed(func: Callable[..., Any]) -> bool:
    """Whether it is written in Python, and asks on entry whether a mode wants to rewrite it as a whole."""
    return isinstance(func, FunctionType) and any(
        name in func.__code__.co_names and name in func.__globals__ for name in _ASKED
    )


@cache
def _opened(func: FunctionType) -> Callable[..., Any]:
    """The same function without its asking: the mode then sees the functions that it is made of."""
    known = {**func.__globals__, **{name: lambda *_: False for name in _ASKED}}
    opened = FunctionType(func.__code__, known, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


# --- what multipliers are made of ---


class Pair(NamedTuple):
    """A value in the pass over the scan, with its graph, and in the pass over the reference."""

    now: Tensor
    before: Tensor

    @property
    def halfway(self) -> Tensor:
        """The mean of both, with the graph of the one over the scan: gradients are taken there."""
        x = self.now.detach()
        return (x + self.before) / 2 + (self.now - x)

    def through(self, linear: Callable[[Tensor], Tensor]) -> "Pair":
        """What a linear function makes of it."""
        return Pair(linear(self.now), linear(self.before))

    @property
    def precise(self) -> "Pair":
        """In float32 at least: squares and differences need more than half precision."""
        return self.through(lambda t: t.to(torch.promote_types(t.dtype, torch.float32)))


def following(y: Tensor, z: Tensor) -> Tensor:
    """The value y with the gradient of z."""
    none = (z - z.detach()).to(y.dtype)
    if not bool(none.isfinite().all()):  # infinity less itself: what attention masks
        none = torch.where(none.detach().isfinite(), none, 0.0)
    return y.detach() + none


def ratio(dy: Tensor, dx: Tensor, otherwise: Tensor | float) -> Tensor:
    """The quotient dy / dx, and something else where there is no dx."""
    none = dx == 0
    return torch.where(none, otherwise, dy / torch.where(none, 1.0, dx))


def rescaled(f: Callable[[Tensor], Tensor], x: Pair) -> Pair:
    """Element by element: m = dy / dx (sec. 3.5.2).

    Where that differs from the derivative halfway by no more than its own rounding, as it does where x hardly
    differs from x0, the derivative is the better one, and no less complete.
    """
    y, y0 = f(x.now.detach()), f(x.before)
    (now, before), (after, at_first) = Pair(x.now.detach(), x.before).precise, Pair(y, y0).precise
    with torch.enable_grad():
        middle = ((now + before) / 2).to(x.now.dtype).requires_grad_()
        out = f(middle)
        (slope,) = torch.autograd.grad(out, middle, torch.ones_like(out))
    slope = slope.to(now.dtype).nan_to_num(0.0, 0.0, 0.0)
    m = (after - at_first) / (now - before)
    rounding = 8 * torch.finfo(y.dtype).eps * (after.abs() + at_first.abs()) / (now - before).abs()
    m = torch.where((m - slope).abs() > rounding, m, slope)  # also where both x are the same, and m is no number
    return Pair(following(y, m * x.now), y0)


def multiplied(f: Callable[[Tensor, Tensor], Tensor], a: Pair, b: Pair) -> Pair:
    """A product: d(ab) = mean(b, b0) da + mean(a, a0) db."""
    return Pair(following(f(a.now.detach(), b.now.detach()), f(a.halfway, b.halfway)), f(a.before, b.before))


def inverse(x: Pair) -> Pair:
    """1 / x: m = -1 / (x x0)."""
    y = Pair(1 / x.now.detach(), 1 / x.before)
    return Pair(following(y.now, -y.now * y.before * x.now), y.before)


# --- functions of one number, and of degree two ---


def _variables(
    func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], Callable[..., Tensor]]:
    """The tensors among the arguments that are no parameters, and the function of them alone."""
    leaves, spec = tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter)]

    def call(*values: Tensor) -> Tensor:
        filled = dict(enumerate(leaves)) | dict(zip(places, values, strict=True))
        its_args, its_kwargs = tree_unflatten(filled.values(), spec)
        return func(*its_args, **its_kwargs)

    return [leaves[i] for i in places], call


def _same(tensors: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether what carries no relevance is the same in both passes: otherwise its difference is lost."""
    return all(carries(t) or torch.equal(t, t0) for t, t0 in zip(tensors, before, strict=True))


def elementwise(mode: Rescaling, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Any function of one number."""
    bare = dict(kwargs)
    in_place = worked_in_place(func, args, bare)
    tensors, call = _variables(func, args, bare)
    before = mode.compared(*tensors)
    if before is None or carried(tensors) != 1 or not _same(tensors, before):
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


def product(mode: Rescaling, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
    """Any function of degree two in all activations together: the derivative halfway."""
    name = function_name(func)
    tensors, call = _variables(PLAIN.get(name, func), args, kwargs)
    if len(tensors) < 2:
        return NotImplemented  # a product with a constant is linear
    before = mode.compared(*tensors)
    if before is None or (name == "einsum" and carried(tensors) > 2):  # of degree three
        return NotImplemented
    if not _same(tensors, before):
        return mode.noted(func(*args, **kwargs))
    if carried(tensors) < 2:
        return NotImplemented
    y = call(*[t.detach() for t in tensors])
    out = following(y, call(*[Pair(t, t0).halfway if carries(t) else t for t, t0 in zip(tensors, before, strict=True)]))
    return args[0].copy_(out) if name in PLAIN else out


def quotient(mode: Rescaling, func: Callable[..., Tensor], input: Tensor, other: Any, *args: Any, **kwargs: Any) -> Any:
    """A product with the inverse."""
    if not isinstance(other, Tensor) or isinstance(other, nn.Parameter) or any(flat((*args, *kwargs.values()))):
        return NotImplemented  # linear; rounded quotients are not
    before = mode.compared(input, other)
    if before is None:
        return NotImplemented
    if not _same((input, other), before):
        return mode.noted(func(input, other))
    if not carries(other):
        return NotImplemented
    a, b = Pair(input, before[0]), Pair(other, before[1])
    out = following(torch.div(input.detach(), other.detach()), a.halfway * inverse(b).halfway)
    return input.copy_(out) if function_name(func) in PLAIN else out


def choice(mode: Rescaling, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Linear in what is chosen from, as long as the choice is the same in both passes."""
    masks = [a for a in flat((*args, *kwargs.values())) if isinstance(a, Tensor) and a.dtype == torch.bool]
    before = mode.compared(*masks)
    return NotImplemented if before is None or _same(masks, before) else mode.noted(func(*args, **kwargs))


# --- functions of one tensor ---


def of_one(rewritten: Callable[..., Any]) -> Handler:
    """A handler, of what rewrites (its name, the function of the tensor alone, the tensor in both passes, the rest)."""

    def handle(mode: Rescaling, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
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


def largest(x: Pair, y: Tensor, y0: Tensor, at: Tensor, at0: Tensor) -> Tensor:
    """The values y at the places `at` along x's last dimension (in the reference's pass y0, `at0`), their multipliers.

    dy goes to one input. Where y >= y0 to the winner w over the scan: x_w = y, and x0_w <= y0 as nothing is larger
    than y0, so that dx_w >= dy >= 0. Elsewhere to the winner over the reference: x0_w = y0 and x_w <= y, so that
    dx_w <= dy < 0. Either way 0 <= dy / dx_w <= 1.
    """
    winner = torch.where(y >= y0, at, at0)
    won = x.through(lambda t: t.gather(-1, winner))
    return following(y, ratio(y - y0, won.now.detach() - won.before, 1.0) * won.now)


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


def extreme_or_larger(mode: Rescaling, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The maximum or minimum, over dimensions or of two tensors."""
    other = kwargs.get("other", args[0] if args else None)
    if not isinstance(other, Tensor):
        return extreme(mode, func, input, *args, **kwargs)
    return _larger(mode, func, input, other, -1 if "min" in mode.site.function else 1)


def _larger(mode: Rescaling, func: Callable[..., Tensor], a: Tensor, b: Tensor, sign: int) -> Any:
    """max(a, b) = b + relu(a - b), min(a, b) = b - relu(b - a)."""
    before = mode.compared(a, b)
    if before is None:
        return NotImplemented
    if not _same((a, b), before):
        return mode.noted(func(a, b))
    gain = rescaled(torch.relu, Pair(sign * (a - b), sign * (before[0] - before[1]))).now
    return following(func(a.detach(), b.detach()), b + sign * gain)


# --- softmax ---


def log_mean(u: Tensor, v: Tensor) -> Tensor:
    """Log L of the logarithmic mean L = (a - b) / (log a - log b) of a = e^u and b = e^v: exp's multiplier."""
    d = (u - v).abs()
    return torch.maximum(u, v) + torch.where(d > 0, -torch.expm1(-d) / d, 1.0).log()  # minus infinity twice: no d


def log_sum_exp(x: Pair, dim: Any) -> tuple[Pair, Tensor]:
    """log sum_j exp x_j by its parts, m_j = L(e_j, e0_j) / L(S, S0); and the x that multiply m, nothing infinite.

    With e_j = exp x_j, S = sum_j e_j: exp's multiplier is L(e_j, e0_j), that of log is 1 / L(S, S0). A shift of
    both passes cancels. L is concave and homogeneous, so that the m_j are at least 0 and add up to at most 1:
    with a division for the logarithm they would grow with S / S0.
    """
    s = Pair(x.now.detach(), x.before).through(lambda t: t.logsumexp(dim, keepdim=True))
    m = (log_mean(x.now.detach(), x.before) - log_mean(*s)).exp()
    finite = x.now.masked_fill(x.now.detach() == -torch.inf, 0.0)  # what is masked out
    return Pair(following(s.now, (m * finite).sum(dim, keepdim=True)), s.before), finite


def soft_max(x: Pair, dim: int) -> Pair:
    """exp(x - log sum exp x): bounded multipliers L(y_i, y0_i) (delta_ij - m_j)."""
    y = x.through(lambda t: t.detach().softmax(dim))
    s, finite = log_sum_exp(x, dim)
    m = log_mean(x.now.detach() - s.now.detach(), x.before - s.before).exp()
    return Pair(following(y.now, m * (finite - s.now)), y.before)


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
    mode: Rescaling,
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
        scores = Pair(_masked(scores.now, m.now), _masked(scores.before, m.before))
    return following(y, multiplied(torch.matmul, soft_max(scores, -1), v).now)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


# --- norms that take statistics of their input ---


class Taken(NamedTuple):
    """How a norm takes its statistics: the input's shape for it, over which dimensions, and what follows."""

    shape: Sequence[int]
    dims: tuple[int, ...]
    eps: float
    scale: Tensor | None
    centred: bool = True


def standardised(x: Pair, dims: tuple[int, ...], eps: float, *, centred: bool) -> Tensor:
    """c r with c = x - mean x (linear), r = (v + eps)^-1/2 and v = mean c^2: the gradient alone, at no value.

    c^2 and c r are of degree two: their derivatives are taken halfway. dr = m dv has
    m = -1 / (s s0 (s + s0)) with s = 1 / r.
    """
    c = x.through(lambda t: t - t.mean(dims, keepdim=True)) if centred else x
    r, r0 = ((t.square().mean(dims, keepdim=True) + eps).rsqrt() for t in (c.now.detach(), c.before))
    half = c.halfway
    v = half.square().mean(dims, keepdim=True)
    return half * following((r + r0) / 2, -((r * r0) ** 2) / (r + r0) * v)


def normalised(mode: Rescaling, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A norm by its parts; with running statistics it is linear."""
    taken = (OPERATORS if isinstance(func, OpOverload) else NORMS)[mode.site.function](input, *args, **kwargs)
    before = None if taken is None else mode.compared(input)
    if taken is None or before is None:
        return func(input, *args, **kwargs)
    x = Pair(input, *before).precise.through(lambda t: t.reshape(taken.shape))
    z = standardised(x, taken.dims, taken.eps, centred=taken.centred).reshape(input.shape)
    return following(func(input.detach(), *args, **kwargs), z if taken.scale is None else z * taken.scale)


def _per_channel(weight: Tensor | None, like: Tensor) -> Tensor | None:
    return None if weight is None else weight.view(1, -1, *(1,) * (like.ndim - 2))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Taken | None:
    if not training and running_mean is not None:
        return None
    return Taken(input.shape, (0, *range(2, input.ndim)), eps, _per_channel(weight, input))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Taken | None:
    if not use_input_stats and running_mean is not None:
        return None
    return Taken(input.shape, tuple(range(2, input.ndim)), eps, _per_channel(weight, input))


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Taken:
    return Taken((len(input), num_groups, -1), (-1,), eps, _per_channel(weight, input))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Taken:
    return Taken(input.shape, tuple(range(-len(normalized_shape), 0)), eps, weight)


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Taken:
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _layer_norm(input, normalized_shape, weight, None, eps)._replace(centred=False)


def _operator(norm: Callable[..., Taken | None]) -> Callable[..., Taken | None]:
    """The same for an exported program, whose operators take weight and bias before the statistics."""

    def given(
        input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None, *rest: Any
    ) -> Taken | None:
        return norm(input, mean, var, weight, bias, *rest[:3])

    return given


NORMS: dict[str, Callable[..., Taken | None]] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}
OPERATORS = NORMS | {"batch_norm": _operator(_batch_norm), "instance_norm": _operator(_instance_norm)}


# --- which function is which ---

ELEMENTWISE = (
    *ACTIVATIONS,
    *GATES,
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "_prelu_kernel", "rrelu", "rrelu_", "relu6_"),
    *("abs", "abs_", "absolute", "clip_", "clamp_min", "clamp_min_", "clamp_max", "clamp_max_", "_threshold"),
    *("threshold_", "tanhshrink", "special_expit", "logit", "erf", "erfc", "sign", "round", "floor", "ceil", "trunc"),
    *("exp", "exp_", "exp2", "expm1", "log", "log_", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos"),
    *("atan", "arctan", "sinh", "cosh", "asinh", "atanh", "pow", "pow_", "float_power", "__pow__", "__rpow__"),
    *("square", "square_", "sqrt", "sqrt_", "rsqrt", "rsqrt_", "reciprocal", "reciprocal_", "__rdiv__"),
    "__rtruediv__",
)
CONVOLUTIONS = tuple(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
BILINEAR = PRODUCTS | {
    *("linear", "bilinear", "multiply", "multiply_", "mv", "dot", "inner", "outer", "tensordot", *CONVOLUTIONS),
    *("addmm", "addbmm", "baddbmm", "addcmul"),
}
DIVISIONS = QUOTIENTS | {"divide", "divide_", "true_divide", "true_divide_"}
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(BILINEAR, product),
    **dict.fromkeys(DIVISIONS, quotient),
    **dict.fromkeys((*POOLS, *(f"{name}_with_indices" for name in POOLS)), max_pool),
    **dict.fromkeys(("max", "amax", "maximum", "min", "amin", "minimum"), extreme_or_larger),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), softmax),
    **dict.fromkeys(("where", "masked_fill", "masked_fill_"), choice),
    **dict.fromkeys(NORMS, normalised),
    **dict.fromkeys(("norm", "linalg_vector_norm", "std"), length),
    "var": variance,
    "scaled_dot_product_attention": attention,
    "glu": glu,
}
# Functions that autograd is right for; where there are several factors, the others are constant.
LINEAR = (HOMOGENEOUS - {*HANDLERS, "fn", "lp_pool3d"}) | {
    *("where", "masked_fill", "masked_fill_", "cumsum", "tril", "triu", "diagonal", "zeros_like", "copy_"),
}
