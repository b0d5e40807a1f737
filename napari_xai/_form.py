"""A form made from a method's own fields: one editor for each, with its help and its limits."""

import math
import types
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from methods3d import Method
from napari_xai._parts import add_row, form
from napari_xai._words import words

__all__ = ["MethodForm"]

LARGEST = 2**31 - 1
DIGITS = 9  # decimals that an editor keeps


class MethodForm(QWidget):  # type: ignore[misc]
    """The settings of one method; `values` are what its class is called with."""

    changed = Signal()

    def __init__(self, method: type[Method]) -> None:
        """Build one row for each field.

        Raises
        ------
        TypeError : a field is of a type that has no editor.
        """
        super().__init__()
        self._read: dict[str, Callable[[], Any]] = {}
        rows = form()
        self.setLayout(rows)
        hints = get_type_hints(method)
        for field in fields(method):
            editor, read, changed = _editor(hints[field.name], field.default, field.metadata)
            changed.connect(self.changed)
            self._read[field.name] = read
            add_row(rows, words(field.name), editor, str(field.metadata.get("help", "")))

    @property
    def values(self) -> dict[str, Any]:
        """The settings as they stand."""
        return {name: read() for name, read in self._read.items()}


class Number(QDoubleSpinBox):  # type: ignore[misc]
    """A decimal number, written as short as it can be: 0.25, 1e-06."""

    def textFromValue(self, value: float) -> str:  # noqa: N802 - Qt's name
        """Write a number."""
        return f"{value:g}"


class OptionalNumber(QWidget):  # type: ignore[misc]
    """A number, or nothing: then the method chooses."""

    changed = Signal()
    _words: ClassVar[str] = "Automatic"

    def __init__(self, number: QSpinBox | QDoubleSpinBox, given: bool) -> None:
        """Show a number that can be left out."""
        super().__init__()
        self._number, self._automatic = number, QCheckBox(self._words)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._automatic)
        layout.addWidget(number, stretch=1)
        self._automatic.toggled.connect(number.setDisabled)
        self._automatic.setChecked(not given)
        self._automatic.toggled.connect(self.changed)
        number.valueChanged.connect(self.changed)

    def value(self) -> float | None:
        """The number, or None."""
        return None if self._automatic.isChecked() else self._number.value()


def _editor(kind: Any, default: Any, limits: Any) -> tuple[QWidget, Callable[[], Any], Any]:
    """An editor, how to read it, and the signal that it has changed."""
    if get_origin(kind) is Literal:
        choice = QComboBox()
        for option in get_args(kind):
            choice.addItem(words(option) if isinstance(option, str) and len(option) > 2 else str(option), option)
        choice.setCurrentIndex(choice.findData(default))
        return choice, choice.currentData, choice.currentIndexChanged
    if kind is bool:
        box = QCheckBox()
        box.setChecked(default)
        return box, box.isChecked, box.toggled
    if kind is str:
        line = QLineEdit(default)
        line.setPlaceholderText(OptionalNumber._words if not default else "")
        return line, lambda: line.text().strip(), line.textChanged
    if kind in (int, float):
        number = _number(kind, default, limits)
        return number, number.value, number.valueChanged
    inner = [one for one in get_args(kind) if one is not types.NoneType]
    if get_origin(kind) in (Union, types.UnionType) and inner in ([int], [float]):
        optional = OptionalNumber(_number(inner[0], default or 0, limits), default is not None)
        return optional, optional.value, optional.changed
    raise TypeError(f"A setting of type {kind} has no editor: use int, float, bool, str, Literal, or a number or None.")


def _number(kind: type, default: float, limits: Any) -> QSpinBox | QDoubleSpinBox:
    above, at_least, at_most = (limits.get(name) for name in ("above", "at_least", "at_most"))
    if kind is int:
        whole = QSpinBox()
        low = at_least if above is None else above + 1
        whole.setRange(-LARGEST if low is None else math.ceil(low), LARGEST if at_most is None else math.floor(at_most))
        whole.setValue(int(default))
        return whole
    number = Number()
    number.setDecimals(DIGITS)
    number.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
    low = at_least if above is None else above + 10.0**-DIGITS
    number.setRange(-LARGEST if low is None else low, LARGEST if at_most is None else at_most)
    with QSignalBlocker(number):
        number.setValue(default)
    return number
