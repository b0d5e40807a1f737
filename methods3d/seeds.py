"""What a whole-scan score asks of each window."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from methods3d.errors import ModelOutputError
from methods3d.grid import Grid
from methods3d.model import score_and_cotangent
from methods3d.rewriting import Rules
from methods3d.types import Box, Output, Target

__all__ = ["Seeds", "refuse_classifier"]


class Seeds:
    """What each window's output is multiplied with, g S_w / G_w, and which windows have any.

    Lazy where the target is linear and names the voxels that it reads: then S is taken at the first
    window's output (it is the same everywhere), and the score is the sum over windows of <seed, f(x_w)>.
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
        supports = [target.sample(n, batch).support(grid.shape) for n in range(batch)]
        self.grid, self.batch, self.home = grid, batch, home
        self.bound, self.cotangent, self.stitched = target, None, None
        self.lazy = target.linear and all(support is not None for support in supports)
        self.pairs = [
            pair
            for n, support in enumerate(supports)
            for pair in (
                [(n, box) for box in grid.boxes] if support is None else grid.touching(grid.padded_mask(support), n)
            )
        ]
        if not self.pairs:
            target.bind(torch.zeros(batch, 2, *grid.shape))  # raises what is wrong with an empty region
        if self.lazy:
            self.active = self.pairs
            self.scores = self.conserved = torch.zeros(batch, device=home, dtype=dtype)
            return
        self.stitched = stitch(self.pairs)
        clean = grid.cropped(self.stitched)
        self.bound = target.bind(clean)
        y0 = None  # a linear score has the same multipliers whatever it is compared with
        if stitch_reference is not None and not self.bound.linear:
            y0 = grid.cropped(stitch_reference(self.pairs))
        self.scores, seed = score_and_cotangent(self.bound, clean, rules, y0)
        self.conserved = (seed * clean).flatten(1).sum(1)
        self.cotangent = grid.padded_mask(seed)
        self.active = [pair for n in range(batch) for pair in grid.touching((self.cotangent[n] != 0).any(0), n)]

    def add_scores(self, y: Output, group: Sequence[tuple[int, Box]]) -> None:
        """Add what these windows contribute to a linear score."""
        if self.cotangent is None:
            blank = torch.zeros((self.batch, y.shape[1], *self.grid.shape), dtype=y.dtype, device=self.home)
            self.bound = self.bound.bind(blank)
            self.cotangent = self.grid.padded_mask(score_and_cotangent(self.bound, blank)[1])
        parts = (y.detach() * self.of(group).to(y)).flatten(1).sum(1).to(self.scores)
        for row, (n, _) in enumerate(group):
            self.scores[n] += parts[row]

    def cotangent_of(self, group: Sequence[tuple[int, Box]]) -> Callable[[Output, Output | None], Tensor]:
        """These windows' seeds as a function of their output; a lazy score is summed up on the way."""

        def cotangent(y: Output, y0: Output | None) -> Tensor:
            refuse_classifier(y, self.grid.roi)
            if self.lazy:
                self.add_scores(y, group)
            return self.of(group).to(y)

        return cotangent

    def of(self, group: Sequence[tuple[int, Box]]) -> Tensor:
        """The seeds of these windows, (w, k, *roi)."""
        assert self.cotangent is not None  # set when the target was bound
        scale = self.grid.weight.to(self.cotangent)
        norm = self.grid.norm.to(self.cotangent)
        return torch.stack([self.cotangent[(n, slice(None), *box)] * scale / norm[box] for n, box in group])


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
