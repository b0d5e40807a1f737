"""The source series of a scan: headers that results may refer to and inherit from, and the series written anew."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ExportError
from ..volume import Volume
from .deidentified import deidentified, with_frame_of_reference, words_of
from .headers import read_header, sensible
from .identity import Identity
from .leaks import leaked, leaks
from .writing import series_aside

if TYPE_CHECKING:
    from pydicom import Dataset

# What a result inherits of the patient and study, whose absence highdicom does not allow.
_IDENTITY = words_of("""
    PatientID PatientName PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber ReferringPhysicianName
    """)

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class SourceSeries:
    """The series that a scan was read from, slice by slice along K, with what identifies it mapped or kept.

    Parameters
    ----------
    headers
        Header of the file of each slice, without pixels; None for a slice that was filled in. Slices of one
        multi-frame file share one.
    frames
        Number of each slice's frame in its file, from 1; 0 for single-frame files.
    positions
        LPS mm of the centre of each slice's first pixel, (K, 3): as its file says, else from the affine.
    orientation
        Direction cosines (LPS) along a row and down a column.
    spacing
        mm between rows, and between columns.
    slice_spacing
        mm between slices, along their normal.
    shape
        Rows and columns.
    """

    headers: tuple[Dataset | None, ...] = field(repr=False)
    frames: tuple[int, ...]
    positions: npt.NDArray[np.float64] = field(repr=False)
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    slice_spacing: float
    shape: tuple[int, int]

    @property
    def first(self) -> Dataset:
        """Header of the first slice that a file holds."""
        return next(header for header in self.headers if header is not None)

    @property
    def instances(self) -> list[Dataset]:
        """Header of each file, once."""
        return list({str(header.SOPInstanceUID): header for header in self.headers if header is not None}.values())

    def reference(self, k: int) -> Dataset | None:
        """Item that refers to the image, or frame, of a slice; None for one that was filled in."""
        from pydicom import Dataset

        header = self.headers[k]
        if header is None:
            return None
        item = Dataset()
        item.ReferencedSOPClassUID = header.SOPClassUID
        item.ReferencedSOPInstanceUID = header.SOPInstanceUID
        if self.frames[k]:
            item.ReferencedFrameNumber = self.frames[k]
        return item


def sources(scan: Volume, identity: Identity) -> SourceSeries:
    """Read the headers of a scan's series again, and leave out of them what identity does not keep.

    Without `identity.keep` only attributes on a list are kept: geometry, what pixels mean, how they were taken, in
    numbers and coded words. UIDs are mapped, the patient gets a pseudonym, required dates are 1 January 1900, other
    required attributes are empty. Text, private attributes, overlays and curves are dropped.

    Raises
    ------
    ExportError
        If the scan has no DICOM series behind its grid, or its files can no longer be read or lack identifiers.
    """
    files = scan.source.files
    if scan.source.format != "dicom" or len(files) != scan.shape[2] or not any(files):
        raise ExportError(
            f"DICOM was asked for of a scan that is not on the grid of a DICOM series ({_what(scan)}), to which DICOM "
            "results belong; write NIfTI, OME-Zarr, PNG or the report instead."
        )
    read = {path: read_header(path) for path in dict.fromkeys(files) if path is not None}
    if not all(header.get(keyword) for header in read.values() for keyword in _NEEDED):
        raise ExportError(
            "DICOM was asked for of a scan whose files lack identifiers of their own (study, series, instance), to "
            "which results refer; write NIfTI, OME-Zarr, PNG or the report instead."
        )
    frames = scan.source.frames or (0,) * len(files)
    planes = [None if path is None else _plane(read[path], frame) for path, frame in zip(files, frames, strict=True)]
    clean = {path: _completed(header, identity) if identity.keep else deidentified(header, identity)
             for path, header in read.items()}  # fmt: skip
    step = np.diag([-1.0, -1, 1, 1]) @ scan.affine
    down, across = float(np.linalg.norm(step[:3, 1])), float(np.linalg.norm(step[:3, 0]))
    row, column = step[:3, 0] / across, step[:3, 1] / down
    normal = np.cross(row, column)
    same = ([*row, *column, down, across], 1e-4)  # what files say is written as they say it, to the last digit
    said = next((plane for plane in planes if plane and np.allclose([*plane[1], *plane[2]], *same)), None)
    computed = (step @ [*np.zeros((2, scan.shape[2])), np.arange(scan.shape[2]), np.ones(scan.shape[2])])[:3].T
    return SourceSeries(
        headers=tuple(None if path is None else clean[path] for path in files),
        frames=tuple(frames),
        positions=np.array([_position(plane, place, scan) for plane, place in zip(planes, computed, strict=True)]),
        orientation=tuple(said[1]) if said else (*row.tolist(), *column.tolist()),
        spacing=(said[2][0], said[2][1]) if said else (down, across),
        slice_spacing=float(abs(step[:3, 2] @ normal)) if scan.shape[2] > 1 else scan.spacing[2],
        shape=(scan.shape[1], scan.shape[0]),
    )


def _what(scan: Volume) -> str:
    """What a scan without a series is, in a few words."""
    if scan.source.format == "dicom":
        return "it was resampled, or read from an archive: unpack that"
    return scan.source.format or "made in memory"


def _plane(header: Dataset, frame: int) -> tuple[list[float], list[float], list[float]] | None:
    """Position, orientation and pixel spacing that a header states for a frame, where it does."""
    groups = []
    if frame:
        groups = [header.PerFrameFunctionalGroupsSequence[frame - 1]] if (
            "PerFrameFunctionalGroupsSequence" in header
        ) else []  # fmt: skip
        groups += list(header.get("SharedFunctionalGroupsSequence", ()))
    found = []
    for group, keyword in (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PixelMeasuresSequence", "PixelSpacing"),
    ):
        item = next((one[group].value[0] for one in groups if one.get(group)), header)
        if not item.get(keyword):
            return None
        found.append([float(number) for number in item[keyword].value])
    return found[0], found[1], found[2]


def _position(
    plane: tuple[list[float], list[float], list[float]] | None, computed: npt.NDArray[np.float64], scan: Volume
) -> npt.NDArray[np.float64]:
    """Where a slice lies: as its file says, unless that is another place than the voxels' (a mosaic's corner)."""
    if plane is None:
        return computed
    said = np.array(plane[0])
    return said if np.linalg.norm(said - computed) <= max(0.06, 0.01 * scan.spacing[2]) else computed


def _completed(header: Dataset, identity: Identity) -> Dataset:
    """Header as it is, with required attributes that it lacks empty, so that results can inherit them."""
    from pydicom.valuerep import DA, TM

    for keyword in _IDENTITY:
        if keyword not in header:
            setattr(header, keyword, None)
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = None
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(header[keyword].value)
        except (ValueError, TypeError):  # highdicom would not take it
            header[keyword].value = None
    with_frame_of_reference(header, str(header.get("SeriesInstanceUID", "")), identity)
    return header


def refuse_burned_in(series: SourceSeries, identity: Identity, what: str) -> None:
    """Refuse to show pixels of which the source says that text is burned into them, unless identity is kept.

    Raises
    ------
    ExportError
        If so.
    """
    if not identity.keep and any(str(one.get("BurnedInAnnotation", "")).upper() == "YES" for one in series.instances):
        raise ExportError(
            f"The source series says that text is burned into its pixels, so {what} could show the patient's name; "
            "clean its pixels first, write the parametric map or NIfTI instead, or keep the identity on purpose."
        )


def write_source(
    folder: str | os.PathLike[str], scan: Volume, identity: Identity | None = None, *, overwrite: bool = False
) -> None:
    """Write the de-identified source series, to which the results refer: 0001.dcm, 0002.dcm, ... in the order of K.

    Pixels keep their bytes and their compression. They are not altered in any way: a head can be recognised by its
    face.

    Parameters
    ----------
    folder
        To hold the series; made if it is not there.
    scan
        Read from DICOM, on its own grid.
    identity
        The one of the results.
    overwrite
        Whether a series written there earlier may be replaced.

    Raises
    ------
    ExportError
        If the scan has no DICOM series; identity is kept (the original is the source then); text is or may be
        burned into its pixels, or drawn in unused bits of them; it is a mosaic, whose places stand in private
        attributes; or the files cannot be written or would identify the patient.
    """
    import pydicom

    identity = identity or Identity()
    if identity.keep:
        raise ExportError(
            f"{folder} was not written because identity is kept, and results refer to the original series then; "
            "file them into its study, or leave the identity out."
        )
    series = sources(scan, identity)
    refuse_burned_in(series, identity, "a copy of it")
    paths = [path for path in dict.fromkeys(scan.source.files) if path is not None]
    with series_aside(folder, overwrite=overwrite) as aside:
        for n, path in enumerate(paths, start=1):
            with pydicom.config.disable_value_validation():
                original = sensible(pydicom.dcmread(path))
            _refuse_hidden(original)
            deidentified(original, identity).save_as(aside / f"{n:04d}.dcm", enforce_file_format=True)
        found = leaks(aside, scan)
        if found:
            raise leaked(Path(folder), found)


def _refuse_hidden(original: Dataset) -> None:
    """Refuse what cannot be written without either text in its pixels or loss of its places."""
    in_pixels = any(
        element.tag.group & 0xFF01 == 0x6000 and element.tag.element == 0x0102 and element.value for element in original
    )
    if in_pixels:
        raise ExportError(
            "The source series has overlays in unused bits of its pixels, which may be text, and pixels are not "
            "altered; export it without overlays first."
        )
    if "MOSAIC" in original.get("ImageType", ()):
        raise ExportError(
            "The source is a mosaic, whose slices have their places in private attributes that may identify the "
            "patient; export it as a classic or enhanced series first."
        )
