"""Real work, counted: what a run reports while it goes on."""

import time
from collections.abc import Callable

from torch import Tensor

from methods3d.types import Progress

__all__ = ["Meter", "part_of"]

PARTIAL_EVERY = 2.0  # seconds between partial maps


class Meter:
    """Counts units of work, and hands on a partial map now and then.

    Parameters
    ----------
    progress : hears of every addition; may raise Cancelled.
    total : units of work, as far as known; may be changed.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self.total, self.done = progress, total, 0
        self._shown = time.monotonic()

    def add(self, units: int = 1, partial: Callable[[], Tensor] | None = None) -> None:
        """Report so many more units; `partial` makes the map so far, and is called when one is due."""
        self.done += units
        if partial is not None and time.monotonic() - self._shown > PARTIAL_EVERY:
            self._progress(self.done, self.total, partial())
            self._shown = time.monotonic()
        else:
            self._progress(self.done, self.total)

    def close(self) -> None:
        """Say that this was all, where there was less to do than was thought."""
        if self.total != self.done:
            self.total = self.done
            self._progress(self.done, self.total)


def part_of(progress: Progress, n: int, count: int) -> Progress:
    """What the n-th of `count` runs of the same kind may report to, so that together they are one.

    One run alone reports its own units and partial maps; several report thousandths of each.
    """
    if count == 1:
        return progress

    heard = 0  # a run may find that there is more to do than it thought: nothing is taken back

    def hear(done: int, total: int, partial: Tensor | None = None) -> None:
        nonlocal heard
        heard = max(heard, round(1000 * done / max(total, 1)))
        progress(1000 * n + heard, 1000 * count)

    return hear
