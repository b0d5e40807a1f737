"""A network built within the memory, and the time, that its weights account for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import ModelError

# For tables that layers compute, and throw away, while they are built: bytes, and tensors for each of the weights.
_BESIDE, _TENSORS_BESIDE, _TENSORS_EACH = 2**28, 10_000, 100


class Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it lasts, only so many tensors of so many bytes may be made; each is measured before it is.

    Raises
    ------
    ModelError
        Once they would be more than a network of these weights can need.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bytes_left = 2 * sum(value.nbytes for value in weights.values()) + _BESIDE
        self._tensors_left = _TENSORS_EACH * len(weights) + _TENSORS_BESIDE

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function if what it makes fits."""
        kwargs = kwargs or {}
        if any(made.alias_info is None for made in func._schema.returns):  # neither a view nor in place
            self._bytes_left -= _bytes(func, args, kwargs)
            self._tensors_left -= 1
            if min(self._bytes_left, self._tensors_left) < 0:
                raise ModelError(
                    "The network that the config describes is far larger than its weights; correct the config."
                )
        return func(*args, **kwargs)


def _bytes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Size of what a function would make; 0 where shapes alone do not tell."""
    if any(argument.name == "device" for argument in func._schema.arguments):  # type: ignore[attr-defined]
        kwargs = {**{name: value for name, value in kwargs.items() if name != "pin_memory"}, "device": "meta"}
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    with contextlib.suppress(RuntimeError, NotImplementedError):
        return sum(made.nbytes for made in tree_leaves(func(*args, **kwargs)) if isinstance(made, Tensor))
    return 0
