"""A user's walk from a dropped DICOM folder to a report, with a picture of every step.

Pictures go to the folder that NAPARI_XAI_SCREENSHOTS names (`make pictures`: docs/images), else to pytest's own.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from napari_xai.layers import scan_layers
from napari_xai.samples import sample
from xai_io import read_volume

napari = pytest.importorskip("napari", reason="needs the gui extra")
from qtpy.QtCore import Qt, QTimer  # noqa: E402
from window import said  # noqa: E402

from napari_xai._overlay import map_key  # noqa: E402
from napari_xai._workplace import workplace  # noqa: E402

pytestmark = pytest.mark.gui
WINDOW = (1560, 950)


class Walk:
    """A window, and what a user does in it."""

    def __init__(self, viewer, qtbot, folder):
        self.viewer, self.qtbot, self.folder, self.steps = viewer, qtbot, folder, 0

    def wait(self, ready, seconds=90):
        self.qtbot.waitUntil(ready, timeout=1000 * seconds)

    def click(self, button):
        assert button.isEnabled(), button.toolTip()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def dock(self, name):
        """A dock, opened as the Plugins menu does, and its panel."""
        dock, widget = self.viewer.window.add_plugin_dock_widget("napari-xai", name)
        if hasattr(widget, "panel"):
            self.wait(lambda: widget.panel is not None)
        return dock, getattr(widget, "panel", widget)

    def picture(self, name):
        """What the user sees now."""
        self.steps += 1
        self.qtbot.wait(600)
        path = self.folder / f"walk_{self.steps}_{name}.png"
        seen = self.viewer.screenshot(str(path), canvas_only=False, flash=False)
        assert seen.std() > 20


def map_of(viewer, method):
    own = [layer for layer in viewer.layers if layer.metadata.get("napari_xai", {}).get("role") == "relevance"]
    (found,) = [layer for layer in own if layer.metadata["napari_xai"]["provenance"]["method"] == method]
    return found


def test_from_a_dropped_folder_to_a_report(viewer, qtbot, tmp_path, capfd):
    window = viewer.window._qt_window
    walk = Walk(viewer, qtbot, Path(os.environ.get("NAPARI_XAI_SCREENSHOTS", tmp_path)))

    # Open: a folder is dropped; three planes beside the viewer's own.
    QTimer.singleShot(0, lambda: viewer.open(str(sample("volumes/brain_lesion_dicom")), plugin="napari-xai"))
    walk.wait(lambda: len(viewer.layers) == 1)
    views_dock, views = walk.dock("Views")
    walk.picture("open")

    # Ask: predict first, and then why "lesion", by LRP.
    explain_dock, explain = walk.dock("Explain")
    window.splitDockWidget(views_dock, explain_dock, Qt.Orientation.Horizontal)
    explain.model.setCurrentIndex(explain.model.findText("Lesion classifier"))
    explain.model.activated.emit(explain.model.currentIndex())
    walk.wait(lambda: not explain.runs.busy)
    walk.click(explain.predict_button)
    walk.wait(lambda: not explain.runs.busy)
    assert "Predicted: lesion" in explain._prediction.text()
    lesion = {name: k for k, name in explain.session.classes.items()}["lesion"]
    explain.question.choose(target=lesion)
    explain.rows.method.setCurrentIndex(explain.rows.method.findData("lrp"))
    walk.picture("ask")
    walk.click(explain.run_button)
    walk.wait(lambda: not explain.runs.busy)
    lrp = map_of(viewer, "lrp")
    walk.picture("lrp")

    # Look: what is above the 99th percentile, the crosshair on its peak, the list of hot spots.
    _, look = walk.dock("Relevance")
    walk.wait(lambda: look.statistics is not None)
    look.controls.rule.setCurrentIndex(0)
    look.controls.threshold.setText("99")
    look.controls.threshold.editingFinished.emit()
    shown = np.abs(lrp.data) >= look.look.display.threshold
    assert shown.mean() == pytest.approx(0.01, rel=0.02)
    alpha = lrp.colormap.map(0.5 + 0.5 * lrp.data[::2, ::2, ::2].ravel() / lrp.contrast_limits[1])[:, 3]
    seen, wanted = alpha > 0.01, shown[::2, ::2, ::2].ravel()
    assert not seen[~wanted].any()
    assert seen.sum() > 0.8 * wanted.sum()  # the faintest colours begin a little above the threshold
    walk.picture("threshold")
    walk.click(look.peak_button)
    peak = np.unravel_index(np.argmax(np.abs(lrp.data)), lrp.data.shape)
    assert tuple(np.round(lrp.world_to_data(viewer.dims.point)).astype(int)) == peak
    truth = scan_layers(read_volume(sample("volumes/brain_lesion_mask.nii.gz")))[0][0]
    assert np.abs(np.argwhere(truth > 0) - peak).max(1).min() <= 2  # in the lesion, or beside it
    walk.picture("peak")
    walk.wait(lambda: len(look.spots.regions) > 0)
    look.spots.setCurrentCell(0, 1)
    assert look.spots.regions[0].share > 0.5
    walk.picture("hot_spots")

    # Compare with occlusion.
    explain_dock.raise_()
    explain.rows.method.setCurrentIndex(explain.rows.method.findData("occlusion"))
    explain.rows.effort.setCurrentText("Fast look")
    explain.rows.effort.activated.emit(explain.rows.effort.currentIndex())
    walk.click(explain.run_button)
    walk.wait(lambda: not explain.runs.busy)
    occlusion = map_of(viewer, "occlusion")
    _, compare = walk.dock("Compare")
    compare.choose([lrp, occlusion])
    walk.wait(lambda: compare.comparison is not None)
    (pair,) = compare.comparison.pairs
    assert pair.overlap > 2 * compare.comparison.chance
    walk.picture("compare")

    # Look at it in 3D.
    occlusion.visible, lrp.visible = False, True
    viewer.layers.selection.active = lrp
    walk.click(views.solid)
    walk.wait(lambda: viewer.dims.ndisplay == 3)
    viewer.scene.camera.angles = (150, 20, -100)
    walk.picture("surface")
    walk.click(views.solid)
    assert viewer.dims.ndisplay == 2

    # Report: in a folder from the dock, and one page from File > Save.
    _, report = walk.dock("Report")
    report.folder.setText(str(tmp_path / "out"))
    report.map.setCurrentIndex(0)
    for name in ("pdf", "pm", "seg"):
        report.exports[name].setChecked(True)
    walk.wait(lambda: report.export_button.isEnabled() and report.picture.isEnabled())
    walk.picture("report")
    walk.click(report.export_button)
    walk.wait(lambda: report._saving is None)
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "report.pdf", "parametric_map.dcm", "segmentation.dcm", "montage.png"} <= made
    exported = json.loads((tmp_path / "out" / "provenance.json").read_text())["display"]
    assert exported == workplace(viewer).displays[map_key(lrp)].record  # as the viewer shows it
    viewer.layers.selection.active = lrp
    assert viewer.layers.save(str(tmp_path / "lrp.html"), selected=True) == [str(tmp_path / "lrp.html")]
    assert "why &#39;lesion&#39;" in (tmp_path / "lrp.html").read_text()
    assert said("error") == []
    assert "Traceback" not in "".join(capfd.readouterr())
