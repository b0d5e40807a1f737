"""What all class activation maps have in common: layers, windows, and the search for maps that say nothing."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from methods3d.cam.layer import chosen_layers
from methods3d.meter import Meter
from methods3d.method import Method, Relevance, each_sample
from methods3d.types import Box, Cost, Explainable, Progress, Scores, Tap, Target, Volume5d

__all__ = ["CANCELLED", "ActivationMap", "ChannelCAM", "ElementCAM", "LayerMap", "Sweep", "shape_of"]

SAME = 0.99  # correlation with the prediction above which a CAM says nothing new
CANCELLED = 0.01  # mean of a channel's gradient over its mean magnitude, below which no channel has a weight


class LayerMap(NamedTuple):
    """One layer's map (1, 1, i, j, k) on the input's grid, the score, and what is wrong with the map."""

    values: Volume5d
    scores: Scores
    warnings: tuple[str, ...] = ()


class ActivationMap(Method):
    """A map read from a layer; of several, each is divided by its largest magnitude, and their mean taken."""

    layer: str
    compares = True  # whether the map is compared with the prediction while it is made

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """Sample by sample, layer by layer."""
        layers = chosen_layers(model, x, self.layer)

        def mapped(one: Volume5d, its_target: Target, layer: str, meter: Meter) -> LayerMap:
            found = self._map(model, one, its_target, layer, meter)
            return found if self.compares else _compared(model, one, layer, found)

        def explained(one: Volume5d, its_target: Target, its_progress: Progress) -> Relevance:
            meter = Meter(its_progress, len(layers) * self._work(model, one))
            maps = [mapped(one, its_target, layer, meter) for layer in layers]
            values = maps[0].values
            if len(maps) > 1:
                values = sum((_scaled(m.values) for m in maps), torch.zeros_like(values)) / len(maps)
            warnings = tuple(dict.fromkeys(w for m in maps for w in m.warnings))
            meter.close()
            return Relevance(
                values, maps[0].scores, extensive=False, warnings=warnings, chosen={"layer": ", ".join(layers)}
            )

        return each_sample(x, target, progress, explained)

    @abstractmethod
    def _map(self, model: Explainable, x: Volume5d, target: Target, layer: str, meter: Meter) -> LayerMap:
        """One sample's map of one layer."""

    def _work(self, model: Explainable, x: Volume5d) -> int:
        """Units of work that a map reports."""
        return 2 * model.passes(shape_of(x))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Forward, and backward down to the layer; in windows once more forward, up to the layer."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * (n if n == 1 else 2 * n), backward=layers * n)


class Resemblance:
    """Whether a weighted sum of maps is the prediction itself, as it is near the head of a segmentation network."""

    def __init__(self) -> None:
        self._products: Tensor | None = None  # of a one, the maps and the output's channels, summed over all places
        self._maps = 0

    def see(self, maps: Tensor, output: Tensor | None, where: Tensor | None = None) -> None:
        """Take in one window's maps (1, c, i', j', k') where a mask is True, if the output is known and as fine."""
        if output is None or output.ndim != 5 or output.shape[2:] != maps.shape[2:]:
            return
        rows = torch.cat([torch.ones_like(maps[:, :1]), maps, output.to(maps)], 1)[0].flatten(1).double()
        rows = rows if where is None else rows[:, where.flatten().to(rows.device)]
        products = rows @ rows.T
        self._products = products if self._products is None else self._products + products
        self._maps = maps.shape[1]

    def warnings(self, layer: str, weights: Tensor) -> tuple[str, ...]:
        """What there is to say of the maps' sum with these weights (c,)."""
        if self._products is None:
            return ()
        mean = self._products[0] / self._products[0, 0].clamp(min=1)
        covariance = (self._products / self._products[0, 0].clamp(min=1) - mean[:, None] * mean)[1:, 1:]
        n, w = self._maps, weights.to(covariance)
        size = (w @ covariance[:n, :n] @ w * covariance.diagonal()[n:]).clamp(min=0).sqrt()
        if bool(((w @ covariance[:n, n:]).abs() > SAME * size.clamp(min=torch.finfo(size.dtype).tiny)).any()):
            return (f"the map of {layer!r} is the prediction itself: choose a layer further from the head",)
        return ()


