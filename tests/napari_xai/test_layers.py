"""The same hand on the screen as in the patient, in 2D and 3D, whatever the order and tilt of the voxels."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from napari_xai._writer import layer_volume
from napari_xai.layers import WORLD, label_layer, relevance_layers, scan_layers, scan_of, volume_of
from xai_io import ExportError, GeometryError, ScanError, Source, Volume, display_for, read_volume, write_nifti

napari = pytest.importorskip("napari", reason="needs the gui extra")
from napari.components import ViewerModel  # noqa: E402
from napari.layers import Image, Layer  # noqa: E402

PAIRS = (("L", "R"), ("P", "A"), ("I", "S"))
ORDERS = [
    "".join(PAIRS[axis][side] for axis, side in zip(order, sides, strict=True))
    for order in permutations(range(3))
    for sides in product((0, 1), repeat=3)
]
BODY, RIGHT, ANTERIOR, SUPERIOR = 1.0, 10.0, 20.0, 30.0  # a glove: no mirror image of it can be turned onto it
ARMS = {RIGHT: (9.0, 0.0, 0.0), ANTERIOR: (0.0, 12.0, 0.0), SUPERIOR: (0.0, 0.0, 15.0)}


def glove(axes, tilt=0.0, spacing=(1.5, 2.0, 2.5)):
    """A body at the world's origin with one arm to the right, one to the front and one upwards, of three lengths."""
    reach = [[0, 0, 0] if axis is None else axis for axis in (None, *ARMS.values())]
    signs = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), (1, 1, 1))[:3, :3]
    turn, _ = np.linalg.qr(np.array([[1, -tilt, tilt], [tilt, 1, -tilt], [0, tilt, 1]])) if tilt else (np.eye(3), None)
    turn = turn * np.sign(np.diag(turn))
    linear = turn @ signs @ np.diag(np.abs(np.linalg.inv(signs)) @ spacing)
    shape = np.array([21, 23, 25])
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((shape - 1) / 2) + (3, -2, 1)
    data = np.zeros((1, *shape), np.float32)
    inverse = np.linalg.inv(affine)
    for value, point in zip((BODY, *ARMS), reach, strict=True):
        voxel = np.round(inverse[:3, :3] @ (turn @ np.array(point, float)) + inverse[:3, 3]).astype(int)
        data[(0, *voxel)] = value
    return Volume(data, affine, modality="MR", source=Source(format="nifti"))


def shown(layer, value):
    """Where in napari's world the voxel of this value is."""
    return np.array(layer.data_to_world([int(n) for n in np.argwhere(np.asarray(layer.data) == value)[0]]))


CASES = [("LPS", 0), ("RAS", 0), ("LAS", 0), ("RPI", 0), ("PSR", 0), ("AIL", 0), ("LPS", 0.2), ("PSR", 0.3)]


@pytest.mark.parametrize(("axes", "tilt"), CASES)
def test_axial_slices_are_radiological(axes, tilt):
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*scan_layers(glove(axes, tilt))[0]))
    assert viewer.dims.ndisplay == 2
    assert viewer.scene.camera.orientation2d == ("down", "right")
    slider, down, right = viewer.dims.order
    body = shown(layer, BODY)
    to_right, to_front, up = (shown(layer, arm) - body for arm in ARMS)
    assert to_right[right] < -6
    assert to_front[down] < -9
    assert up[slider] < -12
    for arm, axis in ((to_right, right), (to_front, down), (up, slider)):
        assert np.abs(np.delete(arm, axis)).max() < 2.6  # no arm leans: an oblique scan is cut along its own axes


@pytest.mark.parametrize(("axes", "tilt"), CASES)
@pytest.mark.parametrize("angles", [(0, 0, 0), (20, 70, -130)])
def test_volumes_are_not_mirrored(axes, tilt, angles):
    viewer = ViewerModel(ndisplay=3)
    layer = viewer.add_layer(Layer.create(*scan_layers(glove(axes, tilt))[0]))
    camera = viewer.scene.camera
    assert camera.orientation == ("towards", "down", "right")  # at rest the axes point so; a right-handed frame
    assert camera.handedness == "right"
    camera.angles = angles
    up, towards = np.array(camera.up_direction), -np.array(camera.view_direction)
    right = np.cross(up, towards)
    body = shown(layer, BODY)
    arms = np.array([shown(layer, arm) - body for arm in ARMS])
    on_screen = arms @ np.array([right, up, towards]).T
    # Right, front and top of the patient make a right-handed frame; so they have to on the screen.
    assert np.linalg.det(on_screen) > 0
    if angles == (0, 0, 0):  # seen from the feet, as axial slices are
        assert on_screen[0, 0] < 0 < on_screen[1, 1]
        assert on_screen[2, 2] < 0


