"""Two passes compared: over a reference, where what nonlinear functions are given is kept, and over the scan."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from methods3d.errors import UnsupportedModelError
from methods3d.functions import HOMOGENEOUS, PRODUCTS, QUOTIENTS, carried, carries, flat, is_composed, opened
from methods3d.rewriting import Handler, Rewriting

__all__ = ["BILINEAR", "CHOICES", "DIVISIONS", "Comparing", "variables"]

# Linear in each of several arguments, in the first of two, in what is chosen from, and in all together.
BILINEAR = PRODUCTS | {
    *("linear", "bilinear", "multiply", "multiply_", "mv", "dot", "inner", "outer", "tensordot"),
    *("addmm", "addbmm", "baddbmm", "addcmul"),
    *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
}
DIVISIONS = QUOTIENTS | {"divide", "divide_", "true_divide", "true_divide_"}
CHOICES = frozenset({"where", "masked_fill", "masked_fill_"})
LINEAR = (HOMOGENEOUS - {"fn", "lp_pool3d"}) | {"cumsum", "tril", "triu", "diagonal", "zeros_like", "copy_"}


class Comparing(Rewriting):
    """Two passes, whose nonlinear functions are compared in the order in which they run.

    Attributes
    ----------
    kept : what the functions of the reference's pass were given and the other pass has not yet asked for, in order.
    keeping : whether this is the reference's pass.
    """

    def __init__(self, handlers: Mapping[str, Handler], batch: int) -> None:
        super().__init__(handlers, batch)
        self.kept: deque[tuple[str, list[Tensor]]] = deque()
        self.keeping = False
        self._flows = False  # whether relevance can flow through the function that is running
        self._lost = False  # whether a difference it is given is lost, as no relevance can flow to it

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

    def matched(self, *tensors: Tensor) -> list[Tensor] | None:
        """The same, but None too where what carries no relevance differs: that is lost, and autograd not right."""
        before = self.compared(*tensors)
        if before is not None:
            self._lost = not all(carries(t) or torch.equal(t, t0) for t, t0 in zip(tensors, before, strict=True))
        return None if self._lost else before

    def covers(self, name: str, args: Sequence[Any]) -> bool:
        """Whether autograd alone is right: linear in all activations together."""
        if self._lost:
            return False
        if name in BILINEAR:
            return carried(args) <= 1
        if name in DIVISIONS:
            return not any(carries(a) or isinstance(a, str) for a in flat(args[1:]))  # text: a way of rounding
        return name in CHOICES or (name in LINEAR and name not in self.handlers)

    def _handled(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._lost = False
        handler = self.handlers.get(name)
        if handler is not None:
            self._flows = any(carries(a) for a in flat((*args, *kwargs.values())))
            return handler(self, func, *args, **kwargs)
        if name not in LINEAR and is_composed(func):
            with self:
                return opened(func)(*args, **kwargs)
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


def variables(
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
