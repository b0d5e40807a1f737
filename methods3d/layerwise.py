"""Any method at a layer: what the layer has made of the scan is explained, and laid back over it."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from methods3d.cam.layer import ONE_LAYER, chosen_layer
from methods3d.errors import ParameterError
from methods3d.features import Labels, features
from methods3d.gradient import InputXGradient
from methods3d.layers import above
from methods3d.meter import part_of
from methods3d.method import Method, OneByOne, Relevance, setting
from methods3d.types import Cost, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["LayerAttribution"]


@dataclass(frozen=True, kw_only=True)
class LayerAttribution(OneByOne):
    """A method applied to what lies above a layer, with the layer's activations as its input; summed over channels.

    So there is a layer's gradient x activation, integrated gradients, DeepLIFT, LRP, occlusion, ablation of channels
    ("--of ablation --of.features channels") and whatever else. A baseline is the layer's activation on the scan's
    baseline. In windows each window's layer is explained by its share in the score, and the shares add up.

    When: to see at which depth a finding arises, or to read a sharp method more smoothly.
    """

    name: ClassVar[str] = "layer-attribution"
    title: ClassVar[str] = "At a layer"
    source: ClassVar[str] = "as Captum's Layer methods; any method on the network above the layer"

    of: Method = setting(InputXGradient(), "the method")
    layer: str = setting("", ONE_LAYER)

    def __post_init__(self) -> None:
        """Refuse a layer of a layer."""
        super().__post_init__()
        for method in self.inner:
            if hasattr(method, "layer"):
                raise ParameterError(
                    f"layer-attribution: of is made of {method.name!r}, which reads a layer by itself: use it alone."
                )

    def check(self, model: Explainable, x: Volume5d) -> None:
        """Refuse label maps."""
        for method in self.inner:
            if isinstance(features(getattr(method, "features", "channels")), Labels):
                raise ParameterError(
                    f"{method.name}: a label map lies on the scan's grid, and a layer has its own: "
                    "give 'channels', 'grid(MM)' or 'supervoxels(N)'."
                )

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """The method's maps of every window's layer, summed over channels, on the input's grid."""
        layer = chosen_layer(model, x, self.layer)
        parts, found = [], []
        count = model.passes((x.shape[2], x.shape[3], x.shape[4]), target)
        for n, part in enumerate(above(model, x, target, layer)):
            # A partial map of one window's layer would be none of the scan: only counts are handed on.
            heard = part_of(lambda done, total, _=None: progress(done, total), n, count)
            one = self.of.attribute(part.model, part.activation, part.target, heard)
            parts.append((part.sample, part.box, one.values.sum(1, keepdim=True)))
            found.append(one)
            progress(n + 1, count)
        if not found:  # the score hangs on no window
            return Relevance(torch.zeros_like(x[:, :1]), score, extensive=True, at=layer, chosen={"layer": layer})
        extensive = found[0].extensive
        gaps = [one.gap for one in found if one.gap is not None]
        causes = dict.fromkeys(cause for one in found for cause in one.absorbed)
        absorbed = {
            cause: sum((one.absorbed[cause] for one in found if cause in one.absorbed), torch.zeros_like(score))
            for cause in causes
        }
        return Relevance(
            model.gathered(parts, x) if extensive else model.blend(parts, x, shares=True),
            score,
            extensive=extensive,
            at=layer,
            absorbed=absorbed,
            gap=sum(gaps, torch.zeros_like(score)) if gaps else None,
            warnings=tuple(dict.fromkeys(w for one in found for w in one.warnings)),
            chosen={"layer": layer},
        )

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """As the method itself at most, and the layer once."""
        once, n = self.of.cost(model, shape), model.passes(shape)
        return Cost(once.forward + 2 * n, once.backward)
