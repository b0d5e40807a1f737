"""What a whole-scan score asks of each window."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.cotangent import score_and_cotangent
from methods3d.errors import ModelOutputError
from methods3d.grid import Grid
from methods3d.rewriting import Rules
from methods3d.types import Box, Output, Scores, Target

__all__ = ["Seeds", "refuse_classifier"]

PLANES = 16  # of a scan, whose score is worked out at once


class Seeds:
    """What each window's output is multiplied with, S g / G, and which windows have any.

    Where the score is a sum over voxels (the target has parts), S is made window by window, and never held whole. A
    linear one that names the voxels that it reads needs no prediction for that: asked before anything is stitched
    ("lazy"), it is the sum over windows of <seed, f(x_w)>. Any other target's S is taken at the stitched prediction
    as a whole.

    Attributes
    ----------
    bound : the target, bound.
    scores : (b,) its value; where lazy, of the windows that `add_scores` has heard of.
    conserved : (b,) <S, Y>.
    read, active : the windows that the target reads, and those that have a seed.
    stitched : the prediction on the padded grid; None where lazy.
    """

    def __init__(
        self,
        target: Target,
        grid: Grid,
        batch: int,
        *,
        home: torch.device,
        dtype: torch.dtype,
        stitch: Callable[[Sequence[tuple[int, Box]]], Output],
        rules: Rules | None = None,
        stitch_reference: Callable[[Sequence[tuple[int, Box]]], Output] | None = None,
    ) -> None:
        self.grid, self.batch, self.home, self._rules = grid, batch, home, rules
        self.bound, self.stitched = target, None
        self._cotangent: Tensor | None = None
        self._reference: Output | None = None
        self._samples = [target.sample(n, batch) for n in range(batch)]
        self.read = read = self._windows_read()
        self.lazy = target.linear and self._has_parts
        if self.lazy:
            self.active = read
            self.scores = self.conserved = torch.zeros(batch, device=home, dtype=dtype)
            return
        self.stitched = stitch(read)
        clean = grid.cropped(self.stitched)
        self.bound = target.bind(clean)
        self._samples = [self.bound.sample(n, batch) for n in range(batch)]
        if stitch_reference is not None and not self.bound.linear:
            # A linear score has the same multipliers whatever it is compared with.
            self._reference = grid.cropped(stitch_reference(read))
        if self._has_parts:
            self._sum_parts(clean)
            return
        self.scores, seed = score_and_cotangent(self.bound, clean, rules, self._reference)
        self.conserved = (seed * clean).flatten(1).sum(1)
        self._cotangent = grid.padded_mask(seed)
        self.active = [pair for n in range(batch) for pair in grid.touching((self._cotangent[n] != 0).any(0), n)]

    def forget(self) -> None:
        """Let go of the prediction, if no seed needs it any more."""
        if self.bound.linear or self._cotangent is not None:
            self.stitched = None

    def _windows_read(self) -> list[tuple[int, Box]]:
        """The windows that the target reads."""
        found: list[tuple[int, Box]] = []
        for n, target in enumerate(self._samples):
            support = target.support(self.grid.shape)
            every = [(n, box) for box in self.grid.boxes]
            found += every if support is None else self.grid.touching(self.grid.padded_mask(support), n)
        return found

    @property
    def _has_parts(self) -> bool:
        """Whether it is a sum over voxels; a linear one also has to name those that it reads, or binds on nothing."""
        first = self._samples[0]
        if first.linear and first.support(self.grid.shape) is None:
            return False
        return first.within(self.grid.on_scan(self.grid.boxes[0])[0]) is not None

    def _sum_parts(self, clean: Output) -> None:
        """The score, <S, Y>, and where S is not zero, some planes at a time."""
        self.scores, self.conserved = (torch.zeros(self.batch, dtype=clean.dtype, device=clean.device) for _ in "TS")
        self.active = []
        for n in range(self.batch):
            some = torch.zeros(self.grid.shape, dtype=torch.bool, device=clean.device)
            for start in range(0, self.grid.shape[0], PLANES):
                planes = (slice(start, start + PLANES), slice(None), slice(None))
                y = clean[(slice(n, n + 1), slice(None), *planes)]
                part, seed = self._part(n, planes, y)
                self.scores[n] += part
                self.conserved[n] += (seed * y).sum()
                some[planes] = (seed[0] != 0).any(0)
            self.active += self.grid.touching(self.grid.padded_mask(some), n)

    def _part(self, n: int, box: Box, y: Output) -> tuple[Scores, Tensor]:
        """One sample's score in a box of the scan, and its derivative in y (1, k, *box) there."""
        part = self._samples[n].within(box)
        assert part is not None  # it was asked for
        support = part.support((y.shape[2], y.shape[3], y.shape[4]))
        if support is not None and not bool(support.any()):
            return y.new_zeros(()), torch.zeros_like(y)
        y0 = None if self._reference is None else self._reference[(slice(n, n + 1), slice(None), *box)]
        score, seed = score_and_cotangent(part.bind(y) if part.linear else part, y, self._rules, y0)
        return score[0], seed

    def add_scores(self, y: Output, group: Sequence[tuple[int, Box]]) -> None:
        """Add what these windows contribute to a linear score."""
        parts = (y.detach() * self.of(group, y)).flatten(1).sum(1).to(self.scores)
        for row, (n, _) in enumerate(group):
            self.scores[n] += parts[row]

    def cotangent_of(self, group: Sequence[tuple[int, Box]]) -> Callable[[Output, Output | None], Tensor]:
        """These windows' seeds as a function of their output."""

        def cotangent(y: Output, y0: Output | None) -> Tensor:
            refuse_classifier(y, self.grid.roi)
            return self.of(group, y)

        return cotangent

    def of(self, group: Sequence[tuple[int, Box]], y: Output) -> Tensor:
        """The seeds of these windows, (w, k, *roi), for outputs like y."""
        return torch.stack([self._seed(n, box, y) * self.grid.share(box).to(y) for n, box in group])

    def _seed(self, n: int, box: Box, y: Output) -> Tensor:
        if self._cotangent is not None:
            return self._cotangent[(n, slice(None), *box)].to(y)
        there, inside = self.grid.on_scan(box)
        if self.bound.linear:
            shape = (1, y.shape[1], *(side.stop - side.start for side in there))
            at = torch.zeros(shape, dtype=y.dtype)
        else:
            assert self.stitched is not None  # kept as long as seeds are asked for
            at = self.grid.cropped(self.stitched)[(slice(n, n + 1), slice(None), *there)]
        rim = [
            n for side, size in zip(reversed(inside), reversed(self.grid.roi), strict=True)
            for n in (side.start, size - side.stop)
        ]  # fmt: skip
        return F.pad(self._part(n, there, at)[1][0], rim).to(y)


def refuse_classifier(y: Output, roi: Sequence[int]) -> None:
    """Only a volume of the window's own size can be stitched."""
    if y.ndim != 5:
        raise ModelOutputError(
            "A classifier cannot run in windows, because its score belongs to the whole scan: "
            "explain it without windows (TorchModel)."
        )
    if tuple(y.shape[2:]) != tuple(roi):
        raise ModelOutputError(
            f"The network puts out {tuple(y.shape[2:])} voxels for a window of {tuple(roi)}: "
            "only outputs of the window's own size can be stitched; choose one with output=."
        )
