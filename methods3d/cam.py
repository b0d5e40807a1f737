"""Class activation maps: a layer's channels, weighted by what they do for the score."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.errors import LayerError
from methods3d.method import Method, Relevance, setting
from methods3d.types import Box, Cost, Explainable, Progress, Tap, Target, Volume5d

__all__ = ["GradCAM", "layer_for_cam"]

FINE_ENOUGH = 8  # voxels along each axis: a 4 x 4 x 4 map cannot point at a lesion
SAME = 0.99  # correlation with the prediction above which a CAM says nothing new
CANCELLED = 0.01  # mean of a channel's gradient over its mean magnitude, below which no channel has a weight


@dataclass(frozen=True, kw_only=True)
class GradCAM(Method):
    """A layer's channels weighted by their mean gradient: where the network found evidence, coarsely.

    In windows the channel weights are one set for the whole scan, and the weighted maps are stitched
    as the prediction is, so that the map keeps one scale.

    Where the score reads a region, the mean is taken over that region. Seg-Grad-CAM takes it over the whole
    layer (average="everywhere"); but below an instance or group norm, which removes what a whole channel
    shares, that mean is zero but for rounding and borders, and most 3D segmentation networks have these.
    """

    name: ClassVar[str] = "grad-cam"
    source: ClassVar[str] = "Selvaraju et al. 2017, eq. 1-2; for regions Vinogradova et al. 2020 (Seg-Grad-CAM)"

    layer: str = setting("", "layer to read; empty: the last that is neither too coarse nor the prediction itself")
    average: Literal["region", "everywhere"] = setting(
        "region", "where gradients are averaged, if a region is asked about"
    )
    relu: bool = setting(True, "keep positive evidence only, as in the paper")

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """ReLU(sum_c alpha_c A_c), alpha_c the gradient's mean over the layer's (or the region's) positions."""
        layer = self.layer or layer_for_cam(model, x)
        windows = model.passes(_shape(x))
        work = 2 * windows * len(x)
        taps = model.taps(x, layer, target)
        alpha: dict[int, Tensor] = {}
        strength: dict[int, Tensor] = {}
        kept = []
        full = False  # whether the layer has the prediction's resolution
        for done, tap in enumerate(taps, 1):
            # Summed over windows and positions: the mean, but for a factor common to all channels.
            gradient = self._averaged(tap)
            alpha[tap.sample] = alpha.get(tap.sample, 0) + gradient.mean((2, 3, 4), keepdim=True)
            strength[tap.sample] = strength.get(tap.sample, 0) + gradient.abs().mean((2, 3, 4), keepdim=True)
            kept += [tap] if windows == 1 else []
            full = tuple(tap.activation.shape[2:]) == tuple(s.stop - s.start for s in tap.box)
            progress(done, work)

        def maps() -> Iterator[tuple[int, Box, Tensor]]:
            for done, tap in enumerate(kept if windows == 1 else model.taps(x, layer), 1):
                weights = alpha.get(tap.sample, tap.activation.new_zeros(()))  # none: nothing of this sample is read
                cam = (weights * tap.activation).sum(1, keepdim=True)
                progress(work // 2 + done, work)
                yield tap.sample, tap.box, cam.relu() if self.relu else cam

        values = model.blend(maps(), x)
        return Relevance(
            values,
            taps.scores,
            extensive=False,
            warnings=_weightless(layer, alpha, strength)
            + (_equals_prediction(model, x, layer, values) if full else ()),
            chosen={"layer": layer},
        )

    def _averaged(self, tap: Tap) -> Tensor:
        """The layer's gradient, zero outside of the positions that are averaged over."""
        assert tap.gradient is not None  # a target was given
        if self.average == "everywhere" or tap.region is None:
            return tap.gradient
        # A position counts if any voxel of the region falls into it.
        return tap.gradient * F.adaptive_max_pool3d(tap.region[None].to(tap.gradient), tap.gradient.shape[2:])

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Forward, and backward down to the layer; in windows once more forward, up to the layer."""
        n = model.passes(shape)
        return Cost(forward=n if n == 1 else 2 * n, backward=n)


def layer_for_cam(model: Explainable, x: Volume5d) -> str:
    """The last layer to finish whose map is fine enough to point, yet not at the prediction's own resolution.

    At most a quarter of the voxels of the network's finest layer (some networks never pool along one
    axis), and at least 8 along each axis that has as many; where no layer is that fine, the finest of them.

    Raises
    ------
    LayerError : no layer puts out a volume below full resolution, or only a pooled one of a single voxel.
    """
    layers = model.layers(x)
    full = tuple(max(layer.shape[axis] for layer in layers) for axis in range(3)) if layers else (1, 1, 1)
    coarse = [layer for layer in layers if 1 < math.prod(layer.shape) <= math.prod(full) / 4]
    if not coarse:
        raise LayerError("No layer of the network lies below full resolution: name one with layer=.")
    fine = [layer for layer in coarse if all(s >= min(f, FINE_ENOUGH) for s, f in zip(layer.shape, full, strict=True))]
    best = fine[-1] if fine else max(reversed(coarse), key=lambda layer: math.prod(layer.shape))
    return best.name


def _shape(x: Volume5d) -> tuple[int, int, int]:
    return (x.shape[2], x.shape[3], x.shape[4])


def _weightless(layer: str, alpha: Mapping[int, Tensor], strength: Mapping[int, Tensor]) -> tuple[str, ...]:
    """Whether a norm above the layer takes away what a whole channel shares: its weights are then rounding errors."""
    if all(bool((alpha[n].abs() <= CANCELLED * strength[n]).all()) for n in alpha):
        return (
            f"the gradient of {layer!r} averages to zero in every channel, as it does below a norm, so that the map "
            "means little: choose the layer of an activation",
        )
    return ()


def _equals_prediction(model: Explainable, x: Volume5d, layer: str, values: Tensor) -> tuple[str, ...]:
    """Near the head of a segmentation network a CAM is the prediction itself."""
    y = model.output(x)
    if y.ndim != 5:
        return ()
    maps = torch.cat([y, y.relu(), (-y).relu()], 1)[:1].flatten(2)
    both = torch.corrcoef(torch.cat([values[:1].flatten(2).to(maps), maps], 1)[0])[0, 1:]
    if bool((both.nan_to_num().abs() > SAME).any()):
        return (f"the map of {layer!r} is the prediction itself: choose a layer further from the head",)
    return ()
