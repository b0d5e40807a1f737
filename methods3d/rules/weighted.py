"""One call of a linear function, and the sums of its contributions that rules are made of."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from methods3d.rewriting import Rewriting

__all__ = ["Weighted", "exactly", "rescaled", "shifted", "stabilised"]


class Weighted:
    """y_j = sum_i z_ij + b_j with contributions z_ij = x_i w_ij: linear, convolution or transposed convolution.

    Attributes
    ----------
    x, w, b : input, weight, and bias shaped to be added to the output (None without one).
    y : the output, without a graph, bit for bit what the function gives.
    s : the output less its bias.
    voxels : ones (b, c, ...) that stand for the input's voxels, where x is the scan itself; else None.
    spread : whether biases go to the inputs by |contribution|, or are booked as absorbed.
    """

    def __init__(
        self,
        mode: Rewriting,
        linear: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        *,
        spread: bool,
    ) -> None:
        self.mode, self._linear, self.x, self.w, self.spread = mode, linear, x, w, spread
        whole = linear(x, w, b)
        self.y = whole.detach()
        self.b = None if b is None else b.to(whole.dtype).view(-1, *(1,) * (w.ndim - 2))
        self.s = whole if self.b is None else whole - self.b  # s_j = sum_i z_ij

    def of(self, x: Tensor, w: Tensor) -> Tensor:
        """The function itself, without its bias, on another input and weight."""
        return self._linear(x, w, None)

    @cached_property
    def voxels(self) -> Tensor | None:
        """Ones in the input's shape, where it is the scan itself."""
        return self.mode.voxels_of(self.x)

    @cached_property
    def a(self) -> Tensor:
        """a_j = sum_i |z_ij|."""
        return self.of(self.x.abs(), self.w.abs())

    @property
    def positive(self) -> Tensor:
        """P_j = sum_i max(0, z_ij) = (s_j + a_j) / 2, and no more than rounding where there is none."""
        return self._part(self.s)

    @property
    def negative(self) -> Tensor:
        """N_j = sum_i min(0, z_ij) = (s_j - a_j) / 2."""
        return -self._part(-self.s)

    def _part(self, s: Tensor) -> Tensor:
        # Half of the digits are left to the sum where (s + a) cancels; below that it is rounding.
        rounding = torch.finfo(s.dtype).eps ** 0.5 * self.a.detach()
        part = (s + self.a) / 2
        return torch.where(part.detach() > rounding, part, 0.0)

    def with_bias(self, z: Tensor, b: Tensor | None) -> Tensor:
        """Z plus a bias, which goes to the inputs by |contribution| or is booked."""
        if b is None:
            return z
        if not self.spread:
            return z + self.mode.constant("bias", b.expand(z.shape))
        return shifted(self.mode, z, b.expand(z.shape), self.a)


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Z's value, moved away from zero by epsilon times its root mean square, sample by sample.

    Relative, because an absolute epsilon swallows networks whose activations are tiny.
    """
    precise = z.detach().to(torch.promote_types(z.dtype, torch.float32))  # squares overflow in half precision
    rms = precise.pow(2).flatten(1).mean(1).sqrt().view(-1, *(1,) * (z.ndim - 1)).to(z.dtype)
    tiny = torch.finfo(z.dtype).tiny
    return z.detach() + torch.where(z >= 0, 1.0, -1.0).to(z.dtype) * (epsilon * rms + tiny)


def rescaled(mode: Rewriting, z: Tensor, value: Tensor, epsilon: float, *, one_sided: bool = False) -> Tensor:
    """The value, with z's gradient scaled so that z hands on the value's relevance; the rest is booked.

    A one-sided z may have nothing to hand on to: what arrives there is dead.
    """
    dead = z.detach() == 0
    out = z * torch.where(dead, 0.0, value / stabilised(z, epsilon)).detach()
    rest = value.detach() - out.detach()
    if one_sided:
        out = out + mode.constant("dead", torch.where(dead, rest, 0.0))
        rest = torch.where(dead, 0.0, rest)
    return out + mode.constant("stabiliser", rest)


def exactly(value: Tensor, out: Tensor) -> Tensor:
    """`value` as it is, layout and precision included, with the gradient of `out`, which differs by rounding alone."""
    return value.detach() + (out - out.detach()).to(value.dtype)


TINY_REACH = 1e-6  # root mean squares, below which a sum of |contributions| is none


def shifted(mode: Rewriting, z: Tensor, shift: Tensor, reach: Tensor) -> Tensor:
    """Z plus a constant, whose relevance goes where the |contributions| in `reach` come from.

    Where nothing contributes, the shift is dead: booked.
    """
    shared = reach * (shift / stabilised(reach, TINY_REACH)).detach()
    return z + shared + mode.constant("dead", shift.detach() - shared.detach())
