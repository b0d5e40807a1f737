"""Makers of DICOM files with a known truth: classic series, multi-frame, Siemens mosaic, compressed, PET."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEGLosslessSV1,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

_CLASSES = {"CT": CTImageStorage, "PT": PositronEmissionTomographyImageStorage}
_FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.1"
# 12 columns x 16 rows of 100 * row + 7 * column, encoded by OpenJPH: nothing that is free encodes HTJ2K within Python
HTJ2K = base64.b64decode(
    "/0//UQApQAAAAAAMAAAAEAAAAAAAAAAAAAAADAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAHEAAf+TwAAmM/wFB3QAAMAAEsAAEoD2AId0ACICh3QAwAARwAATgBtzAI47"
    "/gCDVADAABPAABUg3t2Bfst1AMCBgcAYwIy2AMAAKqAAFeAkSZLep6enQncAxkaj0Wj8/AAQ9iEB7LkA/9k="
)


def ds(values) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in np.ravel(values)]


def make_series(
    folder: Path,
    stored: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "MR",
    slope=1.0,
    intercept=0.0,
    series: str | None = None,
    edit=None,
    seed: int = 0,
) -> list[Dataset]:
    """Write stored values (I, J, K) at a RAS+ affine as a series with shuffled names; `edit(k, ds)` spoils it."""
    folder.mkdir(exist_ok=True, parents=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    names = np.random.default_rng(seed).permutation(stored.shape[2])
    series, study, frame = series or generate_uid()[:40] + "1", generate_uid(), _FRAME_OF_REFERENCE
    made = []
    for k in range(stored.shape[2]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = _CLASSES.get(modality, MRImageStorage)
        image.SOPInstanceUID = f"{series}.{k + 1}"
        image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, study, frame
        image.PatientName, image.PatientID, image.Modality = "Secret^Person", "SECRET-ID", modality
        image.InstanceNumber = int(names[k])  # as unreliable as in the wild
        image.ImagePositionPatient = ds(lps[:3] @ [0, 0, k, 1])
        image.ImageOrientationPatient = ds([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
        image.PixelSpacing = ds([spacing[1], spacing[0]])
        image.SliceThickness = ds([spacing[2] * 1.5])[0]  # never the distance between slices
        image.Columns, image.Rows = stored.shape[:2]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.PixelRepresentation = int(stored.dtype == np.int16)
        image.RescaleSlope = ds([np.broadcast_to(slope, stored.shape[2])[k]])[0]
        image.RescaleIntercept = ds([np.broadcast_to(intercept, stored.shape[2])[k]])[0]
        image.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        if edit is None or edit(k, image) is not False:
            suffix = "" if k % 2 else ".dcm"
            pydicom.dcmwrite(folder / f"{series[-4:]}-{names[k]:03d}{suffix}", image, enforce_file_format=True)
            made.append(image)
    return made


def reencode(folder: Path, syntax: UID) -> None:
    """Encode the files of a folder otherwise; HTJ2K puts the one picture there that we have."""
    import gdcm

    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        if syntax == JPEGLosslessSV1:
            reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
            reader.SetFileName(str(file))
            assert reader.Read()
            change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer.SetFileName(str(file))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
        elif syntax == HTJ2KLossless:
            image.file_meta.TransferSyntaxUID = syntax
            image.PixelData = encapsulate([HTJ2K])
            image["PixelData"].VR = "OB"
            image.save_as(file)
        elif syntax.is_encapsulated:
            image.compress(syntax)
            image.save_as(file)
        else:
            if syntax == ExplicitVRBigEndian:
                image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
            image.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(file, image, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == syntax


def make_4d(folder: Path, volumes, affine: np.ndarray, name, *, series: str = "1.2.3.4444", **keywords) -> None:
    """Write volumes of one series at the same places; `name(t, k, ds)` writes what tells them apart."""
    for t, stored in enumerate(volumes):

        def edit(k, ds, t=t):
            ds.SOPInstanceUID += f".{t + 1}"
            name(t, k, ds)

        make_series(folder / str(t), stored, affine, series=series, edit=edit, seed=t, **keywords)
    for file in folder.rglob("*"):
        if file.is_file():
            image = pydicom.dcmread(file)
            image.StudyInstanceUID = "1.2.3"
            image.save_as(file)


def make_multiframe(file: Path, volumes, affine: np.ndarray, *, modality="MR", slopes=None, edit=None, seed=0) -> None:
    """Write volumes (T, I, J, K) as one enhanced file whose frames are shuffled; `edit(ds)` spoils it."""
    file.parent.mkdir(exist_ok=True, parents=True)
    volumes = np.asarray(volumes)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID = "1.2.9.1", "1.2.9", "1.2"
    image.FrameOfReferenceUID, image.Modality = _FRAME_OF_REFERENCE, modality
    image.PatientName, image.PatientID = "Secret^Person", "SECRET-ID"
    image.Columns, image.Rows = volumes.shape[1:3]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = int(volumes.dtype == np.int16)
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = ds([spacing[1], spacing[0]])
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = ds([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
    image.SharedFunctionalGroupsSequence = [shared]
    order = np.random.default_rng(seed).permutation(volumes.shape[0] * volumes.shape[3])
    groups, pixels = [], []
    for n in order:
        t, k = divmod(int(n), volumes.shape[3])
        own = Dataset()
        own.PlanePositionSequence = [Dataset()]
        own.PlanePositionSequence[0].ImagePositionPatient = ds(lps[:3] @ [0, 0, k, 1])
        own.PixelValueTransformationSequence = [Dataset()]
        own.PixelValueTransformationSequence[0].RescaleSlope = ds([1.0 if slopes is None else slopes[k]])[0]
        own.PixelValueTransformationSequence[0].RescaleIntercept = "-10"
        own.PixelValueTransformationSequence[0].RescaleType = "HU" if modality == "CT" else "US"
        own.FrameContentSequence = [Dataset()]
        own.FrameContentSequence[0].TemporalPositionIndex = t + 1
        groups.append(own)
        pixels.append(np.ascontiguousarray(volumes[t, :, :, k].T))
    image.PerFrameFunctionalGroupsSequence = groups
    image.NumberOfFrames = len(order)
    image.PixelData = np.stack(pixels).tobytes()
    if edit is not None:
        edit(image)
    pydicom.dcmwrite(file, image, enforce_file_format=True)


def make_mosaic(file: Path, stored: np.ndarray, affine: np.ndarray, *, upward=True, number=1, csa=True) -> None:
    """Write stored values (I, J, K) as a Siemens mosaic; `upward`: slices follow row x column, or run against it."""
    columns, rows, slices = stored.shape
    side = int(np.ceil(np.sqrt(slices)))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    row, column, normal = (lps[:3, n] / spacing[n] for n in range(3))
    order = range(slices) if upward else range(slices - 1, -1, -1)
    mosaic = np.zeros((side * rows, side * columns), stored.dtype)
    for tile, k in enumerate(order):
        down, across = divmod(tile, side)
        mosaic[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns] = stored[:, :, k].T
    first = lps[:3] @ [0, 0, order[0], 1]
    corner = first - row * spacing[0] * columns * (side - 1) / 2 - column * spacing[1] * rows * (side - 1) / 2
    flat = np.eye(4)
    flat[:3] = np.column_stack([lps[:3, 0], lps[:3, 1], lps[:3, 2], corner])

    def edit(k, image):
        image.SOPInstanceUID += f".{number}"
        image.StudyInstanceUID = "1.2.3"
        image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        image.SpacingBetweenSlices = ds([spacing[2]])[0]
        image.AcquisitionNumber = number
        if csa:
            block = image.private_block(0x29, "SIEMENS CSA HEADER", create=True)
            block.add_new(0x10, "OB", _csa(slices, normal if upward else -normal))

    make_series(file.parent, mosaic.T[:, :, None], np.diag([-1.0, -1, 1, 1]) @ flat, series="1.2.3.5555", edit=edit)
    written = next(path for path in file.parent.iterdir() if path.name.startswith("5555-"))
    written.rename(file)


def _csa(slices: int, normal: np.ndarray) -> bytes:
    """Encode a CSA2 header with the number of slices and their normal (https://nipy.org/nibabel/dicom/siemens_csa.html)."""
    tags = [(b"NumberOfImagesInMosaic", b"US", [slices]), (b"SliceNormalVector", b"FD", normal.tolist())]
    content = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, vr, values in tags:
        content += struct.pack("<64si4s3i", name, len(values), vr, 0, len(values), 77)
        for value in values:
            text = f"{value:.8f}".encode() if vr == b"FD" else str(value).encode()
            content += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return content
