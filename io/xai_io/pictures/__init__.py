"""Pictures drawn without any display: slices with relevance over them, curves."""

from .curves import write_curves
from .montage import write_montage

__all__ = ["write_curves", "write_montage"]
