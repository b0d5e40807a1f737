"""What may be chosen where a series is not one regular volume, and that it is recorded."""

import numpy as np
import pytest
from dicom_maker import make_series

from xai_io import GeometryError, ScanError, read_volume
from xai_io.dicom import Choices, find_series

RNG = np.random.default_rng(2)
AXIAL = np.diag([-0.7, -0.8, 2.5, 1.0])
STORED = RNG.integers(0, 4000, size=(8, 9, 12)).astype(np.uint16)


def test_gaps_are_filled_between_their_neighbours(tmp_path):
    images = make_series(tmp_path, STORED, AXIAL, edit=lambda k, ds: k not in (3, 4, 8))
    with pytest.raises(
        GeometryError, match=r"7\.5 mm after slice 3, 5\.0 mm after slice 6 of 9 .*3 missing.*--on-gap fill"
    ):
        read_volume(tmp_path)
    volume = read_volume(tmp_path, choices=Choices(on_gap="fill"))
    truth = STORED.astype(np.float64)
    truth[..., 3], truth[..., 4] = (2 * truth[..., 2] + truth[..., 5]) / 3, (truth[..., 2] + 2 * truth[..., 5]) / 3
    truth[..., 8] = (truth[..., 7] + truth[..., 9]) / 2
    assert np.allclose(volume.data[0], truth, rtol=1e-6)
    assert np.allclose(volume.affine, AXIAL, atol=1e-6)
    here = [k not in (3, 4, 8) for k in range(12)]
    assert [bool(uid) for uid in volume.source.instance_uids] == here
    assert [file is not None for file in volume.source.files] == here
    assert volume.source.instance_uids[5] == images[3].SOPInstanceUID
    assert volume.source.notes == ("3 missing slices were interpolated between their neighbours.",)


def tilted(degrees):
    affine = AXIAL.copy()
    affine[1, 2] = 2.5 * np.tan(np.radians(degrees))
    return affine


@pytest.mark.parametrize("degrees", [15.0, -20.0])
def test_a_tilt_is_kept_as_shear(tmp_path, degrees):
    make_series(tmp_path, STORED, tilted(degrees))
    assert find_series(tmp_path)[0].verdict.sentence.startswith(f"a tilt of {abs(degrees):.1f} degrees")
    volume = read_volume(tmp_path, choices=Choices(on_tilt="keep-shear"))
    assert np.array_equal(volume.data[0], STORED)
    assert np.allclose(volume.affine, tilted(degrees), atol=1e-4)
    assert len(volume.source.files) == 12 and "sheared" in volume.source.notes[0]


@pytest.mark.parametrize("degrees", [15.0, -20.0])
def test_a_deskewed_scan_holds_the_same_world(tmp_path, degrees):
    """A function linear in the world is what linear interpolation keeps, wherever something was scanned."""
    affine = tilted(degrees)

    def world_value(affine, index):
        x, y, z = affine[:3, :3] @ index + affine[:3, 3:]
        return 1000 + 20 * x + 31 * y + 7 * z

    truth = world_value(affine, np.indices(STORED.shape).reshape(3, -1)).reshape(STORED.shape)
    stored = np.round(truth * 10).astype(np.uint16)
    make_series(tmp_path, stored, affine, slope=0.1)
    volume = read_volume(tmp_path, choices=Choices(on_tilt="deskew"))
    axes = volume.affine[:3, :3] / volume.spacing
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert volume.source.files == () and "upright grid" in volume.source.notes[0]
    values = volume.data[0]
    inside = values != values.min()
    assert inside.sum() >= STORED.size - 2 * STORED.shape[0] * STORED.shape[2]  # each slice loses at most its rim
    expected = world_value(volume.affine, np.indices(volume.shape).reshape(3, -1)).reshape(volume.shape)
    assert np.abs(values - expected)[inside].max() < 0.11  # rounding of the stored values
    corners = [(i, j, k) for i in (0, 7) for j in (0, 8) for k in (0, 11)]
    back = np.linalg.inv(volume.affine) @ affine @ np.array([(*corner, 1) for corner in corners]).T
    assert (back[:3] > -1e-3).all() and (np.array(volume.shape) - 1 + 1e-3 > back[:3].T).all()


