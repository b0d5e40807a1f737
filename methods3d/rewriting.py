"""Rewriting a network's functions while it runs, and the account of what did not reach the input.

Each rule is a value-preserving rewrite of one torch *function*: inside the mode the network computes
the same numbers, but input x gradient of the rewritten graph is the relevance. No module is replaced
and no hook is left; functional and in-place calls are caught, and skips, concatenations, pooling,
interpolation and transposed convolutions need no rule at all, because autograd is already right.

Why the account closes: every rewritten function is positively 1-homogeneous in its inputs and in the
constants added to it, so by Euler's theorem the sum of (input x gradient) and (constant x gradient)
is the output. Each constant is multiplied by a leaf that is one; the leaf's gradient is the relevance
that the constant kept. One leaf for each cause and sample.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Rewriting", "Rules", "carries"]

# Functions through which autograd already carries relevance: piecewise linear and homogeneous, or pure layout.
HOMOGENEOUS = frozenset(
    """
    relu relu_ leaky_relu leaky_relu_ prelu rrelu abs max amax maximum min amin minimum fn
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool3d
    add add_ sub sub_ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ neg __neg__ positive sum mean
    mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__ matmul __matmul__ __rmatmul__ bmm einsum
    cat concat concatenate stack view view_as reshape flatten unflatten permute transpose swapaxes movedim moveaxis
    squeeze unsqueeze expand expand_as contiguous clone __getitem__ narrow select chunk split tensor_split unbind
    index_select gather repeat repeat_interleave roll flip pad constant_pad_nd fold unfold pixel_shuffle
    interpolate upsample identity dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout
    to type type_as float double half bfloat16 detach __get__
    """.split()  # noqa: SIM905 - a table to read
)
PRODUCTS = frozenset("mul mul_ __mul__ __rmul__ __imul__ matmul __matmul__ __rmatmul__ bmm einsum".split())  # noqa: SIM905
QUOTIENTS = frozenset(("div", "div_", "__truediv__", "__itruediv__"))
SUMS = frozenset("add add_ sub sub_ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__".split())  # noqa: SIM905


class Rules(Protocol):
    """A set of rewrites, as data."""

    def rewriting(self, batch: int) -> "Rewriting":
        """A mode to run one forward pass of `batch` samples in."""
        ...


class Rewriting(TorchFunctionMode):
    """One forward pass under rules: what the functions become, and the leaves of the account.

    Attributes
    ----------
    leaves : cause -> (batch,) ones, whose gradient is the relevance that this cause absorbed.
    uncovered : names of functions that carried relevance without a rule, once it has been propagated
        (attention's query times key has none, but nothing flows through it where softmax is held fixed).
    """

    def __init__(self, handlers: Mapping[str, Callable[..., Any]], batch: int) -> None:
        super().__init__()
        self.handlers = handlers
        self.batch = batch
        self.leaves: dict[str, Tensor] = {}
        self.uncovered: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Rewrite what has a rule; note what has none."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        handler = self.handlers.get(name)
        if handler is not None and carries(args[0] if args else kwargs.get("input")):
            return handler(self, func, *args, **kwargs)
        if args and (name in SUMS or name in ("cat", "concat", "concatenate", "stack")):
            args = self._book_constants(name, args)
        out = func(*args, **kwargs)
        if not self._homogeneous(name, (*args, *kwargs.values())):
            self._note(name.strip("_") or repr(func), out)
        return out

    def _note(self, name: str, out: Any) -> None:
        """Remember a function as uncovered if relevance reaches what it put out."""

        def reached(gradient: Tensor) -> None:
            self.uncovered.add(name)

        for one in out if isinstance(out, list | tuple) else [out]:
            if carries(one):
                one.register_hook(reached)

    def constant(self, cause: str, value: Tensor) -> Tensor:
        """`value`, booked under `cause` when relevance reaches it; `value` has the batch first."""
        leaf = self.leaves.get(cause)
        if leaf is None:
            leaf = self.leaves[cause] = torch.ones(
                self.batch,
                device=value.device,
                dtype=torch.promote_types(value.dtype, torch.float32),
                requires_grad=True,
            )
        leaf = leaf.to(value.dtype)
        # Window partition folds space into the batch, sample by sample; without a batch all samples share alike.
        whole = value.ndim > 0 and len(value) % self.batch == 0
        leaf = leaf.repeat_interleave(len(value) // self.batch) if whole else leaf.mean()[None]
        return value.detach() * leaf.view(-1, *(1,) * max(value.ndim - 1, 0))

    def _book_constants(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Added or concatenated constants (tokens, positions, plain numbers) keep relevance: book them."""
        nested = name not in SUMS
        terms = list(args[0]) if nested else list(args[:2])
        first = next((t for t in terms if carries(t)), None)
        if first is None or len(terms) < 2:
            return args
        for i, term in enumerate(terms):
            in_place = i == 0 and name in ("add_", "sub_", "__iadd__", "__isub__")
            if in_place or carries(term) or not isinstance(term, Tensor | int | float):
                continue
            value = term if isinstance(term, Tensor) else torch.full_like(first.detach(), term)
            value = value.to(torch.result_type(first, value))
            if not nested:
                value = value + torch.zeros_like(first.detach())  # as the sum will broadcast it
            terms[i] = self.constant("constant", value)
        return (terms, *args[1:]) if nested else (*terms, *args[2:])

    @staticmethod
    def _homogeneous(name: str, args: tuple[Any, ...]) -> bool:
        """Whether autograd alone carries relevance through: of degree one in all activations together."""
        flat = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
        if name in QUOTIENTS:
            return not any(carries(a) for a in flat[1:])
        return name in HOMOGENEOUS and not (name in PRODUCTS and sum(carries(a) for a in flat) > 1)


def carries(value: Any) -> bool:
    """Whether relevance flows through a value."""
    return isinstance(value, Tensor) and value.requires_grad
