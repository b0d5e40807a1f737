"""The panel of the dock widget: what is chosen, Predict and Run, and what came out."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.qt.threading import create_worker
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_info
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton, QVBoxLayout, QWidget

from methods3d import Method, methods
from napari_xai._channel_rows import ChannelRows
from napari_xai._channels import alike, channel_names, model_input
from napari_xai._choices import Scan, regions, scans
from napari_xai._estimate import Estimate
from napari_xai._method_rows import MethodRows
from napari_xai._open import reading_of
from napari_xai._outcome import Outcome
from napari_xai._parts import add_row, combo, form, note, row
from napari_xai._plan_dialog import PlanDialog
from napari_xai._pointing import Pointing
from napari_xai._question_rows import QuestionRows
from napari_xai._queue import Run
from napari_xai._run_rows import RunRows, say
from napari_xai._session import Job
from napari_xai._settings import recent_models, remember_model, running
from napari_xai._words import about, predicted, summary, words
from napari_xai._workplace import workplace
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.layers import placed, volume_of
from napari_xai.reading import Reading
from napari_xai.samples import BUNDLES, sample
from xai_io import Volume

if TYPE_CHECKING:
    import napari

__all__ = ["Panel"]

SOON = 200  # milliseconds after a choice until its estimate is made: a user may still be typing


class Panel(QWidget):  # type: ignore[misc]
    """Everything that the widget shows; the choices themselves are kept in `session`."""

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self.workplace = workplace(viewer)
        self.session = self.workplace.session
        self._scans: dict[str, Scan] = {}
        self._outcome = Outcome(viewer, self.workplace)
        self._asked: Method | None = None  # what the estimate that is waited for is of
        self.scan, self.model = combo(), combo()
        self._about_model, self._prediction = note(), note()
        self._lay_out()
        self._fill()
        self._connect()
        self._choose_question()
        self._follow_layers()

    # --- what can be done -------------------------------------------------------------------

    def choose_model(self, path: Path) -> None:
        """Take a bundle folder or a model's file, and load it."""
        if self.runs.busy:
            return
        self._offer_model(path)
        self.model.setCurrentIndex(self.model.findData(str(path)))
        self.session.model = path
        self.runs.start(
            f"Loading {path.name}", lambda _: _loaded(path, **running()), lambda found: self._model_loaded(path, found)
        )

    def predict(self) -> None:
        """Run the model alone, and show what it predicts."""
        self._append(explains=False)

    def run(self) -> None:
        """Run what is chosen, or let it wait for its turn; what is wrong is said in one notification."""
        self._append(explains=True)

    def cancel(self) -> None:
        """End the present run between two batches, and drop what waits."""
        self.runs.cancel()

    def paint(self) -> None:
        """Make a labels layer on the scan, ready to be painted on, and ask about it."""
        scan = self._chosen
        if scan is not None:
            layer = self._add_region(scan, np.zeros(scan.layers[0].data.shape, np.uint8), f"region on {scan.name}")
            layer.mode, layer.brush_size = "paint", 6

    # --- runs -------------------------------------------------------------------------------

    def _append(self, *, explains: bool) -> None:
        """Let a run wait for its turn, which may be now."""
        scan, session = self._chosen, self.session
        try:
            missing = session.missing if explains else session.input_missing
            if scan is None or session.explainer is None or missing:
                raise ExplainError(missing or "Choose a scan first.")
            volume = model_input(session, self._scans)
            job = self._job(scan, volume) if explains else None
        except Exception as error:
            say(error)
            return
        title = f"{self.rows.method.currentText() if explains else 'Prediction'} of {scan.name}"
        self.runs.say_result("")
        self.runs.append(Run(session.explainer, volume, session.scans, title=title, known=session.known, job=job))

    def _job(self, scan: Scan, volume: Volume) -> Job:
        labels = self.question.labels if self.session.segments else None
        self.session.method, self.session.settings = self.rows.name, self.rows.values
        return self.session.job(
            volume,
            None if labels is None else scan.region(labels),
            self._volumes(scan),
            reading=_reading(scan),
            readings={one.name: _reading(one) for one in self._scans.values()},
        )

    def _run_came(self, run: Run) -> None:
        """Show what a run has found so far, while its scan is open."""
        if run.scans[0] not in self._scans:
            return
        if run.known is not None and run.prediction is not None:
            self.session.predicted(run.scans, run.explainer, run.known)
            self._outcome.predicted(run, visible=run.job is None)
            self.question.name_classes(self.session.classes)
        self._outcome.so_far(run)

    def _run_ended(self, run: Run, outcome: Any) -> None:
        try:
            self._run_came(run)
            self._outcome.ended()
            if isinstance(outcome, tuple) and run.scans[0] not in self._scans:
                show_info(f"{run.title}: the scan was closed in the meantime, and its map was not kept.")
            elif isinstance(outcome, tuple):
                job, explanation, layers = outcome
                self._outcome.explained(run, job, explanation, layers)
                self.runs.say_result(summary(explanation))
        except Exception as error:  # never a traceback in the console
            say(error)

    def _model_loaded(self, path: Path, explainer: Explainer) -> None:
        self.session.keep(path, explainer)
        if self.model.findData(str(path)) >= self._samples:
            remember_model(path)
        self.question.name_classes(self.session.classes)
        self._choose_scan()

    # --- what is chosen ---------------------------------------------------------------------

    @property
    def _chosen(self) -> Scan | None:
        return self._scans.get(self.scan.currentData())

    def _choose_scan(self) -> None:
        scan, explainer = self._chosen, self.session.explainer
        names = () if explainer is None else channel_names(explainer.loaded)
        several = scan is not None and scan.channels == 1 and len(names) > 1
        self.channels.offer(names if several else (), alike(self._scans, scan) if scan is not None and several else {})
        self.question.offer_regions(self._viewer.layers, scan)
        self._offer_layers()
        self._choose_channels()

    def _choose_channels(self) -> None:
        scan, names, chosen = self._chosen, self.channels.names, self.channels.chosen
        self.session.unassigned = tuple(name for name in names if name not in chosen)
        self.session.channels = None if scan is None else len(names) or scan.channels
        self.session.scans = tuple(chosen.values()) if names else () if scan is None else (scan.key,)
        self._update()

    def _choose_method(self) -> None:
        self.session.method = self.rows.name
        self._offer_layers()
        self._estimate_soon()

    def _choose_question(self) -> None:
        asked, session = self.question, self.session
        session.target, session.against, session.why_not = asked.target, asked.against, asked.why_not
        self._update()

    def _offer_model(self, path: Path) -> None:
        if self.model.findData(str(path)) < 0:
            self.model.addItem(path.name, str(path))
            self.model.setItemData(self.model.count() - 1, str(path), Qt.ItemDataRole.ToolTipRole)

    def _show_plan(self) -> None:
        if self.session.model is not None:
            PlanDialog(self.session.model, self).show()

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

    # --- regions ----------------------------------------------------------------------------

    def _pick(self, position: Any) -> None:
        """Ask about the predicted structure at a place of the viewer's world."""
        scan, layer = self._chosen, self._predicted
        if scan is not None and layer is not None:
            self._pointing.component(layer, position, lambda found: self._picked(scan, *found))

    def _picked(self, scan: Scan, name: str, mask: Any) -> None:
        classes = {said: k for k, said in self.session.classes.items()}
        self._add_outline(scan, mask, f"this {name}", target=classes.get(name))

    def _point(self, position: Any) -> None:
        """Ask about a ball around a place."""
        scan, wide = self._chosen, self.question.diameter
        if scan is not None:
            found = self._pointing.ball(scan.layers[0], position, wide)
            if found is not None:
                self._add_outline(scan, found, f"ball of {wide:g} mm")

    def _add_region(self, scan: Scan, mask: Any, name: str, *, target: int | None = None, **look: Any) -> Any:
        first = scan.layers[0]  # all that is wanted is its grid, whatever became of other channels
        options = placed(volume_of(first.data, first.metadata), role="region", scan=scan.key)
        layer = self._viewer.add_labels(mask, name=name, opacity=0.5, **look, **options)
        asked = self.question
        asked.choose(target=asked.target if target is None else target, against=asked.against, labels=layer)
        return layer

    def _add_outline(self, scan: Scan, mask: Any, name: str, target: int | None = None) -> None:
        """A region that was pointed at, as a line through which the scan is seen."""
        green = DirectLabelColormap(color_dict={None: "transparent", 1: "lime"})
        self._add_region(scan, mask, name, target=target, colormap=green).contour = 1

    @property
    def _predicted(self) -> Any:
        """The layer of the chosen model's prediction on the chosen scan."""
        explainer, keys = self.session.explainer, self.session.scans
        return None if explainer is None or not keys else self._outcome.prediction(keys[0], explainer.loaded.hash)

    # --- what is shown ----------------------------------------------------------------------

    def _follow_layers(self, event: Any = None) -> None:
        if not isalive(self):
            return
        self._scans = scans(self._viewer.layers)
        for layer in (layer for scan in self._scans.values() for layer in scan.layers):
            layer.events.data.connect(self._forget_prediction)  # once only, however often it is asked for
        self.workplace.forget_closed(self._viewer.layers)
        self.session.forget(self._scans)
        chosen, blocker = self.scan.currentData(), QSignalBlocker(self.scan)
        self.scan.clear()
        for key, scan in self._scans.items():
            self.scan.addItem(scan.name, key)
        self.scan.setCurrentIndex(max(self.scan.findData(chosen), 0 if self._scans else -1))
        blocker.unblock()
        self._choose_scan()

    def _forget_prediction(self, event: Any) -> None:
        """A scan has other values now: what was predicted of it is not said any more."""
        if isalive(self):
            key = event.source.metadata["napari_xai"]["scan"]
            self.session.forget(self._scans.keys() - {key})
            self._outcome.forget_prediction(key)
            self._update()

    def _offer_layers(self) -> None:
        """Let the form name what is open in the viewer."""
        scan = self._chosen
        labels = [] if scan is None else [layer.name for layer in regions(self._viewer.layers, scan)]
        self.rows.offer([one.name for one in self._scans.values()], labels)

    def _volumes(self, scan: Scan) -> dict[str, Callable[[], Volume]]:
        """What the form may name, made when it is: open scans, and labels on this one."""
        found: dict[str, Callable[[], Volume]] = {one.name: partial(_whole, one) for one in self._scans.values()}
        return found | {layer.name: partial(scan.labels, layer) for layer in regions(self._viewer.layers, scan)}

    def _update(self) -> None:
        """Enable what can be used, and say why the rest cannot."""
        busy, missing, explainer = self.runs.busy, self.session.missing, self.session.explainer
        lacking, known = self.session.input_missing, self.session.known
        self.run_button.setEnabled(missing is None)
        self.run_button.setText("Queue" if busy else "Run")
        self.run_button.setToolTip(missing or ("Run this when the present run has ended" if busy else ""))
        self.predict_button.setEnabled(lacking is None)
        self.predict_button.setToolTip(lacking or "Run the model alone, and show what it predicts")
        self.cancel_button.setEnabled(busy)
        self.model.setEnabled(not busy)
        self.model.setToolTip("The model can be changed when all runs have ended" if busy else "")
        self._more.setEnabled(not busy)
        self._plan.setEnabled(self.session.model is not None)
        self._plan.setToolTip(
            "What the model is, and what will be done with it" if self.session.model else "Choose a model first."
        )
        self.question.show_for(classifies=self.session.classifies, segments=self.session.segments)
        self.question.allow(scan=self._chosen is not None, prediction=self._predicted is not None)
        self._about_model.setText("" if explainer is None else about(explainer.loaded))
        self._about_model.setVisible(explainer is not None)
        self._prediction.setText("" if known is None else predicted(known.classes, segments=known.segments))
        self._prediction.setVisible(known is not None)
        if not busy:
            self.runs.say(missing or "")
        self._estimate_soon()

    # --- the estimate -----------------------------------------------------------------------

    def _estimate_soon(self) -> None:
        self._timer.start(SOON)

    def _estimate(self) -> None:
        """Count passes in a thread: a plan of small boxes in a large scan takes a while."""
        known, shown = self.session.known, self.runs.estimate
        shown.setVisible(self.session.missing is None)
        shown.setToolTip("")
        self._asked = None
        if known is None:
            shown.setText("Time and memory: ? (known after the prediction)")
            return
        try:
            asked = self._asked = methods()[self.rows.name](**self.rows.values)
        except Exception:  # it says so itself when it is run
            shown.setText("Time and memory: ? (one of the settings cannot be used)")
            return
        worker = create_worker(lambda: (asked, known.estimate(asked)), _start_thread=False)
        worker.returned.connect(self._show_estimate)
        worker.start()

    def _show_estimate(self, found: tuple[Method, Estimate | None]) -> None:
        asked, estimate = found
        if isalive(self) and asked is self._asked:
            self.runs.estimate.setText("Time and memory: ?" if estimate is None else str(estimate))
            self.runs.estimate.setToolTip("" if estimate is None else f"{estimate.passes:,} passes through the network")

    # --- made once --------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self._more = QPushButton("Other")
        self._more.setToolTip("Choose a model of your own")
        menu = QMenu(self._more)
        menu.addAction("MONAI bundle (folder) …", self._browse_folder)
        menu.addAction("File (TorchScript, .pt2, weights with a network.json) …", self._browse_file)
        self._more.setMenu(menu)
        self.runs, self.channels = RunRows(), ChannelRows()
        rows = form()
        add_row(rows, "Scan", self.scan)
        self._plan = QPushButton("Plan")
        self._plan.clicked.connect(self._show_plan)
        add_row(rows, "Model", row(self.model, self._more, self._plan))
        rows.addRow(self._about_model)
        rows.addRow(self.channels)
        rows.addRow(self.runs.predict_button)
        rows.addRow(self._prediction)
        self.question = QuestionRows(rows)
        self.rows = MethodRows(rows, self.session.method)
        runs = self.runs
        self.predict_button, self.run_button, self.cancel_button = (
            runs.predict_button,
            runs.run_button,
            runs.cancel_button,
        )
        self._pointing = Pointing(self._viewer, self.question, parent=self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addWidget(self.runs)
        layout.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)

    def _fill(self) -> None:
        for name, place in BUNDLES.items():
            try:
                self.model.addItem(words(name), str(sample(place)))
            except FileNotFoundError:
                continue
        self._samples = self.model.count()
        for path in recent_models():
            self._offer_model(path)
        self.model.setPlaceholderText("Choose a model")
        self.model.setCurrentIndex(-1)
        if self.session.model is not None:  # chosen in this dock before it was closed
            self._offer_model(self.session.model)
            self.model.setCurrentIndex(self.model.findData(str(self.session.model)))
        self.scan.setPlaceholderText("No scan is open")
        self.question.name_classes(self.session.classes)

    def _connect(self) -> None:
        self.scan.currentIndexChanged.connect(self._choose_scan)
        self.model.activated.connect(self._choose_listed_model)
        self.channels.changed.connect(self._choose_channels)
        self.rows.method.currentIndexChanged.connect(self._choose_method)
        self.rows.changed.connect(self._estimate_soon)
        self.question.changed.connect(self._choose_question)
        self.question.painted.connect(self.paint)
        self._pointing.picked.connect(self._pick)
        self._pointing.pointed.connect(self._point)
        self.predict_button.clicked.connect(self.predict)
        self.run_button.clicked.connect(self.run)
        self.runs.changed.connect(self._update)
        self.runs.came.connect(self._run_came)
        self.runs.ended.connect(self._run_ended)
        self._timer.timeout.connect(self._estimate)
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(self._viewer.layers.events, event).connect(self._follow_layers)

    def _choose_listed_model(self) -> None:
        self.choose_model(Path(self.model.currentData()))


def _reading(scan: Scan) -> Reading:
    """How a scan was read."""
    return reading_of(scan.layers[0].metadata["napari_xai"])


def _whole(scan: Scan) -> Volume:
    return scan.volume


def _loaded(path: Path, **where: Any) -> Explainer:
    """A model, and what torch would else import in the midst of its first run."""
    explainer = Explainer.of(path, **where)
    import_module("sympy")
    return explainer
