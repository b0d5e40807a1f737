"""Which layers lie on one grid, and which over each other: napari's world does not know how a scan is tilted."""

import nibabel as nib
import numpy as np
import pytest

from napari_xai.layers import label_layer, on_one_grid, placed, relevance_layers, same_grid, scan_layers
from xai_io import Volume, read_volume, write_nifti

napari = pytest.importorskip("napari", reason="needs the gui extra")
from napari.components import ViewerModel  # noqa: E402
from napari.layers import Image, Labels, Layer  # noqa: E402

from napari_xai import _marks, _reader  # noqa: E402
from napari_xai._choices import regions, scans  # noqa: E402
from napari_xai._orientation import letters  # noqa: E402
from napari_xai._overlay import scan_under  # noqa: E402
from napari_xai._probe import probe  # noqa: E402
from napari_xai._workplace import Workplace  # noqa: E402

SHAPE = (20, 22, 24)
BALL = (12.0, 5.0, -8.0)  # its centre in RAS mm


def ball(tilt=0.0, spacing=2.0, shape=SHAPE):
    """One ball of the patient, on a grid that is turned by some degrees about its middle, the world's origin."""
    a, b = np.deg2rad([tilt, tilt / 2])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_x) @ about_y * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    return Volume((np.linalg.norm(places - BALL, axis=-1) < 5)[None].astype(np.float32), affine)


def scan_of_ball(name, *args, **kwargs):
    return Layer.create(*scan_layers(ball(*args, **kwargs), name)[0])


def map_of_ball(*args, scan=None):
    layer = Layer.create(*relevance_layers(ball(*args), "map", {"method": "lrp"})[0])
    if scan is not None:
        layer.metadata["napari_xai"]["scan"] = scan.metadata["napari_xai"]["scan"]
    return layer


def labels_of_ball(*args):
    volume = ball(*args)
    data, options, kind = label_layer(volume.with_data(volume.data.astype(np.uint8)), "ball")
    return Layer.create(data, options | {"visible": True}, kind)


def painted_on(layer):
    """As napari makes labels: they lie in its world, and say nothing of the patient."""
    return Labels(np.ones(layer.data.shape, np.uint8), affine=layer.affine, name="painted")


@pytest.fixture
def straight():
    return scan_of_ball("straight")


@pytest.fixture
def tilted():
    return scan_of_ball("tilted", 20)


# --- one grid -----------------------------------------------------------------------------------


def test_a_tilted_grid_is_another_though_the_viewer_shows_it_in_the_same_place(straight, tilted):
    assert np.allclose(straight.extent.world, tilted.extent.world)
    assert not on_one_grid(straight, tilted)
    assert on_one_grid(tilted, map_of_ball(20))
    of_tilted = labels_of_ball(20)
    both = scans([straight, tilted])
    for scan in both.values():
        expected = [of_tilted] if scan.name == "tilted" else []
        assert regions([straight, tilted, of_tilted], scan) == expected


def test_the_order_of_the_voxels_and_the_rounding_of_a_file_make_no_other_grid(tilted):
    volume = ball(20)
    other = volume.reoriented("PSR")
    rounded = Volume(other.data, other.affine.astype(np.float32).astype(float))
    assert on_one_grid(tilted, Layer.create(*scan_layers(rounded)[0]))
    moved = Volume(volume.data, nib.affines.from_matvec(np.eye(3), (0.1, 0, 0)) @ volume.affine)
    assert not on_one_grid(tilted, Layer.create(*scan_layers(moved)[0]))
    assert not on_one_grid(tilted, scan_of_ball("coarser", 20, spacing=2.1))
    assert not on_one_grid(tilted, scan_of_ball("smaller", 20, shape=(20, 22, 23)))


def test_painted_labels_are_on_the_one_scan_that_lies_there_and_on_none_of_two(straight, tilted):
    labels = painted_on(tilted)
    (alone,) = scans([tilted]).values()
    assert regions([tilted, labels], alone) == [labels]
    elsewhere = Labels(np.ones(SHAPE, np.uint8))
    assert regions([tilted, elsewhere, Labels(np.ones((4, 4), np.uint8))], alone) == []
    again = scan_of_ball("the same grid", 20)
    assert regions([tilted, again, labels], alone) == [labels]
    assert regions([tilted, straight, labels], alone) == []
    assert not on_one_grid(labels, straight, [straight, tilted, labels])
    cropped = Image(tilted.data[1:], metadata=tilted.metadata)
    assert not on_one_grid(cropped, tilted)


def test_a_map_from_a_file_gets_the_scan_on_its_true_grid(monkeypatch, straight, tilted):
    viewer = ViewerModel()
    viewer.add_layer(straight)
    monkeypatch.setattr(_reader, "viewer_in_use", lambda: viewer)
    assert _reader._scan_under(ball(20)) == ""
    viewer.add_layer(tilted)
    assert _reader._scan_under(ball(20)) == tilted.metadata["napari_xai"]["scan"]
    own = placed(ball(20))["metadata"]["napari_xai"]
    assert same_grid(own, tilted.metadata["napari_xai"])


