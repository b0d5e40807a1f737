"""From grid to grid by way of the world: linear is exact on linear fields, the sum-preserving way is the transpose."""

import numpy as np
import pytest

from xai_io import GeometryError, Volume, covered

RNG = np.random.default_rng(0)


def grid(shape, spacing=(1, 1, 1), angle=0.0, origin=(0, 0, 0)):
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return Volume(np.zeros((1, *shape), np.float32), affine)


def world(volume):
    voxels = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1)
    return voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]


COARSE = grid((12, 14, 10), (2.0, 1.5, 3.0), 0.3, (-9, -14, 1))
FINE = grid((20, 18, 24), (0.8, 0.9, 1.0), -0.2, (-6, -3, 5))


def test_linear_sampling_is_exact_on_a_linear_field():
    field = (world(COARSE) @ [1.0, -2.0, 0.5] + 3)[None].astype(np.float32)
    found = COARSE.with_data(field).resampled_to(FINE).data[0]
    where = (
        world(FINE) @ np.linalg.inv(COARSE.affine[:3, :3]).T
        - np.linalg.inv(COARSE.affine[:3, :3]) @ COARSE.affine[:3, 3]
    )
    inside = ((where >= 0) & (where <= np.array(COARSE.shape) - 1)).all(-1)
    assert inside.sum() > 1000
    assert np.abs(found - (world(FINE) @ [1.0, -2.0, 0.5] + 3))[inside].max() < 1e-3  # float32 coordinates
    far = ((where < -0.51) | (where > np.array(COARSE.shape) - 0.49)).any(-1)
    assert not found[far].any()


def test_the_sum_preserving_way_is_the_transpose_of_linear_sampling():
    on_coarse = RNG.normal(size=(2, *COARSE.shape)).astype(np.float32)
    on_fine = RNG.normal(size=(2, *FINE.shape)).astype(np.float32)
    forward = COARSE.with_data(on_coarse).resampled_to(FINE).data
    back = FINE.with_data(on_fine).resampled_to(COARSE, "sum-preserving").data
    assert (forward * on_fine).sum() == pytest.approx((on_coarse * back).sum(), rel=1e-4)


def test_nearest_keeps_labels_and_their_type():
    labels = RNG.integers(0, 5, (1, *COARSE.shape)).astype(np.uint8)
    found = COARSE.with_data(labels).resampled_to(FINE, "nearest").data
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= set(range(5))
    assert np.array_equal(COARSE.with_data(labels).resampled_to(COARSE, "nearest").data, labels)


def test_slabs_do_not_show(monkeypatch):
    values = COARSE.with_data(RNG.normal(size=(1, *COARSE.shape)).astype(np.float32))
    whole = [values.resampled_to(FINE, mode).data for mode in ("linear", "nearest", "sum-preserving")]
    monkeypatch.setattr("xai_io.resample.SLAB", 500)
    for mode, before in zip(("linear", "nearest", "sum-preserving"), whole, strict=True):
        assert np.allclose(values.resampled_to(FINE, mode).data, before, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "nearest", "sum-preserving"])
def test_between_grids_that_coincide_values_are_only_moved(mode):
    scan = COARSE.with_data(RNG.normal(size=(2, *COARSE.shape)).astype(np.float32))
    turned = scan.reoriented("PIR")
    cropped = Volume(turned.data[:, 2:-1, 1:, 3:], turned.affine @ shift(2, 1, 3))
    home = cropped.resampled_to(scan, mode).data
    inside = covered(scan, cropped)
    assert inside.sum() == np.prod(cropped.shape)
    assert np.array_equal(home, np.where(inside, scan.data, 0))


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(GeometryError, match="sum-preserving"):
        COARSE.resampled_to(FINE, "cubic")


def test_big_and_odd_labels_keep_every_bit():
    labels = np.full((1, *COARSE.shape), 2**31 + 1, dtype=">i8")
    found = COARSE.with_data(labels).resampled_to(FINE, "nearest").data
    assert set(np.unique(found)) == {0, 2**31 + 1}


def test_covered_counts_the_voxels_whose_centres_lie_within():
    small = grid((4, 4, 4), (2, 2, 2), origin=(1, 1, 1))  # reaches from 0 to 8 mm
    fine = grid((10, 10, 10), (1, 1, 1), origin=(0.25, 0.25, 0.25))
    assert covered(fine, small).sum() == 8**3
    assert covered(small, fine).all() and not covered(small, grid((2, 2, 2), origin=(50, 0, 0))).any()


def test_a_place_far_along_a_long_axis_is_exact_to_a_tenth_of_a_micrometre():
    rows = np.arange(600, dtype=np.float32)
    long = Volume(np.broadcast_to(rows[None, :, None, None], (1, 600, 2, 2)), np.diag([0.5, 1, 1, 1]))
    between = grid((599, 1, 1), (0.5, 1, 1), origin=(0.15, 0, 0))
    assert np.abs(long.resampled_to(between).data[0, :, 0, 0] - (rows[:-1] + 0.3)).max() * 0.5 < 1e-4  # mm


def shift(*voxels):
    affine = np.eye(4)
    affine[:3, 3] = voxels
    return affine
