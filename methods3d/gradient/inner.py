"""What goes through a layer on the way from a baseline to the scan: internal influence and conductance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import BASELINES, BaselineLike, baseline
from methods3d.cam.layer import ONE_LAYER, chosen_layer
from methods3d.gradient.path import Line
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.types import Box, Cost, Explainable, Progress, Scores, Tap, Target, Volume5d

__all__ = ["Conductance", "InternalInfluence"]

STRONGEST = 5  # channels that the record names
Cells = dict[tuple[int, int, int], tuple[Box, Tensor]]


@dataclass(frozen=True, kw_only=True)
class InternalInfluence(OneByOne):
    """How strongly the score reacts to a layer, on average between a baseline and the scan; summed over channels.

    When: to find which channels of a layer matter (the record names the strongest), and where.
    """

    name: ClassVar[str] = "internal-influence"
    title: ClassVar[str] = "Internal influence"
    source: ClassVar[str] = "Leino, Sen, Datta, Fredrikson, Li 2018, def. 1, along the straight path"

    layer: str = setting("", ONE_LAYER)
    steps: int = setting(16, "places along the path", at_least=1)
    baseline: BaselineLike = setting("tissue", "what stands for 'nothing there'", choices=BASELINES, reads=baseline)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Mean of dT/dA over the path's midpoints, summed over the channels of A."""
        layer = chosen_layer(model, x, self.layer)
        line = Line(model.reference(x, baseline(self.baseline)), x)
        meter = Meter(progress, self.steps * model.passes((x.shape[2], x.shape[3], x.shape[4])))
        mean: Cells = {}
        for n in range(self.steps):
            for key, tap in _taps(model, line.point((n + 0.5) / self.steps), layer, target, meter):
                assert tap.gradient is not None  # a target was given
                _add(mean, key, tap, tap.gradient / self.steps)
        return Relevance(
            model.blend(_summed(mean), x, shares=True),
            score,
            extensive=False,
            chosen={"layer": layer, **_strongest(mean)},
        )

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A forward, and a backward down to the layer, for every place; and the score."""
        n = model.passes(shape)
        return Cost(forward=n * (self.steps + 1), backward=n * self.steps)


@dataclass(frozen=True, kw_only=True)
class Conductance(OneByOne):
    """The share of the change in score that goes through each place of a layer; sums to that change.

    When: as integrated gradients, but for what a layer has made of the scan. The record names the strongest channels.
    """

    name: ClassVar[str] = "conductance"
    title: ClassVar[str] = "Conductance"
    source: ClassVar[str] = "Dhamdhere, Sundararajan, Yan 2018, eq. 3; along the path as Shrikumar et al. 2018, eq. 4"

    layer: str = setting("", ONE_LAYER)
    steps: int = setting(32, "pieces of the path", at_least=1)
    baseline: BaselineLike = setting("tissue", "what stands for 'nothing there'", choices=BASELINES, reads=baseline)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Sum over pieces of the mean of dT/dA at its ends times A's change (trapezoids); the gap as for IG."""
        layer = chosen_layer(model, x, self.layer)
        start = model.reference(x, baseline(self.baseline))
        line = Line(start, x)
        meter = Meter(progress, (self.steps + 1) * model.passes((x.shape[2], x.shape[3], x.shape[4])))
        total: Cells = {}
        before: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        for n in range(self.steps + 1):
            for key, tap in _taps(model, line.point(n / self.steps), layer, target, meter):
                assert tap.gradient is not None  # a target was given
                if key in before:
                    activation, gradient = before[key]
                    _add(total, key, tap, (tap.gradient + gradient) / 2 * (tap.activation - activation))
                before[key] = tap.activation, tap.gradient
        values = model.gathered(_summed(total), x)
        through = sum((part.sum() for _, part in total.values()), torch.zeros(())).to(score)
        return Relevance(
            values,
            score,
            extensive=True,
            at=layer,
            gap=score - model.scores(start, target) - through,
            chosen={"layer": layer, **_strongest(total)},
        )

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A forward, and a backward down to the layer, for every place; and the path's two ends."""
        n = model.passes(shape)
        return Cost(forward=n * (self.steps + 3), backward=n * (self.steps + 1))


def _taps(
    model: Explainable, x: Volume5d, layer: str, target: Target, meter: Meter
) -> Iterator[tuple[tuple[int, int, int], Tap]]:
    """The layer's taps by where their windows start."""
    for tap in model.taps(x, layer, target):
        yield (tap.box[0].start, tap.box[1].start, tap.box[2].start), tap
        meter.add()


def _add(cells: Cells, key: tuple[int, int, int], tap: Tap, part: Tensor) -> None:
    cells[key] = tap.box, cells[key][1] + part if key in cells else part


def _summed(cells: Cells) -> Iterator[tuple[int, Box, Tensor]]:
    """Over channels."""
    return ((0, box, part.sum(1, keepdim=True)) for box, part in cells.values())


def _strongest(cells: Cells) -> dict[str, list[int]]:
    """The channels whose sums over all windows are largest in magnitude."""
    total = sum((part.sum((0, 2, 3, 4)) for _, part in cells.values()), torch.zeros(())).abs()
    return {"strongest channels": total.topk(min(STRONGEST, len(total))).indices.tolist()}
