"""Occlusion: a box of the scan is covered, and the score watched."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from methods3d.baselines import FILLINGS, BaselineLike, filler_of, filling
from methods3d.errors import ParameterError
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.perturbation.boxes import Boxes
from methods3d.types import Box, Cost, Edit, Explainable, ModelInfo, Progress, Scores, Target, Volume5d

__all__ = ["Occlusion"]

KEPT = 0.05  # of a level's boxes, those that moved the score most: the next one looks inside them


@dataclass(frozen=True, kw_only=True)
class Occlusion(OneByOne):
    """How far the score drops when a box of the scan is covered; each input channel by itself.

    A voxel's value is the mean drop over the boxes that cover it. A box that holds nothing but the fill
    value changes nothing and is not run; in windows only those that a box touches are run.

    With several levels it goes from coarse to fine: boxes of 2, 4 … times the size and stride first, and
    smaller ones only inside the twentieth of them that moved the score most. A voxel keeps the value of the finest
    level at which every box that covers it was run; the drop of a larger box counts by the share of its volume
    that the finest box has, as if it came evenly from all of it. One level runs every box, as the paper does.

    When: a map that anyone understands and that asks nothing of the network, if there is time.
    """

    name: ClassVar[str] = "occlusion"
    title: ClassVar[str] = "Occlusion"
    source: ClassVar[str] = "Zeiler, Fergus 2014, sec. 4.2, as the drop T(x) - T(x without the box)"

    size: float = setting(12.0, "edge of the (finest) box", above=0)
    stride: float = setting(6.0, "distance between (the finest) boxes", above=0)
    unit: Literal["mm", "voxel"] = setting("mm", "unit of size and stride")
    levels: int = setting(3, "1 runs every box; more go from coarse to fine, halving the box", at_least=1, at_most=6)
    fill: BaselineLike = setting("tissue", "what covers the box", choices=FILLINGS, reads=filling)

    def check(self, model: Explainable, x: Volume5d) -> None:
        """No box larger than the scan, no mm without a spacing."""
        self.boxes((x.shape[2], x.shape[3], x.shape[4]), model.info)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """T(x) - T(x without the box), averaged over the boxes that cover a voxel."""
        levels = self.boxes((x.shape[2], x.shape[3], x.shape[4]), model.info)
        planned = self._planned(levels)
        covers = [boxes.cover((x.shape[2], x.shape[3], x.shape[4])).to(x) for boxes in levels]
        values = torch.zeros_like(x)
        fill = filler_of(model, x, self.fill).boxes(x, model.info)
        meter = Meter(progress, sum(planned) * x.shape[1])
        for c in range(x.shape[1]):
            channel, later = slice(c, c + 1), sum(planned) * (x.shape[1] - c - 1)
            moved: list[Box] = []
            for level, boxes in enumerate(levels):
                inside = sorted({n for box in moved for n in boxes.inside(box)})
                near = boxes if level == 0 else [boxes[n] for n in inside]
                meter.total = meter.done + len(near) + sum(planned[level + 1 :]) + later
                share = _volume(levels[-1][0]) / _volume(boxes[0])
                run: list[Box] = []
                empty: list[Box] = []
                drops: list[float] = []

                def edits(
                    near: Sequence[Box] = near, run: list[Box] = run, empty: list[Box] = empty, channel: slice = channel
                ) -> Iterator[Edit]:
                    for box in near:
                        covered = fill(box)[channel]
                        if torch.equal(covered, x[(0, channel, *box)]):
                            empty.append(box)
                            meter.total -= 1
                        else:
                            run.append(box)
                            yield Edit(box, channel, covered)

                def partial(
                    c: int = c, run: list[Box] = run, drops: list[float] = drops, cover: Tensor = covers[level]
                ) -> Tensor:
                    so_far = values.clone()
                    _lay(so_far[0, c], run[: len(drops)], drops, cover)
                    return so_far

                for after in model.edited(x, target, edits()):
                    drops += (share * (score - after)).tolist()
                    meter.add(len(after), partial)
                _lay(values[0, c], run + empty, drops + [0.0] * len(empty), covers[level])
                order = torch.tensor(drops).abs().argsort(descending=True, stable=True)
                moved = [run[i] for i in order[: math.ceil(KEPT * len(run))].tolist()]
        meter.close()  # the last levels may have had less to run
        seen = float(torch.stack(covers).any(0).double().mean())
        warnings = (f"boxes cover {seen:.0%} of the scan, and the rest is left at zero: take a smaller stride",)
        return Relevance(values, score, extensive=False, warnings=warnings if seen < 1 else ())

    def boxes(self, shape: tuple[int, int, int], info: ModelInfo) -> list[Boxes]:
        """Boxes that cover a grid, level by level, the coarsest first; the last along an axis ends with it.

        Raises
        ------
        ParameterError : mm are asked for but the spacing is unknown, or the box is larger than the grid.
        """
        sizes, strides = self._voxels(self.size, info), self._voxels(self.stride, info)
        for n, size in zip(shape, sizes, strict=True):
            if size > n:
                raise ParameterError(
                    f"occlusion: a box of {self.size:g} {self.unit} is {size} voxels wide, but the scan has {n}: "
                    "give a smaller size."
                )
        levels = []
        for factor in (2**level for level in reversed(range(self.levels))):
            sides = []
            for n, size, stride in zip(shape, sizes, strides, strict=True):
                last = n - min(factor * size, n)
                starts = sorted({*range(0, last + 1, factor * stride), last})
                sides.append([slice(start, start + min(factor * size, n)) for start in starts])
            levels.append(Boxes(sides))
        return levels

    def _voxels(self, length: float, info: ModelInfo) -> Sequence[int]:
        if self.unit == "voxel":
            return [max(1, round(length))] * 3
        if info.spacing is None:
            raise ParameterError(
                "occlusion: the model's spacing is unknown, so a length in mm means nothing: give unit='voxel'."
            )
        return [max(1, round(length / s)) for s in info.spacing]

    def _planned(self, levels: Sequence[Boxes]) -> list[int]:
        """How many boxes each level runs at most."""
        planned = [len(levels[0])]
        for coarse, fine in itertools.pairwise(levels):
            planned.append(min(len(fine), math.ceil(KEPT * planned[-1]) * fine.most_inside(coarse)))
        return planned

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """At most one forward a box and channel over all windows that it can touch, and a clean one."""
        boxes = sum(self._planned(self.boxes(shape, model.info))) * (model.info.channels or 1)
        return Cost(forward=model.passes(shape) * (1 + boxes), backward=0)


def _volume(box: Box) -> int:
    return math.prod(side.stop - side.start for side in box)


def _cover(boxes: Sequence[Box], like: Tensor) -> Tensor:
    """How many boxes cover each voxel (i, j, k)."""
    cover = torch.zeros_like(like)
    for box in boxes:
        cover[box] += 1
    return cover


def _lay(values: Tensor, boxes: Sequence[Box], drops: Sequence[float], cover: Tensor) -> None:
    """Write the mean drop into the voxels (i, j, k) of which every covering box was run."""
    total = torch.zeros_like(values)
    for box, drop in zip(boxes, drops, strict=True):
        total[box] += drop
    whole = (_cover(boxes, values) == cover) & (cover > 0)  # a stride above the size leaves gaps
    values[whole] = total[whole] / cover[whole]
