"""Boxes in rows along each axis of a grid."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import overload

import torch
from torch import Tensor

from methods3d.types import Box

__all__ = ["Boxes"]


class Boxes(Sequence[Box]):
    """The product of sides along (i, j, k), the last axis fastest.

    No box is kept: a fine grid has hundreds of thousands, and as that many objects they would occupy the garbage
    collector, which stops every other thread meanwhile.
    """

    def __init__(self, sides: Sequence[Sequence[slice]]) -> None:
        self._sides = tuple(tuple(side) for side in sides)

    def __len__(self) -> int:
        """How many there are."""
        return math.prod(map(len, self._sides))

    @overload
    def __getitem__(self, n: int) -> Box: ...
    @overload
    def __getitem__(self, n: slice) -> list[Box]: ...
    def __getitem__(self, n: int | slice) -> Box | list[Box]:
        """The n-th, or some."""
        if isinstance(n, slice):
            return [self[m] for m in range(*n.indices(len(self)))]
        if not -len(self) <= n < len(self):
            raise IndexError(n)
        i, j, k = self._sides
        rest, last = divmod(n % len(self), len(k))
        first, middle = divmod(rest, len(j))
        return i[first], j[middle], k[last]

    def __iter__(self) -> Iterator[Box]:
        """Each in turn."""
        i, j, k = self._sides
        return itertools.product(i, j, k)

    def inside(self, box: Box) -> Iterator[int]:
        """The numbers of those that lie inside a box."""
        i, j, k = (
            [n for n, side in enumerate(sides) if _within(side, around)]
            for sides, around in zip(self._sides, box, strict=True)
        )
        for first, middle, last in itertools.product(i, j, k):
            yield (first * len(self._sides[1]) + middle) * len(self._sides[2]) + last

    def most_inside(self, others: "Boxes") -> int:
        """How many lie inside one of the others, at most."""
        return math.prod(
            max(len([1 for side in sides if _within(side, around)]) for around in arounds)
            for sides, arounds in zip(self._sides, others._sides, strict=True)
        )

    def cover(self, shape: tuple[int, int, int]) -> Tensor:
        """How many cover each voxel of a grid (i, j, k)."""
        i, j, k = (torch.zeros(n) for n in shape)
        for along, sides in zip((i, j, k), self._sides, strict=True):
            for side in sides:
                along[side] += 1
        return i[:, None, None] * j[:, None] * k


def _within(side: slice, around: slice) -> bool:
    return bool(around.start <= side.start and side.stop <= around.stop)
