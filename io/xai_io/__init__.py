"""Disk and values: scans, models and results, read and written without inventing anything."""

from ._files import written_aside
from .channels import name_of_channel, stack_channels
from .dicom import Choices, Series, Verdict, find_series, read_series
from .dicom_out import (
    Identity,
    burned_in,
    checked,
    patient,
    sources,
    write_measurement_report,
    write_parametric_map,
    write_secondary_capture,
    write_segmentation,
    write_source,
)
from .display import CT_WINDOWS, Display, display_for, display_range, display_window
from .errors import (
    DecoderMissing,
    ExportError,
    GeometryError,
    ModelError,
    NonFiniteScan,
    ScanError,
    UntrustedModel,
    XaiIOError,
)
from .export import as_json, write_json
from .models import LoadedModel, WindowSettings, forget, load_model, model_hash, needs_trust, remember, trusted
from .nifti import write_nifti
from .omezarr import write_omezarr
from .pictures import write_curves, write_montage
from .read import read_labels, read_volume, sniff
from .regions import Region, clusters, region_table, write_regions
from .report import Report, write_report_html, write_report_pdf
from .resample import covered
from .volume import Source, Volume

__all__ = [
    "CT_WINDOWS",
    "Choices",
    "DecoderMissing",
    "Display",
    "ExportError",
    "GeometryError",
    "Identity",
    "LoadedModel",
    "ModelError",
    "NonFiniteScan",
    "Region",
    "Report",
    "ScanError",
    "Series",
    "Source",
    "UntrustedModel",
    "Verdict",
    "Volume",
    "WindowSettings",
    "XaiIOError",
    "as_json",
    "burned_in",
    "checked",
    "clusters",
    "covered",
    "display_for",
    "display_range",
    "display_window",
    "find_series",
    "forget",
    "load_model",
    "model_hash",
    "name_of_channel",
    "needs_trust",
    "patient",
    "read_labels",
    "read_series",
    "read_volume",
    "region_table",
    "remember",
    "sniff",
    "sources",
    "stack_channels",
    "trusted",
    "write_curves",
    "write_json",
    "write_measurement_report",
    "write_montage",
    "write_nifti",
    "write_omezarr",
    "write_parametric_map",
    "write_regions",
    "write_report_html",
    "write_report_pdf",
    "write_secondary_capture",
    "write_segmentation",
    "write_source",
    "written_aside",
]
