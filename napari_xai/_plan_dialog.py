"""What a model is, and what will be done with it and with scans, before anything is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QHeaderView,
    QLabel,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from methods3d import Cancelled
from napari_xai._task import Task
from napari_xai._words import sentence
from napari_xai.inspection import inspected

__all__ = ["PlanDialog"]

LONG = 12  # entries of a list above which it is folded at first


class PlanDialog(QDialog):  # type: ignore[misc]
    """A model's plan, read in the background: classes, transforms, windows, layers, and what is refused."""

    def __init__(self, path: Path, parent: QWidget) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(f"Plan of {path.name}")
        self.tree = QTreeWidget()
        self.tree.setHeaderHidden(True)
        self.tree.setColumnCount(2)
        self.tree.setWordWrap(True)
        self.tree.setSelectionMode(QTreeWidget.SelectionMode.NoSelection)
        self.tree.header().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self._label = QLabel("The model is being read …")
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        for widget in (self._label, self.tree, buttons):
            layout.addWidget(widget)
        self.resize(760, 620)
        self._task = Task(f"Reading {path.name}", lambda _: inspected(path), ended=self._ended, parent=self)

    def done(self, result: int) -> None:
        """End the reading when the dialog is closed."""
        self._task.cancel()
        super().done(result)

    def _ended(self, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            if not isinstance(outcome, Cancelled):
                show_error(sentence(outcome))
                self._label.setText(sentence(outcome))
                self._label.setWordWrap(True)
            return
        self._label.hide()
        self._show(outcome)

    def _show(self, plan: Mapping[str, Any]) -> None:
        for name, value in plan.items():
            if name == "kind" or value in (None, "", [], ()):
                continue
            title = name[:1].upper() + name[1:]
            several = value if isinstance(value, list | tuple) else None
            item = QTreeWidgetItem([title, str(len(several)) if several and len(several) > LONG else ""])
            if several is None:
                item.setText(1, f"{value:,}" if isinstance(value, int) else str(value))
                item.setToolTip(1, item.text(1))
            self.tree.addTopLevelItem(item)
            for one in several or ():
                first, colon, rest = str(one).partition(": ")
                row = QTreeWidgetItem([first, rest] if colon else ["", first])
                row.setToolTip(1, row.text(1))
                item.addChild(row)
            item.setExpanded(several is not None and len(several) <= LONG)
