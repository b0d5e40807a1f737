"""The methods by name, family by family."""

from methods3d.cam import (
    CAM,
    FEM,
    ISCAM,
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMpp,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    SMOEScale,
    SmoothGradCAMpp,
    XGradCAM,
)
from methods3d.control import Edges, InputItself, RandomMap
from methods3d.errors import MethodError
from methods3d.gradient import (
    XRAI,
    BlurIG,
    Conductance,
    Deconvnet,
    DeepLIFT,
    DeepLIFTSHAP,
    ExpectedGradients,
    FullGrad,
    GradientSHAP,
    GuidedBackprop,
    GuidedGradCAM,
    GuidedIG,
    InputXGradient,
    IntegratedGradients,
    InternalInfluence,
    Saliency,
    SmoothGrad,
    SquareGrad,
    VarGrad,
)
from methods3d.layerwise import LayerAttribution
from methods3d.lrp import CLRP, LRP, SalientRelevance
from methods3d.method import Method
from methods3d.perturbation import (
    HSIC,
    LIME,
    RISE,
    Ablation,
    ExtremalPerturbation,
    KernelSHAP,
    Occlusion,
    ShapleySampling,
    Sobol,
)

__all__ = ["FAMILIES", "method", "methods"]

FAMILIES: dict[str, tuple[type[Method], ...]] = {
    "gradients": (
        *(Saliency, InputXGradient, IntegratedGradients, GuidedIG, BlurIG, ExpectedGradients, GradientSHAP),
        *(DeepLIFT, DeepLIFTSHAP, SmoothGrad, SquareGrad, VarGrad, GuidedBackprop, Deconvnet, GuidedGradCAM),
        *(FullGrad, XRAI),
    ),
    "relevance propagation": (LRP, CLRP, SalientRelevance),
    "class activation maps": (
        *(CAM, GradCAM, GradCAMpp, SmoothGradCAMpp, XGradCAM, HiResCAM, LayerCAM, ScoreCAM, ISCAM, AblationCAM),
        *(EigenCAM, FEM, SMOEScale),
    ),
    "perturbation": (
        *(Occlusion, Ablation, RISE, LIME, KernelSHAP, ShapleySampling, Sobol, HSIC, ExtremalPerturbation),
    ),
    "layers": (LayerAttribution, InternalInfluence, Conductance),
    "controls": (RandomMap, Edges, InputItself),
}


def methods() -> dict[str, type[Method]]:
    """Every method: name -> class, family by family."""
    return {m.name: m for family in FAMILIES.values() for m in family}


def method(name: str) -> type[Method]:
    """The method of this name; MethodError lists the names that exist."""
    try:
        return methods()[name]
    except KeyError:
        raise MethodError(f"There is no method {name!r}: choose one of {', '.join(methods())}.") from None
