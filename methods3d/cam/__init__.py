"""Class activation maps, and other maps that are read from a layer's activations."""

from methods3d.cam.gradcam import CAM, GradCAM, GradCAMpp, HiResCAM, LayerCAM, XGradCAM
from methods3d.cam.layer import chosen_layer
from methods3d.cam.noisy import SmoothGradCAMpp
from methods3d.cam.score import ISCAM, AblationCAM, ScoreCAM
from methods3d.cam.statistic import FEM, EigenCAM, SMOEScale

__all__ = [
    "CAM",
    "FEM",
    "ISCAM",
    "AblationCAM",
    "EigenCAM",
    "GradCAM",
    "GradCAMpp",
    "HiResCAM",
    "LayerCAM",
    "SMOEScale",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
    "chosen_layer",
]
