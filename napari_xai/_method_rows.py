"""The method in the panel: which, with how much effort, and with which settings."""

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QFormLayout, QToolButton, QVBoxLayout, QWidget

from methods3d import FAMILIES, methods
from napari_xai._form import MethodForm
from napari_xai._parts import add_row, combo, note
from napari_xai._presets import effort_of, efforts, preset

__all__ = ["MethodRows"]

OWN = "Own settings"


class MethodRows(QWidget):  # type: ignore[misc]
    """Rows of a form; `name` and `values` are what stands in them."""

    changed = Signal()

    def __init__(self, rows: QFormLayout, name: str) -> None:
        super().__init__()
        self._rows = rows
        self.method, self.effort, self._about = combo(), combo(), note()
        self.form: MethodForm | None = None
        self.place = QWidget()
        QVBoxLayout(self.place).setContentsMargins(0, 0, 0, 0)
        self._unfold = QToolButton()
        self._unfold.setText("Settings")
        self._unfold.setCheckable(True)
        self._unfold.setAutoRaise(True)
        self._unfold.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        add_row(rows, "Method", self.method)
        rows.addRow(self._about)
        add_row(rows, "Effort", self.effort, "How much work the method does: more of it gives a finer, steadier map")
        rows.addRow(self._unfold)
        rows.addRow(self.place)
        for family in FAMILIES.values():
            if self.method.count():
                self.method.insertSeparator(self.method.count())
            for kind in family:
                self.method.addItem(kind.title, kind.name)
                self.method.setItemData(self.method.count() - 1, kind.source, Qt.ItemDataRole.ToolTipRole)
        self.method.setCurrentIndex(self.method.findData(name))
        self.method.currentIndexChanged.connect(self._choose)
        self.effort.activated.connect(self._choose_effort)
        self._unfold.toggled.connect(self._show_form)
        self._show_form(False)
        self._choose()

    @property
    def name(self) -> str:
        """The method's."""
        return str(self.method.currentData())

    @property
    def values(self) -> dict[str, Any]:
        """Its settings as they stand."""
        return {} if self.form is None else self.form.values

    def offer(self, scans: Sequence[str], labels: Sequence[str]) -> None:
        """Let the form name what is open in the viewer."""
        self._offered = (scans, labels)
        if self.form is not None:
            self.form.offer(scans, labels)

    _offered: tuple[Sequence[str], Sequence[str]] = ((), ())

    def _choose(self) -> None:
        kind = methods()[self.name]
        self._about.setText((kind.__doc__ or "").strip().splitlines()[0])
        self._about.setToolTip(kind.source)
        if self.form is not None:
            self.place.layout().removeWidget(self.form)
            self.form.setParent(None)
        self.form = MethodForm(kind)
        self.form.offer(*self._offered)
        self.form.changed.connect(self._note_effort)
        self.place.layout().addWidget(self.form)
        with QSignalBlocker(self.effort):
            self.effort.clear()
            self.effort.addItems([*efforts(self.name), OWN])
        self._rows.setRowVisible(self._unfold, bool(self.form.values))
        self._note_effort()

    def _choose_effort(self) -> None:
        effort = self.effort.currentText()
        if effort == OWN:
            self._unfold.setChecked(True)
        elif self.form is not None:
            with QSignalBlocker(self.form):
                self.form.set(**preset(self.name, effort))
            self._note_effort()

    def _note_effort(self) -> None:
        """Say which effort the settings are, and that they have changed."""
        try:
            effort = effort_of(self.name, self.values)
        except Exception:  # a method that this one is made of cannot be made yet
            effort = None
        self.effort.setCurrentText(effort or OWN)
        self._rows.setRowVisible(self.effort, len(efforts(self.name)) > 1)
        self.changed.emit()

    def _show_form(self, shown: bool) -> None:
        self._unfold.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.place.setVisible(shown)
