import numpy as np
import pydicom
import pytest
from pydicom.uid import MPEG2MPML, BasicTextSRStorage, JPEG2000Lossless, RLELossless

from xai_io import DecoderMissing, GeometryError, ScanError, read_volume
from xai_io.dicom import find_series

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 4000, size=(5, 6, 7)).astype(np.uint16)
# Columns of each matrix: where columns, rows and slices of the images run to, in RAS+.
AXIAL = np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1.0]])
CORONAL = np.array([[-1, 0, 0], [0, 0, 1], [0, -1.0, 0]])
SAGITTAL = np.array([[0, 0, -1], [-1, 0, 0], [0, -1.0, 0]])


def values_at(volume, world):
    """Values at world points, which are voxel centres."""
    voxels = (np.linalg.inv(volume.affine) @ np.vstack([world, np.ones(world.shape[1])]))[:3]
    assert np.abs(voxels - voxels.round()).max() < 1e-3
    return volume.data[0][tuple(voxels.round().astype(int))]


def assert_same_place(volume, values, affine, tolerance=1e-4):
    """Every value of the truth lies where the truth put it, whichever way the slices are counted."""
    index = np.indices(values.shape).reshape(3, -1)
    world = (affine @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    assert np.array_equal(values_at(volume, world), values[tuple(index)])
    ends = np.array(volume.shape)[:, None] * np.indices((2, 2, 2)).reshape(3, -1) - 0.5
    corners = volume.affine[:3, :3] @ ends + volume.affine[:3, 3:]
    truth = affine[:3, :3] @ ends + affine[:3, 3:]
    distance = np.linalg.norm(corners[:, :, None] - truth[:, None], axis=0).min(1)
    assert distance.max() < tolerance + np.linalg.norm(affine[:3, 2]) * (np.linalg.det(affine) < 0)


@pytest.mark.parametrize("slices", [1, -1])
@pytest.mark.parametrize("turn", [(0, 0, 0), (13, -21, 34)])
@pytest.mark.parametrize("axes", [AXIAL, CORONAL, SAGITTAL])
def test_truth_comes_back_from_every_orientation(tmp_path, series, placed, rotate, axes, turn, slices):
    affine = placed(rotate(*turn) @ axes @ np.diag([1, 1, slices]), (0.7, 0.8, 2.5), (-80, 33.3, 12))
    series(tmp_path / "s", STORED, affine)
    (tmp_path / "s" / "README").write_text("a stray file")
    volume = read_volume(tmp_path / "s")
    assert np.linalg.det(volume.affine) > 0  # slices are counted along row x column
    assert_same_place(volume, STORED.astype(np.float32), affine)
    if np.linalg.det(affine) > 0:
        assert np.allclose(volume.affine, affine, atol=1e-4)
        assert np.array_equal(volume.data[0], STORED)


def test_highdicom_finds_the_same_grid(tmp_path, series, placed, rotate):
    import highdicom as hd

    affine = placed(rotate(5, 10, -15) @ CORONAL, (0.7, 0.8, 2.5), (1, 2, 3))
    images = series(tmp_path / "s", STORED, affine)
    theirs = hd.get_volume_from_series(images)  # highdicom 0.28: axes (slices, rows, columns), LPS+
    truth = np.diag([-1, -1, 1, 1]) @ theirs.affine[:, [2, 1, 0, 3]]
    assert_same_place(read_volume(tmp_path / "s"), theirs.array.transpose(2, 1, 0).astype(np.float32), truth)


def test_rescale_is_each_slices_own(tmp_path, series):
    slope, intercept = RNG.uniform(0.5, 2, size=7).round(3), RNG.integers(-1000, 0, size=7)
    series(tmp_path / "s", STORED, np.diag([-1.0, -1, 1, 1]), slope=slope, intercept=intercept, modality="PT")
    assert np.allclose(read_volume(tmp_path / "s").data[0], STORED * slope + intercept, rtol=1e-6)


def test_signed_ct_in_hu_and_its_identifiers(tmp_path, series):
    stored = (STORED.astype(np.int32) - 2000).astype(np.int16)
    images = series(tmp_path / "Secret Person", stored, np.diag([-1.0, -1, 1, 1]), modality="CT", intercept=-24)
    volume = read_volume(tmp_path / "Secret Person")
    assert np.array_equal(volume.data[0], stored - 24.0)
    assert (volume.units, volume.modality, volume.source.format) == ("HU", "CT", "dicom")
    assert volume.source.instance_uids == tuple(image.SOPInstanceUID for image in images)
    assert volume.source.series_uid == images[0].SeriesInstanceUID
    assert "Secret" not in repr(volume) and images[0].SeriesInstanceUID not in repr(volume)
    assert not any("SECRET-ID" in str(value) for value in vars(volume.source).values())


def test_monochrome1_keeps_its_values(tmp_path, series):
    series(
        tmp_path / "s", STORED, np.eye(4), edit=lambda k, ds: setattr(ds, "PhotometricInterpretation", "MONOCHROME1")
    )
    assert_same_place(read_volume(tmp_path / "s"), STORED.astype(np.float32), np.eye(4))


def test_without_rescale_a_ct_has_no_known_units(tmp_path, series):
    def edit(k, ds):
        del ds.RescaleSlope, ds.RescaleIntercept

    series(tmp_path / "s", STORED, np.eye(4), modality="CT", edit=edit)
    assert read_volume(tmp_path / "s").units == ""


def shifted(axis, mm):
    def edit(k, ds):
        position = [float(v) for v in ds.ImagePositionPatient]
        position[axis] += mm(k)
        ds.ImagePositionPatient = [round(v, 6) for v in position]

    return edit


def localiser(k, ds):
    if k == 3:
        ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def report(k, ds):
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    del ds.Rows


def detector(k, ds):
    ds.ImagerPixelSpacing = ds.PixelSpacing
    del ds.PixelSpacing


def flattened(k, ds):
    ds.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (
            lambda k, ds: k != 3,
            "gap",
            r"gap of 2\.0 mm after slice 3 of 6 \(1\.0 mm are usual: 1 miss.*on_gap",
        ),
        (shifted(2, lambda k: -1.0 * (k == 4)), "duplicate", "two slices at the same place.*--on-duplicate"),
        (shifted(2, lambda k: -1.0 * (k // 2) - (k % 2)), "duplicate", "3 slices too many at the same place"),
        (shifted(1, lambda k: k * np.tan(np.radians(15))), "tilt", r"tilt of 15\.0 degrees.*on_tilt='keep-shear'"),
        (
            shifted(2, lambda k: 0.3 * (k % 2)),
            "varying spacing",
            r"0\.70 to 1\.30 mm apart; pass on_spacing",
        ),
        (shifted(1, lambda k: 0.5 * (k == 3)), "displaced", r"0\.\d\d mm beside"),
        (localiser, "gap", "1 missing"),
        (lambda k, ds: setattr(ds, "PixelSpacing", [1, 1 + (k == 2)]), "gap", "1 missing"),
        (lambda k, ds: setattr(ds, "FrameOfReferenceUID", f"1.2.{k}"), "mixed orientation", "frames of reference"),
        (lambda k, ds: setattr(ds, "ImageOrientationPatient", [1, k / 9, 0, 0, 0, 1]), "mixed orientation", "mix"),
        (flattened, "no geometry", "perpendicular"),
        (lambda k, ds: setattr(ds, "PixelSpacing", [0, 0]), "no geometry", "not positive"),
        (lambda k, ds: delattr(ds, "ImagePositionPatient"), "no geometry", "7 images.*without ImagePositionPatient"),
        (detector, "no geometry", "ImagerPixelSpacing, measured at the detector"),
        (lambda k, ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localiser", "localiser of 7"),
        (lambda k, ds: k == 0, "single slice", "single image"),
    ],
)
def test_irregular_series_are_refused_saying_why(tmp_path, series, edit, kind, words):
    series(tmp_path / "s", STORED, np.diag([-1.0, -1, 1, 1]), edit=edit)
    assert find_series(tmp_path / "s")[0].verdict.kind == kind
    with pytest.raises(GeometryError, match=words) as refused:
        read_volume(tmp_path / "s")
    assert len(str(refused.value).split(". ")) == 1  # one sentence


def test_rounded_positions_are_regular(tmp_path, series):
    affine = np.diag([-1.0, -1, 0.625, 1])
    series(tmp_path / "s", STORED, affine, edit=shifted(2, lambda k: round(0.625 * k, 1) - 0.625 * k))
    assert np.allclose(read_volume(tmp_path / "s").affine, affine, atol=0.05)


def test_two_series_are_listed_without_names(tmp_path, series):
    series(tmp_path / "s", STORED, np.eye(4), series="1.2.3.1111")
    series(tmp_path / "s", STORED[:, :, :4], np.eye(4), series="1.2.3.2222", modality="CT")
    with pytest.raises(ScanError, match=r"2 series .*1\) .*2\) .*--series NUMBER") as refused:
        read_volume(tmp_path / "s")
    for line in ("MR 5 x 6 x 7, 1 x 1 x 1 mm, regular", "CT 5 x 6 x 4, 1 x 1 x 1 mm, regular"):
        assert line in str(refused.value)
    assert read_volume(tmp_path / "s", series="1.2.3.2222").shape == (5, 6, 4)
    number = [one.series_uid for one in find_series(tmp_path / "s")].index("1.2.3.1111") + 1
    assert read_volume(tmp_path / "s", series=number).shape == (5, 6, 7)
    with pytest.raises(ScanError, match="no series that was asked for"):
        read_volume(tmp_path / "s", series=3)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda k, ds: setattr(ds, "NumberOfFrames", 2), "multi-frame without functional groups"),
        (lambda k, ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic without its private"),
        (lambda k, ds: setattr(ds, "SamplesPerPixel", 3), "colour"),
        (lambda k, ds: setattr(ds, "PhotometricInterpretation", "PALETTE COLOR"), "colour"),
        (lambda k, ds: setattr(ds, "PixelData", ds.PixelData[:20]), "cut short or damaged"),
        (lambda k, ds: delattr(ds, "Rows"), "cut short"),
        (report, "without DICOM images"),
    ],
)
def test_what_is_not_one_grey_series_is_refused(tmp_path, series, edit, words):
    series(tmp_path / "s", STORED, np.eye(4), edit=edit)
    with pytest.raises((ScanError, GeometryError), match=words):
        read_volume(tmp_path / "s")


def test_truncated_files_are_typed(tmp_path, series):
    series(tmp_path / "s", STORED, np.eye(4))
    file = sorted((tmp_path / "s").iterdir())[2]
    content = file.read_bytes()
    for length in range(132, len(content), 31):
        file.write_bytes(content[:length])
        with pytest.raises((ScanError, GeometryError)):
            read_volume(tmp_path / "s")


def test_compressed_pixels_are_decoded_and_a_missing_decoder_is_named(tmp_path, series):
    series(tmp_path / "s", STORED, np.diag([-1.0, -1, 1, 1]))
    for file in (tmp_path / "s").iterdir():
        image = pydicom.dcmread(file)
        image.compress(RLELossless)
        image.save_as(file)
    assert np.array_equal(read_volume(tmp_path / "s").data[0], STORED)

    for file in (tmp_path / "s").iterdir():
        image = pydicom.dcmread(file)
        image.file_meta.TransferSyntaxUID = MPEG2MPML
        image.save_as(file)
    with pytest.raises(DecoderMissing, match="MPEG2"):
        read_volume(tmp_path / "s")


def test_an_unavailable_plugin_is_named(tmp_path, series, monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    series(tmp_path / "s", STORED, np.eye(4))
    for file in (tmp_path / "s").iterdir():
        image = pydicom.dcmread(file)
        image.compress(RLELossless)
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless
        image.save_as(file)
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    monkeypatch.setattr(Decoder, "missing_dependencies", property(lambda self: ["pylibjpeg - requires openjpeg"]))
    with pytest.raises(DecoderMissing, match=r"JPEG 2000.*openjpeg"):
        read_volume(tmp_path / "s")
