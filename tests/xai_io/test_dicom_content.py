"""What DICOM files may hold: encodings, rescale, padding, frames, mosaics, several volumes in one series."""

import struct
from itertools import permutations

import numpy as np
import pydicom
import pytest
from dicom_maker import make_4d, make_mosaic, make_multiframe, make_series, reencode
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from xai_io import GeometryError, ScanError, read_volume
from xai_io.dicom import Choices, find_series, read_series

RNG = np.random.default_rng(1)
AXIAL = np.diag([-0.7, -0.8, 2.5, 1.0])
AXIAL[:3, 3] = (80, -33.3, 12)


@pytest.mark.parametrize("bits", [12, 16, -12, -16])
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.keyword,
)
def test_lossless_encodings_are_exact(tmp_path, syntax, bits):
    if bits < 0:
        stored = RNG.integers(-(1 << -bits - 1), 1 << -bits - 1, size=(40, 33, 3)).astype(np.int16)
    else:
        stored = RNG.integers(0, 1 << bits, size=(40, 33, 3)).astype(np.uint16)

    def edit(k, image):
        image.BitsStored, image.HighBit = abs(bits), abs(bits) - 1

    make_series(tmp_path / "s", stored, AXIAL, edit=edit)
    reencode(tmp_path / "s", syntax)
    assert np.array_equal(read_volume(tmp_path / "s").data[0], stored)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.keyword)
@pytest.mark.parametrize("damage", ["end", "size"])
def test_a_codestream_that_is_not_what_the_header_says_is_refused(tmp_path, syntax, damage):
    """Cut short and filled with zeros, which GDCM completes in silence; or of another size, as large as it likes."""
    make_series(tmp_path, RNG.integers(0, 4096, size=(40, 33, 3)).astype(np.uint16), AXIAL)
    reencode(tmp_path, syntax)
    file = min(tmp_path.iterdir())
    image = pydicom.dcmread(file)
    content = next(generate_frames(image.PixelData, number_of_frames=1))
    if damage == "end":
        content = content[: len(content) // 2].ljust(len(content), b"\0")
    else:
        sizes = {JPEG2000Lossless: (struct.pack(">2I", 40, 33), struct.pack(">2I", 60000, 60000))}
        old, new = sizes.get(syntax, (struct.pack(">2H", 33, 40), struct.pack(">2H", 60000, 60000)))
        assert old in content
        content = content.replace(old, new, 1)
    image.PixelData = encapsulate([content])
    image.save_as(file)
    with pytest.raises(ScanError, match="cut short or damaged"):
        read_volume(tmp_path)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.keyword)
@pytest.mark.parametrize("pad", [b"\0\0", b"\xff", b"\xff\0"])
def test_padding_after_the_end_is_no_damage(tmp_path, syntax, pad):
    stored = RNG.integers(0, 4096, size=(40, 33, 3)).astype(np.uint16)
    make_series(tmp_path / "s", stored, AXIAL)
    reencode(tmp_path / "s", syntax)
    for file in (tmp_path / "s").iterdir():
        image = pydicom.dcmread(file)
        content = next(generate_frames(image.PixelData, number_of_frames=1)).rstrip(b"\0")
        image.PixelData = encapsulate([content + pad])
        image.save_as(file)
    assert np.array_equal(read_volume(tmp_path / "s").data[0], stored)


def test_high_throughput_jpeg_2000_is_decoded(tmp_path):
    rows, columns = np.indices((16, 12))
    make_series(tmp_path / "s", np.zeros((12, 16, 3), np.uint16), AXIAL)
    reencode(tmp_path / "s", HTJ2KLossless)
    for values in read_volume(tmp_path / "s").data[0].transpose(2, 1, 0):
        assert np.array_equal(values, rows * 100 + columns * 7)


def test_bits_above_the_value_are_no_part_of_it(tmp_path):
    stored = RNG.integers(0, 4096, size=(5, 6, 4)).astype(np.uint16)
    overlay = RNG.integers(0, 16, size=stored.shape).astype(np.uint16) << 12

    def edit(k, image):
        image.BitsStored, image.HighBit = 12, 11

    make_series(tmp_path / "s", stored | overlay, AXIAL, edit=edit)
    assert np.array_equal(read_volume(tmp_path / "s").data[0], stored)


