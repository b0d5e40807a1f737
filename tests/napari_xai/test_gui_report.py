"""Opening, marks, window and level, and the report in a real napari window."""

import nibabel as nib
import numpy as np
import pytest
from dicom_maker import make_series

from napari_xai.reading import Reading
from xai_io import Choices, Volume, write_nifti

napari = pytest.importorskip("napari", reason="needs the gui extra")
from napari.layers import Image, Labels, Layer  # noqa: E402
from qtpy.QtCore import QTimer  # noqa: E402
from qtpy.QtWidgets import QApplication, QMessageBox  # noqa: E402
from window import choose, idle, load, said  # noqa: E402

from napari_xai._marks import mark  # noqa: E402
from napari_xai._open import opened, reading_of  # noqa: E402
from napari_xai._report import Report  # noqa: E402
from napari_xai.layers import scan_layers  # noqa: E402

pytestmark = pytest.mark.gui
WINDOW = (1000, 700)
AFFINE = np.diag([-1.0, -1, 2, 1])


def drop(viewer, *paths):
    """As a user does it: from within the event loop."""
    QTimer.singleShot(0, lambda: viewer.open([str(path) for path in paths], plugin="napari-xai"))


def dialog():
    from napari_xai._open_dialog import OpenDialog

    return next(
        (one for one in QApplication.topLevelWidgets() if isinstance(one, OpenDialog) and one.isVisible()), None
    )


def letters(viewer):
    overlays = viewer.canvas.overlays
    return {edge: overlays[f"anatomy_{edge}"].text for edge in ("left", "right", "top", "bottom")}


def test_a_dropped_folder_is_listed_asked_about_and_opened(viewer, qtbot, tmp_path):
    stored = np.random.default_rng(1).integers(0, 300, (32, 30, 12)).astype(np.uint16)

    def edit(number, gap=None):
        def number_it(k, image):
            image.SeriesNumber, image.SeriesDescription = number, f"Series {number}"
            return k != gap

        return number_it

    make_series(tmp_path / "d" / "a", stored, AFFINE, modality="CT", series="1.2.1111", edit=edit(1, gap=4))
    make_series(tmp_path / "d" / "b", stored, AFFINE, series="1.2.2222", edit=edit(2))
    drop(viewer, tmp_path / "d")
    qtbot.waitUntil(lambda: dialog() is not None, timeout=20_000)
    asked = dialog()
    assert len(viewer.layers) == 0
    qtbot.waitUntil(lambda: not asked.list.topLevelItem(1).icon(0).isNull(), timeout=10_000)
    assert asked.list.topLevelItem(0).text(1) == "Series 1"
    assert not asked.open_button.isEnabled()
    assert asked.open_button.toolTip() == "Say what is to be done: slices are missing."
    asked.answer("on_gap", "fill")
    assert asked.open_button.isEnabled()
    asked.open_button.click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    qtbot.waitUntil(lambda: dialog() is None, timeout=5_000)
    assert viewer.layers[0].name == "Series 1"
    own = viewer.layers[0].metadata["napari_xai"]
    assert own["reading"]["series"] == 1
    assert own["reading"]["choices"]["on_gap"] == "fill"
    assert viewer.layers[0].data.shape == (12, 30, 32)
    assert said("error") == []


def test_a_file_is_opened_in_the_background_and_a_damaged_one_said(viewer, qtbot, scan, tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", scan)
    write_nifti(tmp_path / "lesion.nii", scan.with_data((scan.data > 90).astype(np.uint8)))
    drop(viewer, tmp_path / "scan.nii.gz", tmp_path / "lesion.nii")  # the latter waits for the scan that it lies on
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=20_000)
    assert [(layer.name, type(layer)) for layer in viewer.layers] == [("scan", Image), ("lesion", Labels)]
    (tmp_path / "cut.nii").write_bytes((tmp_path / "scan.nii.gz").read_bytes()[:3000])
    drop(viewer, tmp_path / "cut.nii")
    qtbot.waitUntil(lambda: said("error") != [], timeout=20_000)
    assert "cut short or damaged" in said("error")[0]
    assert len(viewer.layers) == 2


