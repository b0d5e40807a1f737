"""Make the sample volumes from the ICBM 152 2009 T1 average in nilearn's wheel.

    python sample_volumes/make_volumes.py [--seed 1016] [--folder sample_volumes/volumes]

Needs nilearn (`pip install napari-xai[samples]`). The same seed makes the same files, byte for byte.
"""

import argparse
import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from lesions import VOLUMES, WHITE_MATTER, Array, Brain, Scan, held_out
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SHAPE = (80, 96, 80)  # at 2 mm: the brain and a few mm of air; every side divides by 16
ICBM_WHITE_MATTER = 222.0  # the median of the average where its white matter map is certain

Affine = NDArray[np.float64]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--folder", type=Path, default=VOLUMES)
    arguments.add_argument("--seed", type=int, default=1016, help="which held-out lesion the samples show")
    options = arguments.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    brain = icbm_brain()
    save(folder / "brain_clean.nii.gz", brain.tissue.astype(np.int16), brain.affine)
    save(folder / "brain_mask.nii.gz", brain.parenchyma.astype(np.uint8), brain.affine)

    scan, mask = held_out(options.seed, brain)
    save(folder / "brain_lesion.nii.gz", scan, brain.affine)
    save(folder / "brain_lesion_mask.nii.gz", mask, brain.affine)
    save_dicom(folder / "brain_lesion_dicom", scan, brain.affine)

    affine, shape = oblique_grid(brain)
    seen = resampled(scan, brain.affine, affine, shape)
    # Another unit, and integers that mean nothing without slope and intercept: 0 is stored as 800.
    save(folder / "brain_lesion_oblique.nii.gz", 0.0125 * seen, affine, slope=2.0**-8, inter=-800 * 2.0**-8)
    inside = resampled(mask, brain.affine, affine, shape) >= 0.5
    save(folder / "brain_lesion_oblique_mask.nii.gz", inside.astype(np.uint8), affine)

    for path in sorted(folder.iterdir()):
        size = sum(p.stat().st_size for p in ([path] if path.is_file() else path.iterdir()))
        print(f"{size / 1e6:6.2f} MB  {path.name}")


def icbm_brain() -> Brain:
    """Average the template over 2 x 2 x 2 voxels of 1 mm, crop it, and let white matter measure 1000."""
    t1, affine = icbm("t1")
    tissue_share = (icbm("gm")[0] + icbm("wm")[0]) / 255.0
    occupied = np.argwhere(t1 > 0)
    low, high = occupied.min(axis=0), occupied.max(axis=0) + 1
    start = (low + high) // 2 - np.array(SHAPE)  # SHAPE voxels of 2 mm are SHAPE mm on either side

    def halved(volume: Array) -> Array:
        margin = 64  # the box may begin before the template does
        box = tuple(slice(s + margin, s + margin + 2 * n) for s, n in zip(start, SHAPE, strict=True))
        i, j, k = SHAPE
        return np.pad(volume, margin)[box].reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5))

    to_source = np.diag([2.0, 2.0, 2.0, 1.0])
    to_source[:3, 3] = start + 0.5  # the first block's centre lies between its two voxels
    tissue = np.rint(halved(t1) * (WHITE_MATTER / ICBM_WHITE_MATTER)).astype(np.float32)
    return Brain(tissue, halved(tissue_share) > 0.5, affine @ to_source)


