"""Methods that change the scan and watch the score."""

from methods3d.perturbation.ablation import Ablation
from methods3d.perturbation.coalitions import LIME, KernelSHAP, ShapleySampling
from methods3d.perturbation.extremal import ExtremalPerturbation
from methods3d.perturbation.occlusion import Occlusion
from methods3d.perturbation.rise import RISE
from methods3d.perturbation.sensitivity import HSIC, Sobol

__all__ = [
    "HSIC",
    "LIME",
    "RISE",
    "Ablation",
    "ExtremalPerturbation",
    "KernelSHAP",
    "Occlusion",
    "ShapleySampling",
    "Sobol",
]
