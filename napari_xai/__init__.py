"""Explainability for 3D medical imaging: a scan and a model in, relevance on the scan's own grid out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_xai._explain import explain
    from napari_xai.cohort import explain_many
    from napari_xai.explainer import Explainer
    from napari_xai.explanation import Explanation, Prediction

__all__ = ["Explainer", "Explanation", "Prediction", "explain", "explain_many"]

_HOME = {
    "Explainer": "explainer",
    "Explanation": "explanation",
    "Prediction": "explanation",
    "explain": "_explain",
    "explain_many": "cohort",
}


def __getattr__(name: str) -> Any:
    """Import torch only when it is asked for: napari imports this package to read its manifest."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"napari_xai.{_HOME[name]}"), name)
