"""The dock "Report": planes, slices, a preview, every export; and the run as a script."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, QSize, Qt, QTimer
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QDialog,
    QFileDialog,
    QGridLayout,
    QGroupBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from methods3d import Cancelled
from napari_xai._choices import scans
from napari_xai._ortho import patient_mm, position
from napari_xai._overlay import maps
from napari_xai._parts import add_row, combo, form, note, row
from napari_xai._report import GROUPED, IDENTIFIES, Report, preview, scan_layer, seen_window, why_not
from napari_xai._script import Recipe
from napari_xai._settings import keeps_identity
from napari_xai._task import Task
from napari_xai._words import sentence
from napari_xai._workplace import Result, workplace
from napari_xai.exports import ALWAYS, EXPORTS
from xai_io import Display, write_nifti
from xai_io.display import PLANES

if TYPE_CHECKING:
    import napari

__all__ = ["Panel"]

SOON = 250  # milliseconds after a change until the picture is drawn anew
TOOL_TIP = Qt.ItemDataRole.ToolTipRole
PEAK, HERE = "The peak of the relevance", "The point that the viewer shows"


class Picture(QLabel):  # type: ignore[misc]
    """A picture as wide as the dock."""

    def __init__(self) -> None:
        super().__init__()
        self._whole = QPixmap()
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setMinimumHeight(160)
        self.setToolTip("Click to see it in full size")

    def show_png(self, png: bytes) -> None:
        """Show it."""
        self._whole.loadFromData(png)
        self._fit()

    def clear_png(self) -> None:
        """Show nothing."""
        self._whole = QPixmap()
        self.clear()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Fit it into the new width."""
        super().resizeEvent(event)
        self._fit()

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Show it in full size."""
        if self._whole.isNull():
            return
        window = QDialog(self)
        window.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        window.setWindowTitle("What exports show")
        whole = QLabel()
        whole.setPixmap(self._whole)
        around = QScrollArea()
        around.setWidget(whole)
        QVBoxLayout(window).addWidget(around)
        window.resize(self._whole.size().boundedTo(self.screen().availableSize() * 0.9) + QSize(40, 40))
        window.show()

    def _fit(self) -> None:
        if not self._whole.isNull():
            smooth = Qt.TransformationMode.SmoothTransformation
            self.setPixmap(self._whole.scaledToWidth(max(self.width(), 100), smooth))


class Panel(QWidget):  # type: ignore[misc]
    """Everything that the dock shows; what is chosen is kept in `report`."""

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self.workplace = workplace(viewer)
        self.report = Report()
        self._reasons: dict[str, str] = {}
        self._drawing: Task | None = None
        self._again = False
        self._why = ""
        self._saving: Task | None = None
        self._lay_out()
        self._soon = QTimer(self, singleShot=True, interval=SOON)
        self._soon.timeout.connect(self._draw)
        self.workplace.explained.connect(self._follow_results)
        self.workplace.displayed.connect(self._follow_display)
        viewer.layers.events.removed.connect(self._forget_results)
        self.map.currentIndexChanged.connect(self.refresh)
        self._follow_results()

    # --- what can be done -------------------------------------------------------------------

    @property
    def result(self) -> Result | None:
        """The chosen one."""
        return self.workplace.results.get(self.map.currentData())

    @property
    def display(self) -> Display | None:
        """How the chosen map is shown."""
        result = self.result
        if result is None or not self.report.planes:
            return None
        self.report.window = seen_window(self._scan_layer())
        return self.report.display(result, self.workplace)

    def refresh(self) -> None:
        """Take what is chosen, and draw the picture soon."""
        self.report.planes = tuple(plane for plane in PLANES if self.planes[plane].isChecked())
        self.report.exports = frozenset(name for name, box in self.exports.items() if box.isChecked())
        self.report.keeps_identity = self.identity.isChecked()
        self.report.overwrites = self.overwrite.isChecked()
        self.report.folder = Path(self.folder.text())
        self.report.centre = self._point() if self.through.currentIndex() == 1 else None
        self._warning.setVisible(self.report.keeps_identity)
        self._here.setVisible(self.through.currentIndex() == 1)
        where = "" if self.report.centre is None else position(self.report.centre)
        self.through.setToolTip(where)
        self._update()
        self._draw_soon()

    def export(self) -> None:
        """Write everything in the background."""
        result, display = self.result, self.display
        if result is None or display is None or self._saving is not None:
            return
        report = replace(self.report)  # what is chosen meanwhile does not change it
        self._start("Exporting", lambda hear: report.save(result, display), self._exported)

    def copy(self, shell: bool) -> None:
        """Put the run on the clipboard, as a command line or as Python; what stands in no file is saved first."""
        result = self.result
        if result is None or self._saving is not None:
            return
        try:
            made = self.report.recipe(result, self.workplace)
            text = made.shell if shell else made.python
        except Exception as error:
            show_error(sentence(error))
            return
        QApplication.clipboard().setText(text)
        if made.volumes:
            self._start("Saving what the script needs", lambda hear: _saved(made), self._copied)
        else:
            show_info("Copied.")

    def cancel(self) -> None:
        """End what goes on; what is half written is removed."""
        for task in (self._drawing, self._saving):
            if task is not None:
                task.cancel()

    # --- work in the background -------------------------------------------------------------

    def _start(self, title: str, work: Any, then: Any) -> None:
        def ended(outcome: Any) -> None:
            self._saving = None
            self._update()
            if isinstance(outcome, Exception):
                if not isinstance(outcome, Cancelled):
                    show_error(sentence(outcome))
            else:
                then(outcome)

        self._saving = Task(title, work, ended=ended, parent=self)
        self._update()

    def _exported(self, files: dict[str, Path]) -> None:
        folder = next(iter(files.values())).parent
        self.status.setText(f"Written to {folder}: {', '.join(path.name for path in files.values())}.")
        show_info(f"{len(files)} results were written to {folder}.")

    def _copied(self, paths: list[Path]) -> None:
        names = ", ".join(path.name for path in paths)
        self.status.setText(f"Copied; {names} in {paths[0].parent} is what it reads.")
        show_info("Copied.")

    def _draw_soon(self) -> None:
        """The picture that is there is out of date, and greyed until the next one is."""
        self.picture.setEnabled(False)
        self._soon.start()

    def _draw(self) -> None:
        """Draw the picture and find out what cannot be had; once more if something has changed meanwhile."""
        result, display, identity = self.result, self.display, self.report.identity
        if result is None or display is None:
            self.picture.clear_png()
            return
        if self._drawing is not None:
            self._again = True
            return

        def work(hear: Any) -> tuple[bytes, dict[str, str]]:
            return preview(result, display), why_not(result, display, identity)

        self._drawing = Task("Drawing the preview", work, ended=self._drawn, parent=self)

    def _drawn(self, outcome: Any) -> None:
        self._drawing = None
        if isinstance(outcome, tuple):
            png, self._reasons = outcome
            self.picture.show_png(png)
            self._update()
        elif not isinstance(outcome, Cancelled):
            self.picture.setText(sentence(outcome))
        if self._again:
            self._again = False
            self._draw()
        elif not self._soon.isActive():
            self.picture.setEnabled(True)

    # --- what is shown ----------------------------------------------------------------------

    def _follow_results(self, event: Any = None) -> None:
        if not isalive(self):
            return
        chosen, blocker = self.map.currentData(), QSignalBlocker(self.map)
        known = set() if chosen is None else {self.map.itemData(n) for n in range(self.map.count())}
        open_ = scans(self._viewer.layers)
        self.map.clear()
        for key, result in self.workplace.results.items():
            method = result.explanation.attribution.provenance.method
            of = f" · {open_[result.scan].name}" if len(open_) > 1 and result.scan in open_ else ""
            self.map.addItem(f"{method}: {result.explanation.question}{of}", key)
            self.map.setItemData(self.map.count() - 1, self.map.itemText(self.map.count() - 1), TOOL_TIP)
        new = [key for key in self.workplace.results if key not in known]
        self.map.setCurrentIndex(self.map.findData(new[-1] if new else chosen))
        if self.map.currentIndex() < 0 and self.map.count():
            self.map.setCurrentIndex(self.map.count() - 1)
        blocker.unblock()
        self.refresh()

    def _forget_results(self, event: Any = None) -> None:
        """Results whose layers are gone are none any more, whether the dock Explain is open or not."""
        if isalive(self):
            self.workplace.forget_closed(self._viewer.layers)
            self._follow_results()

    def _follow_display(self, key: str, display: Display) -> None:
        if isalive(self) and key == self.map.currentData():
            self._draw_soon()

    def _layers(self) -> list[Any]:
        """The layers of the chosen map."""
        key = self.map.currentData()
        return [layer for layer in maps(self._viewer.layers) if key and layer.metadata["napari_xai"].get("map") == key]

    def _scan_layer(self) -> Any:
        return None if self.result is None else scan_layer(self._viewer.layers, self.result)

    def _point(self) -> tuple[float, float, float] | None:
        """Where the viewer's slices meet, in the patient; None without a scan."""
        layer = self._scan_layer()
        if layer is None:
            return None
        index = layer.world_to_data(self._viewer.dims.point)
        return patient_mm(layer, [min(max(x, 0), n - 1) for x, n in zip(index, layer.data.shape, strict=True)])

    def _update(self) -> None:
        """Enable what can be used, and say why the rest cannot."""
        for name, box in self.exports.items():
            why = self._reasons.get(name, "")
            box.setEnabled(not why or box.isChecked())
            box.setToolTip(f"It cannot be had: {why}." if why else EXPORTS[name].file)
        always = ", ".join(EXPORTS[name].what for name in ALWAYS if name not in self._reasons)
        filtered = ", ".join({layer.metadata["napari_xai"].get("filtered", "") for layer in self._layers()} - {""})
        note = f" Exports show the map itself, not {filtered}." if filtered else ""
        self._always.setText(f"Always written: {always}, the record.{note}")
        why = self.report.missing(self.result, self._reasons) or ("It is being written." if self._saving else "")
        for button in (self.export_button, self.python_button, self.shell_button):
            only = self.report.missing(self.result, {}) or ("It is being written." if self._saving else "")
            said = why if button is self.export_button else only
            button.setEnabled(not said)
            button.setToolTip(said)
        if why != self._why:  # what was written last stays
            self._why = why
            self.status.setText(why)

    def _browse(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Choose the folder for results", self.folder.text())
        if path:
            self.folder.setText(path)

    # --- made once --------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.map, self.through = combo(), combo()
        self.through.addItems([PEAK, HERE])
        self.planes = {plane: QCheckBox(plane.capitalize()) for plane in PLANES}
        self.picture, self.status, self._warning = Picture(), note(), note()
        self._warning.setText(f"⚠ {IDENTIFIES}")
        self.folder = QLineEdit(str(self.report.folder))
        self._here = QPushButton("Update")
        browse = QPushButton("Choose …")
        browse.clicked.connect(self._browse)
        rows = form()
        add_row(rows, "Map", self.map, "Maps that were made in this window")
        add_row(rows, "Planes", row(*self.planes.values()))
        add_row(rows, "Slices through", row(self.through, self._here))
        self.exports = {name: QCheckBox(_short(name)) for names in GROUPED.values() for name in names}
        self.exports["html"].setChecked(True)
        groups = [self._group(title, names) for title, names in GROUPED.items()]
        self.identity = QCheckBox("Keep the patient's identity")
        self.identity.setChecked(keeps_identity())
        self.overwrite = QCheckBox("Replace earlier results")
        below = form()
        add_row(below, "Folder", row(self.folder, browse))
        self.export_button = QPushButton("Export")
        self.python_button, self.shell_button = QPushButton("Copy as Python"), QPushButton("Copy as command line")
        self._always = note()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        for widget in (self.picture, *groups, self._always, self.identity, self._warning, self.overwrite):
            layout.addWidget(widget)
        layout.addLayout(below)
        for widget in (self.export_button, row(self.python_button, self.shell_button), self.status):
            layout.addWidget(widget)
        layout.addStretch(1)
        for box in self.planes.values():
            box.setChecked(True)
        for box in (*self.planes.values(), *self.exports.values(), self.identity, self.overwrite):
            box.toggled.connect(self.refresh)
        self.through.currentIndexChanged.connect(self.refresh)
        self._here.clicked.connect(self.refresh)
        self._here.setToolTip("Take the point that the viewer shows now")
        self.folder.textChanged.connect(self.refresh)
        self.export_button.clicked.connect(self.export)
        self.python_button.clicked.connect(lambda: self.copy(shell=False))
        self.shell_button.clicked.connect(lambda: self.copy(shell=True))

    def _group(self, title: str, names: tuple[str, ...]) -> QGroupBox:
        box = QGroupBox(title)
        grid = QGridLayout(box)
        for n, name in enumerate(names):
            grid.addWidget(self.exports[name], n // 2, n % 2)
        return box


SHORT = {
    "html": "Web page (HTML)",
    "pdf": "PDF",
    "pm": "Parametric Map",
    "sc": "Colour overlays (SC)",
    "seg": "Segmentation",
    "sr": "Measurements (SR)",
    "zarr": "OME-Zarr",
    "source": "De-identified source",
}


def _short(name: str) -> str:
    return SHORT.get(name, EXPORTS[name].what)


def _saved(made: Recipe) -> list[Path]:
    for path, volume in made.volumes.items():
        if not path.exists():  # else it holds the same: that is what its name says
            path.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(path, volume)
    return list(made.volumes)