@pytest.mark.parametrize(("low", "high"), [(-2000, None), (-2000, -1990)])
def test_padding_keeps_its_value_and_is_counted(tmp_path, low, high):
    stored = RNG.integers(-1000, 1000, size=(5, 6, 4)).astype(np.int16)
    stored[0], stored[1] = -2000, -1995

    def edit(k, image):
        image.add_new("PixelPaddingValue", "SS", low)
        if high is not None:
            image.add_new("PixelPaddingRangeLimit", "SS", high)

    make_series(tmp_path / "s", stored, AXIAL, modality="CT", intercept=-24, edit=edit)
    volume = read_volume(tmp_path / "s")
    assert np.array_equal(volume.data[0], stored - 24.0)
    assert volume.source.notes[0].startswith(f"{24 if high is None else 48} voxels hold the padding value")


def test_a_modality_lut_is_applied(tmp_path):
    stored = RNG.integers(0, 16, size=(5, 6, 4)).astype(np.uint16)
    table = RNG.integers(0, 60000, size=16).astype(np.uint16)

    def edit(k, image):
        lut = pydicom.Dataset()
        lut.add_new("LUTDescriptor", "US", [16, 0, 16])
        lut.ModalityLUTType = "US"
        lut.add_new("LUTData", "US", table.tolist())
        image.ModalityLUTSequence = [lut]
        del image.RescaleSlope, image.RescaleIntercept

    make_series(tmp_path / "s", stored, AXIAL, edit=edit)
    assert np.array_equal(read_volume(tmp_path / "s").data[0], table[stored])


def test_float_pixels(tmp_path):
    values = RNG.normal(size=(5, 6, 4)).astype(np.float32)

    def edit(k, image):
        del image.PixelData, image.BitsStored, image.HighBit, image.PixelRepresentation
        image.BitsAllocated = 32
        image.FloatPixelData = np.ascontiguousarray(values[:, :, k].T).tobytes()

    make_series(tmp_path / "s", np.zeros(values.shape, np.uint16), AXIAL, edit=edit)
    assert np.array_equal(read_volume(tmp_path / "s").data[0], values)


def test_orientation_with_too_many_digits_and_nearly_unit_length(tmp_path):
    angle = np.radians(17.123)
    turned = AXIAL.copy()
    turned[:3, :3] = [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]] @ AXIAL[:3, :3]
    stored = RNG.integers(0, 4096, size=(5, 6, 4)).astype(np.uint16)

    def edit(k, image):
        lps = np.diag([-1.0, -1, 1]) @ turned[:3, :2] / [0.7, 0.8] * 1.0002
        tag = pydicom.tag.Tag("ImageOrientationPatient")
        words = "\\".join(f"{value:.17f}" for value in lps.T.ravel()).encode().ljust(140)
        image._dict[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(words), words, 0, False, True)

    make_series(tmp_path / "s", stored, turned, edit=edit)
    assert np.allclose(read_volume(tmp_path / "s").affine, turned, atol=1e-4)


# Multi-frame


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_go_where_their_positions_say(tmp_path, rotate, placed, modality):
    affine = placed(rotate(11, -7, 23) @ np.diag([-1, -1, 1]), (0.7, 0.8, 2.5), (1, 2, 3))
    stored = RNG.integers(0, 4000, size=(1, 5, 6, 7)).astype(np.uint16)
    slopes = RNG.uniform(0.5, 2, size=7).round(3)
    make_multiframe(tmp_path / "m", stored, affine, modality=modality, slopes=slopes)
    volume = read_volume(tmp_path / "m")
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert np.allclose(volume.data[0], stored[0] * slopes - 10, rtol=1e-6)
    order = np.random.default_rng(0).permutation(7)
    assert volume.source.frames == tuple(int(np.flatnonzero(order == k)[0]) + 1 for k in range(7))
    assert volume.source.instance_uids == ("1.2.9.1",) * 7 and volume.source.files == (tmp_path / "m",) * 7
    assert volume.units == ("HU" if modality == "CT" else "")


