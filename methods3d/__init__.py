"""3D attribution for any torch network: what it looked at, exactly, also through sliding windows.

>>> import torch
>>> from methods3d import ClassScore, InputXGradient, TorchModel
>>> from torch import nn
>>> net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
>>> found = InputXGradient()(TorchModel(net), torch.rand(1, 1, 8, 8, 8), ClassScore(1))
>>> tuple(found.values.shape)
(1, 1, 8, 8, 8)
"""

from methods3d.baselines import baseline
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
from methods3d.contrast import Contrast
from methods3d.control import Edges, InputItself, RandomMap
from methods3d.errors import (
    Cancelled,
    LayerError,
    MethodError,
    Methods3dError,
    ModelOutputError,
    ParameterError,
    RuleError,
    ShapeError,
    TargetError,
    UnsupportedModelError,
    VolumeError,
)
from methods3d.features import features
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
from methods3d.layers import LayerUnit
from methods3d.layerwise import LayerAttribution
from methods3d.lrp import CLRP, LRP, SalientRelevance
from methods3d.method import Method
from methods3d.model import TorchModel
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
from methods3d.registry import FAMILIES, method, methods
from methods3d.rules import Composite, composite
from methods3d.targets import ClassMargin, ClassScore, PredictedRegion, RegionScore, Regression
from methods3d.types import Attribution, Cost, Explainable, ModelInfo, Progress, Provenance, Reference, Target, silent
from methods3d.windows import WindowedModel

__all__ = [
    "CAM",
    "CLRP",
    "FAMILIES",
    "FEM",
    "HSIC",
    "ISCAM",
    "LIME",
    "LRP",
    "RISE",
    "XRAI",
    "Ablation",
    "AblationCAM",
    "Attribution",
    "BlurIG",
    "Cancelled",
    "ClassMargin",
    "ClassScore",
    "Composite",
    "Conductance",
    "Contrast",
    "Cost",
    "Deconvnet",
    "DeepLIFT",
    "DeepLIFTSHAP",
    "Edges",
    "EigenCAM",
    "ExpectedGradients",
    "Explainable",
    "ExtremalPerturbation",
    "FullGrad",
    "GradCAM",
    "GradCAMpp",
    "GradientSHAP",
    "GuidedBackprop",
    "GuidedGradCAM",
    "GuidedIG",
    "HiResCAM",
    "InputItself",
    "InputXGradient",
    "IntegratedGradients",
    "InternalInfluence",
    "KernelSHAP",
    "LayerAttribution",
    "LayerCAM",
    "LayerError",
    "LayerUnit",
    "Method",
    "MethodError",
    "Methods3dError",
    "ModelInfo",
    "ModelOutputError",
    "Occlusion",
    "ParameterError",
    "PredictedRegion",
    "Progress",
    "Provenance",
    "RandomMap",
    "Reference",
    "RegionScore",
    "Regression",
    "RuleError",
    "SMOEScale",
    "Saliency",
    "SalientRelevance",
    "ScoreCAM",
    "ShapeError",
    "ShapleySampling",
    "SmoothGrad",
    "SmoothGradCAMpp",
    "Sobol",
    "SquareGrad",
    "Target",
    "TargetError",
    "TorchModel",
    "UnsupportedModelError",
    "VarGrad",
    "VolumeError",
    "WindowedModel",
    "XGradCAM",
    "baseline",
    "composite",
    "features",
    "method",
    "methods",
    "silent",
]