def test_voxels_without_a_value_are_asked_about(viewer, qtbot, scan, tmp_path):
    values = scan.data[0].copy()
    values[:3] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), tmp_path / "nan.nii.gz")

    def asked():
        return next((one for one in QApplication.topLevelWidgets() if isinstance(one, QMessageBox)), None)

    drop(viewer, tmp_path / "nan.nii.gz")
    qtbot.waitUntil(lambda: asked() is not None, timeout=20_000)
    assert "without a value" in asked().text()
    asked().button(QMessageBox.StandardButton.Yes).click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=20_000)
    assert reading_of(viewer.layers[0].metadata["napari_xai"]) == Reading(choices=Choices(on_nan="zero"))
    assert viewer.layers[0].data.min() == 0
    assert said("error") == []


def test_letters_follow_the_axes_and_the_camera(viewer, qtbot):
    viewer.open_sample("napari-xai", "brain_lesion")
    assert letters(viewer) == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    viewer.dims.order = (2, 0, 1)
    assert letters(viewer) == {"left": "A", "right": "P", "top": "S", "bottom": "I"}
    viewer.scene.camera.orientation2d = ("up", "left")
    assert letters(viewer) == {"left": "P", "right": "A", "top": "I", "bottom": "S"}
    viewer.dims.ndisplay = 3
    assert set(letters(viewer).values()) == {""}
    viewer.dims.ndisplay = 2
    assert viewer.canvas.overlays.scale_bar.visible
    viewer.layers.clear()
    assert set(letters(viewer).values()) == {""}


def test_dragging_with_the_right_button_changes_window_and_level(viewer, qtbot):
    values = np.random.default_rng(0).normal(100, 30, (1, 40, 40, 40)).astype(np.float32)
    viewer.add_layer(Layer.create(*scan_layers(Volume(values, np.eye(4)))[0]))
    mark(viewer)
    mark(viewer)  # once is enough
    (layer,) = viewer.layers
    before, zoom = tuple(layer.contrast_limits), viewer.scene.camera.zoom
    canvas = viewer.window._qt_viewer.canvas
    moved = {"button": 2, "modifiers": ()}
    canvas._scene_canvas.events.mouse_press(pos=(200, 200), **moved)
    events = canvas._scene_canvas.events
    press = type("Press", (), {"pos": (200, 200)})
    events.mouse_move(pos=(400, 200), press_event=press, **moved)
    events.mouse_release(pos=(400, 200), press_event=press, **moved)
    low, high = layer.contrast_limits
    assert high - low == pytest.approx(2 * (before[1] - before[0]))
    assert viewer.scene.camera.zoom == zoom
    events.mouse_double_click(pos=(400, 200), **moved)
    assert tuple(layer.contrast_limits) == before


def test_presets_suit_the_scan_that_is_seen(viewer, qtbot):
    _, widget = viewer.window.add_plugin_dock_widget("napari-xai", "Window and level")
    assert not widget.preset.isEnabled()
    assert widget.preset.toolTip() == "Open a scan first."
    values = np.random.default_rng(0).normal(0, 300, (1, 12, 12, 12)).astype(np.float32)
    viewer.add_layer(Layer.create(*scan_layers(Volume(values, np.eye(4), units="HU", modality="CT"))[0]))
    (layer,) = viewer.layers
    assert widget.preset.currentText() == "Soft tissue"
    widget.preset.setCurrentText("Lung")
    widget.preset.activated.emit(widget.preset.currentIndex())
    assert tuple(layer.contrast_limits) == (-1350, 150)
    assert (widget.level.value(), widget.width_.value()) == (-600, 1500)
    widget.level.setValue(-500)
    assert tuple(layer.contrast_limits) == (-1250, 250)
    assert widget.preset.currentIndex() == -1


