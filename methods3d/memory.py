"""How many volumes run at once: as many as a memory budget holds, and fewer once memory ran out."""

import re
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods3d.errors import MixedSamples, ParameterError

__all__ = ["Batches", "PeakBytes", "bytes_of", "ran_out"]

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
T = TypeVar("T")
R = TypeVar("R")


class Batches:
    """Groups of items to run at once.

    Parameters
    ----------
    size : how many, without a budget.
    memory : bytes that one group may take while it runs, or None. What one item takes is measured on the first,
        which runs alone; then the budget decides how many, and `size` no longer does.

    Attributes
    ----------
    most : bytes that one item was found to take, at most; 0 where nothing was measured.
    """

    def __init__(self, size: int, memory: int | None = None) -> None:
        self._size, self._memory = size, memory
        self.most = 0
        self._sizes: dict[Hashable, int] = {}

    def over(
        self, items: Iterable[T], work: Callable[[list[T]], R], kind: Hashable = None
    ) -> Iterator[tuple[list[T], R]]:
        """Each group of consecutive items, and what `work` makes of it.

        A group for which the memory does not suffice is halved and tried again, and later ones are no larger; a
        network that mixes samples gets them one by one. So `work` may leave nothing behind when it raises.

        Parameters
        ----------
        kind : what is the same for items that take as much memory as each other.

        Raises
        ------
        torch.OutOfMemoryError : the memory does not suffice for one item.
        """
        waiting: list[T] = []
        drawn = iter(items)
        while True:
            size = self._sizes.get(kind, self._size if self._memory is None else 1)
            waiting += islice(drawn, max(0, size - len(waiting)))
            if not waiting:
                return
            group = waiting[:size]
            found = self._tried(group, work, kind)
            if found:
                del waiting[: len(group)]
                yield group, found[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """That the budget does not hold one item."""
        if self._memory is None or self.most <= self._memory:
            return ()
        return (
            f"one volume at a time takes {_size(self.most)}, more than the {_size(self._memory)} of the memory budget: "
            "allow more, or take windows, or smaller ones",
        )

    def _tried(self, group: list[T], work: Callable[[list[T]], R], kind: Hashable) -> tuple[R] | tuple[()]:
        """The work's result; nothing where the group was too large, which is then remembered."""
        try:
            if self._memory is None or kind in self._sizes:
                return (work(group),)
            with PeakBytes() as peak:
                found = work(group)
            self.most = max(self.most, peak.bytes)
            self._sizes[kind] = max(1, self._memory // max(1, peak.bytes))
            return (found,)
        except MixedSamples:
            self._sizes[kind] = 1
        except RuntimeError as error:
            if len(group) == 1 or not ran_out(error):
                raise
            self._sizes[kind] = len(group) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return ()


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How much memory the tensors made inside take at once, at most, on whatever device.

    Attributes
    ----------
    bytes : the largest total of storages that were made inside and alive at the same time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self._alive = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function and count what it made."""
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in self._seen | given:
                self._count(made)
        self.bytes = max(self.bytes, self._alive)
        return out

    def _count(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self._alive += size

        def gone() -> None:
            self._seen.discard(key)
            self._alive -= size

        weakref.finalize(storage, gone)


def bytes_of(memory: int | str | None) -> int | None:
    """A budget in bytes: a number, or text such as "4GiB", "500 MB".

    Raises
    ------
    ParameterError : the text is no size, or the size is not above zero.
    """
    if memory is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", str(memory), re.IGNORECASE)
    size = int(float(match[1]) * UNITS[match[2].lower()]) if match and match[2].lower() in UNITS else 0
    if size < 1:
        raise ParameterError(f"memory is {memory!r}: give a size above zero, such as '4GiB', '500 MB' or bytes.")
    return size


def _size(count: int) -> str:
    """Bytes as a person reads them, never as 0."""
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{-(-count // 2**10)} KiB"


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory; on the CPU it has no type of its own."""
    said = ("can't allocate memory", "not enough memory")  # by Linux and by Windows
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in said)