def test_frames_compressed(tmp_path):
    stored = RNG.integers(0, 4000, size=(1, 40, 33, 7)).astype(np.uint16)
    make_multiframe(tmp_path / "m", stored, AXIAL, edit=lambda image: image.compress(JPEG2000Lossless))
    assert np.array_equal(read_volume(tmp_path / "m").data[0], stored[0] - 10.0)


def test_highdicom_finds_the_same_frames(tmp_path):
    import highdicom as hd

    stored = RNG.integers(0, 4000, size=(1, 5, 6, 7)).astype(np.uint16)

    def edit(image):  # highdicom wants a dimension index
        item = pydicom.Dataset()
        item.DimensionIndexPointer, item.FunctionalGroupPointer = 0x00200032, 0x00209113
        image.DimensionIndexSequence = [item]
        height = [
            own.PlanePositionSequence[0].ImagePositionPatient[2] for own in image.PerFrameFunctionalGroupsSequence
        ]
        for own, z in zip(image.PerFrameFunctionalGroupsSequence, height, strict=True):
            own.FrameContentSequence[0].DimensionIndexValues = [sorted(height).index(z) + 1]

    make_multiframe(tmp_path / "m", stored, AXIAL, edit=edit)
    theirs = hd.imread(tmp_path / "m").get_volume(apply_presentation_lut=False)
    mine = read_volume(tmp_path / "m")
    across = np.linalg.inv(mine.affine) @ np.diag([-1.0, -1, 1, 1]) @ theirs.affine[:, [2, 1, 0, 3]]
    assert np.allclose(across, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 6], [0, 0, 0, 1]], atol=1e-6)  # counted down
    assert np.array_equal(theirs.array.transpose(2, 1, 0)[..., ::-1], mine.data[0])


def test_frames_that_are_not_all_described_are_refused(tmp_path):
    stored = RNG.integers(0, 4000, size=(1, 5, 6, 7)).astype(np.uint16)
    make_multiframe(tmp_path / "m", stored, AXIAL, edit=lambda image: image.PerFrameFunctionalGroupsSequence.pop())
    with pytest.raises(ScanError, match="damaged"):
        read_volume(tmp_path / "m")


def test_frames_in_time_are_channels_or_one_is_chosen(tmp_path):
    stored = RNG.integers(0, 4000, size=(3, 5, 6, 7)).astype(np.uint16)
    make_multiframe(tmp_path / "m", stored, AXIAL)
    volume = read_volume(tmp_path / "m")
    assert np.array_equal(volume.data, stored - 10.0)
    assert "3 volumes (temporal position 1; temporal position 2; temporal position 3)" in volume.source.notes[0]
    one = read_volume(tmp_path / "m", choices=Choices(frame=2))
    assert np.array_equal(one.data[0], stored[1] - 10.0)
    assert one.source.notes == ("Volume 2 of 3 of a 4D series: temporal position 2.",)
    with pytest.raises(ScanError, match="3 frames and frame 4 was"):
        read_volume(tmp_path / "m", choices=Choices(frame=4))


def test_files_of_frames_are_volumes_by_their_instance_number(tmp_path):
    stored = RNG.integers(0, 4000, size=(3, 5, 6, 7)).astype(np.uint16)
    for name, (values, number) in enumerate(zip(stored, (2, 1, 3), strict=True)):

        def edit(image, number=number):
            image.InstanceNumber, image.SOPInstanceUID = number, f"1.2.9.1.{number}"

        make_multiframe(tmp_path / str(name), values[None], AXIAL, edit=edit)
    (series,) = find_series(tmp_path)
    assert series.frames == ("instance 1", "instance 2", "instance 3")
    volume = read_series(series)
    assert np.array_equal(volume.data, stored[[1, 0, 2]] - 10.0)
    assert set(volume.source.instance_uids) == {"1.2.9.1.1"}


# Mosaic


