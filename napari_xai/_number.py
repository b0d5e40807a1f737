"""A field for one number of any size, written as people write it."""

import math

from qtpy.QtCore import Signal
from qtpy.QtGui import QDoubleValidator
from qtpy.QtWidgets import QLineEdit

__all__ = ["Number"]


class Number(QLineEdit):  # type: ignore[misc]
    """A number, or nothing where the field may be empty; heard when Enter is pressed or the field is left.

    A spin box has a fixed number of decimals; relevance may be 1e-9 in one map and 300 in the next.
    """

    changed = Signal(object)  # float or None

    def __init__(self, placeholder: str = "", digits: int = 4) -> None:
        super().__init__()
        self._shown: float | None = None
        self._digits = digits
        self._optional = bool(placeholder)
        self.setPlaceholderText(placeholder)
        validator = QDoubleValidator(self)
        validator.setNotation(QDoubleValidator.Notation.ScientificNotation)
        validator.setLocale(validator.locale().c())
        self.setValidator(validator)
        self.editingFinished.connect(self._finish)

    @property
    def number(self) -> float | None:
        """What is shown; None where nothing is."""
        return self._shown

    def show_number(self, number: float | None) -> None:
        """Show a number; nobody hears of it."""
        self._shown = number
        self.setText("" if number is None else f"{number:.{self._digits}g}")

    def _finish(self) -> None:
        number: float | None
        try:
            number = float(self.text())
        except ValueError:
            number = None if self._optional and not self.text().strip() else math.nan
        if number is not None and not math.isfinite(number):
            self.show_number(self._shown)  # as it was
        elif number is None or self._shown is None or self.text() != f"{self._shown:.{self._digits}g}":
            heard = number != self._shown
            self._shown = number
            if heard:
                self.changed.emit(number)
