"""The question in the panel: why which class, rather than which other, in which region."""

from collections.abc import Iterable, Mapping
from typing import Any

from qtpy.QtCore import QObject, QSignalBlocker, Signal
from qtpy.QtWidgets import QFormLayout, QPushButton

from napari_xai._choices import Scan, regions
from napari_xai._parts import add_row, combo, row

__all__ = ["QuestionRows"]

PREDICTED, RUNNER_UP, ANYWHERE = "What is predicted", "The runner-up", "Where it is predicted"


class QuestionRows(QObject):  # type: ignore[misc]
    """Three rows of a form; `target`, `against` and `labels` are what stands in them."""

    changed = Signal()
    painted = Signal()  # a new region is wished for

    def __init__(self, rows: QFormLayout) -> None:
        super().__init__()
        self._rows = rows
        self._target, self._against, self._region = combo(), combo(), combo()
        self._paint = QPushButton("Paint")
        self._paint.setToolTip("Make a labels layer on the scan, and paint the region that you ask about")
        self._region_row = row(self._region, self._paint)
        add_row(rows, "Why", self._target, "The class whose score is explained")
        add_row(rows, "Rather than", self._against, "The class that it is compared with")
        add_row(rows, "Region", self._region_row, "The selected label of a labels layer on the scan")
        for box in (self._target, self._against, self._region):
            box.currentIndexChanged.connect(self.changed)
        self._paint.clicked.connect(self.painted)

    @property
    def target(self) -> int | None:
        """The class by index; None is what is predicted."""
        return self._target.currentData()  # type: ignore[no-any-return]

    @property
    def against(self) -> int | None:
        """The class to compare with; None is the runner-up."""
        return self._against.currentData()  # type: ignore[no-any-return]

    @property
    def labels(self) -> Any:
        """The labels layer that holds the region, or None."""
        return self._region.currentData()

    def choose(self, *, target: int | None = None, against: int | None = None, labels: Any = None) -> None:
        """Ask this; what is not there is not chosen."""
        self._target.setCurrentIndex(max(self._target.findData(target), 0))
        self._against.setCurrentIndex(max(self._against.findData(against), 0))
        self._region.setCurrentIndex(max(_index(self._region, labels), 0))

    def name_classes(self, classes: Mapping[int, str]) -> None:
        """Offer a model's classes; a choice that it still has is kept."""
        for box, nothing in ((self._target, PREDICTED), (self._against, RUNNER_UP)):
            chosen, blocker = box.currentData(), QSignalBlocker(box)
            box.clear()
            box.addItem(nothing, None)
            for k, name in classes.items():
                box.addItem(name[:1].upper() + name[1:], k)
            box.setCurrentIndex(max(box.findData(chosen), 0))
            blocker.unblock()
        self.changed.emit()

    def offer_regions(self, layers: Iterable[Any], scan: Scan | None) -> None:
        """Offer the labels layers on a scan's grid; a choice that is still there is kept."""
        chosen, blocker = self._region.currentData(), QSignalBlocker(self._region)
        self._region.clear()
        self._region.addItem(ANYWHERE, None)
        for layer in [] if scan is None else regions(layers, scan):
            self._region.addItem(layer.name, layer)
        self._region.setCurrentIndex(max(_index(self._region, chosen), 0))
        blocker.unblock()
        self._paint.setEnabled(scan is not None)

    def show_for(self, *, classifies: bool, segments: bool) -> None:
        """Classes are compared by classifiers, regions are asked about of segmenters."""
        self._rows.setRowVisible(self._against, classifies)
        self._rows.setRowVisible(self._region_row, segments)


def _index(box: Any, layer: Any) -> int:
    """Where a layer is in a combo box; napari hands out a new proxy each time, so that they are compared by value."""
    if layer is None:
        return 0
    return next((i for i in range(1, box.count()) if box.itemData(i) == layer), -1)
