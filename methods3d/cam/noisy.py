"""Smooth Grad-CAM++: Grad-CAM++ whose gradients are means over noisy copies of the scan."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.cam.base import ChannelCAM, Sweep, shape_of
from methods3d.cam.gradcam import RELU, plus_plus
from methods3d.cam.layer import LAYER
from methods3d.method import setting
from methods3d.types import Cost, Explainable, Scores, Target, Volume5d

__all__ = ["SmoothGradCAMpp"]


@dataclass(frozen=True, kw_only=True)
class SmoothGradCAMpp(ChannelCAM):
    """Grad-CAM++ whose gradients, their squares and cubes are means over noisy copies of the scan.

    In windows the sums of activations are over all of them.

    When: Grad-CAM++ changes with the scan's noise.
    """

    name: ClassVar[str] = "smooth-grad-cam++"
    title: ClassVar[str] = "Smooth Grad-CAM++"
    source: ClassVar[str] = "Omeiza, Speakman, Cintas, Weldermariam 2019, arXiv:1908.01224, eq. 8 and 9"

    layer: str = setting("", LAYER)
    samples: int = setting(8, "noisy copies", at_least=1)
    noise: float = setting(0.1, "standard deviation of the noise, as a share of the scan's range", above=0)
    seed: int = setting(0, "of the random numbers", at_least=0)
    relu: bool = setting(True, RELU)

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """As Grad-CAM++ with mean g, g^2 and g^3, window by window; A is that of the clean scan."""
        model, x = sweep.model, sweep.x
        bound, scores = model.bind(x, target)  # the same question of every copy
        sums = sum((tap.activation.sum((2, 3, 4), keepdim=True) for tap in sweep.taps()), torch.zeros(()))
        generator = torch.Generator().manual_seed(self.seed)
        width = self.noise * float(x.max() - x.min())
        means: dict[str, list[Tensor]] = {}
        for _ in range(self.samples):
            noisy = x + width * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            for tap in Sweep(model, noisy, sweep.layer, sweep.meter, sweep.same).taps(bound):
                assert tap.gradient is not None  # a target was given
                powers = [tap.gradient**n / self.samples for n in (1, 2, 3)]
                before = means.get(str(tap.box), [torch.zeros_like(p) for p in powers])
                means[str(tap.box)] = [a + b for a, b in zip(before, powers, strict=True)]
        weights = sum((plus_plus(g, g2, g3, sums) for g, g2, g3 in means.values()), torch.zeros(()))
        return weights, scores, ()

    def _work(self, model: Explainable, x: Volume5d) -> int:
        """A pass for every copy, and two over the clean scan."""
        return (2 + self.samples) * model.passes(shape_of(x))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """The score, the clean layer, a forward and a backward for every copy, and in windows the layer once more."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * n * (self.samples + (2 if n == 1 else 3)), backward=layers * n * self.samples)
