import numpy as np
import pytest

from xai_io import GeometryError, ScanError, Source, Volume

DATA = np.arange(24.0).reshape(1, 2, 3, 4)


def test_keeps_values_and_a_private_read_only_affine():
    affine = np.diag([2.0, 3, 4, 1]).astype(np.float32)
    volume = Volume(DATA, affine, units="HU", modality="CT")
    affine[0, 0] = 9
    assert volume.data is DATA
    assert volume.affine.dtype == np.float64 and volume.affine[0, 0] == 2
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 1
    assert (volume.shape, volume.channels, volume.spacing, volume.axcodes) == ((2, 3, 4), 1, (2, 3, 4), "RAS")


def test_axcodes_and_spacing_follow_the_affine():
    affine = np.array([[0, 0, -3.0, 5], [-2, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1]])
    volume = Volume(DATA, affine)
    assert volume.axcodes == "PSL" and volume.spacing == (2, 1, 3)


@pytest.mark.parametrize("data", [np.zeros((2, 3, 4)), np.zeros((1, 0, 3, 4)), np.zeros((1, 2, 2, 2), complex)])
def test_refuses_what_is_no_volume(data):
    with pytest.raises(ScanError, match="only"):
        Volume(data, np.eye(4))


@pytest.mark.parametrize(
    "affine",
    [np.eye(3), np.diag([1.0, 1, 0, 1]), np.diag([1, 1, np.nan, 1]), np.ones((4, 4)), np.diag([1.0, 1, 1, 2])],
)
def test_refuses_an_affine_that_places_nothing(affine):
    with pytest.raises(GeometryError, match=r"RAS\+ mm"):
        Volume(DATA, affine)


def test_small_voxels_are_no_degenerate_affine():
    assert Volume(DATA, np.diag([1e-4, 1e-4, 1e-4, 1])).spacing == pytest.approx((1e-4,) * 3)


def test_with_data_keeps_the_grid_and_drops_the_units():
    scan = Volume(DATA, np.diag([2.0, 2, 2, 1]), units="HU", modality="CT", source=Source(format="nifti"))
    other = scan.with_data(np.ones((3, 2, 3, 4)), units="")
    assert other.channels == 3 and other.units == "" and other.modality == "CT" and other.source is scan.source
    assert np.array_equal(other.affine, scan.affine)
    with pytest.raises(ScanError, match="grid"):
        scan.with_data(np.ones((1, 2, 3, 5)))


def test_repr_tells_no_identifiers(tmp_path):
    source = Source(format="dicom", path=tmp_path / "DOE_JANE", series_uid="1.2.3.4", instance_uids=("1.2.3.4.5",))
    text = repr(Volume(DATA, np.eye(4), source=source))
    assert "DOE" not in text and "1.2.3" not in text and "(2, 3, 4)" in text
