"""Results as DICOM objects that a PACS takes, nobody's by default: maps, pictures, regions and their numbers."""

from .identity import Identity, user_secret
from .leaks import checked, leaks
from .parametric_map import write_parametric_map
from .patient import burned_in, patient
from .secondary_capture import write_secondary_capture
from .segmentation import write_segmentation
from .source import sources, write_source
from .structured_report import write_measurement_report

__all__ = [
    "Identity",
    "burned_in",
    "checked",
    "leaks",
    "patient",
    "sources",
    "user_secret",
    "write_measurement_report",
    "write_parametric_map",
    "write_secondary_capture",
    "write_segmentation",
    "write_source",
]
