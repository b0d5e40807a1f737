"""The methods by name."""

from methods3d.cam import GradCAM
from methods3d.contrastive import CLRP
from methods3d.deeplift import DeepLIFT
from methods3d.errors import MethodError
from methods3d.gradient import InputXGradient, IntegratedGradients, Saliency
from methods3d.lrp import LRP
from methods3d.method import Method
from methods3d.perturbation import Occlusion
from methods3d.salient import SalientRelevance

__all__ = ["method", "methods"]


def methods() -> dict[str, type[Method]]:
    """Every method: name -> class, gradients first, then CAM, perturbation and LRP's family."""
    gradients = (Saliency, InputXGradient, IntegratedGradients, DeepLIFT)
    return {m.name: m for m in (*gradients, GradCAM, Occlusion, LRP, CLRP, SalientRelevance)}


def method(name: str) -> type[Method]:
    """The method of this name; MethodError lists the names that exist."""
    try:
        return methods()[name]
    except KeyError:
        raise MethodError(f"There is no method {name!r}: choose one of {', '.join(methods())}.") from None
