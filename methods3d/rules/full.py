"""Full gradients: what each function adds of its own, noted on the way back.

At a point, every function h of the network is its tangent, h(z) = J z + b, with b = h(z) - J z: a layer's bias, a
norm's shift, what a SiLU is above its slope. So for any network (Srinivas & Fleuret 2019, eq. 3 and sec. 3.1)

    T = sum x dT/dx + sum over functions and places of b dT/dh.

Nothing is rewritten: what arrives at h(z) is multiplied with b, and noted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from methods3d.cells import shared_by_voxels
from methods3d.functions import HOMOGENEOUS, JOINS, SUMS, carried, carries, flat, function_name, is_composed, opened
from methods3d.rewriting import Rewriting, Site
from methods3d.rules.comparison import BILINEAR, DIVISIONS

__all__ = ["FullGradients"]

LINEAR = frozenset({"linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))})


@dataclass(frozen=True)
class FullGradients:
    """Plain gradients, and beside them |b dT/dh| on the voxels (as `voxels`), and sum b dT/dh (as leaks)."""

    def rewriting(self, batch: int) -> "Noting":
        """The mode for one forward pass."""
        return Noting({}, batch)


class Noting(Rewriting):
    """One forward pass whose functions note what they add."""

    def over(self, net: Any, given: Tensor | None = None) -> Any:
        """The mode over a network; `given` is the scan, onto whose grid the notes are laid."""
        if given is not None:
            self.voxels = torch.zeros_like(given[:, :1], requires_grad=True)
        return super().over(net, given)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function; note what it adds."""
        kwargs = kwargs or {}
        name = function_name(func)
        every = flat((*args, *kwargs.values()))
        if not any(carries(a) for a in every) or self._adds_nothing(name, args):
            return func(*args, **kwargs)
        if name not in LINEAR and is_composed(func):
            with self:
                return opened(func)(*args, **kwargs)
        self.site = Site(self.modules[-1] if self.modules else "", name.strip("_"))
        return self._noted(name, func, args, kwargs)

    def _adds_nothing(self, name: str, args: tuple[Any, ...]) -> bool:
        if name in SUMS or name in JOINS:
            return all(carries(a) for a in flat(args[:1] if name in JOINS else args[:2]))
        if name in BILINEAR and name not in LINEAR:
            return carried(args) <= 1
        if name in DIVISIONS:
            return not any(carries(a) for a in flat(args[1:]))
        return name in HOMOGENEOUS

    def _noted(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The function's output, whose gradient is noted times what it adds."""
        if not args:  # given by keyword: the first is what it works on
            args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
        first = args[0]
        kept = first.clone() if isinstance(first, Tensor) and carries(first) else first
        y = func(kept, *args[1:], **kwargs)
        in_place = y is kept
        if not isinstance(y, Tensor) or not y.requires_grad:
            return y
        if name in LINEAR:
            bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
            added = None if bias is None else bias.detach().to(y.dtype).view(-1, *(1,) * _places(name))
        else:
            added = _above_tangent(func, args, kwargs)
            if added is None:
                self._note(y)
        if added is not None:
            y = _Note.apply(y, added, self.voxels, self._leaf(y))  # type: ignore[no-untyped-call]
        return first.copy_(y) if in_place else y

    def note_custom(self, y: Tensor) -> None:
        """Functions of the network's own are seen as they run; those noted here are this mode's."""

    def _leaf(self, like: Tensor) -> Tensor:
        key = (self.site, "bias")
        if key not in self.leaves:
            dtype = torch.promote_types(like.dtype, torch.float32)
            self.leaves[key] = torch.zeros(self.batch, dtype=dtype, device=like.device, requires_grad=True)
        return self.leaves[key]


def _places(name: str) -> int:
    """Spatial axes of a linear function's output."""
    return int(name[-2]) if name.startswith("conv") else 0


class _Note(torch.autograd.Function):
    """The identity in y; hands |added x gradient| to the voxels, and its sum to the leaf."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, added: Tensor, voxels: Tensor, leaf: Tensor) -> Tensor:
        ctx.save_for_backward(added)
        ctx.voxels, ctx.batch, ctx.dtypes = voxels.shape, len(leaf), (voxels.dtype, leaf.dtype)
        return y.clone()  # a view could not be worked on in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (added,) = ctx.saved_tensors
        share = (gradient * added).to(ctx.dtypes[1])
        whole = share.ndim > 0 and len(share) % ctx.batch == 0
        total = share.reshape(ctx.batch, -1).sum(1) if whole else (share.sum() / ctx.batch).expand(ctx.batch)
        on_voxels = None
        if share.ndim == 5 and len(share) == ctx.batch:  # tokens and vectors lie nowhere
            on_voxels = shared_by_voxels(share.abs().sum(1, keepdim=True), ctx.voxels[2:]).to(ctx.dtypes[0])
        return gradient, None, on_voxels, total


def _above_tangent(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """h(z) - J z over the tensors that carry; None where the function has no forward derivative."""
    leaves, spec = tree_flatten((args, kwargs))
    places = [n for n, leaf in enumerate(leaves) if carries(leaf)]
    now = tuple(leaves[n].detach() for n in places)

    def call(*values: Tensor) -> Any:
        filled = dict(enumerate(leaves)) | {n: v.clone() for n, v in zip(places, values, strict=True)}
        its_args, its_kwargs = tree_unflatten(filled.values(), spec)
        return func(*its_args, **its_kwargs)

    try:
        y, slope = torch.func.jvp(call, now, now)  # type: ignore[misc]
    except (RuntimeError, NotImplementedError):
        return None
    added: Tensor = (y - slope).detach()
    return added
