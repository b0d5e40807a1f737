"""CAMs whose weights come from forward passes: Score-CAM, IS-CAM, Ablation-CAM."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods3d.baselines import BASELINES, Baseline, BaselineLike, baseline
from methods3d.cam.base import ChannelCAM, Sweep
from methods3d.cam.gradcam import RELU
from methods3d.cam.layer import LAYER
from methods3d.layers import above
from methods3d.method import setting
from methods3d.model import whole
from methods3d.types import Cost, Edit, Explainable, Scores, Target

__all__ = ["ISCAM", "AblationCAM", "ScoreCAM"]

CHANNELS = "so many channels, those that vary most over the scan (Faster Score-CAM); 0: all"


@dataclass(frozen=True, kw_only=True)
class ScoreCAM(ChannelCAM):
    """Channels weighted by the score of the scan seen through them: what remains visible decides, no gradient.

    When: gradients are not to be trusted (saturation), and time allows a prediction for every channel; with
    `channels=10` for few of them.
    """

    name: ClassVar[str] = "score-cam"
    title: ClassVar[str] = "Score-CAM"
    source: ClassVar[str] = "Wang et al. 2020, arXiv:1910.01279, alg. 1; channels: Faster Score-CAM"

    layer: str = setting("", LAYER)
    channels: int = setting(0, CHANNELS, at_least=0)
    baseline: BaselineLike = setting("air", "what stands where the mask hides", choices=BASELINES, reads=baseline)
    relu: bool = setting(True, RELU)
    compares = False

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """Softmax over channels of T(scan through the channel) - T(nothing)."""
        return _seen_through(sweep, target, self.channels, baseline(self.baseline), parts=1)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A prediction for every channel; a layer of 128 is taken for granted where none is named."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * n * (3 + (self.channels or 128)), backward=0)


@dataclass(frozen=True, kw_only=True)
class ISCAM(ChannelCAM):
    """Score-CAM whose masks fade in step by step, and whose scores are averaged.

    When: Score-CAM's weights hang on few channels.
    """

    name: ClassVar[str] = "is-cam"
    title: ClassVar[str] = "IS-CAM"
    source: ClassVar[str] = "Naidu, Ghosh, Maurya, Nayak K, Kundu 2020, arXiv:2010.03023, eq. 6 and 7"

    layer: str = setting("", LAYER)
    steps: int = setting(10, "steps in which a mask fades in", at_least=1)
    channels: int = setting(0, CHANNELS, at_least=0)
    baseline: BaselineLike = setting("air", "what stands where the mask hides", choices=BASELINES, reads=baseline)
    relu: bool = setting(True, RELU)
    compares = False

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """Softmax over channels of the mean over n of T(scan through n/N of the channel) - T(nothing)."""
        return _seen_through(sweep, target, self.channels, baseline(self.baseline), parts=self.steps)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A prediction for every channel and step; a layer of 128 is taken for granted where none is named."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * n * (3 + self.steps * (self.channels or 128)), backward=0)


@dataclass(frozen=True, kw_only=True)
class AblationCAM(ChannelCAM):
    """Channels weighted by how far the score drops without them; only what lies above the layer is run anew.

    The paper divides the drop by the score, a factor common to all channels whose sign would turn the map round
    where the score is negative: left out.

    When: gradients are not to be trusted, and the layer lies near the head.
    """

    name: ClassVar[str] = "ablation-cam"
    title: ClassVar[str] = "Ablation-CAM"
    source: ClassVar[str] = "Desai, Ramaswamy 2020, eq. 2 and 3"

    layer: str = setting("", LAYER)
    relu: bool = setting(True, RELU)
    compares = False

    def _weights(self, sweep: Sweep, target: Target) -> tuple[Tensor, Scores, tuple[str, ...]]:
        """w_c = T - T(without A_c), over all windows that the score reads."""
        model, x = sweep.model, sweep.x
        bound, scores = model.bind(x, target)
        drops = torch.zeros(())
        for part in above(model, x, bound, sweep.layer):
            a = part.activation
            clean = part.model.scores(a, part.target)
            without = (Edit(whole(a), slice(c, c + 1), torch.zeros_like(a[0, c : c + 1])) for c in range(a.shape[1]))
            after = []
            for some in part.model.edited(a, part.target, without):
                after.append(some)
                sweep.meter.add(0)
            drops = drops + clean - torch.cat(after)
            sweep.meter.add()
        return drops.view(1, -1, 1, 1, 1), scores, ()

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """What lies above the layer, for every channel (128 taken for granted), counted as whole passes at most."""
        n, layers = model.passes(shape), 1 + self.layer.count(",")
        return Cost(forward=layers * n * (4 + 128), backward=0)


def _seen_through(
    sweep: Sweep, target: Target, channels: int, blank: Baseline, parts: int
) -> tuple[Tensor, Scores, tuple[str, ...]]:
    """Weights (1, c, 1, 1, 1): softmax of the mean score through each channel's mask, of `channels` that vary most.

    A channel's mask is its map over the whole scan, from its smallest value there (0) to its largest (1).
    """
    model, x = sweep.model, sweep.x
    bound, scores = model.bind(x, target)
    taps = list(sweep.taps())  # at the layer's own resolution
    count = taps[0].activation.shape[1]
    empty = model.reference(x, blank)
    spread = torch.cat([tap.activation.flatten(2) for tap in taps], 2)[0].var(1)
    chosen = spread.topk(min(channels or count, count)).indices.sort().values.tolist()
    sweep.meter.total += parts * len(chosen)

    def seen() -> Iterator[Edit]:
        for c in chosen:
            mask = model.blend(((tap.sample, tap.box, tap.activation[:, c : c + 1]) for tap in taps), x)
            mask = mask.to(x)
            low, high = mask.min(), mask.max()
            mask = (mask - low) / (high - low) if high > low else torch.zeros_like(mask)
            for n in range(1, parts + 1):
                yield Edit(whole(x), slice(0, x.shape[1]), torch.lerp(empty, x, n / parts * mask)[0])

    found = []
    for some in model.edited(x, bound, seen()):
        found.append(some)
        sweep.meter.add(len(some))
    gains = torch.cat(found).view(len(chosen), parts).mean(1) - model.scores(empty, bound)
    weights = torch.zeros(count, dtype=gains.dtype, device=gains.device)
    weights[chosen] = gains.softmax(0)
    return weights.view(1, -1, 1, 1, 1), scores, ()