def test_world_is_the_patient_turned_not_mirrored():
    assert np.linalg.det(WORLD[:3, :3]) == 1
    layer = Layer.create(*scan_layers(glove("LPS"))[0])
    voxel = np.argwhere(glove("LPS").data[0] == RIGHT)[0]
    patient = glove("LPS").affine @ (*voxel, 1)
    assert np.allclose(shown(layer, RIGHT), (WORLD @ patient)[:3], atol=1e-9)


@pytest.mark.parametrize("axes", ORDERS)
def test_every_voxel_order_comes_back(axes):
    rng = np.random.default_rng(0)
    volume = glove(axes, 0.1).with_data(rng.normal(size=(1, 21, 23, 25)).astype(np.float32), units="HU")
    data, options, _ = scan_layers(volume)[0]
    assert np.shares_memory(data, volume.data)
    back = volume_of(data, options["metadata"])
    assert np.array_equal(back.data, volume.data)
    assert np.array_equal(back.affine, volume.affine)
    assert (back.units, back.modality, back.source) == ("HU", "MR", volume.source)


@pytest.mark.parametrize(("axes", "tilt"), CASES)
def test_overlays_lie_on_their_scan(axes, tilt):
    scan = glove(axes, tilt)
    image, scan_options, _ = scan_layers(scan)[0]
    (labels, label_options, kind), *_ = [label_layer(scan.with_data(scan.data.astype(np.uint8)), "prediction")]
    overlay, overlay_options, _ = relevance_layers(scan.with_data(scan.data - 5), "lrp", {"score": 1.0})[0]
    assert kind == "labels"
    assert image.shape == labels.shape == overlay.shape
    for options in (label_options, overlay_options):
        for place in ("affine", "units", "axis_labels"):
            assert np.array_equal(options[place], scan_options[place])
    assert overlay_options["metadata"]["napari_xai"]["provenance"] == {"score": 1.0}
    seen = [Layer.create(image, scan_options), Layer.create(overlay, overlay_options)]
    cursor = seen[0].data_to_world((3.3, 7.9, 11.2))
    under, over = (np.array(layer.world_to_data(cursor)) for layer in seen)
    assert np.abs(under - over).max() < 0.1
    assert image[tuple(np.round(under).astype(int))] - 5 == overlay[tuple(np.round(over).astype(int))]


def test_oblique_scans_stand_upright_and_say_so():
    straight, tilted = (scan_layers(glove("LPS", tilt))[0][1] for tilt in (0, 0.2))
    assert straight["axis_labels"] == ("S-I", "A-P", "R-L")
    assert tilted["axis_labels"] == ("~S-I", "~A-P", "~R-L")  # short, as little fits into the canvas' corner
    assert np.array_equal(tilted["affine"][:3, :3], np.diag(np.diag(tilted["affine"])[:3]))
    assert np.array_equal(tilted["metadata"]["napari_xai"]["affine_ras_mm"], glove("LPS", 0.2).affine)


def test_relevance_is_symmetric_and_transparent_at_zero():
    scan = glove("RAS")
    layer = Layer.create(*relevance_layers(scan.with_data(scan.data - 5), "lrp", {})[0])
    assert isinstance(layer, Image)
    low, high = layer.contrast_limits
    assert low == -high
    blue, nothing, red = layer.colormap.map(np.array([0.0, 0.5, 1.0]))
    assert nothing[3] == 0
    assert blue[3] == red[3] > 0.9
    assert blue[2] > blue[0]
    assert red[0] > red[2]


def test_overlays_look_as_exported_pictures_do():
    scan = glove("RAS")
    relevance = scan.with_data(scan.data - 5)
    wanted = display_for(scan, relevance)
    image, overlay = scan_layers(scan)[0][1], relevance_layers(relevance, "lrp", {})[0][1]
    assert image["contrast_limits"] == wanted.window
    assert overlay["contrast_limits"] == (-wanted.limit, wanted.limit)
    assert np.array_equal(overlay["colormap"]["colors"], wanted.table())


