"""Multipliers: what a change of the input did, rather than what an infinitesimal one would do.

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
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Pair",
    "following",
    "inverse",
    "largest",
    "log_mean",
    "log_sum_exp",
    "multiplied",
    "ratio",
    "rescaled",
    "soft_max",
    "standardised",
]


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


def largest(x: Pair, y: Tensor, y0: Tensor, at: Tensor, at0: Tensor) -> Tensor:
    """The values y at the places `at` along x's last dimension (in the reference's pass y0, `at0`), their multipliers.

    dy goes to one input. Where y >= y0 to the winner w over the scan: x_w = y, and x0_w <= y0 as nothing is larger
    than y0, so that dx_w >= dy >= 0. Elsewhere to the winner over the reference: x0_w = y0 and x_w <= y, so that
    dx_w <= dy < 0. Either way 0 <= dy / dx_w <= 1.
    """
    winner = torch.where(y >= y0, at, at0)
    won = x.through(lambda t: t.gather(-1, winner))
    return following(y, ratio(y - y0, won.now.detach() - won.before, 1.0) * won.now)


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
