"""Disk and values: scans, models and results, read and written without inventing anything."""

from .errors import DecoderMissing, ExportError, GeometryError, ModelError, ScanError, UntrustedModel, XaiIOError
from .export import write_json
from .nifti import write_nifti
from .read import read_volume, sniff
from .volume import Source, Volume

__all__ = [
    "DecoderMissing",
    "ExportError",
    "GeometryError",
    "ModelError",
    "ScanError",
    "Source",
    "UntrustedModel",
    "Volume",
    "XaiIOError",
    "read_volume",
    "sniff",
    "write_json",
    "write_nifti",
]
