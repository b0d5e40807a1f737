"""Floating-point operations, counted."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Flops(TorchDispatchMode):
    """Operations of convolutions and products that are carried out; shapes followed on the meta device cost nothing.

    Attributes
    ----------
    forward : of all but the next.
    backward : of the derivatives of convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        computed = not any(isinstance(t, torch.Tensor) and t.is_meta for t in tree_leaves((args, kwargs)))
        if computed and func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            if func.overloadpacket == torch.ops.aten.convolution_backward:
                self.backward += count
            else:
                self.forward += count
        return out


def flops(work: Callable[[], Any]) -> int:
    """All of what a piece of work takes."""
    with Flops() as count:
        work()
    return count.total