@dataclass
class Sweep:
    """Passes over a layer's windows; where there is only one window it is remembered, and never run twice.

    Attributes
    ----------
    same : compares the layer with the prediction, on the windows that the score reads.
    scores : (1,) the target's value, once a pass with a target is through.
    """

    model: Explainable
    x: Volume5d
    layer: str
    meter: Meter
    same: Resemblance = field(default_factory=Resemblance)
    scores: Scores = field(default_factory=lambda: torch.empty(0))
    _kept: list[Tap] = field(default_factory=list)

    def taps(self, target: Target | None = None) -> Iterator[Tap]:
        """The layer's taps; with a target, of the windows that it reads, with gradients."""
        taps = self.model.taps(self.x, self.layer, target)
        for tap in taps:
            if self.model.passes(shape_of(self.x)) == 1:
                self._kept = [tap]
            self.same.see(tap.activation, tap.output)
            yield tap
            self.meter.add()
        if target is not None:
            self.scores = taps.scores

    def again(self) -> Iterator[Tap]:
        """The layer's activations in every window, once more."""
        if not self._kept:
            yield from self.taps()
            return
        for tap in self._kept:
            yield tap
            self.meter.add()

    def blended(self, values: Callable[[Tap], Tensor]) -> Volume5d:
        """The maps (1, 1, i', j', k') that values(tap) gives, stitched as the prediction is."""
        return self.model.blend(((tap.sample, tap.box, values(tap)) for tap in self.again()), self.x)


class ChannelCAM(ActivationMap):
    """A layer's channels, each with one weight for the whole scan: sum_c w_c A_c."""

    relu: bool

    @abstractmethod
    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """The channels' weights (1, c, 1, 1, 1), the score, and warnings."""

    def _map(self, model: Explainable, x: Volume5d, target: Target, layer: str, meter: Meter) -> LayerMap:
        """Weights first, then the weighted maps, stitched as the prediction is, so that the map keeps one scale."""
        sweep = Sweep(model, x, layer, meter)
        weights, scores, warnings = self._weights(sweep, target)

        def weighted(tap: Tap) -> Tensor:
            cam = (weights * tap.activation).sum(1, keepdim=True)
            return cam.relu() if self.relu else cam

        same = sweep.same.warnings(layer, weights.flatten())
        return LayerMap(sweep.blended(weighted), scores, (*warnings, *same))


class ElementCAM(ActivationMap):
    """A layer's channels, weighted at every place by itself: no weights are gathered first, one pass is enough.

    Gradients of the stitched score are as large as a window's share in it, so that windows are added up.
    """

    relu: bool

    @abstractmethod
    def _weighted(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The channels' weighted activations (1, c, i', j', k')."""

    def _map(self, model: Explainable, x: Volume5d, target: Target, layer: str, meter: Meter) -> LayerMap:
        """The sum over channels."""
        sweep, same = Sweep(model, x, layer, meter), Resemblance()  # of these maps, not of the layer's channels

        def parts() -> Iterator[tuple[int, Box, Tensor]]:
            for tap in sweep.taps(target):
                assert tap.gradient is not None  # a target was given
                cam = self._weighted(tap.activation, tap.gradient).sum(1, keepdim=True)
                read = tap.output if tap.output is None or tap.share is None else tap.output * tap.share.to(tap.output)
                same.see(cam, read, tap.region)  # beyond what the score reads there is no gradient
                yield tap.sample, tap.box, cam.relu() if self.relu else cam

        values = model.blend(parts(), x, shares=True)
        return LayerMap(values, sweep.scores, same.warnings(layer, torch.ones(1)))

    def _work(self, model: Explainable, x: Volume5d) -> int:
        """One pass."""
        return model.passes(shape_of(x))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Forward, and backward down to the layer."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * n, backward=layers * n)


def _compared(model: Explainable, x: Volume5d, layer: str, found: LayerMap) -> LayerMap:
    """With a warning where the map is the prediction; that is run once more, if the layer is as fine."""
    if {one.name: one.scale for one in model.layers(x)}.get(layer) != (1.0, 1.0, 1.0):
        return found
    y, same = model.output(x), Resemblance()
    same.see(found.values, torch.cat([y, y.relu(), (-y).relu()], 1))
    return found._replace(warnings=(*found.warnings, *same.warnings(layer, torch.ones(1))))


def shape_of(x: Volume5d) -> tuple[int, int, int]:
    """The grid."""
    return (x.shape[2], x.shape[3], x.shape[4])


def _scaled(values: Tensor) -> Tensor:
    return values / values.abs().max().clamp(min=torch.finfo(values.dtype).tiny)
