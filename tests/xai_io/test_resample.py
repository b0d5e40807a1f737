"""From grid to grid by way of the world: linear is exact on linear fields, the adjoint is the transpose."""

import numpy as np
import pytest

from xai_io import Volume, resampled_to

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
    found = resampled_to(COARSE.with_data(field), FINE).data[0]
    where = (
        world(FINE) @ np.linalg.inv(COARSE.affine[:3, :3]).T
        - np.linalg.inv(COARSE.affine[:3, :3]) @ COARSE.affine[:3, 3]
    )
    inside = ((where >= 0) & (where <= np.array(COARSE.shape) - 1)).all(-1)
    assert inside.sum() > 1000
    assert np.abs(found - (world(FINE) @ [1.0, -2.0, 0.5] + 3))[inside].max() < 1e-3  # float32 coordinates
    far = ((where < -0.51) | (where > np.array(COARSE.shape) - 0.49)).any(-1)
    assert not found[far].any()


def test_the_adjoint_is_the_transpose_of_linear_sampling():
    on_coarse = RNG.normal(size=(2, *COARSE.shape)).astype(np.float32)
    on_fine = RNG.normal(size=(2, *FINE.shape)).astype(np.float32)
    forward = resampled_to(COARSE.with_data(on_coarse), FINE).data
    back = resampled_to(FINE.with_data(on_fine), COARSE, mode="adjoint").data
    assert (forward * on_fine).sum() == pytest.approx((on_coarse * back).sum(), rel=1e-4)


def test_nearest_keeps_labels_and_their_type():
    labels = RNG.integers(0, 5, (1, *COARSE.shape)).astype(np.uint8)
    found = resampled_to(COARSE.with_data(labels), FINE, mode="nearest").data
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= set(range(5))
    assert np.array_equal(resampled_to(COARSE.with_data(labels), COARSE, mode="nearest").data, labels)


def test_slabs_do_not_show(monkeypatch):
    values = COARSE.with_data(RNG.normal(size=(1, *COARSE.shape)).astype(np.float32))
    whole = [resampled_to(values, FINE, mode=mode).data for mode in ("linear", "nearest", "adjoint")]
    monkeypatch.setattr("xai_io.resample.SLAB", 500)
    for mode, before in zip(("linear", "nearest", "adjoint"), whole, strict=True):
        assert np.allclose(resampled_to(values, FINE, mode=mode).data, before, atol=1e-5)