def test_a_map_whose_scan_was_closed_lies_on_no_other_patient():
    one, two = scan_of_ball("patient A"), scan_of_ball("patient B")
    own = map_of_ball(scan=two)
    assert scan_under([one, two, own], own) is two
    assert scan_under([one, own], own) is None
    from_file = map_of_ball()
    assert scan_under([one, from_file], from_file) is one
    from_file.metadata["napari_xai"]["scan"] = ""  # as one is opened where no scan is
    assert scan_under([one, from_file], from_file) is one
    assert scan_under([scan_of_ball("tilted", 20), from_file], from_file) is None


# --- over each other ------------------------------------------------------------------------------


@pytest.mark.parametrize(("of_map", "of_labels"), [(20, 0), (0, 20), (20, 20)])
def test_the_probe_finds_labels_of_another_grid_in_the_same_place_of_the_patient(of_map, of_labels):
    relevance, labels = map_of_ball(of_map), labels_of_ball(of_labels)
    middle = np.round(np.argwhere(relevance.data > 0).mean(0))
    found = probe(relevance.data_to_world(middle), relevance, None, [labels], None, Workplace())
    assert np.linalg.norm(np.array(found.mm) - BALL) < 2
    assert found.labels == {"ball": "label 1"}


@pytest.fixture
def warned(monkeypatch):
    said = []
    monkeypatch.setattr(_marks, "show_warning", said.append)
    return said


def test_scans_that_are_shown_along_other_axes_are_named_once(warned, straight, tilted):
    viewer = ViewerModel()
    _marks.mark(viewer)
    viewer.add_layer(straight)
    viewer.add_layer(scan_of_ball("finer", spacing=1.5))
    viewer.add_layer(map_of_ball(scan=straight))
    assert warned == []
    tilted.name = "tilted, channel 0"
    viewer.add_layer(tilted)
    assert warned == [
        "tilted and straight, finer do not lie over each other in the viewer, because each is shown along its own "
        "axes: hide one, or resample one to the other's grid first."
    ]
    viewer.add_layer(map_of_ball(20, scan=tilted))
    tilted.visible = False
    tilted.visible = True
    assert len(warned) == 1
    unseen = scan_of_ball("unseen", 40)
    unseen.visible = False
    viewer.add_layer(unseen)
    assert len(warned) == 1
    unseen.visible = True
    assert len(warned) == 2
    assert warned[1].startswith("unseen and straight, finer, tilted do not")


def shown(viewer):
    found = {edge: viewer.canvas.overlays[f"anatomy_{edge}"] for edge in ("left", "right", "top", "bottom")}
    assert len({overlay.visible for overlay in found.values()}) == 1
    return {edge: overlay.text for edge, overlay in found.items() if overlay.visible}


def test_letters_are_of_the_uppermost_volume_that_is_seen(warned, straight, tilted):
    viewer = ViewerModel()
    _marks.mark(viewer)
    viewer.add_layer(straight)
    plain = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert shown(viewer) == plain
    steep = viewer.add_layer(scan_of_ball("steep", 40))
    leaning = shown(viewer)
    assert leaning == letters(steep, (), (1, 2))
    assert leaning["top"] == "AS"
    steep.visible = False
    assert shown(viewer) == plain
    steep.visible = True
    viewer.layers.move(0, 2)
    assert shown(viewer) == plain
    viewer.add_layer(labels := painted_on(straight))
    assert shown(viewer) == {}  # on which of the two is not known
    viewer.layers.remove(steep)
    assert shown(viewer) == plain
    foreign = viewer.add_image(np.zeros((9, 9, 9)))
    assert shown(viewer) == {}
    foreign.visible = False
    assert shown(viewer) == plain
    labels.visible = straight.visible = False
    assert shown(viewer) == {}
    viewer.add_points(np.zeros((1, 3)))
    straight.visible = True
    assert shown(viewer) == plain


def test_copies_and_labels_made_of_a_scan_are_not_that_scan(straight):
    viewer = ViewerModel()
    viewer.add_layer(straight)
    data, options, _ = straight.as_layer_data_tuple()
    copy = viewer.add_layer(Image(data + 1, **options | {"name": "copy"}))
    own = {name: options[name] for name in ("affine", "metadata", "name")}
    viewer.add_layer(labels := Labels((data > 0).astype(np.uint8), **own))
    found = scans(viewer.layers)
    assert [one.layers for one in found.values()] == [(copy,), (straight,)]
    assert np.array_equal(found[straight.metadata["napari_xai"]["scan"]].volume.data.max(), data.max())
    assert scans(viewer.layers).keys() == found.keys()
    assert labels not in [layer for one in found.values() for layer in one.layers]
    assert scan_under(viewer.layers, map_of_ball(scan=straight)) is straight


def test_a_scan_with_other_values_is_not_that_of_its_file(straight, tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", ball())
    viewer = ViewerModel()
    layer = viewer.add_layer(Layer.create(*scan_layers(read_volume(tmp_path / "scan.nii.gz"))[0]))
    (found,) = scans(viewer.layers).values()
    assert found.volume.source.path == tmp_path / "scan.nii.gz"
    labels = viewer.add_layer(painted_on(layer))
    assert not np.shares_memory(found.labels(labels).data, labels.data)  # what is painted later is not in it
    layer.data = layer.data + 1
    assert found.volume.source.path is None