def test_a_report_is_previewed_exported_and_copied_as_a_script(viewer, qtbot, classifier, scan_file, tmp_path):
    import methods3d
    from napari_xai._reader import read
    from napari_xai._session import Job
    from napari_xai._workplace import Result, workplace
    from napari_xai.explainer import Explainer
    from xai_io import read_volume

    _, widget = viewer.window.add_plugin_dock_widget("napari-xai", "Report")
    qtbot.waitUntil(lambda: widget.panel is not None, timeout=30_000)
    panel = widget.panel
    assert not panel.export_button.isEnabled()
    assert panel.export_button.toolTip().startswith("Explain something first")

    place = workplace(viewer)
    explainer = Explainer.of(classifier, device="cpu")
    place.session.keep(classifier, explainer)
    job = Job(explainer, read_volume(scan_file), methods3d.LRP(), None, None, None)
    (layer,) = read(str(scan_file))
    viewer.add_layer(Layer.create(*layer))
    place.add(Result(job, job(methods3d.silent), layer[1]["metadata"]["napari_xai"]["scan"]))
    qtbot.waitUntil(lambda: panel._reasons != {}, timeout=20_000)
    assert not panel.picture.pixmap().isNull()
    assert not panel.exports["pm"].isEnabled()
    assert "DICOM" in panel.exports["pm"].toolTip()
    assert panel.exports["pdf"].isEnabled()

    viewer.layers[0].contrast_limits = (10, 60)
    panel.planes["sagittal"].setChecked(False)
    panel.through.setCurrentIndex(1)
    assert panel.display.window == (10, 60)
    assert panel.display.planes == ("axial", "coronal")
    assert panel.display.centre is not None
    panel.folder.setText(str(tmp_path / "out"))
    panel.exports["zarr"].setChecked(True)
    panel.export_button.click()
    qtbot.waitUntil(lambda: panel._saving is None, timeout=30_000)
    assert said("error") == []
    assert {"report.html", "relevance.ome.zarr", "montage.png", "provenance.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    panel.export_button.click()
    qtbot.waitUntil(lambda: panel._saving is None, timeout=30_000)
    assert "holds provenance.json" in said("error")[0]

    panel.identity.setChecked(True)
    assert panel._warning.isVisible()
    panel.python_button.click()
    assert f"explain(\n    {str(scan_file)!r}" in QApplication.clipboard().text()
    panel.shell_button.click()
    assert QApplication.clipboard().text().startswith("napari-xai explain ")


def test_a_run_knows_how_its_scan_was_read_when_that_is_closed(viewer, panel, qtbot, classifier, scan_file):
    chosen = Reading(choices=Choices(on_nan="zero"))
    for layer in opened(scan_file, chosen):
        viewer.add_layer(Layer.create(*layer))
    load(panel, qtbot, classifier)
    choose(panel, "saliency")
    panel.run()
    idle(panel, qtbot)
    viewer.layers.remove(viewer.layers[0])
    (result,) = panel.workplace.results.values()
    assert result.job.reading == chosen
    assert "on_nan='zero'" in Report().recipe(result, panel.workplace).python


def test_the_plan_of_a_model_and_the_settings_of_the_plugin(viewer, qtbot, segmenter, tmp_path):
    from napari.settings import get_plugin_settings

    from napari_xai._plan_dialog import PlanDialog
    from napari_xai._settings import running

    assert running() == {"device": "auto", "memory": None}
    assert get_plugin_settings("napari-xai").results.keep_identity is False
    asked = PlanDialog(segmenter, viewer.window._qt_window)
    asked.show()
    qtbot.waitUntil(lambda: asked.tree.topLevelItemCount() > 0, timeout=20_000)
    rows = {
        asked.tree.topLevelItem(n).text(0): asked.tree.topLevelItem(n) for n in range(asked.tree.topLevelItemCount())
    }
    classes = rows["Classes"]
    assert [(classes.child(n).text(0), classes.child(n).text(1)) for n in range(2)] == [
        ("0", "background"),
        ("1", "lesion"),
    ]
    assert "windows of (16, 16, 16)" in rows["Runs over"].text(1)
    asked.close()
    gone = PlanDialog(tmp_path / "gone", viewer.window._qt_window)
    qtbot.waitUntil(lambda: said("error") != [], timeout=20_000)
    assert "does not exist" in said("error")[0]
    gone.close()
