"""The way to the model's grid and back: a blob comes home, sums are kept, nothing is invented."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Affined,
    BorderPadd,
    CenterScaleCropd,
    CenterSpatialCropd,
    Compose,
    CropForegroundd,
    DivisiblePadd,
    EnsureTyped,
    Flipd,
    Lambdad,
    NormalizeIntensityd,
    Orientationd,
    Resized,
    ResizeWithPadOrCropd,
    Rotate90d,
    Rotated,
    ScaleIntensityRanged,
    Spacingd,
    SpatialCropd,
    SpatialPadd,
    Transposed,
    Zoomd,
)

from napari_xai.errors import ExplainError
from napari_xai.scan_space import FieldOfView, ModelSpace, check_way_back
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
    "turn and zoom": [
        Rotated("image", (0.1, -0.05, 0.2), keep_size=False),
        Zoomd("image", (0.8, 1.1, 1.3), mode="trilinear"),
        Flipd("image", 1),
        Affined("image", translate_params=(2, -1, 1), shear_params=(0.05, 0, 0, 0, 0.02, 0)),
    ],
}

TURN = {"rotate_params": (0.1, 0.2, -0.1), "translate_params": (1, 2, -1), "scale_params": (1.1, 0.9, 1.2)}
SPATIAL = [
    Orientationd("image", "PIR"),
    Flipd("image", None),
    Rotate90d("image", 3, (0, 2)),
    *(
        Spacingd("image", (2, 2.2, 1.8), align_corners=corners, scale_extent=extent, diagonal=diagonal)
        for corners, extent, diagonal in itertools.product((False, True), repeat=3)
    ),
    Spacingd("image", (-1, 2, -1), dtype=np.float32),
    Spacingd("image", (2, 2, 2), min_pixdim=(1, 1, 1), max_pixdim=(2, 2, 2), lazy=True),
    *(Resized("image", (24, 40, 20), mode="trilinear", align_corners=corners) for corners in (False, True)),
    Resized("image", 32, size_mode="longest", mode="bilinear"),
    *(Zoomd("image", (0.7, 1.2, 1.7), mode="trilinear", keep_size=keep) for keep in (False, True)),
    *(
        Rotated("image", (0.2, -0.1, 0.3), keep_size=keep, align_corners=corners)
        for keep, corners in itertools.product((False, True), repeat=2)
    ),
    Affined("image", **TURN, spatial_size=(40, 20, 24)),
    Affined("image", shear_params=(0.1, 0, 0, 0, 0.05, 0)),
    BorderPadd("image", (1, 2, 3, 4, 5, 6)),
    SpatialPadd("image", (40, 41, 20), method="end", mode="edge"),
    DivisiblePadd("image", 16),
    CenterSpatialCropd("image", (15, 14, 13)),
    CenterScaleCropd("image", 0.5),
    SpatialCropd("image", roi_center=(12, 13, 9), roi_size=(10, 9, 8)),
    ResizeWithPadOrCropd("image", (40, 15, 33)),
    CropForegroundd("image", source_key="image", select_fn=lambda x: x > 0, margin=2, k_divisible=8),
    Compose([Orientationd("image", "LPS"), Spacingd("image", (2, 2, 2)), Zoomd("image", 1.1)], lazy=True),
]


@pytest.mark.parametrize("transform", SPATIAL, ids=lambda transform: type(transform).__name__)
def test_a_voxel_of_the_model_lies_where_its_affine_says(transform):
    """Each voxel of the scan holds its own place, which linear interpolation keeps."""
    scan = scan_with_blob((31, 26, 20), (1.7, 1.3, 2.6), "LAS", rotation(12, 20))
    there = scan.world_of(np.moveaxis(np.indices(scan.shape), 0, -1))
    space = ModelSpace.of(scan.with_data(np.moveaxis(there, -1, 0).astype(np.float32)), [transform])
    told = space.grid.world_of(np.moveaxis(np.indices(space.grid.shape), 0, -1))
    held = np.moveaxis(space.x[0].double().numpy(), 0, -1)
    inner = [((at >= 1) & (at <= np.array(scan.shape) - 2)).all(-1) for at in map(scan.voxel_of, (told, held))]
    assert (inner[0] & inner[1]).sum() > 500
    assert np.abs(told - held)[inner[0] & inner[1]].max() < 1e-4  # mm


@pytest.mark.parametrize(
    "transform",
    [
        Resized("image", (15, 13, 20)),
        Zoomd("image", (0.7, 1.2, 1.7)),
        Resized("image", (24, 40, 20), mode="nearest-exact"),
        Spacingd("image", (1.2, 2.2, 1.8), mode="nearest"),
        Spacingd("image", (2, 2.2, 1.8), mode=3),
    ],
)
def test_a_blob_comes_back_where_interpolation_is_not_linear(transform):
    scan = scan_with_blob((31, 26, 20), (1.7, 1.3, 2.6), "LAS", rotation(12, 20), at=BLOB / 3)
    home = ModelSpace.of(scan, [transform])
    home = home.back(home.x[0], extensive=False)
    assert np.linalg.norm(centre_of(home, 20) - centre_of(scan, 20)) < 0.3  # mm; half a voxel is 0.65


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (Spacingd("image", (2, 2, 2), recompute_affine=True), "recompute_affine"),
        (Resized("image", (24, 40, 20), mode="nearest"), "nearest-exact"),
        (Compose([Zoomd(["label", "image"], 1.3, mode=["area", "nearest"])]), "nearest-exact"),
        (Affined("image", **TURN, align_corners=True), "align_corners"),
    ],
)
def test_what_monai_gives_a_false_affine_is_refused(transform, words):
    with pytest.raises(ExplainError, match=words):
        ModelSpace.of(scan_with_blob(), [transform])


@pytest.mark.parametrize(
    "transform",
    [EnsureTyped("image", track_meta=False), Lambdad("image", lambda x: x[:, 1:]), Transposed("image", (0, 2, 1, 3))],
)
def test_voxels_that_move_behind_the_affines_back_are_refused(transform):
    with pytest.raises(ExplainError, match="without saying where"):
        ModelSpace.of(scan_with_blob(), [transform])


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_blob_comes_back_from_every_axis_order_through_every_kind_of_transform(codes, chain):
    scan = scan_with_blob((26, 30, 22), codes=codes, rotation=rotation(12, 20), at=BLOB / 2)
    space = ModelSpace.of(scan, CHAINS[chain])
    home = space.back(space.x[0], extensive=False)
    assert home.shape == scan.shape
    assert np.array_equal(home.affine, scan.affine)
    assert np.linalg.norm(centre_of(home, 20) - centre_of(scan, 20)) < 0.1  # mm; half a voxel is 0.75
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
    for refused in (
        lambda: space.back(space.x[0], extensive=False, way="sum-preserving"),
        lambda: check_way_back("sum-preserving", extensive=False),
    ):
        with pytest.raises(ExplainError, match="way_back='interpolate'"):
            refused()


def test_what_lies_outside_the_field_of_view_is_counted():
    scan = scan_with_blob((20, 20, 20), (1, 1, 1))
    padded = ModelSpace.of(scan, [SpatialPadd("image", (20, 20, 40)), CenterSpatialCropd("image", (20, 10, 40))])
    relevance = torch.ones(1, *padded.grid.shape)
    relevance[..., :10] = -1
    view = padded.field_of_view(relevance)
    assert (view.relevance_outside, view.scan_unseen) == (0.5, 0.5)
    home = padded.back(relevance, extensive=True, way="sum-preserving").data
    assert np.abs(home).sum() == relevance.abs().sum() * (1 - view.relevance_outside)
    assert not home[0][~padded.seen].any() and padded.seen.sum() == 20 * 10 * 20
    assert padded.field_of_view(relevance * 0) == FieldOfView(0.0, 0.5)


def test_nothing_lies_outside_where_the_grids_are_the_same_or_only_turned():
    scan = scan_with_blob(codes="IRP", rotation=rotation(5, 10))
    for chain in ([], [Orientationd("image", "RAS")]):
        space = ModelSpace.of(scan, chain)
        assert space.field_of_view(space.x[0]) == FieldOfView(0.0, 0.0)
        for way in ("interpolate", "sum-preserving"):
            assert np.array_equal(space.back(space.x[0], extensive=True, way=way).data, scan.data)


def test_a_transform_that_fails_is_named():
    scan = scan_with_blob()
    with pytest.raises(ExplainError, match="Resized fails on this scan"):
        ModelSpace.of(scan, [Resized("image", (4, 4), mode="trilinear")])


def test_air_is_what_the_faces_of_the_volume_hold():
    data = np.zeros((1, 20, 20, 20), np.float32) - 1000
    data[0, 5:15, 5:15, 5:15] = 40
    assert ModelSpace.of(Volume(data, np.eye(4)), []).air == -1000
