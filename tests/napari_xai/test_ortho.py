"""The three planes and the surfaces, without a window: where things lie, and that pixels are those of the viewer."""

from types import SimpleNamespace

import numpy as np
import pytest

from napari_xai.layers import relevance_layers, scan_layers
from xai_io import Display, Volume

napari = pytest.importorskip("napari", reason="needs the gui extra")
from napari.layers import Image, Labels, Layer  # noqa: E402

from napari_xai._ortho import (  # noqa: E402
    PLANES,
    Grid,
    base,
    colored,
    painted,
    patient_mm,
    position,
    shown_layers,
)
from napari_xai._surface import shown_from, surface, surface_layers  # noqa: E402

TILT = np.linalg.qr(np.array([[1, -0.2, 0.1], [0.2, 1, -0.2], [0.0, 0.2, 1]]))[0]
TILT = TILT * np.sign(np.diag(TILT))
CASES = [("LPS", 0), ("RAS", 0), ("PSR", 0), ("AIL", 0), ("LPS", 1), ("PSR", 1)]


def turned(axes, tilt):
    """A scan of zeros in some voxel order, perhaps oblique; its first and its last voxel lie far from the middle."""
    world = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = (TILT if tilt else np.eye(3)) @ np.column_stack([world[a] for a in axes]) @ np.diag([1.5, 2, 2.5])
    affine[:3, 3] = affine[:3, :3] @ np.array([-10, -11, -12]) + (3, -2, 1)
    return Volume(np.zeros((1, 21, 23, 25), np.float32), affine)


def with_balls(axes, tilt):
    """Three values: to the right of the middle, in front of it, above it, in the scan's own (perhaps tilted) axes."""
    scan = turned(axes, tilt)
    data = np.zeros_like(scan.data)
    inverse = np.linalg.inv(scan.affine)
    for value, arm in ((1.0, (9, 0, 0)), (2.0, (0, 12, 0)), (3.0, (0, 0, 15)), (4.0, (0, 0, 0))):
        mm = (TILT if tilt else np.eye(3)) @ np.array(arm, float) + (3, -2, 1)
        i, j, k = np.round(inverse[:3, :3] @ mm + inverse[:3, 3]).astype(int)
        data[0, i, j, k] = value
    return scan.with_data(data)


def layer_of(made):
    return Layer.create(*made)


def where(picture, grey):
    """(row, column) of the one pixel of this grey."""
    ((row, column),) = np.argwhere(np.abs(picture[..., 0].astype(int) - grey) <= 1)
    return row, column


@pytest.mark.parametrize(("axes", "tilt"), CASES)
def test_every_plane_is_radiological(axes, tilt):
    layer = layer_of(scan_layers(with_balls(axes, tilt))[0])
    layer.contrast_limits = (0, 4)
    grid = Grid.of(layer)
    middle = layer.data_to_world(np.argwhere(layer.data == 4)[0])
    right, front, up, here = 64, 128, 191, 255
    axial, coronal, sagittal = (painted([layer], grid, plane, middle) for plane in PLANES.values())
    centre = where(axial, here)
    assert where(axial, right)[1] < centre[1]
    assert where(axial, right)[0] == centre[0]
    assert where(axial, front)[0] < centre[0]
    centre = where(coronal, here)
    assert where(coronal, right)[1] < centre[1]
    assert where(coronal, up)[0] < centre[0]
    centre = where(sagittal, here)
    assert where(sagittal, front)[1] < centre[1]
    assert where(sagittal, up)[0] < centre[0]


