"""A scan in windows whose boxes are edited: only windows that an edit touches are run."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from methods3d.grid import Grid, Shape
from methods3d.memory import Batches
from methods3d.seeds import Seeds
from methods3d.types import Box, Edit, Output, Scores, Volume5d

__all__ = ["WindowedEdits", "edited_volume"]

CLEAN = 64  # windows whose clean output is kept while edits pass over a scan


def edited_volume(x: Volume5d, edit: Edit) -> Volume5d:
    """A copy of the one sample x with the edit made."""
    copy = x.clone()
    copy[(slice(None), edit.channels, *edit.box)] = edit.values.to(copy)
    return copy


class _Job(NamedTuple):
    """A window to run with an edit."""

    number: int
    edit: Edit
    window: int


@dataclass(frozen=True)
class WindowedEdits:
    """One sample x, its windows, and what a bound score asks of each.

    Attributes
    ----------
    run : the network's output for windows, without a graph.
    batches : how many windows run at once.
    padding_mode, cval : as in WindowedModel.
    """

    x: Volume5d
    grid: Grid
    seeds: Seeds
    run: Callable[[Volume5d], Output]
    batches: Batches
    padding_mode: str
    cval: float

    def scores(self, edits: Iterable[Edit]) -> Iterator[Scores]:
        """The score after each edit, in order, some (n,) at a time."""
        return self._linear(edits) if self.seeds.lazy or self.seeds.bound.linear else self._any(edits)

    def _linear(self, edits: Iterable[Edit]) -> Iterator[Scores]:
        """Score + sum over touched windows of <seed, f(edited) - f(clean)>."""
        active = self.seeds.active
        clean: list[Tensor] = []
        for group, y in self.batches.over(active, lambda group: self.run(self._windows(group)), self._kind):
            if self.seeds.lazy:
                self.seeds.add_scores(y, group)
            clean += list((y * self.seeds.of(group, y)).flatten(1).sum(1))
        base = self.seeds.scores[0].to(self.x.device)
        left: dict[int, int] = {}  # edit -> windows still to run; a dict keeps the order
        changes: dict[int, Tensor] = {}

        def jobs() -> Iterator[_Job]:
            for number, edit in enumerate(edits):
                touched = [w for w, (_, box) in enumerate(active) if self._meets(edit, box)]
                left[number], changes[number] = len(touched), torch.zeros_like(base)
                for w in touched:
                    yield _Job(number, edit, w)

        def work(some: list[_Job]) -> Tensor:
            y = self.run(torch.cat([self._edited(job.edit, active[job.window]) for job in some]))
            return (y * self.seeds.of([active[job.window] for job in some], y)).flatten(1).sum(1)

        def finished() -> Iterator[Scores]:
            found = []
            while left and left[first := next(iter(left))] == 0:
                del left[first]
                found.append(base + changes.pop(first))
            if found:
                yield torch.stack(found)

        for some, values in self.batches.over(jobs(), work, self._kind):
            for job, value in zip(some, values, strict=True):
                left[job.number] -= 1
                changes[job.number] += (value - clean[job.window]).to(base)
            yield from finished()
        yield from finished()

    def _any(self, edits: Iterable[Edit]) -> Iterator[Scores]:
        """The target's value on the prediction with touched windows exchanged."""
        stitched, pairs = self.seeds.stitched, self.seeds.read
        assert stitched is not None  # a target that is not lazy was bound on it

        @lru_cache(maxsize=CLEAN)
        def clean(w: int) -> Tensor:
            return self.run(self._windows([pairs[w]])).to(stitched)[0]

        for edit in edits:
            prediction = stitched.clone()
            touched = [w for w, (_, box) in enumerate(pairs) if self._meets(edit, box)]

            def work(some: list[int], edit: Edit = edit) -> Output:
                return self.run(torch.cat([self._edited(edit, pairs[w]) for w in some]))

            for some, y in self.batches.over(touched, work, self._kind):
                for w, row in zip(some, y, strict=True):
                    box = pairs[w][1]
                    share = self.grid.share(box).to(stitched)
                    prediction[(0, slice(None), *box)] += (row.to(stitched) - clean(w)) * share
            yield self.seeds.bound(self.grid.cropped(prediction)).to(self.x.device)

    @property
    def _kind(self) -> tuple[str, Shape]:
        """Windows of one size take the same memory."""
        return "forward", self.grid.roi

    def _windows(self, pairs: list[tuple[int, Box]]) -> Volume5d:
        return self.grid.windows(self.x, pairs, self.cval, self.padding_mode)

    def _meets(self, edit: Edit, box: Box) -> bool:
        """Whether an edit changes what a window sees; padding repeats only what the window sees anyway."""
        there = self.grid.on_scan(box)[0]
        return all(e.start < t.stop and t.start < e.stop for e, t in zip(edit.box, there, strict=True))

    def _edited(self, edit: Edit, pair: tuple[int, Box]) -> Volume5d:
        """One window of the edited scan."""
        there = self.grid.on_scan(pair[1])[0]
        seen = self.x[(slice(None), slice(None), *there)].clone()
        inside, part = [], []  # the edit's box as the window sees it, and the part of it that it sees
        for e, t in zip(edit.box, there, strict=True):
            start, stop = max(e.start, t.start), min(e.stop, t.stop)
            inside.append(slice(start - t.start, stop - t.start))
            part.append(slice(start - e.start, stop - e.start))
        seen[(slice(None), edit.channels, *inside)] = edit.values[(slice(None), *part)].to(seen)
        return self.grid.pad(seen, self.cval, self.padding_mode)
