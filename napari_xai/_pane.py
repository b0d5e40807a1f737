"""A picture with a crosshair, the patient's sides at its edges, and what a mouse does on it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_xai._ortho import Grid, Plane

__all__ = ["Pane"]

MARK, TEXT, CROSS = QColor(255, 214, 90), QColor(235, 235, 235), QColor(80, 220, 120, 200)
GAP = 7  # pixels around the point that the crosshair leaves free
EDGE = 4


class Pane(QWidget):  # type: ignore[misc]
    """One plane of a volume.

    Clicks and drags give the point (row, column) between the picture's voxels, the wheel and the keys up and down how
    many slices to go.
    """

    picked = Signal(float, float)
    scrolled = Signal(int)

    def __init__(self, plane: Plane, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plane = plane
        self.picture: npt.NDArray[np.uint8] | None = None
        self._image = QImage()
        self._mm = (1.0, 1.0)
        self._cross = (0.0, 0.0)
        self._letters: Mapping[str, str] = {}
        self._texts = ("", "", "")  # title, number of the slice, scale
        self._turned = 0
        self.setMinimumSize(110, 110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)

    def show_picture(
        self,
        picture: npt.NDArray[np.uint8],
        grid: Grid,
        point: tuple[float, ...],
        letters: Mapping[str, str],
        title: str,
        number: str = "",
        scale: str = "",
    ) -> None:
        """Show a plane (rows, columns, 3) of a grid, with the crosshair on a point of the world, and three texts.

        Parameters
        ----------
        letters : the patient's sides at the picture's "left", "right", "top" and "bottom", as far as they are known.
        """
        rows, columns = self.plane.rows, self.plane.columns
        where = grid.index(point)
        self.picture = np.ascontiguousarray(picture)
        height, width = picture.shape[:2]
        self._image = QImage(self.picture.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        self._mm = grid.spacing[rows], grid.spacing[columns]
        self._cross = float(where[rows]), float(where[columns])
        self._letters, self._texts = letters, (title, number, scale)
        self.update()

    def clear(self) -> None:
        """Show nothing."""
        self.picture, self._image = None, QImage()
        self.update()

    def pixel(self, row: float, column: float) -> QPointF:
        """Where on the widget the centre of a voxel is."""
        place = self._place()
        return QPointF(
            place.left() + (column + 0.5) * place.width() / self._image.width(),
            place.top() + (row + 0.5) * place.height() / self._image.height(),
        )

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's
        """Enough to see something."""
        return QSize(260, 260)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's
        """Picture, crosshair, sides, title."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), Qt.GlobalColor.black)
        if self._image.isNull():
            return
        painter.drawImage(self._place(), self._image)
        at, width, height = self.pixel(*self._cross), self.width(), self.height()
        painter.setPen(QPen(CROSS, 1))
        for start, end in ((0.0, at.x() - GAP), (at.x() + GAP, float(width))):
            painter.drawLine(QPointF(start, at.y()), QPointF(end, at.y()))
        for start, end in ((0.0, at.y() - GAP), (at.y() + GAP, float(height))):
            painter.drawLine(QPointF(at.x(), start), QPointF(at.x(), end))
        space = self.rect().adjusted(EDGE, EDGE, -EDGE, -EDGE)
        font = painter.font()
        font.setBold(True)
        painter.setFont(font)
        center = (Qt.AlignmentFlag.AlignVCenter, Qt.AlignmentFlag.AlignHCenter)
        sides = (Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight)
        ends = (Qt.AlignmentFlag.AlignTop, Qt.AlignmentFlag.AlignBottom)
        places = {
            "left": sides[0] | center[0],
            "right": sides[1] | center[0],
            "top": ends[0] | center[1],
            "bottom": ends[1] | center[1],
        }
        for edge, letter in self._letters.items():
            self._write(painter, space, int(places[edge]), letter, MARK)
        font.setBold(False)
        painter.setFont(font)
        corners = (ends[0] | sides[0], ends[1] | sides[0], ends[1] | sides[1])
        for text, place in zip(self._texts, corners, strict=True):
            self._write(painter, space, int(place), text, TEXT)

    def mousePressEvent(self, event: object) -> None:  # noqa: N802 - Qt's
        """Put the crosshair here."""
        self._pick(event)

    def mouseMoveEvent(self, event: object) -> None:  # noqa: N802 - Qt's
        """Take it along."""
        self._pick(event)

    def wheelEvent(self, event: object) -> None:  # noqa: N802 - Qt's
        """Go through the slices; touchpads turn by less than a notch at a time."""
        self._turned += event.angleDelta().y()  # type: ignore[attr-defined]
        notches = int(self._turned / 120)
        if notches:
            self._turned -= 120 * notches
            self.scrolled.emit(-notches)
        event.accept()  # type: ignore[attr-defined]

    def keyPressEvent(self, event: object) -> None:  # noqa: N802 - Qt's
        """Go through the slices one by one."""
        steps = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1, Qt.Key.Key_PageUp: -10, Qt.Key.Key_PageDown: 10}
        step = steps.get(event.key())  # type: ignore[attr-defined]
        if step is None:
            super().keyPressEvent(event)
        else:
            self.scrolled.emit(step)

    def _pick(self, event: object) -> None:
        if self._image.isNull() or not event.buttons() & Qt.MouseButton.LeftButton:  # type: ignore[attr-defined]
            return
        place, at = self._place(), event.position()  # type: ignore[attr-defined]
        row = (at.y() - place.top()) * self._image.height() / place.height() - 0.5
        column = (at.x() - place.left()) * self._image.width() / place.width() - 0.5
        self.picked.emit(
            float(np.clip(row, 0, self._image.height() - 1)), float(np.clip(column, 0, self._image.width() - 1))
        )

    def _place(self) -> QRectF:
        """The rectangle that the picture fills, in the patient's proportions."""
        tall, wide = self._image.height() * self._mm[0], self._image.width() * self._mm[1]
        scale = min(self.width() / wide, self.height() / tall)
        left, top = (self.width() - wide * scale) / 2, (self.height() - tall * scale) / 2
        return QRectF(left, top, wide * scale, tall * scale)

    @staticmethod
    def _write(painter: QPainter, space: object, place: int, text: str, color: QColor) -> None:
        """Text with a shadow, so that it is read on bright tissue too."""
        for shift, ink in ((1, QColor(0, 0, 0)), (0, color)):
            painter.setPen(ink)
            painter.drawText(space.translated(shift, shift), place, text)  # type: ignore[attr-defined]
