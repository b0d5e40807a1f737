"""RISE: the scan seen through random masks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import BASELINES, BaselineLike, baseline
from methods3d.cells import interpolated
from methods3d.errors import ParameterError
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.model import whole
from methods3d.types import Cost, Edit, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["RISE"]


@dataclass(frozen=True, kw_only=True)
class RISE(OneByOne):
    """How much higher the score is, on average, where a voxel is visible through random smooth masks.

    The paper's mean score of the masks that show a voxel, less the mean over all masks: zero where it makes no
    difference. Each voxel's mean is over what it was seen of (the paper divides by the expected visibility).

    When: a black box; smooth maps of things larger than a cell of the mask.
    """

    name: ClassVar[str] = "rise"
    title: ClassVar[str] = "RISE"
    source: ClassVar[str] = "Petsiuk, Das, Saenko 2018, arXiv:1806.07421, eq. 6 and sec. 3.2, in 3D"

    samples: int = setting(500, "random masks", at_least=2)
    cell: float = setting(24.0, "edge of the masks' cells in mm (voxels where the spacing is unknown)", above=0)
    visible: float = setting(0.5, "share of the cells that are visible", above=0, at_most=0.99)
    baseline: BaselineLike = setting("tissue", "what stands where a mask hides", choices=BASELINES, reads=baseline)
    seed: int = setting(0, "of the random numbers", at_least=0)

    def check(self, model: Explainable, x: Volume5d) -> None:
        """No cell larger than the scan."""
        extent = [n * s for n, s in zip(x.shape[2:], model.info.spacing or (1.0, 1.0, 1.0), strict=True)]
        if self.cell > max(extent):
            raise ParameterError(
                f"rise: cell is {self.cell:g} mm, but the scan is {max(extent):g} mm long: give less than that."
            )

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Sum T(x through M) M / sum M - mean T(x through M)."""
        empty = model.reference(x, baseline(self.baseline))
        meter = Meter(progress, self.samples)
        seen = torch.zeros_like(x[0, 0])
        worth = torch.zeros_like(seen)
        total = torch.zeros_like(score)
        waiting: list[Tensor] = []

        def edits() -> Iterator[Edit]:
            for mask in self.masks(x, model.info.spacing or (1.0, 1.0, 1.0)):
                waiting.append(mask)
                yield Edit(whole(x), slice(0, x.shape[1]), torch.lerp(empty, x, mask)[0])

        def so_far() -> Tensor:
            kept = worth / seen.clamp(min=torch.finfo(seen.dtype).eps) - total / meter.done
            return torch.where(seen > 0, kept, 0.0)[None, None]  # of what no mask has shown, nothing is known

        for some in model.edited(x, target, edits()):
            for after in some - score:  # measured from the clean score: less to round
                mask = waiting.pop(0)
                seen += mask
                worth += after * mask
                total += after
            meter.add(len(some), so_far)
        return Relevance(so_far(), score, extensive=False)

    def masks(self, x: Volume5d, spacing: tuple[float, float, float]) -> Iterator[Tensor]:
        """Random visible cells, resampled smoothly, at a random shift of up to a cell: (i, j, k) from 0 to 1."""
        generator = torch.Generator().manual_seed(self.seed)
        cells = [max(1, round(self.cell / step)) for step in spacing]
        grid = [-(-n // cell) + 1 for n, cell in zip(x.shape[2:], cells, strict=True)]
        for _ in range(self.samples):
            coarse = (torch.rand(1, 1, *grid, generator=generator) < self.visible).to(x)
            shift = [int(torch.randint(cell, (1,), generator=generator)) for cell in cells]
            fine = interpolated(coarse, [n * cell for n, cell in zip(grid, cells, strict=True)])[0, 0]
            i, j, k = (slice(s, s + n) for s, n in zip(shift, x.shape[2:], strict=True))
            yield fine[i, j, k]

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A prediction for every mask, and the score."""
        return Cost(forward=model.passes(shape) * (2 + self.samples), backward=0)
