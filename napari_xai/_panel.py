"""The panel of the dock widget: what is chosen, Run and Cancel, and what came out."""

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from napari.utils.notifications import show_error, show_warning
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from methods3d import FAMILIES, Cancelled, methods
from napari_xai._choices import Scan, regions, scans
from napari_xai._form import MethodForm
from napari_xai._parts import add_row, combo, form, note, row
from napari_xai._question_rows import QuestionRows
from napari_xai._session import Job
from napari_xai._task import Task
from napari_xai._words import about, sentence, summary, words
from napari_xai._workplace import Result, workplace
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.explanation import Explanation
from napari_xai.layers import LayerData, placed
from napari_xai.samples import BUNDLES, sample
from xai_io import Volume

if TYPE_CHECKING:
    import napari

__all__ = ["Panel"]


class Panel(QWidget):  # type: ignore[misc]
    """Everything that the widget shows; the choices themselves are kept in `session`."""

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self.workplace = workplace(viewer)
        self.session = self.workplace.session
        self._scans: dict[str, Scan] = {}
        self._task: Task | None = None
        self.scan, self.model, self.method = combo(), combo(), combo()
        self._about_model, self._about_method, self.status = note(), note(), note()
        self.form: MethodForm | None = None
        self._lay_out()
        self._fill()
        self._connect()
        self._follow_layers()

    # --- what can be done -------------------------------------------------------------------

    def choose_model(self, path: Path) -> None:
        """Take a bundle folder or a model's file, and load it."""
        if self.model.findData(str(path)) < 0:
            self.model.addItem(path.name, str(path))
            self.model.setItemData(self.model.count() - 1, str(path), Qt.ItemDataRole.ToolTipRole)
        self.model.setCurrentIndex(self.model.findData(str(path)))
        self.session.model = path
        self._start(f"Loading {path.name}", lambda _: (path, _loaded(path)), self._model_loaded)

    def run(self) -> None:
        """Run what is chosen; what is wrong is said in one notification."""
        if self._task is not None:
            return
        try:
            scan, job = self._job()
        except Exception as error:
            _say(error)
            return

        def work(hear: Any) -> tuple[Job, str, Explanation, list[LayerData]]:
            explanation = job(hear)
            return job, scan.key, explanation, explanation.layers()

        self._say_result("")
        self._start(f"{self.method.currentText()} of {scan.name}", work, self._explained)

    def cancel(self) -> None:
        """End the run between two batches; nothing of it is kept."""
        if self._task is not None:
            self._task.cancel()
            self._say_status("Cancelling …")

    def paint(self) -> None:
        """Make a labels layer on the scan, ready to be painted on, and ask about it."""
        scan = self._scans.get(self.scan.currentData())
        if scan is None:
            return
        nothing = np.zeros(scan.layers[0].data.shape, np.uint8)
        place = placed(scan.volume, role="region")
        layer = self._viewer.add_labels(nothing, name=f"region on {scan.name}", **place)
        layer.mode, layer.brush_size = "paint", 6
        self.question.choose(target=self.question.target, against=self.question.against, labels=layer)

    # --- work in the background -------------------------------------------------------------

    def _start(self, title: str, work: Callable[[Any], Any], then: Callable[..., None]) -> None:
        self._then = then
        self._task = Task(title, work, progressed=self._progressed, ended=self._ended, parent=self)
        self.progress.setRange(0, 0)
        self.progress.show()
        self._update()
        self._say_status(f"{title} …")

    def _progressed(self, done: int, total: int) -> None:
        self.progress.setRange(0, total)
        self.progress.setValue(done)

    def _ended(self, outcome: Any) -> None:
        self._task = None
        self.progress.hide()
        self._update()
        if isinstance(outcome, Cancelled):
            self._say_status("Cancelled; nothing was kept.")
        elif isinstance(outcome, Exception):
            _say(outcome)
        else:
            try:
                self._then(*outcome)
            except Exception as error:  # never a traceback in the console
                _say(error)

    def _model_loaded(self, path: Path, explainer: Explainer) -> None:
        self.session.keep(path, explainer)
        self.question.name_classes(self.session.classes)

    def _explained(self, job: Job, key: str, explanation: Explanation, layers: list[LayerData]) -> None:
        self.session.learn(job, explanation)
        self.question.name_classes(self.session.classes)
        result = Result(job, explanation, key)
        for data, options, kind in layers:
            own = options["metadata"]["napari_xai"]
            if own["role"] == "scan":
                continue
            own |= {"scan": key, "model": explanation.model.hash, "map": result.key}
            if own["role"] == "relevance" or not self._has(own):
                self._viewer.add_layer(Layer.create(data, options, kind))
        self.workplace.add(result)
        self._say_result(summary(explanation))
        for warning in explanation.warnings:
            show_warning(f"{explanation.attribution.provenance.method}: {warning}.")

    def _has(self, own: dict[str, Any]) -> bool:
        """Whether the viewer has this model's prediction on this scan already."""
        there = [layer.metadata.get("napari_xai", {}) for layer in self._viewer.layers]
        return any(all(other.get(name) == own[name] for name in ("role", "scan", "model")) for other in there)

    # --- what is chosen ---------------------------------------------------------------------

    def _job(self) -> tuple[Scan, Job]:
        scan = self._scans.get(self.scan.currentData())
        if scan is None or self.form is None or self.session.missing:
            raise ExplainError(self.session.missing or "Choose a scan first.")
        labels = self.question.labels if self.session.segments else None
        self.session.settings = self.form.values
        region = None if labels is None else scan.region(labels)
        return scan, self.session.job(scan.volume, region, self._volumes(scan))

    def _choose_scan(self) -> None:
        scan = self._scans.get(self.scan.currentData())
        self.session.channels = None if scan is None else scan.channels
        self.question.offer_regions(self._viewer.layers, scan)
        self._offer_layers()
        self._update()

    def _choose_method(self) -> None:
        self.session.method = self.method.currentData()
        kind = methods()[self.session.method]
        self._about_method.setText((kind.__doc__ or "").strip().splitlines()[0])
        self._about_method.setToolTip(kind.source)
        if self.form is not None:
            self._form_place.layout().removeWidget(self.form)
            self.form.setParent(None)
        self.form = MethodForm(kind)
        self._offer_layers()
        self._form_place.layout().addWidget(self.form)

    def _choose_question(self) -> None:
        self.session.target, self.session.against = self.question.target, self.question.against
        self._update()

    def _browse_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Choose the folder of a MONAI bundle")
        if path:
            self.choose_model(Path(path))

    def _browse_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Choose a model's file", "", "Models (*.ts *.pt *.pth *.pt2 *.safetensors)"
        )
        if path:
            self.choose_model(Path(path))

    # --- what is shown ----------------------------------------------------------------------

    def _follow_layers(self, event: Any = None) -> None:
        if not isalive(self):
            return
        self._scans = scans(self._viewer.layers)
        chosen, blocker = self.scan.currentData(), QSignalBlocker(self.scan)
        self.scan.clear()
        for key, scan in self._scans.items():
            self.scan.addItem(scan.name, key)
        self.scan.setCurrentIndex(max(self.scan.findData(chosen), 0 if self._scans else -1))
        blocker.unblock()
        self._choose_scan()

    def _offer_layers(self) -> None:
        """Let the form name what is open in the viewer."""
        scan = self._scans.get(self.scan.currentData())
        labels = [] if scan is None else [layer.name for layer in regions(self._viewer.layers, scan)]
        if self.form is not None:
            self.form.offer([one.name for one in self._scans.values()], labels)

    def _volumes(self, scan: Scan) -> dict[str, Volume]:
        """What the form may name: open scans, and labels on this one."""
        found = {one.name: one.volume for one in self._scans.values()}
        return found | {layer.name: scan.labels(layer) for layer in regions(self._viewer.layers, scan)}

    def _update(self) -> None:
        """Enable what can be used, and say why the rest cannot."""
        busy, missing, explainer = self._task is not None, self.session.missing, self.session.explainer
        self.run_button.setEnabled(not busy and missing is None)
        self.run_button.setToolTip(missing or "")
        self.cancel_button.setEnabled(busy)
        self.model.setEnabled(not busy)
        self._more.setEnabled(not busy)
        self.question.show_for(classifies=self.session.classifies, segments=self.session.segments)
        self._about_model.setText("" if explainer is None else about(explainer.loaded))
        self._about_model.setVisible(explainer is not None)
        if not busy:
            self._say_status(missing or "")

    def _say_status(self, text: str) -> None:
        self.status.setText(text)
        self.status.setVisible(bool(text))

    def _say_result(self, text: str) -> None:
        self.result.setText(text)
        self.result.setVisible(bool(text))

    # --- made once --------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self._more = QPushButton("Other")
        self._more.setToolTip("Choose a model of your own")
        menu = QMenu(self._more)
        menu.addAction("MONAI bundle (folder) …", self._browse_folder)
        menu.addAction("File (TorchScript, .pt2, weights with a network.json) …", self._browse_file)
        self._more.setMenu(menu)
        self._form_place = QWidget()
        QVBoxLayout(self._form_place).setContentsMargins(0, 0, 0, 0)
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.progress, self.result = QProgressBar(), QLabel()
        self.result.setWordWrap(True)
        self.result.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

        rows = form()
        add_row(rows, "Scan", self.scan)
        add_row(rows, "Model", row(self.model, self._more))
        rows.addRow(self._about_model)
        add_row(rows, "Method", self.method)
        rows.addRow(self._about_method)
        rows.addRow(self._form_place)
        self.question = QuestionRows(rows)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addWidget(row(self.run_button, self.cancel_button))
        for widget in (self.progress, self.status, self.result):
            layout.addWidget(widget)
        layout.addStretch()
        self.progress.hide()

    def _fill(self) -> None:
        for name, place in BUNDLES.items():
            try:
                self.model.addItem(words(name), str(sample(place)))
            except FileNotFoundError:
                continue
        self.model.setPlaceholderText("Choose a model")
        self.model.setCurrentIndex(-1)
        self.scan.setPlaceholderText("No scan is open")
        for family in FAMILIES.values():
            if self.method.count():
                self.method.insertSeparator(self.method.count())
            for kind in family:
                self.method.addItem(kind.title, kind.name)
                self.method.setItemData(self.method.count() - 1, kind.source, Qt.ItemDataRole.ToolTipRole)
        self.method.setCurrentIndex(self.method.findData(self.session.method))
        self._choose_method()
        self.question.name_classes({})

    def _connect(self) -> None:
        self.scan.currentIndexChanged.connect(self._choose_scan)
        self.model.activated.connect(self._choose_listed_model)
        self.method.currentIndexChanged.connect(self._choose_method)
        self.question.changed.connect(self._choose_question)
        self.question.painted.connect(self.paint)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(self._viewer.layers.events, event).connect(self._follow_layers)

    def _choose_listed_model(self) -> None:
        self.choose_model(Path(self.model.currentData()))


def _loaded(path: Path) -> Explainer:
    """A model, and what torch would else import in the midst of its first run."""
    explainer = Explainer.of(path)
    import_module("sympy")
    return explainer


def _say(error: Exception) -> None:
    """One notification with one sentence; the traceback is for the log alone."""
    logging.getLogger(__name__).debug("shown as a notification", exc_info=error)
    show_error(sentence(error))
