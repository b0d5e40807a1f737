"""The methods by name."""

from methods3d.cam import GradCAM
from methods3d.errors import MethodError
from methods3d.gradient import InputXGradient, IntegratedGradients, Saliency
from methods3d.lrp import LRP
from methods3d.method import Method
from methods3d.perturbation import Occlusion

__all__ = ["method", "methods"]


def methods() -> dict[str, type[Method]]:
    """Every method: name -> class, gradients first, then CAM, perturbation and LRP."""
    return {m.name: m for m in (Saliency, InputXGradient, IntegratedGradients, GradCAM, Occlusion, LRP)}


def method(name: str) -> type[Method]:
    """The method of this name; MethodError lists the names that exist."""
    try:
        return methods()[name]
    except KeyError:
        raise MethodError(f"There is no method {name!r}: choose one of {', '.join(methods())}.") from None
