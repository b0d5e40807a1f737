"""Where a folder leaves something open, a dialog lists its series and asks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Layer
from napari.utils.notifications import show_error
from qtpy.compat import isalive
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QHeaderView,
    QLabel,
    QMessageBox,
    QProgressBar,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from methods3d import Cancelled
from napari_xai._open import OPEN, THUMBNAIL, Question, described, missing, opened, questions, thumbnail
from napari_xai._parts import add_row, form
from napari_xai._task import Task
from napari_xai._words import sentence
from napari_xai.reading import Reading
from xai_io import Choices, NonFiniteScan, Series

__all__ = ["OpenDialog", "add", "came"]

HEADER = ("Modality", "Description", "Images", "Voxels", "mm", "Geometry")


def add(viewer: Any, outcome: Any) -> bool:
    """Add layers, or say what came instead; whether all went well."""
    if isinstance(outcome, Exception):
        if not isinstance(outcome, Cancelled):
            show_error(sentence(outcome))
        return False
    for layer in outcome:
        viewer.add_layer(Layer.create(*layer))
    return True


def came(
    viewer: Any,
    path: Path,
    outcome: Any,
    reading: Reading = Reading(),  # noqa: B008
    name: str = "",
) -> bool:
    """Add what was read, ask where a scan has voxels without a value, or say what is wrong; False if it was said.

    Parameters
    ----------
    reading, name : how it was read, and what its layers are called; "" is as the path.
    """
    if not (isinstance(outcome, NonFiniteScan) and outcome.background):
        return add(viewer, outcome)
    zeroed = replace(reading, choices=replace(reading.choices, on_nan="zero"))
    window = viewer.window._qt_window

    def ended(found: Any) -> None:
        add(viewer, found)

    def open_again() -> None:
        Task(f"Opening {path.name}", lambda hear: opened(path, zeroed, hear, name), ended=ended, parent=window)

    buttons = QMessageBox.StandardButton
    box = QMessageBox(window)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setWindowTitle(f"Open {path.name}")
    box.setText("The scan has voxels without a value (NaN), as some programs write them outside of the head or body.")
    box.setInformativeText("Open it with 0 in their place?")
    box.setStandardButtons(buttons.Yes | buttons.No)
    box.button(buttons.Yes).clicked.connect(open_again)
    box.show()  # and not exec, which would hold up the viewer
    return True


class OpenDialog(QDialog):  # type: ignore[misc]
    """The series in a folder: what each is, what is the matter with it, and what is to be done about that."""

    def __init__(self, viewer: Any, path: Path, found: tuple[Series, ...]) -> None:
        super().__init__(viewer.window._qt_window)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(f"Open a series from {path.name}")
        self._viewer, self._path, self._found = viewer, path, found
        self._asked: dict[str, QComboBox] = {}
        self._task: Task | None = None
        self._reading, self._name = Reading(), ""
        self._pictures: list[np.ndarray | None] = []
        self._lay_out()
        self._thumbnails = Task("Reading pictures", self._read, progressed=self._picture, ended=self._seen, parent=self)
        volumes = [n for n, one in enumerate(found) if one.is_volume]
        if volumes:
            self.list.setCurrentItem(self.list.topLevelItem(volumes[0]))
        self._choose()

    @property
    def series(self) -> Series | None:
        """The chosen one."""
        item = self.list.currentItem()
        return None if item is None else self._found[self.list.indexOfTopLevelItem(item)]

    @property
    def answers(self) -> dict[str, Any]:
        """What was said so far, by the fields of `xai_io.Choices`."""
        return {name: box.currentData() for name, box in self._asked.items() if box.currentData() is not OPEN}

    def answer(self, field: str, value: Any) -> None:
        """Say what is to be done."""
        box = self._asked[field]
        box.setCurrentIndex(next(n for n in range(box.count()) if box.itemData(n) == value))

    def open(self) -> None:
        """Read the chosen series in the background; the dialog closes when its layers are there."""
        if self._task is not None or missing(self.series, self.answers):
            return
        number = None if len(self._found) == 1 else self._found.index(self.series) + 1
        reading = self._reading = Reading(series=number, choices=Choices(**self.answers))
        name = self._name = "" if number is None or self.series is None else self.series.description.strip()
        self._thumbnails.cancel()
        self.progress.setRange(0, 0)
        self.progress.show()
        self._task = Task(
            f"Opening {self._path.name}",
            lambda hear: opened(self._path, reading, hear, name),
            progressed=self._progressed,
            ended=self._ended,
            parent=self,
        )
        self._update()

    def done(self, result: int) -> None:
        """End what still goes on when the dialog is closed."""
        for task in (self._thumbnails, self._task):
            if task is not None:
                task.cancel()
        super().done(result)

    # --- in the background ------------------------------------------------------------------

    def _read(self, hear: Any) -> None:
        for n, one in enumerate(self._found):
            hear(n, len(self._found))  # may end the work here
            self._pictures.append(thumbnail(one))
        hear(len(self._found), len(self._found))

    def _picture(self, done: int, total: int) -> None:
        """Show the pictures that are there by now."""
        for n, grey in enumerate(self._pictures[:total]):
            item = self.list.topLevelItem(n)
            if grey is not None and item.icon(0).isNull():
                rows, columns = grey.shape
                image = QImage(grey.data, columns, rows, columns, QImage.Format.Format_Grayscale8)
                item.setIcon(0, QIcon(QPixmap.fromImage(image)))

    def _seen(self, outcome: Any) -> None:
        if isalive(self.list):
            self._picture(len(self._found), len(self._found))

    def _progressed(self, done: int, total: int) -> None:
        self.progress.setRange(0, total)
        self.progress.setValue(done)

    def _ended(self, outcome: Any) -> None:
        self._task = None
        self.progress.hide()
        if came(self._viewer, self._path, outcome, self._reading, self._name):
            self.accept()
        else:
            self._update()

    # --- what is shown ----------------------------------------------------------------------

    def _choose(self) -> None:
        """Ask what the chosen series leaves open."""
        while self._rows.rowCount():
            self._rows.removeRow(0)
        self._asked = {}
        for asked in () if self.series is None else questions(self.series):
            self._asked[asked.field] = self._row(asked)
        self._update()

    def _row(self, asked: Question) -> QComboBox:
        box = QComboBox()
        if not asked.free:
            box.addItem("Choose what is to be done", OPEN)
        for value, words in asked.answers:
            box.addItem(words, value)
        box.currentIndexChanged.connect(self._update)
        add_row(self._rows, asked.words, box)
        return box

    def _update(self) -> None:
        why = missing(self.series, self.answers)
        if self._task is not None:
            why = "It is being read."
        self.open_button.setEnabled(not why)
        self.open_button.setToolTip(why)
        self.status.setText(why)

    def _lay_out(self) -> None:
        self.list = QTreeWidget()
        self.list.setHeaderLabels(HEADER)
        self.list.setRootIsDecorated(False)
        self.list.setIconSize(QSize(THUMBNAIL, THUMBNAIL))
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setWordWrap(True)
        for one in self._found:
            item = QTreeWidgetItem(list(described(one)))
            item.setSizeHint(0, QSize(THUMBNAIL + 60, THUMBNAIL + 8))
            item.setToolTip(5, item.text(5))
            self.list.addTopLevelItem(item)
        header = self.list.header()
        for column in range(len(HEADER) - 1):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.list.currentItemChanged.connect(self._choose)
        self.list.itemDoubleClicked.connect(self.open)
        self._rows = form()
        asks = QWidget()
        asks.setLayout(self._rows)
        self.status, self.progress = QLabel(), QProgressBar()
        self.status.setWordWrap(True)
        self.progress.hide()
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel)
        self.open_button = buttons.button(QDialogButtonBox.StandardButton.Open)
        buttons.accepted.connect(self.open)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        for widget in (self.list, asks, self.status, self.progress, buttons):
            layout.addWidget(widget)
        self.resize(900, 560)
