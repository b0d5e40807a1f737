"""How much work a method does: a fast look, its usual settings, or thorough. No Qt."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from methods3d import IntegratedGradients, methods

__all__ = ["effort_of", "efforts", "preset"]

EFFORTS = ("Fast look", "Usual", "Thorough")

# What differs from a method's own settings; the work of methods that are not here is the same whatever is set.
PRESETS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "integrated-gradients": ({"steps": 8}, {"steps": 128}),
    "guided-ig": ({"steps": 16}, {"steps": 256}),
    "blur-ig": ({"steps": 8}, {"steps": 128}),
    "expected-gradients": ({"samples": 16}, {"samples": 256}),
    "gradient-shap": ({"samples": 16}, {"samples": 256}),
    "smoothgrad": ({"samples": 8}, {"samples": 100}),
    "squaregrad": ({"samples": 8}, {"samples": 100}),
    "vargrad": ({"samples": 8}, {"samples": 100}),
    "xrai": ({"of": IntegratedGradients(steps=8), "count": 150}, {"of": IntegratedGradients(steps=128)}),
    "smooth-grad-cam++": ({"samples": 4}, {"samples": 32}),
    "score-cam": ({"channels": 16}, {}),
    "is-cam": ({"steps": 4, "channels": 16}, {"steps": 20}),
    "occlusion": ({"size": 24.0, "stride": 12.0}, {"size": 8.0, "stride": 4.0}),
    "ablation": ({"features": "supervoxels(30)"}, {"features": "supervoxels(400)"}),
    "rise": ({"samples": 100}, {"samples": 4000}),
    "lime": ({"features": "supervoxels(50)", "samples": 150}, {"features": "supervoxels(200)", "samples": 3000}),
    "kernel-shap": ({"features": "supervoxels(25)", "samples": 128}, {"samples": 2048}),
    "shapley-sampling": ({"features": "supervoxels(25)", "orders": 4}, {"orders": 32}),
    "sobol": ({"features": "supervoxels(25)", "samples": 8}, {"samples": 64}),
    "hsic": ({"features": "supervoxels(50)", "samples": 150}, {"samples": 2000}),
    "extremal-perturbation": ({"steps": 30}, {"steps": 300}),
    "internal-influence": ({"steps": 4}, {"steps": 64}),
    "conductance": ({"steps": 8}, {"steps": 128}),
}


def preset(method: str, effort: str) -> dict[str, Any]:
    """All of a method's settings at an effort."""
    usual = methods()[method]()
    fast, thorough = PRESETS.get(method, ({}, {}))
    other = {"Fast look": fast, "Usual": {}, "Thorough": thorough}[effort]
    return {one.name: other.get(one.name, getattr(usual, one.name)) for one in fields(usual)}


def efforts(method: str) -> tuple[str, ...]:
    """Those that differ; one alone where settings do not change how much work it is."""
    return tuple(one for n, one in enumerate(EFFORTS) if n == 1 or preset(method, one) != preset(method, "Usual"))


def effort_of(method: str, settings: Mapping[str, Any]) -> str | None:
    """The effort whose settings these are; None if a user has made them."""
    return next((one for one in efforts(method) if preset(method, one) == settings), None)