@pytest.mark.parametrize(("axes", "tilt"), CASES)
def test_the_crosshair_is_where_the_voxel_lies_in_the_patient(axes, tilt):
    scan = with_balls(axes, tilt)
    layer = layer_of(scan_layers(scan)[0])
    grid = Grid.of(layer)
    for value in (1.0, 2.0, 3.0):
        own, shown = np.argwhere(scan.data[0] == value)[0], np.argwhere(layer.data == value)[0]
        assert grid.voxel(layer.data_to_world(shown)) == tuple(shown)
        assert np.allclose(patient_mm(layer, shown), (scan.affine @ [*own, 1])[:3], atol=1e-9)
        assert np.allclose(layer.data_to_world(shown), grid.point(shown), atol=1e-9)
    assert position((12.04, -40.5, -0.2)) == "R 12.0, P 40.5, I 0.2 mm"


def test_relevance_is_blended_as_in_exported_pictures():
    rng = np.random.default_rng(0)
    scan = turned("RAS", 0).with_data(rng.uniform(0, 100, (1, 21, 23, 25)).astype(np.float32))
    values = rng.normal(size=(1, 21, 23, 25)).astype(np.float32)
    layers = [layer_of(scan_layers(scan)[0]), layer_of(relevance_layers(scan.with_data(values), "map", {})[0])]
    limit = float(layers[1].contrast_limits[1])
    display = Display(window=tuple(layers[0].contrast_limits), limit=limit, threshold=0.1 * limit)
    found = painted(layers, Grid.of(layers[0]), PLANES["axial"], (0, 0, 0))
    number = Grid.of(layers[0]).voxel((0, 0, 0))[0]
    wanted = display.rgb(layers[0].data[number], layers[1].data[number])
    same = np.asarray(np.abs(found.astype(int) - wanted) <= 3).all(-1)
    # Nearer to the threshold, a table of colours may round.
    clear = np.abs(np.abs(layers[1].data[number]) - display.threshold) > limit / 256
    assert same[clear].all()
    layers[1].visible = False
    assert np.ptp(painted(shown_layers(layers), Grid.of(layers[0]), PLANES["axial"], (0, 0, 0)), axis=-1).max() == 0


def test_blending_follows_the_layer():
    low, high = np.full((2, 3, 4), 0.5, np.float32), np.full((2, 3, 4), 0.25, np.float32)
    below, above = Image(low, contrast_limits=(0, 1)), Image(high, contrast_limits=(0, 1))
    grid = Grid.of(below)

    def seen(**look):
        for name, value in look.items():
            setattr(above, name, value)
        return painted([below, above], grid, PLANES["coronal"], (0, 0, 0))[0, 0, 0] / 255

    assert seen(blending="translucent", opacity=0.5) == pytest.approx(0.375, abs=0.01)
    assert seen(blending="additive", opacity=1) == pytest.approx(0.75, abs=0.01)
    assert seen(blending="minimum") == pytest.approx(0.25, abs=0.01)
    assert seen(blending="multiplicative") == pytest.approx(0.125, abs=0.01)
    assert seen(blending="opaque") == pytest.approx(0.25, abs=0.01)
    assert seen(gamma=2.0) == pytest.approx(0.0625, abs=0.01)
    assert seen(colormap="red") == pytest.approx(0.0625, abs=0.01)


def test_layers_on_other_grids_lie_where_they_are():
    below = Image(np.zeros((10, 10, 10), np.float32), contrast_limits=(0, 1))
    small = Image(np.ones((2, 2, 2), np.float32), scale=(2, 2, 2), translate=(4, 4, 4), contrast_limits=(0, 1))
    small.blending = "additive"
    picture = painted([below, small], Grid.of(below), PLANES["axial"], (5, 0, 0))[..., 0]
    assert (np.argwhere(picture).min(0) == 3).all()  # from half a coarse voxel before its centre
    assert (np.argwhere(picture).max(0) == 6).all()
    assert not painted([below, small], Grid.of(below), PLANES["axial"], (0, 0, 0)).any()
    askew = Image(np.ones((4, 4, 4), np.float32), rotate=(0, 0, 30))
    assert min(Grid.of(askew).shape) >= 4


