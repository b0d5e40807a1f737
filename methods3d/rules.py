"""The rules of layer-wise relevance propagation, one rewrite for each kind of function."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.rewriting import Rewriting

__all__ = ["GammaEpsilon"]


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Z's value, moved away from zero by epsilon times its root mean square, sample by sample.

    Relative, because an absolute epsilon swallows networks whose activations are tiny.
    """
    precise = z.detach().to(torch.promote_types(z.dtype, torch.float32))  # squares overflow in half precision
    rms = precise.pow(2).flatten(1).mean(1).sqrt().view(-1, *(1,) * (z.ndim - 1)).to(z.dtype)
    tiny = torch.finfo(z.dtype).tiny
    return z.detach() + torch.where(z >= 0, 1.0, -1.0).to(z.dtype) * (epsilon * rms + tiny)


def rescaled(mode: Rewriting, z: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """The value y, with z's gradient scaled so that z hands on y's relevance; the rest is booked."""
    ratio = (y / stabilised(z, epsilon)).detach()
    out = z * ratio
    return out + mode.constant("stabiliser", y.detach() - out.detach())


@dataclass(frozen=True)
class GammaEpsilon:
    """Generalised gamma rule with a relative epsilon for every linear function.

    With contributions z_ij = x_i w_ij, s_j = sum_i z_ij, positive and negative parts P_j and N_j, and
    y_j = s_j + b_j (Montavon et al. 2019, eq. 10.5.2, extended to inputs of both signs by Andeol et al. 2021):

        z_j = s_j + b_j + gamma * (P_j if y_j >= 0 else N_j),      R_i = sum_j (its share of z_j) / z_j * R_j

    P and N cost one more linear function: with a_j = sum_i |x_i| |w_ij|, P = (s + a) / 2 and
    N = (s - a) / 2. |z| >= |y|, so that nothing explodes. gamma = 0 is LRP-epsilon.

    Attributes
    ----------
    gamma : how much like-signed contributions are favoured, >= 0.
    epsilon : stabiliser, in root mean squares of the layer's output.
    bias : "spread" distributes a bias over the inputs by |contribution|; "absorb" books it.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    bias: Literal["spread", "absorb"] = "spread"

    def rewriting(self, batch: int) -> Rewriting:
        """The mode for one forward pass."""
        handlers: dict[str, Callable[..., Any]] = dict.fromkeys(WEIGHTED, self._weighted)
        return Rewriting({**handlers, **NORMS, **GATES, "pad": _padded}, batch)

    def _weighted(
        self,
        mode: Rewriting,
        func: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **kwargs: Any,
    ) -> Tensor:
        spread = bias is not None and self.bias == "spread"
        s = func(input, weight, None, *rest, **kwargs)
        # |x| |w| bounds every contribution: it yields P and N, and says where a bias may go.
        a = func(input.abs(), weight.abs(), None, *rest, **kwargs) if self.gamma or spread else None
        y = u = s
        if bias is not None:
            b = bias.view(-1) if func is F.linear else bias.view(-1, *(1,) * (s.ndim - 2))
            y = s + b
            u = s
            kept = b.expand(s.shape)
            if spread and a is not None:
                shared = a * (b / stabilised(a, self.epsilon)).detach()
                u, kept = s + shared, kept - shared.detach()  # what remains had only dead inputs
            u = u + mode.constant("bias", kept)
        z = u
        if self.gamma and a is not None:
            z = u + self.gamma * torch.where(y >= 0, (s + a) / 2, (s - a) / 2)
        return rescaled(mode, z, y, self.epsilon)


WEIGHTED = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)


# --- normalisation: the statistics' scale is held fixed, the centring is linear, the shift is a constant ---


def _per_channel(value: Tensor, like: Tensor) -> Tensor:
    return value.view(1, -1, *(1,) * (like.ndim - 2))


def _shifted(mode: Rewriting, y: Tensor, shift: Tensor | None) -> Tensor:
    return y if shift is None else y + mode.constant("norm", shift.to(y.dtype).expand(y.shape))


def _centred(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    scale = (x.var(dims, unbiased=False, keepdim=True) + eps).rsqrt().detach()
    return (x - x.mean(dims, keepdim=True)) * scale


def _affine(mode: Rewriting, y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * _per_channel(weight, y)
    return _shifted(mode, y, None if bias is None else _per_channel(bias, y))


def _running(
    mode: Rewriting,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    scale = (var + eps).rsqrt() * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    return _shifted(mode, x * _per_channel(scale, x), _per_channel(shift, x))


def _batch_norm(
    mode: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training and running_mean is not None and running_var is not None:
        return _running(mode, input, running_mean, running_var, weight, bias, eps)
    return _affine(mode, _centred(input, (0, *range(2, input.ndim)), eps), weight, bias)


def _instance_norm(
    mode: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats and running_mean is not None and running_var is not None:
        return _running(mode, input, running_mean, running_var, weight, bias, eps)
    return _affine(mode, _centred(input, tuple(range(2, input.ndim)), eps), weight, bias)


def _group_norm(
    mode: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    grouped = input.reshape(len(input), num_groups, -1)
    return _affine(mode, _centred(grouped, (-1,), eps).reshape(input.shape), weight, bias)


def _layer_norm(
    mode: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    y = _centred(input, tuple(range(-len(normalized_shape), 0)), eps)
    return _shifted(mode, y if weight is None else y * weight, bias)


def _padded(
    rewriting: Rewriting,
    func: Callable[..., Tensor],
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    if mode != "constant" or not value:
        return func(input, pad, mode, value)
    rim = func(torch.zeros_like(input), pad, mode, value)
    return func(input, pad) + rewriting.constant("constant", rim)


NORMS: Mapping[str, Callable[..., Any]] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
}


# --- activations: the relevance of f(x) is x's (x f(x)/x); gates and attention weights are held fixed ---


def _gate(mode: Rewriting, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    in_place = func.__name__.endswith("_") or any(a is True for a in (*args, kwargs.pop("inplace", False)))
    x = input.detach()
    y = func(x.clone(), *args, **kwargs)
    # Only softplus is not zero at zero: that part is a constant, and the difference is rounded near zero.
    rest = func(x.new_zeros(1), *args, **kwargs)
    limits = torch.finfo(x.dtype)
    still = x.abs() < torch.where(rest == 0, limits.tiny, limits.eps**0.5)
    out = input * torch.where(still, 0.0, (y - rest) / torch.where(still, 1.0, x))
    out = out + mode.constant("activation", y - out.detach())
    return input.copy_(out) if in_place else out


def _fixed(mode: Rewriting, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    fixed = func(input.detach().clone(), *args, **kwargs)
    if func.__name__.endswith("_"):
        input.copy_(fixed)  # for whoever looks at the tensor rather than at what is returned
    return fixed


def _attention(
    mode: Rewriting,
    func: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    return func(query.detach(), key.detach(), value, *args, **kwargs)


GATES: Mapping[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("silu", "gelu", "elu", "elu_", "selu", "celu", "mish", "hardswish", "softplus", "tanh"), _gate),
    **dict.fromkeys(("sigmoid", "sigmoid_", "hardsigmoid", "softmax"), _fixed),
}
