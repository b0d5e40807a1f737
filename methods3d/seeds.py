"""What a whole-scan score asks of each window."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.cotangent import score_and_cotangent
from methods3d.errors import ModelOutputError
from methods3d.grid import Grid
from methods3d.rewriting import Rules
from methods3d.types import Box, Output, Target

__all__ = ["Seeds", "refuse_classifier"]


class Seeds:
    """What each window's output is multiplied with, S g / G, and which windows have any.

    Where the target is linear and names the voxels that it reads, S is the same whatever is predicted: it is made
    window by window from the target's parts. A score that is asked for before anything is stitched ("lazy") is then
    the sum over windows of <seed, f(x_w)>. Any other target's S is taken at the stitched prediction, and kept whole.

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
        self.grid, self.batch, self.home = grid, batch, home
        self.bound, self._cotangent, self.stitched = target, None, None
        self.read = read = self._windows_of(target)
        if not read:
            target.bind(torch.zeros(batch, 2, *grid.shape))  # raises what is wrong with an empty region
        self.lazy = self._has_parts(target)
        if self.lazy:
            self.active = read
            self.scores = self.conserved = torch.zeros(batch, device=home, dtype=dtype)
            return
        self.stitched = stitch(read)
        clean = grid.cropped(self.stitched)
        self.bound = target.bind(clean)
        if self._has_parts(self.bound):
            self.scores = self.conserved = self.bound(clean)
            self.active = self._windows_of(self.bound)
            return
        y0 = None  # a linear score has the same multipliers whatever it is compared with
        if stitch_reference is not None and not self.bound.linear:
            y0 = grid.cropped(stitch_reference(read))
        self.scores, seed = score_and_cotangent(self.bound, clean, rules, y0)
        self.conserved = (seed * clean).flatten(1).sum(1)
        self._cotangent = grid.padded_mask(seed)
        self.active = [pair for n in range(batch) for pair in grid.touching((self._cotangent[n] != 0).any(0), n)]

    def _windows_of(self, target: Target) -> list[tuple[int, Box]]:
        """The windows that the target reads."""
        found: list[tuple[int, Box]] = []
        for n in range(self.batch):
            support = target.sample(n, self.batch).support(self.grid.shape)
            every = [(n, box) for box in self.grid.boxes]
            found += every if support is None else self.grid.touching(self.grid.padded_mask(support), n)
        return found

    def _has_parts(self, target: Target) -> bool:
        first = target.sample(0, self.batch)
        if not target.linear or first.support(self.grid.shape) is None:
            return False
        return first.within(self.grid.on_scan(self.grid.boxes[0])[0]) is not None

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
        part = self.bound.sample(n, self.batch).within(there)
        assert part is not None  # it was asked for
        blank = torch.zeros((1, y.shape[1], *(side.stop - side.start for side in there)), dtype=y.dtype)
        _, seed = score_and_cotangent(part.bind(blank), blank)
        rim = [
            n for side, size in zip(reversed(inside), reversed(self.grid.roi), strict=True)
            for n in (side.start, size - side.stop)
        ]  # fmt: skip
        return F.pad(seed[0], rim).to(y)


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