def test_unknown_values_and_labels():
    image = Image(np.array([[[np.nan, 0, 1]]], np.float32), contrast_limits=(0, 1))
    assert colored(image, image.data)[0, 0, :, 3].tolist() == [0, 1, 1]
    labels = Labels(np.array([[[0, 1, 2]]], np.uint8))
    assert (colored(labels, labels.data)[0, 0, :, 3] > 0).tolist() == [False, True, True]
    flat = Image(np.zeros((4, 4), np.float32))
    assert shown_layers([flat, labels]) == [labels]
    scan = layer_of(scan_layers(turned("RAS", 0))[0])
    assert base([labels, scan]) is scan
    assert base([flat]) is None


@pytest.mark.parametrize(("axes", "tilt"), CASES)
def test_surfaces_lie_where_the_relevance_is(axes, tilt):
    """The same hand: a surface's centre is the ball's own place in the patient, of either sign."""
    scan = with_balls(axes, tilt)
    values = np.zeros_like(scan.data)
    for value, sign in ((1.0, 1), (2.0, -1)):
        values += sign * (scan.data == value)
    layer = layer_of(relevance_layers(scan.with_data(values), "map", {})[0])
    levels = shown_from(layer)
    found = {sign: surface(layer.data, level, sign) for sign, level in levels.items()}
    made = surface_layers(found, layer)
    assert [options["name"] for _, options, _ in made] == ["map: raises the score", "map: lowers the score"]
    for (data, options, kind), value in zip(made, (1.0, 2.0), strict=True):
        one = Layer.create(data, options, kind)
        centre = one.data_to_world(data[0].mean(0))
        there = layer.data_to_world(np.argwhere(layer_of(scan_layers(scan)[0]).data == value)[0])
        assert np.allclose(centre, there, atol=1e-3)
        assert one.units == layer.units


def test_a_surface_is_where_the_map_reaches_what_is_shown():
    places = np.stack(np.meshgrid(*[np.arange(30)] * 3, indexing="ij"), -1)
    ball = (10 - np.linalg.norm(places - 14, axis=-1)).astype(np.float32)
    found = surface(ball, 4.0, 1)
    assert np.allclose(np.linalg.norm(found.vertices - 14, axis=-1), 6, atol=0.1)
    assert surface(ball, 11.0, 1) is None
    assert surface(-ball, 4.0, -1).faces.shape == found.faces.shape
    at_rim = surface(np.ones((4, 4, 4), np.float32), 1.0, 1)
    assert at_rim.vertices.min() == pytest.approx(0, abs=0.01)  # closed, and no error at the very maximum


def test_a_surface_that_is_made_in_slabs_is_one(monkeypatch):
    places = np.stack(np.meshgrid(*[np.arange(30)] * 3, indexing="ij"), -1)
    ball = (10 - np.linalg.norm(places - 14.3, axis=-1)).astype(np.float32)
    whole = surface(ball, 2.0, 1)
    monkeypatch.setattr("napari_xai._surface.AT_ONCE", 3 * 19**2)
    slabs = surface(ball, 2.0, 1)
    assert len(slabs.faces) == len(whole.faces)
    edges = np.sort(np.concatenate([slabs.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # every edge has two sides: no seam is open
    assert np.allclose(np.linalg.norm(slabs.vertices - 14.3, axis=-1), 8, atol=0.1)


def test_a_large_surface_is_made_coarser(monkeypatch):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 40, 40)).astype(np.float32)
    monkeypatch.setattr("napari_xai._surface.MOST_FACES", 5_000)
    found = surface(noise, 2.0, 1)
    assert found.step > 1
    assert len(found.faces) <= 5_000
    assert found.vertices.min() >= -found.step
    assert found.vertices.max() <= 40 + found.step


def test_a_hidden_sign_has_no_surface():
    table = np.zeros((5, 4))
    table[3:, 3] = 1
    layer = SimpleNamespace(
        contrast_limits=(-2, 2), colormap=napari.utils.Colormap(table, interpolation="zero", name="upper")
    )
    assert list(shown_from(layer)) == [1]
