"""DICOM in: find the series that lie somewhere, judge their geometry, and read one as a volume.

World is RAS+ in mm: DICOM's LPS+ becomes RAS+ in `geometry`, once, and nowhere else.
"""

from .choices import Choices
from .geometry import Verdict
from .reading import read_series
from .series import Series, find_series

__all__ = ["Choices", "Series", "Verdict", "find_series", "read_series"]
