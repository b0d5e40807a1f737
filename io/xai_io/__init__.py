"""Disk and values: scans, models and results, read and written without inventing anything."""

from ._pipeline import WindowSettings
from .errors import DecoderMissing, ExportError, GeometryError, ModelError, ScanError, UntrustedModel, XaiIOError
from .export import write_json
from .models import LoadedModel, load_model
from .nifti import write_nifti
from .read import read_volume, sniff
from .volume import Source, Volume

__all__ = [
    "DecoderMissing",
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
    "load_model",
    "read_volume",
    "sniff",
    "write_json",
    "write_nifti",
]
