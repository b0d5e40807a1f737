"""All planes of a DICOM file, of whatever kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .files import File, at_pixels, header_of, opened, parsed
from .frame import KEYWORDS, Frame, plane, words
from .mosaic import tiles
from .multiframe import multiframes

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

_STORAGE = "1.2.840.10008.5.1.4.1.1."


def frames_of(file: File) -> list[Frame]:
    """Every plane that a file holds; none where it is no image (a report, a structure set, a directory).

    Whatever is wrong with the file raises whatever it raises inside pydicom.

    Raises
    ------
    ValueError
        If the file should be an image, and its header is cut short.
    """
    with opened(file) as stream:
        header = header_of(stream, KEYWORDS)
        whole = at_pixels(stream, header)
    meta = getattr(header, "file_meta", None)
    kind = header.get("SOPClassUID") or (meta.get("MediaStorageSOPClassUID") if meta else None)
    if kind and not _may_be_image(kind, whole):
        return []
    if not (whole and header.get("Rows") and header.get("Columns") and header.get("SeriesInstanceUID")):
        raise ValueError("an image without pixels, Rows, Columns or SeriesInstanceUID")
    if int(header.get("NumberOfFrames") or 1) > 1 or _is_enhanced(header):
        return list(multiframes(parsed(file), plane(file, header)))
    if "MOSAIC" in words(header, "ImageType"):
        return list(tiles(parsed(file), plane(file, header)))
    return [plane(file, header)]


def _may_be_image(kind: UID, has_pixels: bool) -> bool:
    """Whether a SOP class is an image; one of DICOM's own may be cut short or too new to be known."""
    if kind.name != kind:
        return any(word in kind.name for word in ("Image Storage", "Segmentation", "Parametric Map", "RT Dose"))
    return has_pixels or kind.startswith(_STORAGE) or _STORAGE.startswith(kind)


def _is_enhanced(header: Dataset) -> bool:
    """Whether geometry lies in functional groups, even if there is but one frame."""
    name = str(getattr(header.get("SOPClassUID"), "name", ""))
    return name.startswith(("Enhanced", "Legacy Converted Enhanced", "Parametric Map", "Segmentation"))
