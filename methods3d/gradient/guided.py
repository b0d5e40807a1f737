"""Guided backpropagation, the deconvnet, and guided Grad-CAM."""

from dataclasses import dataclass
from typing import ClassVar

from methods3d.cam import GradCAM
from methods3d.meter import part_of
from methods3d.method import Method, Relevance, setting
from methods3d.rules import guided
from methods3d.types import Cost, Explainable, Gradient, Progress, Target, Volume5d

__all__ = ["Deconvnet", "GuidedBackprop", "GuidedGradCAM"]


@dataclass(frozen=True, kw_only=True)
class GuidedBackprop(Method):
    """The gradient, of which only what increases passes through each activation.

    When: for crisp pictures of structures that excite the network. They look much like the scan's edges, and hardly
    depend on the class (Adebayo et al. 2018; Nie, Zhang, Patel 2018).
    """

    name: ClassVar[str] = "guided-backprop"
    title: ClassVar[str] = "Guided backprop"
    source: ClassVar[str] = "Springenberg, Dosovitskiy, Brox, Riedmiller 2015, sec. 3.4, for any ReLU-like activation"

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """The gradient under the guided rule."""
        return _ruled(model.gradient(x, target, rules=guided.GuidedBackprop(), progress=progress))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward, one backward."""
        n = model.passes(shape)
        return Cost(forward=n, backward=n)


@dataclass(frozen=True, kw_only=True)
class Deconvnet(Method):
    """The gradient, of which only what increases passes, whether or not an activation was on.

    When: to compare with guided backprop, which it came before; the same caution holds.
    """

    name: ClassVar[str] = "deconvnet"
    title: ClassVar[str] = "Deconvnet"
    source: ClassVar[str] = "Zeiler, Fergus 2014, sec. 2.1, for any ReLU-like activation"

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """The gradient under the deconvnet's rule."""
        return _ruled(model.gradient(x, target, rules=guided.Deconvnet(), progress=progress))

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward, one backward."""
        n = model.passes(shape)
        return Cost(forward=n, backward=n)


@dataclass(frozen=True, kw_only=True)
class GuidedGradCAM(Method):
    """Guided backpropagation where Grad-CAM finds evidence: fine, and of the class.

    When: Grad-CAM is too coarse to say which structure it means.
    """

    name: ClassVar[str] = "guided-grad-cam"
    title: ClassVar[str] = "Guided Grad-CAM"
    source: ClassVar[str] = "Selvaraju et al. 2017, sec. 3.2"

    layer: str = setting("", GradCAM.__dataclass_fields__["layer"].metadata["help"])

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """The product of the two maps."""
        cam = GradCAM(layer=self.layer).attribute(model, x, target, part_of(progress, 0, 2))
        fine = GuidedBackprop().attribute(model, x, target, part_of(progress, 1, 2))
        return Relevance(
            fine.values * cam.values,
            fine.scores,
            extensive=False,
            warnings=(*cam.warnings, *fine.warnings),
            chosen=cam.chosen,
        )

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """Of both."""
        coarse, fine = GradCAM(layer=self.layer).cost(model, shape), GuidedBackprop().cost(model, shape)
        return Cost(coarse.forward + fine.forward, coarse.backward + fine.backward)


def _ruled(found: Gradient) -> Relevance:
    """The gradient as it is; a network without an activation that the rule knows has its plain one."""
    warnings = () if found.met else ("the network has no ReLU-like activation, so that this is the plain gradient",)
    return Relevance(found.values, found.scores, extensive=False, warnings=warnings)
