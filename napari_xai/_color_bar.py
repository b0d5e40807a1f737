"""The colours of a relevance map, over black and over white, with numbers and their unit."""

import numpy as np
from qtpy.QtCore import QRect, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_xai._look import Look

__all__ = ["ColorBar"]

HEIGHT = 14


class ColorBar(QWidget):  # type: ignore[misc]
    """A bar from -limit to limit, its gap being what the threshold hides."""

    def __init__(self) -> None:
        super().__init__()
        self._look: Look | None = None
        self._units = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:  # noqa: N802
        """As wide as may be; the bar, and a line of text."""
        return QSize(200, HEIGHT + self.fontMetrics().height() + 6)

    def show_look(self, look: Look, units: str) -> None:
        """Show the colours of a look."""
        self._look, self._units = look, units
        self.setToolTip(f"Relevance in {units}, over black (upper half) and white (lower half).")
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the bar and its numbers."""
        if self._look is None:
            return
        table, limit, threshold = self._look.colors, self._look.display.limit, self._look.display.threshold
        painter = QPainter(self)
        grey = np.array([0.0, 1.0])[:, None, None]
        rgb = table[None, :, :3] * table[None, :, 3:] + grey * (1 - table[None, :, 3:])
        pixels = np.ascontiguousarray(np.rint(255 * rgb).astype(np.uint8))
        image = QImage(pixels.data, pixels.shape[1], 2, 3 * pixels.shape[1], QImage.Format.Format_RGB888)
        painter.drawImage(QRect(0, 2, self.width(), HEIGHT), image)
        painter.setPen(self.palette().windowText().color())
        line = QRect(0, HEIGHT + 4, self.width(), self.fontMetrics().height())
        shown = f"{self._look.display.words} {self._units}" if threshold else f"0 {self._units}"
        for text, side in (
            (f"−{limit:.3g}", Qt.AlignmentFlag.AlignLeft),
            (shown, Qt.AlignmentFlag.AlignHCenter),
            (f"+{limit:.3g}", Qt.AlignmentFlag.AlignRight),
        ):
            painter.drawText(line, side, text)
        painter.setPen(QColor(128, 128, 128))
        painter.drawRect(0, 1, self.width() - 1, HEIGHT + 1)
        painter.end()
