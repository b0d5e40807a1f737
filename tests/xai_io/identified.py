"""Headers that say everything about a patient, in every place where headers do."""

from pydicom.dataset import Dataset

# What may come out nowhere, in any spelling.
SECRETS = (
    "Müller", "Mueller", "Erika", "Cäcilia", "PID-778812", "19510304", "20260114", "ACC4711", "Holmes", "Greg",
    "Musterstadt", "CTAWP1234", "SN-55512", "Wohnweg", "0177-123", "privat-4242", "Zeuge",
)  # fmt: skip


def identified(k: int, image: Dataset) -> None:
    """Make one instance conform to its IOD, and hold a whole life: names, dates, devices, nested, private, in text."""
    image.SpecificCharacterSet = "ISO_IR 100"
    image.PatientName, image.PatientID = "Müller-Lüdenscheid^Erika^Cäcilia", "PID-778812"
    image.PatientBirthDate, image.PatientSex, image.PatientAge, image.PatientWeight = "19510304", "F", "074Y", 61.5
    image.OtherPatientIDs, image.PatientAddress = "OLD-778812", "Wohnweg 7, Musterstadt"
    image.PatientTelephoneNumbers, image.PatientMotherBirthName = "0177-1234567", "Zeugemann"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260114"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "101112"
    image.AcquisitionDateTime = "20260114101112.000+0100"
    image.AccessionNumber, image.StudyID = "ACC4711", "ST-998877"
    image.ReferringPhysicianName, image.OperatorsName = "Holmes^Gregory", "Greg^O"
    image.InstitutionName, image.InstitutionAddress = "Klinikum Musterstadt", "Musterstadt"
    image.StationName, image.DeviceSerialNumber, image.Manufacturer = "CTAWP1234", "SN-55512", "ACME"
    image.ManufacturerModelName, image.SoftwareVersions = "Scanner 3000", "VB20"
    image.StudyDescription, image.SeriesDescription = "Abdomen of Erika Müller", "Portal venous 3 mm E.M."
    image.ProtocolName, image.ImageComments = "Frau Müller, privat-4242", "Erika kam am 14.01.2026"
    image.RequestAttributesSequence = [Dataset()]
    image.RequestAttributesSequence[0].ScheduledProcedureStepID = "SPS-55221"
    image.RequestAttributesSequence[0].RequestedProcedureDescription = "CT for Zeuge Erika"
    image.ReferencedStudySequence = [Dataset()]
    image.ReferencedStudySequence[0].ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    image.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2.276.0.7230010.3.1.2.4242.1"
    block = image.private_block(0x0009, "ACME PRIVATE", create=True)
    block.add_new(0x01, "LO", "Erika privat-4242")
    block.add_new(0x02, "UN", b"CTAWP1234 of Musterstadt")
    image.PositionReferenceIndicator, image.PatientPosition = "", "HFS"
    image.ImageType, image.SeriesNumber, image.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 3, k + 1
    image.StudyInstanceUID = "1.2.276.0.7230010.3.1.2.4242"
    image.FrameOfReferenceUID = "1.2.276.0.7230010.3.1.4.4242"
    image.AcquisitionNumber, image.Laterality = 1, ""
    if image.Modality == "CT":
        image.KVP = "120"
    if image.Modality == "MR":
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "GR", "SP", ""
        image.MRAcquisitionType, image.RepetitionTime, image.EchoTime, image.EchoTrainLength = "3D", "9", "4", "1"
        del image.RescaleSlope, image.RescaleIntercept
    if image.Modality == "PT":
        image.SeriesType, image.Units, image.CountsSource = ["STATIC", "IMAGE"], "BQML", "EMISSION"
        image.NumberOfSlices, image.ImageIndex, image.CorrectedImage = 6, k + 1, ["DECY", "ATTN"]
        image.DecayCorrection, image.CollimatorType, image.RandomsCorrectionMethod = "START", "RING", "DLYD"
        image.ReconstructionMethod, image.AttenuationCorrectionMethod = "OSEM", "measured"
        image.FrameReferenceTime, image.ActualFrameDuration, image.DecayFactor = 0, 60000, "1.1"
        tracer = Dataset()
        tracer.RadionuclideTotalDose, tracer.RadiopharmaceuticalStartTime = 3.7e8, "100000"
        tracer.RadiopharmaceuticalRoute = "of Erika"
        tracer.RadionuclideCodeSequence = []
        image.RadiopharmaceuticalInformationSequence = [tracer]
        image.PatientOrientationCodeSequence = image.PatientGantryRelationshipCodeSequence = []
        del image.PatientPosition  # said by these
