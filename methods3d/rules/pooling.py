"""Max pooling: the winner takes all, or each input gets its share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.rewriting import Rewriting
from methods3d.rules.weighted import exactly, rescaled

__all__ = ["POOLS", "Proportional", "Winner", "max_pool"]


@dataclass(frozen=True)
class Winner:
    """Winner takes all: the largest input gets the relevance (Bach et al. 2015, sec. 2.4), as in a gradient."""

    name: ClassVar[str] = "winner"
    kinds: ClassVar[frozenset[str]] = frozenset({"pool"})


@dataclass(frozen=True)
class Proportional:
    """share_ij = |x_i| / sum_i |x_i| over the pooled inputs (Montavon et al. 2017, sec. 4.3, for either sign)."""

    name: ClassVar[str] = "proportional"
    kinds: ClassVar[frozenset[str]] = frozenset({"pool"})


POOLS = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")


def max_pool(mode: Rewriting, func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Each input in proportion to its magnitude."""
    y = func(input.detach(), *args, **kwargs)
    n = int(func.__name__.partition("pool")[2][0]) if isinstance(y, Tensor) else 0
    if not n:
        return NotImplemented  # asked for the winners' places as well
    if func.__name__.startswith("adaptive"):
        pool: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[n]
        z = pool(input.abs(), y.shape[-n:])
    else:
        z = _summed(input.abs(), n, *args, **kwargs)
        for axis in range(-n, 0):
            z = z.narrow(axis, 0, y.shape[axis])
    return exactly(y, rescaled(mode, z, y, 0.0, one_sided=True))


def _summed(
    x: Tensor,
    n: int,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """The sum over each window that the pooling looks at, as a convolution with ones, channel by channel."""
    size = (kernel_size,) * n if isinstance(kernel_size, int) else tuple(kernel_size)
    if ceil_mode:  # a last window may reach over the edge
        x = F.pad(x, [side for k in reversed(size) for side in (0, k)])
    convolve: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[n]
    ones = torch.ones(x.shape[-n - 1], 1, *size, dtype=x.dtype, device=x.device)
    return convolve(x, ones, None, stride or kernel_size, padding, dilation, x.shape[-n - 1])  # type: ignore[no-any-return]
