"""Linked planes and surfaces, comparing maps and looking inside a model, in a real napari window."""

import time

import numpy as np
import pytest

from napari_xai.layers import relevance_layers, scan_layers
from xai_io import Volume

napari = pytest.importorskip("napari", reason="needs the gui extra")
from napari.layers import Layer, Surface  # noqa: E402
from napari.utils.notifications import notification_manager  # noqa: E402
from qtpy.QtCore import Qt  # noqa: E402

pytestmark = pytest.mark.gui


@pytest.fixture
def viewer(make_napari_viewer):
    notification_manager.records.clear()
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1100, 800)
    return viewer


def errors():
    return [str(record.message) for record in notification_manager.records if str(record.severity) == "error"]


def mapped(viewer, scan, values, name="map", **own):
    """A relevance layer on a scan; its scan is shown, too, unless it is there already."""
    layer = Layer.create(*relevance_layers(scan.with_data(values), name, {"method": name})[0])
    if not len(viewer.layers):
        viewer.add_layer(Layer.create(*scan_layers(scan, "scan")[0]))
    layer.metadata["napari_xai"] |= {"scan": viewer.layers[0].metadata["napari_xai"]["scan"], **own}
    return viewer.add_layer(layer)


def two_balls(scan):
    """Relevance that raises in front, and lowers behind."""
    values = np.zeros_like(scan.data)
    values[0, 11:14, 13:17, 6:9], values[0, 11:14, 5:8, 3:5] = 1, -1
    return values


def opened(viewer, qtbot, name):
    _, widget = viewer.window.add_plugin_dock_widget("napari-xai", name)
    qtbot.waitExposed(viewer.window._qt_window)
    return widget


def test_the_planes_are_linked_with_the_viewer(viewer, qtbot, scan):
    layer = mapped(viewer, scan, two_balls(scan))
    views = opened(viewer, qtbot, "Views")
    axial, coronal, sagittal = views.panes.values()
    qtbot.waitUntil(lambda: axial.picture is not None, timeout=3000)
    grid, peak = views._grid, np.argwhere(layer.data == 1)[0]

    coronal.scrolled.emit(int(peak[1] - grid.voxel(viewer.dims.point)[1]))
    qtbot.waitUntil(lambda: coronal._note.startswith(f"{peak[1] + 1} /"), timeout=3000)
    qtbot.mouseClick(coronal, Qt.MouseButton.LeftButton, pos=coronal.pixel(peak[0], peak[2]).toPoint())
    assert grid.voxel(viewer.dims.point) == tuple(peak)
    assert viewer.dims.current_step[0] == peak[0]  # the viewer's own slice went along
    qtbot.waitUntil(lambda: sagittal._note.startswith(f"{peak[2] + 1} /"), timeout=3000)
    for pane, (row, column) in ((axial, peak[1:]), (coronal, peak[[0, 2]]), (sagittal, peak[:2])):
        red, _, blue = pane.picture[row, column].astype(int)
        assert red > blue + 50  # the crosshair is on what raises the score, in every plane
        assert pane._cross == pytest.approx((row, column), abs=0.5)
    own = np.linalg.inv(scan.affine) @ [*views_mm(views), 1]
    assert two_balls(scan)[(0, *np.round(own[:3]).astype(int))] == 1

    viewer.dims.set_current_step(0, 2)
    qtbot.waitUntil(lambda: axial._note.startswith("3 /"), timeout=3000)
    layer.visible = False
    qtbot.waitUntil(lambda: np.ptp(coronal.picture.astype(int), axis=-1).max() == 0, timeout=3000)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: axial.picture is None, timeout=3000)
    assert not views.solid.isEnabled()
    assert "no relevance" in views.solid.toolTip()


def views_mm(views):
    """The position that the dock writes, as RAS mm."""
    parts = views.position.text().removesuffix(" mm").split(", ")
    return [float(p[2:]) * (1 if p[0] in "RAS" else -1) for p in parts]


def test_a_large_scan_is_redrawn_in_time(viewer, qtbot):
    rng = np.random.default_rng(0)
    data = np.zeros((1, 512, 512, 256), np.float32)
    data[..., 100:140] = rng.normal(size=(512, 512, 40))
    large = Volume(data, np.diag([-0.7, -0.7, 1.2, 1]), modality="CT")
    mapped(viewer, large, data)
    views = opened(viewer, qtbot, "Views")
    qtbot.waitUntil(lambda: views.panes["axial"].picture is not None, timeout=5000)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        views.redraw()
        spent.append(time.perf_counter() - start)
    assert np.median(spent) < 0.1, spent


def test_relevance_is_seen_as_surfaces_and_back(viewer, qtbot, scan):
    layer = mapped(viewer, scan, two_balls(scan))
    image = viewer.layers[0]
    views = opened(viewer, qtbot, "Views")
    qtbot.waitUntil(views.solid.isEnabled, timeout=3000)
    qtbot.mouseClick(views.solid, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=10_000)
    solids = [x for x in viewer.layers if isinstance(x, Surface)]
    assert [x.name for x in solids] == ["map: raises the score", "map: lowers the score"]
    for one, value in zip(solids, (1, -1), strict=True):
        centre = layer.world_to_data(one.data_to_world(one.data[0].mean(0)))
        assert np.allclose(centre, np.argwhere(layer.data == value).mean(0), atol=0.1)
    assert image.opacity < 1
    assert not layer.visible
    qtbot.waitUntil(lambda: np.ptp(views.panes["axial"].picture.astype(int), axis=-1).max() >= 0, timeout=3000)
    qtbot.mouseClick(views.solid, Qt.MouseButton.LeftButton)
    assert viewer.dims.ndisplay == 2
    assert (image.opacity, layer.visible) == (1, True)
    assert not any(one.visible for one in solids)
    assert not errors()
