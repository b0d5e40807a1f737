"""CAMs whose weights come from one gradient: CAM, Grad-CAM, Grad-CAM++, XGrad-CAM, HiResCAM, Layer-CAM."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.cam.base import CANCELLED, ChannelCAM, ElementCAM, Sweep, shape_of
from methods3d.cam.layer import LAYER
from methods3d.errors import LayerError
from methods3d.method import setting
from methods3d.types import Cost, Explainable, Scores, Tap, Target, Volume5d

__all__ = ["CAM", "RELU", "GradCAM", "GradCAMpp", "HiResCAM", "LayerCAM", "XGradCAM", "plus_plus"]

LEVEL = 1e-3  # of the largest gradient, by which a gradient may vary that is to be the same everywhere
RELU = "keep positive evidence only, as in the paper"


@dataclass(frozen=True, kw_only=True)
class GradCAM(ChannelCAM):
    """A layer's channels weighted by their mean gradient: where the network found evidence, coarsely.

    In windows the channel weights are one set for the whole scan, and the weighted maps are stitched
    as the prediction is, so that the map keeps one scale.

    Where the score reads a region, the mean is taken over that region. Seg-Grad-CAM takes it over the whole
    layer (average="everywhere"); but below an instance or group norm, which removes what a whole channel
    shares, that mean is zero but for rounding and borders, and most 3D segmentation networks have these.

    When: a robust, class-specific overview at the price of a prediction; not for what is smaller than a cell.
    """

    name: ClassVar[str] = "grad-cam"
    title: ClassVar[str] = "Grad-CAM"
    source: ClassVar[str] = "Selvaraju et al. 2017, eq. 1-2; for regions Vinogradova et al. 2020 (Seg-Grad-CAM)"

    layer: str = setting("", LAYER)
    average: Literal["region", "everywhere"] = setting(
        "region", "where gradients are averaged, if a region is asked about"
    )
    relu: bool = setting(True, RELU)

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """alpha_c, the gradient's mean over the layer's (or the region's) positions."""
        alpha = strength = torch.zeros(())
        for tap in sweep.taps(target):
            # Summed over windows and positions: the mean, but for a factor common to all channels.
            gradient = self._averaged(tap)
            alpha = alpha + gradient.mean((2, 3, 4), keepdim=True)
            strength = strength + gradient.abs().mean((2, 3, 4), keepdim=True)
        cancelled = bool((alpha.abs() <= CANCELLED * strength).all())
        return alpha, sweep.scores, _weightless(sweep.layer) if cancelled else ()

    def _averaged(self, tap: Tap) -> Tensor:
        """The layer's gradient, zero outside of the positions that are averaged over."""
        assert tap.gradient is not None  # a target was given
        if self.average == "everywhere" or tap.region is None:
            return tap.gradient
        # A position counts if any voxel of the region falls into it.
        return tap.gradient * F.adaptive_max_pool3d(tap.region[None].to(tap.gradient), tap.gradient.shape[2:])


@dataclass(frozen=True, kw_only=True)
class CAM(ChannelCAM):
    """The class's own weights of a layer that is pooled and read by a linear head: mean and bias are the score.

    Only for such networks: the gradient is then the same at every place of the layer, which is checked.

    When: the network is made for it (a DenseNet, a ResNet), and the map is to be exactly what the head adds up.
    """

    name: ClassVar[str] = "cam"
    title: ClassVar[str] = "CAM"
    source: ClassVar[str] = "Zhou, Khosla, Lapedriza, Oliva, Torralba 2016, eq. 2"

    layer: str = setting("last", LAYER)
    relu: bool = setting(False, "keep positive evidence only")

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """w_c = dT / d(mean of A_c)."""
        if sweep.model.passes(shape_of(sweep.x)) > 1:
            raise LayerError(
                "cam: a score over several windows is no weighted mean over one layer: run the scan without windows, "
                "or use grad-cam."
            )
        (tap,) = sweep.taps(target)
        if tap.gradient is None or not _level(tap.gradient):
            raise LayerError(
                f"cam: the score is no weighted mean over {sweep.layer!r}, as it is where a layer is pooled and read "
                "by a linear head: choose the layer before the pooling of such a network, or use grad-cam."
            )
        return tap.gradient.sum((2, 3, 4), keepdim=True), sweep.scores, ()

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Forward, and backward down to the layer."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * n, backward=layers * n)


@dataclass(frozen=True, kw_only=True)
class GradCAMpp(ChannelCAM):
    """Grad-CAM that weighs each place's positive gradient, so that several findings share less of one weight.

    exp(T) of the paper's eq. 11 is a factor common to all channels, and left out. In windows the sums are over all
    of them.

    When: several lesions of one class, of which Grad-CAM shows the largest alone.
    """

    name: ClassVar[str] = "grad-cam++"
    title: ClassVar[str] = "Grad-CAM++"
    source: ClassVar[str] = "Chattopadhay, Sarkar, Howlader, Balasubramanian 2018, eq. 10 and 19"

    layer: str = setting("", LAYER)
    relu: bool = setting(True, RELU)

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """w_c = sum of g^2 / (2 g^2 + S_c g^3) relu(g), with S_c the sum of A_c."""
        many = sweep.model.passes(shape_of(sweep.x)) > 1
        sums = sum((_sum(tap.activation) for tap in sweep.taps()), torch.zeros(())) if many else None
        weights = torch.zeros(())
        for tap in sweep.taps(target):
            assert tap.gradient is not None  # a target was given
            g, total = tap.gradient, _sum(tap.activation) if sums is None else sums
            weights = weights + plus_plus(g, g**2, g**3, total)
        return weights, sweep.scores, ()

    def _work(self, model: Explainable, x: Volume5d) -> int:
        """In windows three passes."""
        return 3 * model.passes(shape_of(x))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Forward, and backward down to the layer; in windows twice more forward, up to the layer."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * (n if n == 1 else 3 * n), backward=layers * n)


@dataclass(frozen=True, kw_only=True)
class XGradCAM(ChannelCAM):
    """Grad-CAM whose gradients are weighted by the activation, so that the map adds up as nearly as a CAM can.

    When: as Grad-CAM; its weights follow from two axioms, sensitivity and conservation.
    """

    name: ClassVar[str] = "xgrad-cam"
    title: ClassVar[str] = "XGrad-CAM"
    source: ClassVar[str] = "Fu et al. 2020, arXiv:2008.02312, eq. 8"

    layer: str = setting("", LAYER)
    relu: bool = setting(True, RELU)

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """w_c = sum of g A_c / sum of A_c, over the windows that the score reads; 0 where A_c sums to nothing."""
        worth = sums = sizes = torch.zeros(())
        for tap in sweep.taps(target):
            assert tap.gradient is not None  # a target was given
            worth = worth + _sum(tap.gradient * tap.activation)
            sums, sizes = sums + _sum(tap.activation), sizes + _sum(tap.activation.abs())
        some = sums.abs() > 1e-6 * sizes
        return torch.where(some, worth / torch.where(some, sums, 1.0), 0.0), sweep.scores, ()


@dataclass(frozen=True, kw_only=True)
class HiResCAM(ElementCAM):
    """Activation times gradient, place by place: what the layer's activations really did, no average in between.

    When: the map has to be faithful to the score; for a layer that is read linearly it adds up to it.
    """

    name: ClassVar[str] = "hires-cam"
    title: ClassVar[str] = "HiResCAM"
    source: ClassVar[str] = "Draelos, Carin 2020, arXiv:2011.08891, eq. 4 (made for 3D chest CT)"

    layer: str = setting("", LAYER)
    relu: bool = setting(False, "keep positive evidence only")

    def _weighted(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """g A."""
        return gradient * activation


@dataclass(frozen=True, kw_only=True)
class LayerCAM(ElementCAM):
    """Activation times positive gradient, place by place: sharp also for layers far from the head.

    When: several layers are fused, fine ones among them.
    """

    name: ClassVar[str] = "layer-cam"
    title: ClassVar[str] = "Layer-CAM"
    source: ClassVar[str] = "Jiang, Zhang, Hou, Cheng, Wei 2021, eq. 5 and 6"

    layer: str = setting("", LAYER)
    relu: bool = setting(True, RELU)

    def _weighted(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """relu(g) A."""
        return gradient.relu() * activation


def plus_plus(g: Tensor, g2: Tensor, g3: Tensor, sums: Tensor) -> Tensor:
    """Sum over places of g2 / (2 g2 + S g3) relu(g), for one window; places without a gradient have no weight."""
    below = 2 * g2 + sums * g3
    alpha = torch.where(below.abs() > torch.finfo(below.dtype).tiny, g2 / torch.where(below == 0, 1.0, below), 0.0)
    return _sum(alpha * g.relu())


def _sum(values: Tensor) -> Tensor:
    return values.sum((2, 3, 4), keepdim=True)


def _level(gradient: Tensor) -> bool:
    """Whether it is the same at every place."""
    spread = gradient.amax((2, 3, 4)) - gradient.amin((2, 3, 4))
    return bool(spread.max() <= LEVEL * gradient.abs().max())


def _weightless(layer: str) -> tuple[str, ...]:
    """A norm above the layer takes away what a whole channel shares: its weights are then rounding errors."""
    return (
        f"the gradient of {layer!r} averages to zero in every channel, as it does below a norm, so that the map "
        "means little: choose the layer of an activation",
    )