def icbm(kind: str) -> tuple[Array, Affine]:
    """Read one of the maps that travel in nilearn's wheel."""
    import nilearn.datasets

    data = Path(nilearn.datasets.__file__).parent / "data"
    image = nib.load(data / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
    return np.asarray(image.dataobj, dtype=np.float32), image.affine


def oblique_grid(brain: Brain) -> tuple[Affine, tuple[int, int, int]]:
    """Lay sagittal slices of 1.5 x 1.5 x 3 mm (axes to P, S, R) around the brain, tilted 9 and -6 degrees."""
    turn_x, turn_z = np.deg2rad([9.0, -6.0])
    c, s = np.cos(turn_x), np.sin(turn_x)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(turn_z), np.sin(turn_z)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    sagittal = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    axes = about_x @ about_z @ sagittal
    spacing = np.array([1.5, 1.5, 3.0])

    voxels = np.argwhere(brain.tissue > 0)
    world = voxels @ brain.affine[:3, :3].T + brain.affine[:3, 3]
    along = world @ axes
    low, high = along.min(axis=0) - 5.0, along.max(axis=0) + 5.0
    shape = np.ceil((high - low) / spacing).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ low
    i, j, k = (int(n) for n in shape)
    return affine, (i, j, k)


def resampled(
    volume: NDArray[np.generic], affine: Affine, new_affine: Affine, shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Interpolate a volume linearly on another grid; what lies outside is 0."""
    to_source = np.linalg.inv(affine) @ new_affine
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    source = grid @ to_source[:3, :3].T + to_source[:3, 3]
    unit = 2 * source / (np.array(volume.shape) - 1) - 1
    # grid_sample names its coordinates last axis first
    where = torch.from_numpy(unit[..., ::-1].copy())[None]
    values = torch.from_numpy(volume.astype(np.float64))[None, None]
    return torch.nn.functional.grid_sample(values, where, align_corners=True)[0, 0].numpy()


def save(
    path: Path,
    values: NDArray[np.generic],
    affine: Affine,
    *,
    slope: float | None = None,
    inter: float | None = None,
) -> None:
    """Write a NIfTI with both forms set; with a slope, int16 is stored and `values` are what it means."""
    stored = values if slope is None else np.rint((values - inter) / slope).astype(np.int16)
    image = nib.Nifti1Image(stored, affine)
    image.header.set_slope_inter(slope, inter)  # nibabel then writes the integers as they are
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def save_dicom(folder: Path, scan: Scan, affine: Affine) -> None:
    """Write the scan as an axial MR series: columns run to the patient's left, rows to the back."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.dcm"):
        old.unlink()
    lps = np.diag([-1.0, -1.0, 1.0])
    columns, rows, slices = scan.shape
    for k in range(slices):
        first_voxel = affine[:3, :3] @ [columns - 1, rows - 1, k] + affine[:3, 3]
        slice_ = mr_slice(scan[::-1, ::-1, k].T.astype("<u2"), lps @ first_voxel, k + 1, scan)
        slice_.save_as(folder / f"IM{k + 1:04d}.dcm", enforce_file_format=True)


def mr_slice(pixels: NDArray[np.uint16], position: NDArray[np.float64], number: int, scan: Scan) -> Dataset:
    """Describe one slice of the made-up patient."""
    study = ["napari-xai sample brain", "study"]
    series = [*study, "series"]
    day, time = datetime.date(2000, 1, 1).strftime("%Y%m%d"), "120000"

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*series, str(number)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.Modality, ds.Manufacturer, ds.InstitutionName = "MR", "napari-xai", "No hospital"
    ds.AccessionNumber, ds.ReferringPhysicianName = "", ""
    ds.StudyDescription, ds.SeriesDescription = "Made-up brain", "T1 average with a drawn lesion"
    ds.DerivationDescription = "ICBM 152 2009a T1 average at 2 mm with a synthetic lesion; not a person"
    ds.PatientName, ds.PatientID = "Sample^Brain", "SAMPLE-0001"
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", "No person was scanned"
    ds.BodyPartExamined, ds.PatientPosition = "BRAIN", "HFS"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "", "", ""  # an average has none
    ds.SliceThickness, ds.SpacingBetweenSlices, ds.PixelSpacing = "2", "2", ["2", "2"]
    ds.StudyInstanceUID = generate_uid(entropy_srcs=study)
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=series)
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[*study, "frame"])
    ds.PositionReferenceIndicator = ""
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", 1, 1, number
    ds.ImagePositionPatient = [f"{x:g}" for x in position]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SliceLocation = f"{position[2]:g}"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.WindowCenter, ds.WindowWidth = str(int(scan.max()) // 2), str(int(scan.max()))
    ds.BurnedInAnnotation = "NO"
    ds.PixelData = pixels.tobytes()
    return ds


if __name__ == "__main__":
    main()
