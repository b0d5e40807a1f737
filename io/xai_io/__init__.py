"""Disk and values: scans, models and results, read and written without inventing anything."""

from ._files import written_aside
from ._pipeline import WindowSettings
from .curves import write_curves
from .display import Display, display_for, display_range
from .errors import DecoderMissing, ExportError, GeometryError, ModelError, ScanError, UntrustedModel, XaiIOError
from .export import write_json
from .models import LoadedModel, load_model
from .montage import write_montage
from .nifti import write_nifti
from .read import read_labels, read_volume, sniff
from .resample import resampled_to
from .volume import Source, Volume

__all__ = [
    "DecoderMissing",
    "Display",
    "ExportError",
    "GeometryError",
    "LoadedModel",
    "ModelError",
    "ScanError",
    "Source",
    "UntrustedModel",
    "Volume",
    "WindowSettings",
    "XaiIOError",
    "display_for",
    "display_range",
    "load_model",
    "read_labels",
    "read_volume",
    "resampled_to",
    "sniff",
    "write_curves",
    "write_json",
    "write_montage",
    "write_nifti",
    "written_aside",
]
