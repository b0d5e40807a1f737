"""Trained networks from disk, read as data, and whose code may run."""

from .loading import LoadedModel, load_model, model_hash, needs_trust
from .pipeline import WindowSettings
from .trust import forget, remember, trusted

__all__ = [
    "LoadedModel",
    "WindowSettings",
    "forget",
    "load_model",
    "model_hash",
    "needs_trust",
    "remember",
    "trusted",
]