@pytest.mark.parametrize("upward", [True, False])
@pytest.mark.parametrize("slices", [4, 7])
def test_a_mosaic_is_its_slices(tmp_path, rotate, placed, upward, slices):
    affine = placed(rotate(6, -4, 9) @ np.diag([-1, -1, 1]), (3.25, 3.0, 3.6), (100, 140, -60))
    stored = RNG.integers(0, 4000, size=(6, 5, slices)).astype(np.uint16)
    make_mosaic(tmp_path / "m", stored, affine, upward=upward)
    volume = read_volume(tmp_path / "m")
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert np.array_equal(volume.data[0], stored)
    assert len(volume.source.instance_uids) == slices


def test_mosaics_of_a_series_are_its_time_points(tmp_path):
    stored = RNG.integers(0, 4000, size=(3, 6, 5, 7)).astype(np.uint16)
    for t, values in enumerate(stored):
        make_mosaic(tmp_path / "s" / f"m{t}", values, AXIAL, number=t + 1)
    volume = read_volume(tmp_path / "s")
    assert np.array_equal(volume.data, stored)
    assert "acquisition 1; acquisition 2; acquisition 3" in volume.source.notes[0]


def test_a_mosaic_without_its_private_header_is_refused(tmp_path):
    make_mosaic(tmp_path / "m", RNG.integers(0, 9, size=(6, 5, 7)).astype(np.uint16), AXIAL, csa=False)
    with pytest.raises(GeometryError, match=r"mosaic without its private header \(CSA\)"):
        read_volume(tmp_path / "m")


def test_a_mosaic_that_was_resized_is_refused(tmp_path):
    """One of nibabel's own files is such a one; other converters cut it into slices that never were."""
    make_mosaic(tmp_path / "m", RNG.integers(0, 9, size=(6, 5, 7)).astype(np.uint16), AXIAL)
    image = pydicom.dcmread(tmp_path / "m")
    image.Rows, image.Columns = 14, 16
    image.PixelData = image.PixelData[: 14 * 16 * 2]
    image.save_as(tmp_path / "m")
    with pytest.raises(GeometryError, match="7 slices do not fill it"):
        read_volume(tmp_path / "m")


# Several volumes in one series

VOLUMES = RNG.integers(0, 4000, size=(3, 5, 6, 4)).astype(np.uint16)


def keyword(name, values):
    return lambda t, k, image: setattr(image, name, values[t])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (keyword("EchoTime", [20, 10, 30]), "echo time"),
        (keyword("DiffusionBValue", [50.0, 0.0, 1000.0]), "b-value"),
        (keyword("TemporalPositionIdentifier", [2, 1, 3]), "temporal position"),
        (keyword("AcquisitionNumber", [5, 4, 10]), "acquisition"),
        (keyword("TriggerTime", [50, 0, 700]), "trigger time"),
        (keyword("FlipAngle", [20, 5, 30]), "flip angle"),
        (keyword("ConvolutionKernel", ["Br59", "B30f", "STD+"]), "kernel"),
        (lambda t, k, image: setattr(image, "AcquisitionTime", f"1201{(1, 0, 2)[t]:02d}"), "time point"),
        (lambda t, k, image: setattr(image, "AcquisitionTime", f"12{(1, 0, 2)[t]:02d}{5 * k:02d}"), "time point"),
    ],
)
def test_volumes_at_the_same_places_are_channels_in_order(tmp_path, name, told):
    make_4d(tmp_path, VOLUMES, AXIAL, name)
    (series,) = find_series(tmp_path)
    assert len(series.frames) == 3 and all(words.startswith(told) for words in series.frames)
    assert np.array_equal(read_series(series).data, VOLUMES[[1, 0, 2]])
    assert not any("12" in words for words in series.frames if told == "time point")  # no time of day


def counted(order, says):
    """As GE counts: through the volumes, saying only how many there are."""

    def name(t, k, image):
        image.InstanceNumber = order(t, k)
        image.NumberOfTemporalPositions = says

    return name


