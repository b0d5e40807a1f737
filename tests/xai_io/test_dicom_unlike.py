"""Slices of one series that are not alike: never one volume without a word."""

import numpy as np
import pydicom
import pytest
from dicom_maker import make_multiframe, make_series, reencode
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from xai_io import GeometryError, ScanError, find_series, read_volume

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 2000, size=(7, 6, 9)).astype(np.uint16)
AXIAL = np.diag([-1.0, -1.0, 2.0, 1])


def of(slice_number, change):
    """Spoil one slice."""
    return lambda k, image: change(image) if k == slice_number else None


def without_rescale(image):
    del image.RescaleSlope, image.RescaleIntercept


def with_table(image):
    table = Dataset()
    table.LUTDescriptor = [2000, 0, 16]
    table.add_new("LUTData", "US", list(range(2000)))
    table.ModalityLUTType = "US"
    without_rescale(image)
    image.ModalityLUTSequence = [table]


@pytest.mark.parametrize(
    ("modality", "change", "words"),
    [
        ("CT", without_rescale, "units and rescaling"),
        ("CT", with_table, "rescaling"),
        ("CT", lambda image: setattr(image, "RescaleType", "US"), "units"),
        ("PT", lambda image: setattr(image, "Units", "CNTS"), "units"),
        ("PT", lambda image: setattr(image, "RescaleSlope", 0), "rescale slope of 0"),
    ],
)
def test_values_that_are_not_comparable_are_refused(tmp_path, modality, change, words):
    def edit(k, image):
        if modality == "PT":
            image.Units = "BQML"
        if k == 4:
            change(image)

    make_series(
        tmp_path, STORED, AXIAL, modality=modality, intercept=-1024.0 if modality == "CT" else 0.0, slope=2.0, edit=edit
    )
    with pytest.raises(ScanError, match=words):
        read_volume(tmp_path)


def test_a_slope_of_zero_loses_nothing_where_nothing_is(tmp_path):
    stored = STORED.copy()
    stored[:, :, 4] = 0
    make_series(
        tmp_path, stored, AXIAL, modality="PT", slope=2.0, edit=of(4, lambda image: setattr(image, "RescaleSlope", 0))
    )
    assert np.array_equal(read_volume(tmp_path).data[0], 2.0 * stored)


def test_values_in_other_bits_than_the_lowest_are_refused(tmp_path):
    def edit(k, image):
        image.BitsStored, image.HighBit = 12, 15

    make_series(tmp_path, STORED, AXIAL, edit=edit)
    with pytest.raises(ScanError, match="HighBit"):
        read_volume(tmp_path)


def test_a_sign_that_only_the_codestream_has_is_refused(tmp_path):
    stored = RNG.integers(-500, 500, size=(40, 33, 3)).astype(np.int16)
    make_series(tmp_path, stored, AXIAL)
    reencode(tmp_path, JPEG2000Lossless)
    assert np.array_equal(read_volume(tmp_path).data[0], stored)
    for file in tmp_path.iterdir():
        image = pydicom.dcmread(file)
        image.PixelRepresentation = 0
        image.PixelData = encapsulate([next(generate_frames(image.PixelData, number_of_frames=1))])
        image.save_as(file)
    with pytest.raises(ScanError, match="sign"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.__delattr__("ImagePositionPatient"),
        lambda image: setattr(image, "FrameOfReferenceUID", "1.2.3"),
        lambda image: setattr(image, "ImageOrientationPatient", [1, 0, 0, 0, -1, 0]),
    ],
)
def test_a_slice_of_the_same_series_that_does_not_fit_is_not_left_out_in_silence(tmp_path, change):
    make_series(tmp_path, STORED, AXIAL, edit=of(8, change))
    with pytest.raises(GeometryError, match="same series that do not fit"):
        read_volume(tmp_path)
    number = 1 + [one.is_volume for one in find_series(tmp_path)].index(True)
    assert read_volume(tmp_path, series=number).shape == (7, 6, 8)


def test_planes_whose_far_ends_differ_are_no_stack(tmp_path):
    stored = RNG.integers(0, 99, size=(512, 512, 4)).astype(np.uint16)

    def turned(k, image):
        angle = 0.00095 * (k % 2)
        image.ImageOrientationPatient = [np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0]

    make_series(tmp_path, stored, AXIAL, edit=turned)
    assert not any(one.verdict.kind == "regular" for one in find_series(tmp_path))


def test_positions_rounded_to_a_tenth_are_regular_however_oblique(tmp_path, rotate, placed):
    for n in range(4):
        affine = placed(rotate(17 * n + 5, 11 * n - 20, 29 * n) @ np.diag([-1.0, -1, 1]), (0.7, 0.7, 2.3), (3, 4, 5))

        def rounded(k, image):
            image.ImagePositionPatient = [round(float(mm), 1) for mm in image.ImagePositionPatient]

        make_series(tmp_path / str(n), STORED, affine, edit=rounded)
        (series,) = find_series(tmp_path / str(n))
        assert series.verdict.kind == "regular", series.verdict.sentence


def test_a_part_of_a_split_image_is_not_the_whole(tmp_path):
    volume = RNG.integers(0, 99, size=(6, 7, 8)).astype(np.uint16)
    for number, part in enumerate((volume[..., :4], volume[..., 4:]), 1):

        def edit(image, number=number):
            image.SOPInstanceUID = f"1.2.9.1.{number}"
            image.ConcatenationUID, image.InConcatenationNumber, image.InConcatenationTotalNumber = "1.2.77", number, 2

        affine = AXIAL.copy()
        affine[2, 3] = 8.0 * (number - 1)
        make_multiframe(tmp_path / f"{number}.dcm", part[None], affine, edit=edit)
    assert np.array_equal(read_volume(tmp_path).data[0], volume - 10.0)
    (tmp_path / "2.dcm").unlink()
    with pytest.raises(ScanError, match="1 of the 2 files that one multi-frame image was split into"):
        read_volume(tmp_path)
