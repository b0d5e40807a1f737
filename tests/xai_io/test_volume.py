import itertools

import nibabel as nib
import numpy as np
import pytest

from xai_io import GeometryError, ScanError, Source, Volume

DATA = np.arange(24.0).reshape(1, 2, 3, 4)
AXCODES = [
    "".join(codes) for order in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*order)
]


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


@pytest.fixture
def oblique(rotate, placed):
    return Volume(DATA, placed(rotate(10, -20, 25), (0.7, 1.3, 2.5), (12.3, -45.6, 78.9)))


def test_voxels_have_places_and_places_voxels(oblique):
    voxel = np.random.default_rng(0).uniform(-5, 5, (7, 2, 3))
    world = oblique.world_of(voxel)
    assert np.allclose(world, nib.affines.apply_affine(oblique.affine, voxel), rtol=0, atol=1e-12)
    assert np.allclose(oblique.voxel_of(world), voxel, rtol=0, atol=1e-12)
    assert np.array_equal(oblique.world_of((0, 0, 0)), oblique.affine[:3, 3])


@pytest.mark.parametrize("axcodes", AXCODES)
def test_reoriented_moves_no_voxel(oblique, axcodes):
    turned = oblique.reoriented(axcodes)
    assert turned.axcodes == axcodes and np.shares_memory(turned.data, oblique.data)
    voxels = np.argwhere(np.ones(turned.shape))
    there = oblique.voxel_of(turned.world_of(voxels))
    whole = np.rint(there).astype(int)
    assert np.abs(there - whole).max() < 1e-12
    assert np.array_equal(turned.data[0][tuple(voxels.T)], oblique.data[0][tuple(whole.T)])
    theirs = nib.as_closest_canonical(nib.Nifti1Image(oblique.data[0], oblique.affine))
    if axcodes == "RAS":
        assert np.array_equal(turned.affine, theirs.affine) and np.array_equal(turned.data[0], theirs.dataobj)


def test_a_turned_volume_no_longer_names_the_files_of_its_slices(tmp_path):
    source = Source("dicom", series_uid="1.2", instance_uids=("1",) * 4, files=(tmp_path,) * 4, frames=(1,) * 4)
    scan = Volume(DATA, np.eye(4), "HU", "CT", source)
    assert scan.reoriented("RAS") is scan
    turned = scan.reoriented("LAS")
    assert turned.source == Source("dicom", series_uid="1.2") and (turned.units, turned.modality) == ("HU", "CT")


@pytest.mark.parametrize("axcodes", ["", "RA", "RAR", "ras", "RASS", "XYZ", "LRS"])
def test_axis_codes_that_are_none(axcodes):
    with pytest.raises(GeometryError, match="one of L or R"):
        Volume(DATA, np.eye(4)).reoriented(axcodes)
