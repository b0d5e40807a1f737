"""Maps from a layer's activations alone, whatever the class: Eigen-CAM, FEM, SMOE scale."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.cam.base import ActivationMap, ChannelCAM, LayerMap, Sweep, shape_of
from methods3d.cam.layer import LAYER, body
from methods3d.errors import LayerError
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.types import Box, Cost, Explainable, Progress, Scores, Tap, Target, Volume5d

__all__ = ["FEM", "EigenCAM", "SMOEScale"]

TINY = 1e-7  # added to activations, as in the SMOE paper, so that they have a logarithm


@dataclass(frozen=True, kw_only=True)
class EigenCAM(ChannelCAM):
    """The first principal component of a layer's channels over the whole scan: what the layer is busy with most.

    It needs no gradient and knows no class. As in the paper, channels are not centred; the sign, which a principal
    component does not have, is the one that makes the map's sum positive.

    When: to see what the network attends to at all, before asking why.
    """

    name: ClassVar[str] = "eigen-cam"
    title: ClassVar[str] = "Eigen-CAM"
    source: ClassVar[str] = "Muhammad, Yeasin 2020, arXiv:2008.00299, eq. 3 and 4"

    layer: str = setting("", LAYER)
    relu: bool = setting(False, "keep the positive part only")
    compares = False

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """The first eigenvector of sum A A^T over places and windows."""
        products = total = torch.zeros((), dtype=torch.float64)
        for tap in sweep.taps():
            rows = tap.activation[0].flatten(1).double().cpu()
            products, total = products + rows @ rows.T, total + rows.sum(1)
        first = torch.linalg.eigh(products).eigenvectors[:, -1]
        first = first * (-1.0 if float(first @ total) < 0 else 1.0)
        _, scores = sweep.model.bind(sweep.x, target)
        return first.to(sweep.x).view(1, -1, 1, 1, 1), scores, ()

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """The score, and forward up to the layer; in windows once more."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=n + layers * (n if n == 1 else 2 * n), backward=0)


@dataclass(frozen=True, kw_only=True)
class FEM(ActivationMap):
    """Where a layer's channels are unusually strong, each counted by its mean.

    Mean and standard deviation of a channel are those over the whole scan, also in windows.

    When: without gradients, to see what stands out to the network.
    """

    name: ClassVar[str] = "fem"
    title: ClassVar[str] = "FEM"
    source: ClassVar[str] = "Ahmed Asif Fuad, Martin, Giot, Bourqui, Benois-Pineau, Zemmari 2020, sec. 3"

    layer: str = setting("", LAYER)
    above: float = setting(2.0, "standard deviations above its mean, from which on a channel is strong", at_least=0)
    compares = False

    def _map(self, model: Explainable, x: Volume5d, target: Target, layer: str, meter: Meter) -> LayerMap:
        """Sum over channels of mean_c [A_c > mean_c + K sd_c]."""
        sweep = Sweep(model, x, layer, meter)
        count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for tap in sweep.taps():
            wide = tap.activation.double().cpu()
            count += math.prod(wide.shape[2:])
            total, squares = total + wide.sum((2, 3, 4), keepdim=True), squares + (wide**2).sum((2, 3, 4), keepdim=True)
        mean = total / count
        limit = mean + self.above * (squares / count - mean**2).clamp(min=0).sqrt()

        def strong(tap: Tap) -> Tensor:
            a = tap.activation
            return ((a > limit.to(a)) * mean.to(a)).sum(1, keepdim=True)

        _, scores = model.bind(x, target)
        return LayerMap(sweep.blended(strong), scores)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """The score, and forward up to the layer; in windows once more."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=n + layers * (n if n == 1 else 2 * n), backward=0)


@dataclass(frozen=True, kw_only=True)
class SMOEScale(OneByOne):
    """How unevenly a layer's channels respond at each place, over the network's scales; knows no class.

    One layer of several channels for every resolution, the last of each before the head. A layer's map, laid over the
    scan, is made comparable by its normal distribution there (also in windows), and the maps' mean is taken, so that
    values lie between 0 and 1.

    When: forward passes alone are to be had, and for a quick look at what stands out.
    """

    name: ClassVar[str] = "smoe-scale"
    title: ClassVar[str] = "SMOE scale"
    source: ClassVar[str] = "Mundhenk, Chen, Friedland 2020, arXiv:1911.11293, eq. 3 and sec. 3.2"

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """Mean over layers of Phi(SMOE), SMOE = m (log2 m - mean of log2 A_c) with m the mean of relu(A_c)."""
        last = {layer.shape: layer for layer in body(model.layers(x)) if layer.channels > 1}
        if not last:
            raise LayerError("smoe-scale: the network has no layer of several channels and voxels.")
        meter = Meter(progress, len(last) * model.passes(shape_of(x)))
        total = torch.zeros_like(x[:, :1])
        for layer in last.values():
            values = model.blend(self._maps(Sweep(model, x, layer.name, meter)), x)
            total += torch.special.ndtr((values - values.mean()) / values.std().clamp(min=TINY))
        names = ", ".join(layer.name for layer in last.values())
        return Relevance(total / len(last), score, extensive=False, chosen={"layer": names})

    def _maps(self, sweep: Sweep) -> Iterator[tuple[int, Box, Tensor]]:
        for tap in sweep.taps():
            a = tap.activation.relu() + TINY
            m = a.mean(1, keepdim=True)
            yield tap.sample, tap.box, m * (m.log2() - a.log2().mean(1, keepdim=True))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """The score, and forward up to each of the layers, of which most networks have four to six."""
        return Cost(forward=7 * model.passes(shape), backward=0)
