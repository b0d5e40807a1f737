"""Torch's functions by name: what each does to relevance, and through which of its arguments relevance flows."""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

__all__ = [
    "HOMOGENEOUS",
    "JOINS",
    "LAYOUT",
    "MEANS",
    "PRODUCTS",
    "QUOTIENTS",
    "SUMS",
    "carried",
    "carries",
    "flat",
    "function_name",
    "is_composed",
    "opened",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Pure layout: what is true of the scan's voxels before is true of them after.
LAYOUT = _names(
    """
    view view_as reshape flatten unflatten permute transpose swapaxes movedim moveaxis t mT squeeze unsqueeze expand
    expand_as contiguous clone __getitem__ narrow select slice chunk split split_with_sizes tensor_split unbind
    repeat repeat_interleave roll flip pad constant_pad_nd pixel_shuffle pixel_unshuffle identity alias
    to _to_copy type type_as float double half bfloat16
    """
)
# Functions through which autograd already carries relevance: piecewise linear and homogeneous, or layout.
HOMOGENEOUS = LAYOUT | _names(
    """
    relu relu_ leaky_relu leaky_relu_ prelu _prelu_kernel rrelu abs max amax maximum min amin minimum fn
    max_pool1d max_pool2d max_pool3d max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d lp_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool3d
    add add_ sub sub_ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ rsub neg __neg__ positive sum mean
    mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__ matmul __matmul__ __rmatmul__ bmm mm einsum
    cat concat concatenate stack index_select gather fold unfold interpolate upsample
    upsample_nearest3d upsample_trilinear3d upsample_bilinear2d upsample_nearest2d
    dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout as_tensor detach requires_grad_ __get__
    """
)
PRODUCTS = _names("mul mul_ __mul__ __rmul__ __imul__ matmul __matmul__ __rmatmul__ bmm mm einsum")
QUOTIENTS = _names("div div_ __truediv__ __itruediv__")
SUMS = _names("add add_ sub sub_ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__")
JOINS = _names("cat concat concatenate stack")

# Sums and means of what they are given: so are the contributions that it was made of.
MEANS = _names(
    """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample
    upsample_nearest3d upsample_trilinear3d mean sum dropout dropout_ dropout1d dropout2d dropout3d as_tensor
    """
)


def function_name(func: Callable[..., Any]) -> str:
    """`conv3d`, however it is called: also for an operator of an exported program."""
    if isinstance(func, OpOverload):
        return str(func._schema.name).partition("::")[2]
    return getattr(func, "__name__", "") or repr(func)


def carries(value: Any) -> bool:
    """Whether relevance flows through a value."""
    return isinstance(value, Tensor) and value.requires_grad


def carried(args: Any) -> int:
    """Through how many of the arguments relevance flows."""
    return sum(carries(a) for a in flat(args))


def flat(args: Any) -> list[Any]:
    """The arguments, with lists and tuples opened."""
    return [b for a in args for b in (flat(a) if isinstance(a, list | tuple) else [a])]


# --- functions of torch that are made of others ---

_ASKED = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def is_composed(func: Callable[..., Any]) -> bool:
    """Whether it is written in Python, and asks on entry whether a mode wants to rewrite it as a whole."""
    return isinstance(func, FunctionType) and any(
        name in func.__code__.co_names and name in func.__globals__ for name in _ASKED
    )


@cache
def opened(func: FunctionType) -> Callable[..., Any]:
    """The same function without its asking: the mode then sees the functions that it is made of."""
    known = {**func.__globals__, **{name: lambda *_: False for name in _ASKED}}
    own = FunctionType(func.__code__, known, func.__name__, func.__defaults__, func.__closure__)
    own.__kwdefaults__ = func.__kwdefaults__
    return own
