"""Which open scan is which channel of the model's input."""

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_xai._channels import guessed
from napari_xai._choices import Scan
from napari_xai._parts import add_row, combo, form

__all__ = ["ChannelRows"]


class ChannelRows(QWidget):  # type: ignore[misc]
    """One row for each channel; hidden where one scan is the whole input."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._rows = form()
        self.setLayout(self._rows)
        self._boxes: dict[str, Any] = {}
        self.hide()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the channels that are to be chosen; none where one scan is the whole input."""
        return tuple(self._boxes)

    @property
    def chosen(self) -> dict[str, str]:
        """Channel -> key of its scan, of those that have one."""
        return {name: box.currentData() for name, box in self._boxes.items() if box.currentData()}

    def offer(self, names: tuple[str, ...], scans: Mapping[str, Scan]) -> None:
        """Offer scans for channels; choices that can stay do, and the rest is guessed by name or left open."""
        kept = {name: key for name, key in self.chosen.items() if name in names and key in scans}
        if names != self.names:
            while self._rows.rowCount():
                self._rows.removeRow(0)
            self._boxes = {}
            for name in names:
                box = self._boxes[name] = combo()
                box.setPlaceholderText("Choose a scan")
                box.currentIndexChanged.connect(self.changed)
                add_row(self._rows, name, box, "The scan that is this channel of the model's input")
        shown = guessed(names, scans) | kept
        for name, box in self._boxes.items():
            box.blockSignals(True)
            box.clear()
            for key, scan in scans.items():
                box.addItem(scan.name, key)
            box.setCurrentIndex(box.findData(shown.get(name)))
            box.blockSignals(False)
        self.setVisible(bool(names))
