"""Relevance in each slice as two curves, to see where to look and to jump there."""

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["ProfilePlot"]

RED, BLUE = QColor(232, 70, 40), QColor(60, 140, 255)
HEIGHT = 88


class ProfilePlot(QWidget):  # type: ignore[misc]
    """Sums of positive (up, red) and negative (down, blue) relevance along an axis; a click chooses a slice."""

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._positive = self._negative = np.zeros(0)
        self._current, self._title = 0, ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip("Relevance summed over each slice: positive up, negative down. Click to go to a slice.")
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def sizeHint(self) -> QSize:  # noqa: N802
        """As wide as may be."""
        return QSize(200, HEIGHT)

    def show_sums(self, positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64], title: str) -> None:
        """Show the sums of every slice across an axis."""
        self._positive, self._negative, self._title = positive, negative, title
        self.update()

    def show_slice(self, number: int) -> None:
        """Mark the slice that is seen."""
        if number != self._current:
            self._current = number
            self.update()

    def slice_at(self, x: float) -> int:
        """The slice under a place of the widget."""
        return int(np.clip(x * len(self._positive) / max(1, self.width()), 0, max(0, len(self._positive) - 1)))

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Choose the slice under the mouse."""
        if len(self._positive):
            self.chosen.emit(self.slice_at(event.position().x()))

    mouseMoveEvent = mousePressEvent  # noqa: N815  a drag goes through the slices

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw both curves, zero, and the slice that is seen."""
        count = len(self._positive)
        if not count:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().windowText().color()
        top, bottom = float(self._positive.max()), float(self._negative.min())
        span = (top - bottom) or 1.0
        line = painter.fontMetrics().lineSpacing()
        inside = QRectF(0, line + 2, self.width(), self.height() - line - 6)
        zero = inside.top() + inside.height() * top / span
        wide = inside.width() / count
        for sums, color in ((self._positive, RED), (self._negative, BLUE)):
            heights = zero - sums / span * inside.height()
            edges = [QPointF(0, zero)]
            for k, y in enumerate(heights):
                edges += [QPointF(k * wide, y), QPointF((k + 1) * wide, y)]
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(color)
            painter.drawPolygon(QPolygonF([*edges, QPointF(inside.right(), zero)]))
        painter.setPen(QPen(ink, 1))
        painter.drawLine(QPointF(0, zero), QPointF(inside.right(), zero))
        here = (self._current + 0.5) * wide
        painter.setPen(QPen(ink, 1.5, Qt.PenStyle.DashLine))
        painter.drawLine(QPointF(here, inside.top()), QPointF(here, inside.bottom()))
        painter.drawText(QRectF(2, 0, self.width() - 4, line), Qt.AlignmentFlag.AlignTop, self._title)
        painter.end()