def test_channels_share_one_scale_and_their_sum_is_shown():
    scan = glove("RAS")
    both = scan.with_data(np.concatenate([scan.data, -2 * scan.data]))
    layers = relevance_layers(both, "lrp", {})
    assert [options["visible"] for _, options, _ in layers] == [False, False, True]
    assert len({options["contrast_limits"] for _, options, _ in layers}) == 1
    assert layers[2][0].min() == -SUPERIOR
    assert [options["name"] for _, options, _ in layers] == ["lrp, channel 0", "lrp, channel 1", "lrp, all channels"]
    named = relevance_layers(both, "lrp", {}, ("T1", "FLAIR"))
    assert [options["name"] for _, options, _ in named] == ["lrp, T1", "lrp, FLAIR", "lrp, all channels"]
    assert [options["metadata"]["napari_xai"]["part"] for _, options, _ in named] == ["T1", "FLAIR", "all channels"]


def test_an_empty_map_and_nan_have_a_scale():
    scan = glove("RAS")
    assert relevance_layers(scan.with_data(0 * scan.data), "lrp", {})[0][1]["contrast_limits"] == (-1, 1)
    damaged = scan.data.copy()
    damaged[0, 0, 0, 0] = np.nan
    assert np.isfinite(relevance_layers(scan.with_data(damaged), "lrp", {})[0][1]["contrast_limits"]).all()


def test_a_scan_is_put_together_from_its_channels():
    scan = glove("LPI")
    scan = scan.with_data(np.concatenate([scan.data, scan.data + 1, scan.data + 2]))
    layers = [(data, options["metadata"]) for data, options, _ in scan_layers(scan)]
    assert np.array_equal(scan_of(layers[::-1]).data, scan.data)
    with pytest.raises(ScanError, match=r"channel 0, 1 of the scan was removed"):
        scan_of(layers[2:])


def test_a_layer_that_was_cropped_is_refused():
    data, options, _ = scan_layers(glove("LPS"))[0]
    with pytest.raises(GeometryError, match="neither cropped nor resampled"):
        volume_of(data[1:], options["metadata"])
    with pytest.raises(GeometryError, match="open the scan with napari-xai"):
        volume_of(data, {})


@pytest.mark.parametrize("tilt", [0, 0.2])
def test_saving_gives_back_the_file(tmp_path, tilt):
    scan = glove("PSR", tilt)
    layer = Layer.create(*scan_layers(scan)[0])
    data, meta, _ = layer.as_layer_data_tuple()
    write_nifti(tmp_path / "a.nii", layer_volume(data, meta))
    again = read_volume(tmp_path / "a.nii")
    assert np.array_equal(again.data, scan.data)
    assert np.allclose(again.affine, scan.affine, atol=1e-5)


def test_labels_painted_over_a_scan_are_saved_where_they_lie():
    scan = glove("PSR")
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*scan_layers(scan)[0]))
    viewer.layers.selection.active = layer
    viewer._new_labels()
    painted = viewer.layers[-1]
    painted.data[np.asarray(layer.data) == RIGHT] = 1
    data, meta, _ = painted.as_layer_data_tuple()
    saved = layer_volume(data, meta)
    there, wanted = (v.affine @ (*np.argwhere(v.data[0] == n)[0], 1) for v, n in ((saved, 1), (scan, RIGHT)))
    assert np.allclose(there, wanted)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_all_that_moves_a_layer_is_in_its_affine():
    rng = np.random.default_rng(0)
    turn = np.eye(4)
    turn[:3] += rng.normal(size=(3, 4)) / 5
    layer = Image(
        np.zeros((3, 4, 5)),
        scale=(2, 3, 4),
        translate=(1, 2, 3),
        rotate=[[0, -1, 0], [1, 0, 0], [0, 0, 1]],
        shear=(0.1, 0.2, 0.3),
        affine=turn,
        units="cm",
        axis_labels=("S-I", "A-P", "R-L"),
    )
    data, meta, _ = layer.as_layer_data_tuple()
    found = WORLD @ layer_volume(data, meta).affine @ (1, 2, 3, 1)
    assert np.allclose(found[:3], 10 * np.array(layer.data_to_world((1, 2, 3))))


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (Image(np.zeros((4, 4))), "2 axes"),
        (Image(np.zeros((4, 4, 4))), "axis labels do not say"),
        (Image(np.zeros((4, 4, 4)), axis_labels=("S-I", "A-P", "R-L")), "units are pixel"),
        (Image(np.zeros((4, 4, 4, 3), np.uint8), rgb=True), "in colour"),
        (Image([np.zeros((4, 4, 4)), np.zeros((2, 2, 2))], multiscale=True), "multiscale"),
    ],
)
def test_what_has_no_place_in_a_patient_is_not_saved(layer, sentence):
    data, meta, _ = layer.as_layer_data_tuple()
    with pytest.raises(ExportError, match=sentence):
        layer_volume(data, meta)
