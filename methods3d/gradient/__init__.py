"""Methods made of gradients."""

from methods3d.gradient.deeplift import DeepLIFT, DeepLIFTSHAP
from methods3d.gradient.expected import ExpectedGradients, GradientSHAP
from methods3d.gradient.full import FullGrad
from methods3d.gradient.guided import Deconvnet, GuidedBackprop, GuidedGradCAM
from methods3d.gradient.guided_path import GuidedIG
from methods3d.gradient.inner import Conductance, InternalInfluence
from methods3d.gradient.integrated import BlurIG, IntegratedGradients
from methods3d.gradient.noise import SmoothGrad, SquareGrad, VarGrad
from methods3d.gradient.regions import XRAI
from methods3d.gradient.saliency import InputXGradient, Saliency

__all__ = [
    "XRAI",
    "BlurIG",
    "Conductance",
    "Deconvnet",
    "DeepLIFT",
    "DeepLIFTSHAP",
    "ExpectedGradients",
    "FullGrad",
    "GradientSHAP",
    "GuidedBackprop",
    "GuidedGradCAM",
    "GuidedIG",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "Saliency",
    "SmoothGrad",
    "SquareGrad",
    "VarGrad",
]