@pytest.mark.parametrize("order", [lambda t, k: (2, 1, 3)[t] * 4 + k, lambda t, k: 3 * k + (1, 0, 2)[t]])
def test_times_that_are_only_counted_are_told_by_the_count(tmp_path, order):
    make_4d(tmp_path, VOLUMES, AXIAL, counted(order, 3))
    (series,) = find_series(tmp_path)
    assert series.frames == ("time point 1", "time point 2", "time point 3")
    assert np.array_equal(read_series(series).data, VOLUMES[[1, 0, 2]])


@pytest.mark.parametrize("says", [1, 2, 4])
def test_a_count_that_is_not_what_is_there_tells_nothing(tmp_path, says):
    make_4d(tmp_path, VOLUMES, AXIAL, counted(lambda t, k: 4 * t + k, says))
    (series,) = find_series(tmp_path)
    assert series.verdict.kind == "duplicate"


def test_gradient_directions_share_a_b_value(tmp_path):
    directions = [[0.0, 0, 1], [1.0, 0, 0], [0.0, 1, 0]]

    def name(t, k, image):
        image.InstanceNumber = 4 * t + k
        image.DiffusionBValue = 1000.0 if t else 0.0
        if t:
            image.DiffusionGradientOrientation = directions[t]

    make_4d(tmp_path, VOLUMES, AXIAL, name)
    (series,) = find_series(tmp_path)
    assert np.array_equal(read_series(series).data, VOLUMES)  # as they were taken: directions have no order
    assert series.frames[0] == "b-value 0, gradient direction none"


def test_image_types_are_series_of_their_own(tmp_path):
    make_4d(tmp_path, VOLUMES[:2], AXIAL, lambda t, k, image: setattr(image, "ImageType", ["ORIGINAL", "M", "WF"[t]]))
    assert [series.frames for series in find_series(tmp_path)] == [(), ()]
    with pytest.raises(ScanError, match="2 series and one is wanted"):
        read_volume(tmp_path)
    with pytest.raises(ScanError, match="2 stacks in the series"):
        read_volume(tmp_path, series="1.2.3.4444")


def test_acquisitions_that_interleave_are_never_one_volume(tmp_path):
    make_series(
        tmp_path,
        RNG.integers(0, 9, (5, 6, 10), np.uint16),
        AXIAL,
        edit=lambda k, ds: setattr(ds, "AcquisitionNumber", k % 2),
    )
    assert [series.spacing[2] for series in find_series(tmp_path)] == pytest.approx([5.0, 5.0])


def test_acquisitions_that_follow_one_another_are_one_volume(tmp_path):
    stored = RNG.integers(0, 9, (5, 6, 10), np.uint16)
    make_series(tmp_path, stored, AXIAL, edit=lambda k, ds: setattr(ds, "AcquisitionNumber", k // 4))
    assert np.array_equal(read_volume(tmp_path).data[0], stored)


def test_a_volume_that_was_cut_short_stands_alone(tmp_path):
    make_4d(tmp_path, VOLUMES, AXIAL, keyword("TemporalPositionIdentifier", [1, 2, 3]))
    uid = f"{'1.2.3.4444'}.4.3"
    (last,) = [file for file in (tmp_path / "2").iterdir() if pydicom.dcmread(file).SOPInstanceUID == uid]
    last.unlink()
    whole, short = sorted(find_series(tmp_path), key=lambda series: -len(series.frames))
    assert (len(whole.frames), short.shape) == (2, (5, 6, 3))


def test_copies_are_duplicates_and_no_time_points(tmp_path):
    make_4d(tmp_path, VOLUMES[[0, 0]], AXIAL, lambda t, k, image: setattr(image, "AcquisitionTime", f"12000{k}"))
    with pytest.raises(GeometryError, match="4 slices too many at the same place"):
        read_volume(tmp_path)


@pytest.mark.parametrize("order", list(permutations(range(3)))[:3])
def test_the_listing_does_not_depend_on_file_names(tmp_path, order):
    make_4d(tmp_path, VOLUMES[list(order)], AXIAL, keyword("EchoTime", [order[t] for t in range(3)]))
    assert np.array_equal(read_volume(tmp_path).data, VOLUMES)
