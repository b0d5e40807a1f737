"""The source series of a scan: headers that results may refer to and inherit from, and the series written anew."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ExportError
from ..volume import Volume
from .identity import Identity

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

DUMMY_DATE, DUMMY_TIME = "19000101", "000000"

# Everything at the top of a header that a de-identified one may hold. What is not here is dropped.
_KEPT = frozenset(
    """
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID
    Modality ImageType SeriesNumber InstanceNumber AcquisitionNumber NumberOfFrames InstanceCreatorUID
    BodyPartExamined Laterality ImageLaterality PatientPosition PatientOrientation AnatomicRegionSequence
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SliceLocation SpacingBetweenSlices
    NumberOfSlices ImageIndex ImagesInAcquisition TemporalPositionIdentifier NumberOfTemporalPositions
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration Rows Columns PixelAspectRatio
    BitsAllocated BitsStored HighBit PixelRepresentation SmallestImagePixelValue LargestImagePixelValue
    PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence
    PresentationLUTShape PixelPresentation WindowCenter WindowWidth VOILUTFunction
    LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
    BurnedInAnnotation RecognizableVisualFeatures QualityControlImage ContentQualification
    KVP ExposureTime XRayTubeCurrent Exposure FilterType ConvolutionKernelGroup GantryDetectorTilt TableHeight
    RotationDirection DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient
    ScanOptions SpiralPitchFactor SingleCollimationWidth TotalCollimationWidth MultienergyCTAcquisition
    ScanningSequence SequenceVariant MRAcquisitionType RepetitionTime EchoTime EchoNumbers EchoTrainLength
    InversionTime FlipAngle NumberOfAverages ImagingFrequency ImagedNucleus MagneticFieldStrength
    NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView PixelBandwidth AcquisitionMatrix
    InPlanePhaseEncodingDirection VariableFlipAngleFlag SAR DiffusionBValue DiffusionGradientOrientation
    ResonantNucleus KSpaceFiltering ApplicableSafetyStandardAgency MultiCoilConfiguration VolumetricProperties
    VolumeBasedCalculationTechnique ComplexImageComponent AcquisitionContrast AcquisitionDuration
    SeriesType Units CountsSource ReframingType CorrectedImage DecayCorrection CollimatorType FrameReferenceTime
    ActualFrameDuration DecayFactor DoseCalibrationFactor ScatterFractionFactor DeadTimeFactor
    RandomsCorrectionMethodCodes NumberOfTimeSlices NumberOfRRIntervals NumberOfTimeSlots
    DimensionOrganizationSequence DimensionIndexSequence DimensionOrganizationType
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    """.split()
)
# Inside these, numbers and coded words describe how a frame was taken. References lead to what is not written.
_DROPPED_INSIDE = frozenset(
    "ReferencedImageSequence DerivationImageSequence SourceImageSequence ConversionSourceAttributesSequence".split()
)
_NUMBERS = frozenset("AT CS DS FD FL IS OD OF OL OW SL SS SV UL US UV".split())
_TEXT = frozenset("LO LT SH ST UC UT".split())
_CODE_ITEM = frozenset("CodeValue LongCodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning".split())
_UNITS_OF_VALUES = frozenset("HU HU_MOD US OD MGML Z_EFF ED EDW PCT".split())  # defined terms of RescaleType
_EMPTY = (  # type 2 in the modules of patient, study, series, equipment and image
    "PatientName PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID "
    "PositionReferenceIndicator Manufacturer Laterality"
).split()
_EMPTY_IN = {
    "CT": ["KVP", "AcquisitionNumber"],
    "MR": ["EchoTrainLength"],
    "PT": ["AcquisitionDate", "AcquisitionTime", "RadiopharmaceuticalInformationSequence", "CollimatorType"],
}
_IDENTITY = (  # what a result inherits of the patient and study, whose absence highdicom does not allow
    "PatientID PatientName PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber "
    "ReferringPhysicianName"
).split()


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
        If the scan has no DICOM series behind its grid, or its files can no longer be read.
    """
    files = scan.source.files
    if scan.source.format != "dicom" or len(files) != scan.shape[2] or not any(files):
        raise ExportError(
            f"DICOM was asked for of a scan that is not on the grid of a DICOM series (it is "
            f"{scan.source.format or 'made in memory'}{', resampled' if scan.source.format == 'dicom' else ''}); "
            "DICOM results belong to one: write NIfTI, OME-Zarr, PNG or the report instead."
        )
    read = {path: read_header(path) for path in dict.fromkeys(files) if path is not None}
    frames = scan.source.frames or (0,) * len(files)
    planes = [None if path is None else _plane(read[path], frame) for path, frame in zip(files, frames, strict=True)]
    clean = {path: _completed(header) if identity.keep else deidentified(header, identity)
             for path, header in read.items()}  # fmt: skip
    step = np.diag([-1.0, -1, 1, 1]) @ scan.affine
    down, across = float(np.linalg.norm(step[:3, 1])), float(np.linalg.norm(step[:3, 0]))
    row, column = step[:3, 0] / across, step[:3, 1] / down
    normal = np.cross(row, column)
    said = next((plane for plane in planes if plane is not None and np.allclose(plane[1], [*row, *column], atol=1e-4)
                 and np.allclose(plane[2], [down, across], rtol=1e-4)), None)  # fmt: skip
    computed = (step @ [*np.zeros((2, scan.shape[2])), np.arange(scan.shape[2]), np.ones(scan.shape[2])])[:3].T
    return SourceSeries(
        headers=tuple(None if path is None else clean[path] for path in files),
        frames=tuple(frames),
        positions=np.array([_position(plane, place, scan) for plane, place in zip(planes, computed, strict=True)]),
        orientation=tuple(said[1]) if said else (*row.tolist(), *column.tolist()),
        spacing=tuple(said[2]) if said else (down, across),
        slice_spacing=float(abs(step[:3, 2] @ normal)) if scan.shape[2] > 1 else scan.spacing[2],
        shape=(scan.shape[1], scan.shape[0]),
    )


