"""Run and Cancel, how far a run is, and what waits."""

import logging
import time
from collections.abc import Callable
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QProgressBar, QPushButton, QToolButton, QVBoxLayout, QWidget

from methods3d import Cancelled
from napari_xai._estimate import Remaining, duration
from napari_xai._parts import note, row
from napari_xai._queue import Queue, Run
from napari_xai._task import Task
from napari_xai._words import sentence

__all__ = ["RunRows", "say"]


class RunRows(QWidget):  # type: ignore[misc]
    """Work is done one piece after the other, each in the background."""

    changed = Signal()  # work has begun or ended
    came = Signal(object)  # a Run has gone on, and may have something to show
    ended = Signal(object, object)  # a Run, with what came out: its result, or an exception

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.task: Task | None = None
        self._run: Run | None = None
        self._going_on = False  # whether what waits is begun when the present piece was cancelled
        self.predict_button, self.run_button = QPushButton("Predict"), QPushButton("Run")
        self.cancel_button, self.cancel_all_button = QPushButton("Cancel"), QPushButton("Cancel all")
        self.cancel_button.setToolTip("End the present run between two batches; what waits comes next")
        self.cancel_all_button.setToolTip("End the present run, and drop what waits")
        self.progress, self.status, self.result, self.estimate = QProgressBar(), note(), QLabel(), note()
        self.result.setWordWrap(True)
        self.result.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._waiting = QWidget()
        QVBoxLayout(self._waiting).setContentsMargins(0, 0, 0, 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.estimate)
        layout.addWidget(row(self.run_button, self.cancel_button, self.cancel_all_button))
        for widget in (self.progress, self.status, self._waiting, self.result):
            layout.addWidget(widget)
        self.progress.hide()
        self._list()
        self.queue.changed.connect(self._list)
        self.cancel_button.clicked.connect(self.cancel_present)
        self.cancel_all_button.clicked.connect(self.cancel)

    @property
    def busy(self) -> bool:
        """Whether something is being done."""
        return self.task is not None

    def start(self, title: str, work: Callable[[Any], Any], then: Callable[[Any], None]) -> None:
        """Do this now; `then` is called with what came out."""
        self._then, self._title, self._left = then, title, Remaining()
        self._going_on = False
        self.task = Task(title, work, progressed=self._progressed, ended=self._ended, parent=self)
        self.progress.setRange(0, 0)
        self.progress.show()
        self.changed.emit()
        self.say(f"{title} …")

    def append(self, run: Run) -> None:
        """Do this when its turn comes, which may be now."""
        self.queue.append(run)
        self._next()

    def cancel_present(self) -> None:
        """End the present piece of work between two batches; nothing of it is kept, and what waits comes next."""
        if self.task is not None:
            self._going_on = True
            self.task.cancel()
            self.say("Cancelling …")

    def cancel(self) -> None:
        """End the present piece of work, and drop what waits."""
        self.queue.clear()
        self.cancel_present()

    def say(self, text: str) -> None:
        """Show what is going on, or missing."""
        self.status.setText(text)
        self.status.setVisible(bool(text))

    def say_result(self, text: str) -> None:
        """Show what came out."""
        self.result.setText(text)
        self.result.setVisible(bool(text))

    def _next(self) -> None:
        if self.task is None and (run := self.queue.take()) is not None:
            self._run = run
            self.start(run.title, run, _nothing)

    def _progressed(self, done: int, total: int) -> None:
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        if self._run is not None:
            self.came.emit(self._run)
        left = self._left.heard(done, total, time.monotonic())
        if left is not None and not self._going_on:
            self.say(f"{self._title}, about {duration(left)} left")

    def _ended(self, outcome: Any) -> None:
        run, then, self.task, self._run, self._then = self._run, self._then, None, None, _nothing
        self.progress.hide()
        said = ""
        if isinstance(outcome, Cancelled):
            said = "Cancelled; nothing was kept."
            if not self._going_on:  # asked for in the activity dock, or by the closing window
                self.queue.clear()
        elif isinstance(outcome, Exception):
            say(outcome)
        else:
            try:
                then(outcome)
            except Exception as error:  # never a traceback in the console
                say(error)
        if run is not None:
            self.ended.emit(run, outcome)
        self._next()
        if self.task is None:
            self.changed.emit()
            if said:
                self.say(said)

    def _list(self) -> None:
        """Show what waits, each with a button that removes it."""
        layout = self._waiting.layout()
        while layout.count():
            layout.takeAt(0).widget().deleteLater()
        for n, run in enumerate(self.queue, 1):
            title, remove = note(), QToolButton()
            title.setText(f"{n}. {run.title}")
            remove.setText("✕")
            remove.setAutoRaise(True)
            remove.setToolTip("Do not run this")
            remove.clicked.connect(lambda _=False, run=run: self.queue.remove(run))
            layout.addWidget(row(title, remove))
        self._waiting.setVisible(bool(len(self.queue)))
        self.cancel_all_button.setVisible(bool(len(self.queue)))


def _nothing(outcome: Any) -> None:
    """What is done with the outcome of no work."""


def say(error: Exception) -> None:
    """One notification with one sentence; the traceback is for the log alone."""
    logging.getLogger(__name__).debug("shown as a notification", exc_info=error)
    show_error(sentence(error))
