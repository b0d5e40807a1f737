"""A header of which nothing is kept but what is on a list (PS3.15, Basic Application Confidentiality Profile)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from .identity import Identity

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.dataset import FileMetaDataset


def words_of(text: str) -> frozenset[str]:
    """Words of a text, as a set."""
    return frozenset(text.split())


DUMMY_DATE, DUMMY_TIME = "19000101", "000000"

# Everything at the top of a header that a de-identified one may hold. What is not here is dropped.
_KEPT = words_of("""
    SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID
    Modality ImageType SeriesNumber InstanceNumber AcquisitionNumber NumberOfFrames
    BodyPartExamined Laterality ImageLaterality PatientPosition PatientOrientation AnatomicRegionSequence
    PatientOrientationCodeSequence PatientGantryRelationshipCodeSequence
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SliceLocation SpacingBetweenSlices
    NumberOfSlices ImageIndex ImagesInAcquisition TemporalPositionIdentifier NumberOfTemporalPositions
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration Rows Columns PixelAspectRatio
    BitsAllocated BitsStored HighBit PixelRepresentation SmallestImagePixelValue LargestImagePixelValue
    PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence
    PresentationLUTShape PixelPresentation WindowCenter WindowWidth VOILUTFunction
    LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
    BurnedInAnnotation RecognizableVisualFeatures QualityControlImage ContentQualification
    KVP ExposureTime XRayTubeCurrent Exposure GantryDetectorTilt TableHeight
    RotationDirection DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector DistanceSourceToPatient
    ScanOptions SpiralPitchFactor SingleCollimationWidth TotalCollimationWidth MultienergyCTAcquisition
    ScanningSequence SequenceVariant MRAcquisitionType RepetitionTime EchoTime EchoNumbers EchoTrainLength
    InversionTime FlipAngle NumberOfAverages ImagingFrequency MagneticFieldStrength
    NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView PixelBandwidth AcquisitionMatrix
    InPlanePhaseEncodingDirection VariableFlipAngleFlag SAR DiffusionBValue DiffusionGradientOrientation
    ResonantNucleus KSpaceFiltering ApplicableSafetyStandardAgency MultiCoilConfiguration VolumetricProperties
    VolumeBasedCalculationTechnique ComplexImageComponent AcquisitionContrast AcquisitionDuration
    SeriesType Units CountsSource ReframingType CorrectedImage DecayCorrection CollimatorType FrameReferenceTime
    ActualFrameDuration DecayFactor DoseCalibrationFactor ScatterFractionFactor DeadTimeFactor
    NumberOfTimeSlices NumberOfRRIntervals NumberOfTimeSlots
    EchoPulseSequence MultipleSpinEcho MultiPlanarExcitation PhaseContrast TimeOfFlightContrast
    ArterialSpinLabelingContrast SteadyStatePulseSequence EchoPlanarPulseSequence SaturationRecovery
    SpectrallySelectedSuppression OversamplingPhase GeometryOfKSpaceTraversal RectilinearPhaseEncodeReordering
    SegmentedKSpaceTraversal CoverageOfKSpace NumberOfKSpaceTrajectories PulseSequenceName
    DimensionOrganizationSequence DimensionIndexSequence DimensionOrganizationType
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    """)
# Inside these, numbers and coded words describe how a frame was taken. References lead to what is not written.
_DROPPED_INSIDE = words_of("""
    ReferencedImageSequence DerivationImageSequence SourceImageSequence ConversionSourceAttributesSequence
    """)
_NUMBERS = words_of("AT CS DS FD FL IS OD OF OL OW SL SS SV UL US UV")
_TEXT = words_of("LO LT SH ST UC UT")
CODES = words_of("CodeValue LongCodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning")
_UNITS_OF_VALUES = words_of("HU HU_MOD US OD MGML Z_EFF ED EDW PCT")  # defined terms of RescaleType
_EMPTY = words_of("""
    PatientName PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID
    PositionReferenceIndicator Manufacturer
    """)  # type 2 in the modules of patient, study, series, equipment and image
_EMPTY_IN = {
    "CT": words_of("KVP AcquisitionNumber"),
    "MR": words_of("EchoTrainLength"),
    "PT": words_of("""
        AcquisitionDate AcquisitionTime RadiopharmaceuticalInformationSequence CollimatorType
        PatientOrientationCodeSequence PatientGantryRelationshipCodeSequence
        """),
}


def deidentified(header: Dataset, identity: Identity) -> Dataset:
    """Copy of a header with nothing in it but what is on the list (see `sources`).

    Pixels, where the header has them, are kept as they are stored.
    """
    from pydicom import Dataset, config

    with config.disable_value_validation():  # which would say in a warning what is wrong with which value
        clean = _listed(header, identity, _KEPT)
    for keyword in ("PixelData", "FloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in header:
            clean.add(header[keyword])
    for keyword in _EMPTY | _EMPTY_IN.get(str(header.get("Modality", "")), frozenset()):
        if keyword not in clean:
            setattr(clean, keyword, [] if keyword.endswith("Sequence") else None)
    if "Laterality" in clean and not clean.Laterality and clean.get("BodyPartExamined"):
        del clean.Laterality  # allowed where a paired organ has no known side; scanners write it beside any
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
    with_frame_of_reference(clean, str(header.get("SeriesInstanceUID", "")), identity)
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
    vr, value = element.VR, element.value
    if vr == "SQ":
        return [_listed(item, identity, None) for item in value]
    if vr == "UI":
        several = value if element.VM > 1 else [value] if value else []
        return [uid if str(uid).startswith("1.2.840.10008.") else identity.uid(str(uid)) for uid in several] or None
    if vr in _TEXT:
        return _text(element.keyword, value)
    if vr == "DT":
        return DUMMY_DATE + DUMMY_TIME
    return value if vr in _NUMBERS or vr == "US or SS" else None


def _text(keyword: str, value: Any) -> Any:
    """Codes, and terms of the standard; else a dummy, since some text is required."""
    if keyword in ("RescaleType", "ModalityLUTType"):
        return value if value in _UNITS_OF_VALUES else "US"
    return value if keyword in CODES or (keyword == "StackID" and str(value).isdigit()) else "REMOVED"


def with_frame_of_reference(header: Dataset, series: str, identity: Identity) -> None:
    """Give a header without frame of reference one of its series' own: highdicom insists, and it says no more."""
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = identity.new_uid("frame of reference", series)


def _meta(header: Dataset, clean: Dataset) -> FileMetaDataset:
    """File meta information of a de-identified instance: the encoding alone is the source's."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    return meta