def read_header(path: Path) -> Dataset:
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # gone, or changed since the scan was read
        raise ExportError(
            f"{path}, from which the scan was read, can no longer be read ({type(error).__name__}); "
            "put it back where it was and read the scan again."
        ) from error


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


def deidentified(header: Dataset, identity: Identity) -> Dataset:
    """Copy of a header with nothing in it but what is on the list (see `sources`).

    Pixels, where the header has them, are kept as they are stored.
    """
    from pydicom import Dataset

    clean = _listed(header, identity, _KEPT)
    for keyword in ("PixelData", "FloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in header:
            clean.add(header[keyword])
    for keyword in [*_EMPTY, *_EMPTY_IN.get(str(header.get("Modality", "")), [])]:
        if keyword not in clean:
            setattr(clean, keyword, [] if keyword.endswith("Sequence") else None)
    clean.SpecificCharacterSet = "ISO_IR 192"
    patient = [str(header.get(keyword, "")) for keyword in ("PatientID", "IssuerOfPatientID")]
    clean.PatientID = identity.pseudonym(*(patient if patient[0] else [str(header.get("StudyInstanceUID", ""))]))
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = "napari-xai: only listed attributes kept; pixels unaltered"
    profile = Dataset()
    profile.CodeValue, profile.CodingSchemeDesignator = "113100", "DCM"
    profile.CodeMeaning = "Basic Application Confidentiality Profile"
    clean.DeidentificationMethodCodeSequence = [profile]
    clean.LongitudinalTemporalInformationModified = "REMOVED"
    if header.get("Modality") == "PT" and "SharedFunctionalGroupsSequence" not in header:
        clean.SeriesDate, clean.SeriesTime = DUMMY_DATE, DUMMY_TIME
    if "SharedFunctionalGroupsSequence" in header:  # enhanced images require what classic ones do not
        clean.ContentDate, clean.ContentTime = DUMMY_DATE, DUMMY_TIME
        clean.AcquisitionDateTime = DUMMY_DATE + DUMMY_TIME
        clean.Manufacturer = clean.ManufacturerModelName = "REMOVED"
        clean.DeviceSerialNumber = clean.SoftwareVersions = "REMOVED"
        clean.AcquisitionContextSequence = []
    _with_frame_of_reference(clean, str(header.get("SeriesInstanceUID", "")), identity)
    if "file_meta" in header.__dict__:
        clean.file_meta = _meta(header, clean)
    return clean


def _listed(header: Dataset, identity: Identity, kept: Collection[str] | None) -> Dataset:
    """Copy what is on the list, or inside a listed sequence numbers, coded words, codes and mapped UIDs."""
    from pydicom import Dataset

    clean = Dataset()
    for element in header:
        keyword = element.keyword
        if (keyword not in kept) if kept is not None else (not keyword or keyword in _DROPPED_INSIDE):
            continue
        value = _value(element, identity)
        if value is not None:
            clean.add_new(element.tag, element.VR, value)
    return clean


def _value(element: DataElement, identity: Identity) -> Any:
    """What may be kept of one element; None for nothing."""
    vr, keyword = element.VR, element.keyword
    if vr == "SQ":
        return [_listed(item, identity, None) for item in element.value]
    if vr == "UI":
        several = element.value if element.VM > 1 else [element.value] if element.value else []
        return [uid if str(uid).startswith("1.2.840.10008.") else identity.uid(str(uid)) for uid in several] or None
    if vr in _NUMBERS or vr == "US or SS":
        return element.value
    if vr in _TEXT:
        if keyword in _CODE_ITEM:
            return element.value
        if keyword in ("RescaleType", "ModalityLUTType"):
            return element.value if element.value in _UNITS_OF_VALUES else "US"
        return str(element.value) if keyword == "StackID" and str(element.value).isdigit() else "REMOVED"
    return DUMMY_DATE + DUMMY_TIME if vr == "DT" else None


def _completed(header: Dataset) -> Dataset:
    """Header as it is, with required attributes that it lacks empty, so that results can inherit them."""
    for keyword in _IDENTITY:
        if keyword not in header:
            setattr(header, keyword, None)
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = None
    _with_frame_of_reference(header, str(header.get("SeriesInstanceUID", "")), Identity(keep=True, secret=b"\0" * 16))
    return header


def _with_frame_of_reference(header: Dataset, series: str, identity: Identity) -> None:
    """Give a header without frame of reference one of its series' own: highdicom insists, and it says no more."""
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = identity.new_uid("frame of reference", series)


def _meta(header: Dataset, clean: Dataset) -> Any:
    """File meta information of a de-identified instance: the encoding alone is the source's."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    return meta


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

    from .leaks import leaked, leaks
    from .result import series_aside

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
            original = pydicom.dcmread(path)
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