def test_deskewed_outside_is_the_padding_value(tmp_path):
    make_series(
        tmp_path,
        STORED,
        tilted(15),
        intercept=-1024,
        modality="CT",
        edit=lambda k, ds: ds.add_new("PixelPaddingValue", "US", 0),
    )
    assert read_volume(tmp_path, choices=Choices(on_tilt="deskew")).data.min() == -1024


@pytest.mark.parametrize(("answer", "kept"), [("first", 0), ("last", 1)])
def test_of_duplicates_one_is_taken(tmp_path, answer, kept):
    both = [STORED, STORED + 1000]
    for n, stored in enumerate(both):

        def edit(k, ds, n=n):
            ds.InstanceNumber = 100 * n + k
            ds.SOPInstanceUID += f".{n}"
            ds.StudyInstanceUID = "1.2.3"
            return n == 0 or k in (2, 5)

        make_series(tmp_path / str(n), stored, AXIAL, series="1.2.3.7777", edit=edit)
    with pytest.raises(GeometryError, match="2 slices too many at the same place, first at place 3 of 12"):
        read_volume(tmp_path)
    volume = read_volume(tmp_path, choices=Choices(on_duplicate=answer))
    for k in range(12):
        assert np.array_equal(volume.data[0, :, :, k], both[kept if k in (2, 5) else 0][:, :, k])
    assert "2 duplicate slices were left out" in volume.source.notes[0]


def test_varying_spacing_is_resampled_on_its_finest(tmp_path):
    heights = np.cumsum([0, 1, 1, 1, 1, 2.5, 2.5, 2.5, 2.5, 1, 1, 1])  # mm
    stored = np.broadcast_to(np.round(heights * 100), STORED.shape).astype(np.uint16)

    def edit(k, ds):
        ds.ImagePositionPatient = [0, 0, float(heights[k])]

    make_series(tmp_path, stored, AXIAL, edit=edit)
    (series,) = find_series(tmp_path)
    assert series.verdict.kind == "varying spacing"
    volume = read_volume(tmp_path, choices=Choices(on_spacing="resample"))
    assert volume.shape == (8, 9, 18) and volume.spacing[2] == pytest.approx(1.0)
    assert np.allclose(volume.data[0, 0, 0], np.arange(18) * 100, atol=0.01)
    assert volume.source.files == () and "varying distances" in volume.source.notes[0]


def test_spacing_that_varies_beyond_measure_is_refused(tmp_path):
    def edit(k, ds):
        ds.ImagePositionPatient = [0, 0, float(np.cumsum([0, *[50, 0.5] * 6])[k])]

    make_series(tmp_path, STORED, AXIAL, edit=edit)
    with pytest.raises(GeometryError, match="even spacing would take"):
        read_volume(tmp_path, choices=Choices(on_spacing="resample"))


def test_one_choice_does_not_answer_for_another(tmp_path):
    def edit(k, ds):
        return k != 4

    make_series(tmp_path, STORED, tilted(15), edit=edit)
    assert "gap of 5.0 mm" in find_series(tmp_path)[0].verdict.sentence
    assert "tilt of 15.0" in find_series(tmp_path)[0].verdict.sentence
    with pytest.raises(GeometryError, match="--on-tilt"):
        read_volume(tmp_path, choices=Choices(on_gap="fill"))
    with pytest.raises(GeometryError, match="--on-gap"):
        read_volume(tmp_path, choices=Choices(on_tilt="deskew"))
    volume = read_volume(tmp_path, choices=Choices(on_gap="fill", on_tilt="keep-shear"))
    assert volume.shape == (8, 9, 12) and len(volume.source.notes) == 2


def test_few_wide_steps_are_gaps_and_many_are_a_spacing_that_varies(tmp_path):
    make_series(tmp_path / "a", STORED, AXIAL, edit=lambda k, ds: k % 5 != 2)
    make_series(tmp_path / "b", STORED, AXIAL, edit=lambda k, ds: k < 5 or k % 2 == 0)
    assert [find_series(tmp_path / name)[0].verdict.kind for name in "ab"] == ["gap", "varying spacing"]


@pytest.mark.parametrize(
    "wrong",
    [{"on_gap": "guess"}, {"frame": 0}, {"frame": True}, {"suv": "lbm"}, {"on_tilt": None}, {"on_spacing": True}],
)
def test_an_answer_that_is_none_is_refused(wrong):
    with pytest.raises(ScanError, match="was given"):
        Choices(**wrong)
