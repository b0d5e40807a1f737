"""The question in the panel: why which class, rather than which other, in which region; or why not."""

from collections.abc import Iterable, Mapping
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import QObject, QSignalBlocker, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QPushButton

from napari_xai._choices import Scan, regions
from napari_xai._parts import add_row, combo, note, row

__all__ = ["QuestionRows"]

PREDICTED, RUNNER_UP, ANYWHERE = "What is predicted", "The runner-up", "Where it is predicted"
ELSEWHERE = (
    "It lies on another grid than the scan: resample it to the scan's grid (nearest neighbour), or paint the region "
    "there."
)
BALL = 10.0  # mm


class QuestionRows(QObject):  # type: ignore[misc]
    """Rows of a form that read as a sentence; `target`, `against`, `why_not` and `labels` are what stands in them."""

    changed = Signal()
    painted = Signal()  # a new region is wished for: to be painted,
    picked = Signal(bool)  # a click on a predicted structure is waited for, or no longer,
    pointed = Signal(bool)  # or one on the middle of a ball of `diameter`

    def __init__(self, rows: QFormLayout) -> None:
        super().__init__()
        self._rows = rows
        self._ask, self._target, self._against, self._region = combo(), combo(), combo(), combo()
        self._ask.addItems(["Why", "Why not"])
        self._paint, self._pick, self._point = QPushButton("Paint"), QPushButton("Pick"), QPushButton("Ball")
        self._diameter = QDoubleSpinBox()
        self._diameter.setDecimals(0)
        self._diameter.setRange(1, 200)
        self._diameter.setSuffix(" mm")
        self._diameter.setValue(BALL)
        self._diameter.setToolTip("How wide a ball is")
        self._paint.setToolTip("Make a labels layer on the scan, and paint the region that you ask about")
        self._buttons = row(self._paint, self._pick, self._point, self._diameter)
        self.sentence = note()
        add_row(rows, "Ask", self._ask, "Why not: what speaks against a class that is not predicted")
        add_row(rows, "Class", self._target, "The class whose score is explained")
        add_row(rows, "Rather than", self._against, "The class that it is compared with")
        add_row(rows, "Region", self._region, "The selected label of a labels layer on the scan")
        rows.addRow("", self._buttons)
        rows.addRow(self.sentence)
        for box in (self._ask, self._target, self._against, self._region):
            box.currentIndexChanged.connect(self._change)
        self._paint.clicked.connect(self.painted)
        for button, signal in ((self._pick, self.picked), (self._point, self.pointed)):
            button.setCheckable(True)
            button.toggled.connect(signal)
        self.allow(scan=False, prediction=False)

    @property
    def target(self) -> int | None:
        """The class by index; None is what is predicted."""
        return self._target.currentData()  # type: ignore[no-any-return]

    @property
    def against(self) -> int | None:
        """The class to compare with; None is the runner-up."""
        return self._against.currentData()  # type: ignore[no-any-return]

    @property
    def why_not(self) -> bool:
        """Whether the question is why the class is not predicted."""
        return bool(self._ask.currentIndex())

    @property
    def labels(self) -> Any:
        """The labels layer that holds the region, or None."""
        return self._region.currentData()

    @property
    def diameter(self) -> float:
        """Of a ball, in mm."""
        return float(self._diameter.value())

    def choose(
        self, *, target: int | None = None, against: int | None = None, labels: Any = None, why_not: bool = False
    ) -> None:
        """Ask this; what is not there is not chosen."""
        self._ask.setCurrentIndex(int(why_not))
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
        self._change()

    def offer_regions(self, layers: Iterable[Any], scan: Scan | None) -> None:
        """Offer the labels layers on a scan's grid, and say of others why they are not; a choice that can stay does."""
        known = list(layers)
        chosen, blocker = self._region.currentData(), QSignalBlocker(self._region)
        self._region.clear()
        self._region.addItem(ANYWHERE, None)
        there = [] if scan is None else regions(known, scan)
        for layer in there:
            self._region.addItem(layer.name, layer)
        for layer in known if scan is not None else []:
            if isinstance(layer, Labels) and layer not in there:
                self._region.addItem(layer.name, None)
                item = self._region.model().item(self._region.count() - 1)
                item.setEnabled(False)
                item.setToolTip(ELSEWHERE)
        self._region.setCurrentIndex(max(_index(self._region, chosen), 0))
        blocker.unblock()
        self._say()

    def allow(self, *, scan: bool, prediction: bool) -> None:
        """Enable the ways to a new region that there are, and say why the others are not."""
        self._paint.setEnabled(scan)
        self._point.setEnabled(scan)
        self._point.setToolTip("Click on the middle of a ball in the viewer" if scan else "Open a scan first")
        self._pick.setEnabled(prediction)
        if not prediction:
            self._pick.setChecked(False)
        if not scan:
            self._point.setChecked(False)
        self._pick.setToolTip(
            "Click on a predicted structure in the viewer: its connected part is the region"
            if prediction
            else "Press Predict first: there is no prediction to pick from"
        )

    def release(self) -> None:
        """Wait for no click any more."""
        self._pick.setChecked(False)
        self._point.setChecked(False)

    def release_but(self, picks: bool) -> None:
        """Let one button wait at a time."""
        (self._point if picks else self._pick).setChecked(False)

    def show_for(self, *, classifies: bool, segments: bool) -> None:
        """Classes are compared by classifiers, regions are asked about of segmenters."""
        self._classifies, self._segments = classifies, segments
        self._rows.setRowVisible(self._ask, classifies)
        self._rows.setRowVisible(self._against, classifies and not self.why_not)
        self._rows.setRowVisible(self._region, segments)
        self._rows.setRowVisible(self._buttons, segments)
        self._say()

    _classifies = _segments = False

    def _change(self) -> None:
        self._rows.setRowVisible(self._against, self._classifies and not self.why_not)
        self._say()
        self.changed.emit()

    def _say(self) -> None:
        """The rows as one sentence."""
        named = "" if self.target is None else f"“{self._target.currentText()}”"
        if self._classifies and self.why_not:
            said = f"Why is it not {named}?" if named else ""
        elif self._classifies:
            other = "the runner-up" if self.against is None else f"“{self._against.currentText()}”"
            said = f"Why is it {named or 'what is predicted'}, rather than {other}?"
        else:
            where = "where it is predicted" if self.labels is None else f"in “{self._region.currentText()}”"
            said = f"Why {named or ('the largest structure' if self.labels is None else 'what is likeliest')} {where}?"
        if self._classifies and self._segments and self.labels is not None:  # nobody says what the model does
            said = f"{said[:-1]} (of a segmenter: in “{self._region.currentText()}”)?"
        self.sentence.setText(said)
        self._rows.setRowVisible(self.sentence, bool(said) and (self._classifies or self._segments))


def _index(box: Any, layer: Any) -> int:
    """Where a layer is in a combo box; napari hands out a new proxy each time, so that they are compared by value."""
    if layer is None:
        return 0
    return next((i for i in range(1, box.count()) if box.itemData(i) == layer), -1)
