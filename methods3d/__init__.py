"""3D attribution for any torch network: what it looked at, exactly, also through sliding windows.

>>> import torch
>>> from methods3d import ClassScore, InputXGradient, TorchModel
>>> from torch import nn
>>> net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
>>> found = InputXGradient()(TorchModel(net), torch.rand(1, 1, 8, 8, 8), ClassScore(1))
>>> tuple(found.values.shape)
(1, 1, 8, 8, 8)
"""

from methods3d.cam import GradCAM
from methods3d.contrast import Contrast
from methods3d.contrastive import CLRP
from methods3d.deeplift import DeepLIFT
from methods3d.errors import (
    Cancelled,
    LayerError,
    MethodError,
    Methods3dError,
    ModelOutputError,
    ParameterError,
    RuleError,
    TargetError,
    UnsupportedModelError,
    VolumeError,
)
from methods3d.gradient import InputXGradient, IntegratedGradients, Saliency
from methods3d.lrp import LRP
from methods3d.method import Method
from methods3d.model import TorchModel
from methods3d.perturbation import Occlusion
from methods3d.registry import method, methods
from methods3d.rules import Composite, composite
from methods3d.salient import SalientRelevance
from methods3d.targets import ClassMargin, ClassScore, PredictedRegion, RegionScore, Regression
from methods3d.types import Attribution, Cost, Explainable, ModelInfo, Progress, Provenance, Target, silent
from methods3d.windows import WindowedModel

__all__ = [
    "CLRP",
    "LRP",
    "Attribution",
    "Cancelled",
    "ClassMargin",
    "ClassScore",
    "Composite",
    "Contrast",
    "Cost",
    "DeepLIFT",
    "Explainable",
    "GradCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LayerError",
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
    "RegionScore",
    "Regression",
    "RuleError",
    "Saliency",
    "SalientRelevance",
    "Target",
    "TargetError",
    "TorchModel",
    "UnsupportedModelError",
    "VolumeError",
    "WindowedModel",
    "composite",
    "method",
    "methods",
    "silent",
]
