"""Headers of the files that a scan was read from, read again for what is written beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError

if TYPE_CHECKING:
    from pydicom import Dataset


def read_header(path: Path) -> Dataset:
    """Header of a file of the scan, without what makes no sense in it; that is not said, since it would say the value.

    Raises
    ------
    ExportError
        If it can no longer be read.
    """
    import pydicom

    try:
        with pydicom.config.disable_value_validation():
            return sensible(pydicom.dcmread(path, stop_before_pixels=True))
    except Exception as error:  # gone, or changed since the scan was read
        raise ExportError(
            f"{path}, from which the scan was read, can no longer be read ({type(error).__name__}); "
            "put it back where it was and read the scan again."
        ) from error


def sensible(header: Dataset) -> Dataset:
    """Drop elements that cannot be decoded, and numbers that are none, at any depth."""
    for tag in list(header.keys()):
        try:
            element = header[tag]
            for item in element.value if element.VR == "SQ" else ():
                sensible(item)
            several = element.value if element.VM > 1 else [element.value]
            if element.VR in ("DS", "IS") and any(isinstance(one, str) and one for one in several):
                del header[tag]
        except Exception:  # a value that is none of its representation
            del header[tag]
    return header
