"""Regions as a table that leads to their peaks."""

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_xai._hotspots import COLUMNS, cells
from xai_io import Region

__all__ = ["RegionTable"]

TEXTS = {"Name", "Effect", "Peak at (mm)"}


class RegionTable(QTableWidget):  # type: ignore[misc]
    """One row for each region; a click, or the arrow keys, choose one.

    Parameters
    ----------
    hidden : columns that say nothing here.
    """

    chosen = Signal(object)  # Region

    def __init__(self, hidden: Sequence[str] = ()) -> None:
        super().__init__(0, len(COLUMNS))
        self.regions: tuple[Region, ...] = ()
        self.setHorizontalHeaderLabels(COLUMNS)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(20)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.setMinimumHeight(150)
        self.setStyleSheet("font-size: 11px;")
        for name in hidden:
            self.setColumnHidden(COLUMNS.index(name), True)
        self.cellClicked.connect(lambda row, _: self._choose(row))
        self.currentCellChanged.connect(lambda row, *_: self._choose(row))

    def show_regions(self, regions: Sequence[Region]) -> None:
        """Show these and no others; none is chosen."""
        blocked = self.blockSignals(True)
        self.regions = ()
        self.clearSelection()
        self.setCurrentCell(-1, -1)
        self.setRowCount(len(regions))
        for row, region in enumerate(regions):
            for column, text in enumerate(cells(region)):
                item = QTableWidgetItem(text)
                if COLUMNS[column] not in TEXTS:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.setItem(row, column, item)
        self.regions = tuple(regions)
        self.blockSignals(blocked)

    def _choose(self, row: int) -> None:
        if 0 <= row < len(self.regions):
            self.chosen.emit(self.regions[row])
