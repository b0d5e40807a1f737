"""Methods that change the scan and watch the score."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from methods3d.errors import ParameterError
from methods3d.method import Method, Relevance, setting
from methods3d.types import Box, Cost, Edit, Explainable, ModelInfo, Progress, Target, Volume5d

__all__ = ["Occlusion"]

PARTIAL_EVERY = 2.0  # seconds between partial maps


@dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
    """How far the score drops when a box of the scan is covered; each input channel by itself.

    A voxel's value is the mean drop over the boxes that cover it. A box that holds nothing but the fill
    value changes nothing and is not run; in windows only those that a box touches are run.
    """

    name: ClassVar[str] = "occlusion"
    source: ClassVar[str] = "Zeiler, Fergus 2014, sec. 4.2, as the drop T(x) - T(x without the box)"

    size: float = setting(16.0, "edge of the box", above=0)
    stride: float = setting(8.0, "distance between boxes", above=0)
    unit: Literal["mm", "voxel"] = setting("mm", "unit of size and stride")
    fill: float | None = setting(None, "value of covered voxels on the model's intensity scale; none: its air value")
    batch: int = setting(8, "boxes evaluated at once", at_least=1)

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """T(x) - T(x without the box), averaged over the boxes that cover a voxel."""
        boxes = self.boxes((x.shape[2], x.shape[3], x.shape[4]), model.info)
        fill = model.info.air if self.fill is None else self.fill
        values = torch.zeros_like(x)
        cover = x.new_zeros(x.shape[2:])
        for box in boxes:
            cover[box] += 1
        scores = []
        for n in range(len(x)):
            one = x[n : n + 1]
            bound, score = model.bind(one, target.sample(n, len(x)))
            scores.append(score)
            edits = [
                Edit(box, fill, slice(c, c + 1))
                for c in range(x.shape[1])
                for box in boxes
                if not bool((one[(0, c, *box)] == fill).all())
            ]
            done, shown = 0, time.monotonic()
            for after in model.edited(one, bound, edits, batch=self.batch):
                for edit, drop in zip(edits[done : done + len(after)], (score - after).tolist(), strict=True):
                    values[(n, edit.channels, *edit.box)] += drop
                done += len(after)
                partial = None
                if time.monotonic() - shown > PARTIAL_EVERY:
                    partial, shown = values / cover.clamp(min=1), time.monotonic()
                progress(n * len(edits) + done, len(x) * len(edits), partial)
        return Relevance(values / cover.clamp(min=1), torch.cat(scores), extensive=False)

    def boxes(self, shape: tuple[int, int, int], info: ModelInfo) -> list[Box]:
        """Boxes that cover a grid; the last along an axis ends with it.

        Raises
        ------
        ParameterError : mm are asked for but the spacing is unknown, or the box is larger than the grid.
        """
        sizes, strides = self._voxels(self.size, info), self._voxels(self.stride, info)
        starts = []
        for n, size, stride in zip(shape, sizes, strides, strict=True):
            if size > n:
                raise ParameterError(
                    f"occlusion: a box of {self.size:g} {self.unit} is {size} voxels wide, but the scan has {n}: "
                    "give a smaller size."
                )
            starts.append(sorted({*range(0, n - size + 1, stride), n - size}))
        return [
            (slice(i, i + sizes[0]), slice(j, j + sizes[1]), slice(k, k + sizes[2]))
            for i in starts[0]
            for j in starts[1]
            for k in starts[2]
        ]

    def _voxels(self, length: float, info: ModelInfo) -> Sequence[int]:
        if self.unit == "voxel":
            return [max(1, round(length))] * 3
        if info.spacing is None:
            raise ParameterError(
                "occlusion: the model's spacing is unknown, so a length in mm means nothing: give unit='voxel'."
            )
        return [max(1, round(length / s)) for s in info.spacing]

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """At most one forward a box over all windows that it can touch, and a clean one; empty boxes are free."""
        return Cost(forward=model.passes(shape) * (1 + len(self.boxes(shape, model.info))), backward=0)
