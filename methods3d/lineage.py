"""What is known of the tensors of one forward pass: which is the scan, and what each was made of."""

from collections.abc import Callable, MutableMapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from methods3d.functions import JOINS, LAYOUT, MEANS, SUMS, carries, flat

__all__ = ["Lineage"]


class Reach(NamedTuple):
    """What gives the sum of |contributions| that a tensor was made of, in which version of the tensor."""

    of: Callable[[], Tensor]
    version: int


class Lineage:
    """Tensors that are the input in another layout, and the contributions that sums were made of.

    Sums of |contributions| are worked out when a rule asks for them, not before.
    """

    def __init__(self) -> None:
        self._voxels: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()
        self._reaches: MutableMapping[Tensor, Reach] = WeakIdKeyDictionary()

    def clear(self) -> None:
        """Forget all tensors."""
        self._voxels.clear()
        self._reaches.clear()

    def same(self, alias: Tensor, value: Tensor) -> None:
        """What is known of `value` is true of `alias`."""
        if value in self._voxels:
            self._voxels[alias] = self._voxels[value]
        if value in self._reaches:
            self._reaches[alias] = self._reaches[value]

    # --- voxels ---

    def set_voxels(self, value: Tensor, voxels: Tensor) -> None:
        """Let `voxels` stand for the voxels that `value` holds."""
        self._voxels[value] = voxels

    def voxels(self, value: Tensor) -> Tensor | None:
        """The voxels in the layout of this tensor; None where it is not the input itself."""
        return self._voxels.get(value)

    # --- contributions ---

    def set_reach(self, value: Tensor, reach: Callable[[], Tensor]) -> None:
        """Let `reach` give the sum of |contributions| to `value`."""
        self._reaches[value] = Reach(cache(reach), value._version)

    def knows_reach(self, value: Tensor) -> bool:
        """Whether the contributions to this tensor, as it is now, are known."""
        return value in self._reaches and self._reaches[value].version == value._version

    def reach(self, value: Tensor) -> Callable[[], Tensor]:
        """What gives the sum of |contributions| to `value`: its own magnitude where they are not known."""
        return self._reaches[value].of if self.knows_reach(value) else value.abs

    # --- through functions ---

    def reach_through(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Tensor] | None:
        """What the contributions become in a sum, a mean or another layout; constants contribute none.

        To be asked before the function runs, which may work in place.
        """
        if not self._reaches:
            return None
        if name in SUMS or name in JOINS:
            terms = [t for t in flat(args[:1] if name in JOINS else args[:2]) if isinstance(t, Tensor)]
            if not any(self.knows_reach(t) for t in terms):
                return None
            parts = [self.reach(t) if carries(t) else partial(torch.zeros_like, t) for t in terms]
            if name in SUMS:
                return lambda: sum(part() for part in parts)  # type: ignore[return-value]
            return lambda: func([part() for part in parts], *args[1:], **kwargs)
        if name in LAYOUT | MEANS and args and isinstance(args[0], Tensor) and self.knows_reach(args[0]):
            known = self.reach(args[0])
            return lambda: func(known(), *args[1:], **kwargs)
        return None

    def voxels_through(
        self, name: str, func: Callable[..., Any], out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Follow the input through a change of layout."""
        if not (self._voxels and name in LAYOUT and args and isinstance(args[0], Tensor) and args[0] in self._voxels):
            return
        voxels = self._voxels[args[0]]
        if name in ("pad", "constant_pad_nd"):  # what is padded with a number is no voxel
            mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
            pad = args[1] if len(args) > 1 else kwargs["pad"]
            found = torch.nn.functional.pad(voxels, pad, mode if isinstance(mode, str) else "constant")
        else:
            found = func(voxels, *args[1:], **kwargs)
        for one, its in zip(flat([out]), flat([found]), strict=True):
            self._voxels[one] = its
