"""The way to the model's grid and back: a blob comes home, sums are kept, nothing is invented."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    CropForegroundd,
    DivisiblePadd,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)

from napari_xai.errors import ExplainError
from napari_xai.scan_space import ModelSpace
from xai_io import Volume

ORIENTATIONS = [
    "".join(codes) for order in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*order)
]
BLOB = np.array([6.0, -9.0, 11.0])  # mm, RAS


def scan_with_blob(shape=(30, 34, 28), spacing=(2.0, 1.5, 2.5), codes="RAS", rotation=None, at=BLOB):
    """A bright ball at `at`, on a grid centred about the origin, in any axis order, turned by `rotation`."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    if rotation is not None:
        affine[:3] = rotation @ affine[:3]
    ornt = nib.orientations.axcodes2ornt(codes)
    canonical = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), ornt)
    data = nib.orientations.apply_orientation(np.empty(shape), canonical)
    affine = affine @ nib.orientations.inv_ornt_aff(canonical, shape)
    world = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    ball = np.exp(-((world - at) ** 2).sum(-1) / (2 * 5.0**2)).astype(np.float32)
    return Volume((100 * ball + 1)[None], affine)


def centre_of(volume: Volume, floor: float) -> np.ndarray:
    """The centre of mass in mm of what rises above a floor."""
    weight = np.clip(volume.data[0] - floor, 0, None)
    voxel = np.array(
        [(weight.sum(tuple(set(range(3)) - {a})) * np.arange(n)).sum() for a, n in enumerate(weight.shape)]
    )
    return volume.affine[:3, :3] @ (voxel / weight.sum()) + volume.affine[:3, 3]


def rotation(x: float, z: float) -> np.ndarray:
    a, b = np.radians([x, z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x


CHAINS = {
    "orientation": [Orientationd("image", "RAS")],
    "spacing": [Orientationd("image", "LPS"), Spacingd("image", (2.0, 2.0, 2.0), mode="bilinear")],
    "crop and pad": [
        Orientationd("image", "RAS"),
        CropForegroundd("image", source_key="image", select_fn=lambda x: x > 5, margin=3, allow_smaller=False),
        SpatialPadd("image", (48, 20, 40)),
        DivisiblePadd("image", 16),
    ],
    "resize": [Orientationd("image", "SPL"), Resized("image", (24, 40, 20), mode="trilinear")],
}


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_blob_comes_back_from_every_axis_order(codes):
    scan = scan_with_blob(codes=codes, rotation=rotation(12, 20))
    space = ModelSpace.of(scan, CHAINS["spacing"])
    home = space.back(space.x[0], extensive=False)
    assert home.shape == scan.shape
    assert np.array_equal(home.affine, scan.affine)
    assert np.linalg.norm(centre_of(home, 20) - centre_of(scan, 20)) < 0.1  # mm; half a voxel is 0.75


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("codes", ["RAS", "LPS", "IRP"])
def test_a_blob_comes_back_through_every_kind_of_transform(chain, codes):
    scan = scan_with_blob(codes=codes)
    space = ModelSpace.of(scan, CHAINS[chain])
    home = space.back(space.x[0], extensive=False)
    assert home.shape == scan.shape
    assert np.array_equal(home.affine, scan.affine)
    assert np.linalg.norm(centre_of(home, 20) - centre_of(scan, 20)) < 0.25  # Resized shifts by what it rounds
    assert np.isfinite(home.data).all()


@pytest.mark.parametrize("chain", CHAINS)
def test_the_sum_preserving_return_keeps_the_total(chain):
    scan = scan_with_blob()
    space = ModelSpace.of(scan, CHAINS[chain])
    relevance = torch.zeros_like(space.x[0])
    inner = tuple(slice(n // 3, 2 * n // 3) for n in relevance.shape[1:])
    relevance[(0, *inner)] = torch.randn(
        tuple(s.stop - s.start for s in inner), generator=torch.Generator().manual_seed(0)
    )
    home = space.back(relevance, extensive=True, way="sum-preserving")
    assert home.data.sum(dtype=np.float64) == pytest.approx(float(relevance.double().sum()), rel=1e-5)


def test_interpolated_extensive_maps_keep_their_density():
    scan = scan_with_blob()
    space = ModelSpace.of(scan, CHAINS["spacing"])
    smooth = space.x[0] - 1
    home = space.back(smooth, extensive=True)
    assert home.data.sum() == pytest.approx(float(smooth.sum()), rel=0.02)  # interpolation is not exact


def test_the_same_grid_is_returned_bit_for_bit():
    scan = scan_with_blob()
    space = ModelSpace.of(scan, [NormalizeIntensityd("image")])
    values = torch.randn(2, *scan.shape)
    assert np.array_equal(space.back(values, extensive=True).data, values.numpy())


def test_the_scan_is_not_changed_by_transforms_in_place():
    scan = scan_with_blob()
    before = scan.data.copy()
    ModelSpace.of(scan, [ScaleIntensityRanged("image", 0, 100, 0, 1, clip=True), Orientationd("image", "LPI")])
    assert np.array_equal(scan.data, before)


def test_a_mask_lands_where_the_blob_is():
    scan = scan_with_blob(codes="LIP", rotation=rotation(5, 10))
    space = ModelSpace.of(scan, CHAINS["spacing"])
    region = space.region(scan.with_data((scan.data > 50).astype(np.uint8)))
    bright = space.x[0, 0] > 50
    overlap = 2 * (region & bright).sum() / (region.sum() + bright.sum())
    assert overlap > 0.9  # nearest against linear, at the blob's rim


def test_a_mask_outside_what_the_model_sees_is_refused():
    scan = scan_with_blob()
    space = ModelSpace.of(scan, CHAINS["crop and pad"][:2])
    corner = np.zeros((1, *scan.shape), np.uint8)
    corner[0, 0, 0, 0] = 1
    with pytest.raises(ExplainError, match="No voxel of the region lies inside"):
        space.region(scan.with_data(corner))


def test_a_sum_preserving_return_of_a_cam_is_refused():
    scan = scan_with_blob()
    space = ModelSpace.of(scan, [])
    with pytest.raises(ExplainError, match="way_back='interpolate'"):
        space.back(space.x[0], extensive=False, way="sum-preserving")


def test_a_transform_that_fails_is_named():
    scan = scan_with_blob()
    with pytest.raises(ExplainError, match="Resized fails on this scan"):
        ModelSpace.of(scan, [Resized("image", (4, 4), mode="trilinear")])


def test_air_is_what_the_faces_of_the_volume_hold():
    data = np.zeros((1, 20, 20, 20), np.float32) - 1000
    data[0, 5:15, 5:15, 5:15] = 40
    assert ModelSpace.of(Volume(data, np.eye(4)), []).air == -1000
