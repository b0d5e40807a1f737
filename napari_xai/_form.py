"""A form made from a method's own fields: one editor for each, with its help and its limits."""

import math
import types
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from qtpy.QtCore import Signal
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
AUTOMATIC = "Automatic"


class Editor(NamedTuple):
    """A widget for one setting."""

    widget: QWidget
    read: Callable[[], Any]
    write: Callable[[Any], None]
    changed: Any  # Qt's signal


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
        self._editors: dict[str, Editor] = {}
        rows = form()
        self.setLayout(rows)
        hints = get_type_hints(method)
        for field in fields(method):
            editor = _editor(hints[field.name], field.metadata)
            editor.write(field.default)
            editor.changed.connect(self.changed)
            self._editors[field.name] = editor
            add_row(rows, words(field.name), editor.widget, str(field.metadata.get("help", "")))

    @property
    def values(self) -> dict[str, Any]:
        """The settings as they stand."""
        return {name: editor.read() for name, editor in self._editors.items()}

    def set(self, **settings: Any) -> None:
        """Take these settings; the others stay."""
        for name, value in settings.items():
            self._editors[name].write(value)


class Number(QDoubleSpinBox):  # type: ignore[misc]
    """A decimal number, written as short as it can be: 0.25, 1e-06."""

    def textFromValue(self, value: float) -> str:  # noqa: N802 - Qt's name
        """Write a number."""
        return f"{value:g}"


class OptionalNumber(QWidget):  # type: ignore[misc]
    """A number, or nothing: then the method chooses."""

    changed = Signal()

    def __init__(self, number: QSpinBox | QDoubleSpinBox) -> None:
        """Show a number that can be left out."""
        super().__init__()
        self._number, self._automatic = number, QCheckBox(AUTOMATIC)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._automatic)
        layout.addWidget(number, stretch=1)
        self._automatic.toggled.connect(number.setDisabled)
        self._automatic.toggled.connect(self.changed)
        number.valueChanged.connect(self.changed)

    def value(self) -> float | None:
        """The number, or None."""
        return None if self._automatic.isChecked() else self._number.value()

    def set_value(self, value: float | None) -> None:
        """Show a number, or that there is none."""
        self._automatic.setChecked(value is None)
        if value is not None:
            self._number.setValue(value)


def _editor(kind: Any, limits: Any) -> Editor:
    """An editor for a field of this type."""
    if get_origin(kind) is Literal:
        return _choice(get_args(kind))
    if kind is bool:
        box = QCheckBox()
        return Editor(box, box.isChecked, box.setChecked, box.toggled)
    if kind is str and limits.get("choices"):
        return _suggested(limits["choices"])
    if kind is str:
        line = QLineEdit()
        line.setPlaceholderText(AUTOMATIC)
        return Editor(line, lambda: line.text().strip(), line.setText, line.textChanged)
    if kind in (int, float):
        number = _number(kind, limits)
        return Editor(number, number.value, number.setValue, number.valueChanged)
    inner = [one for one in get_args(kind) if one is not types.NoneType]
    if get_origin(kind) in (Union, types.UnionType) and inner in ([int], [float]):
        optional = OptionalNumber(_number(inner[0], limits))
        return Editor(optional, optional.value, optional.set_value, optional.changed)
    raise TypeError(f"A setting of type {kind} has no editor: use int, float, bool, str, Literal, or a number or None.")


def _choice(options: tuple[Any, ...]) -> Editor:
    box = QComboBox()
    for option in options:
        box.addItem(words(option) if isinstance(option, str) and len(option) > 2 else str(option), option)
    return Editor(box, box.currentData, lambda value: box.setCurrentIndex(box.findData(value)), box.currentIndexChanged)


def _suggested(options: tuple[str, ...]) -> Editor:
    """Text, with the usual ones to choose from."""
    box = QComboBox()
    box.setEditable(True)
    box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    box.addItems(options)
    return Editor(box, lambda: box.currentText().strip(), box.setCurrentText, box.currentTextChanged)


def _number(kind: type, limits: Any) -> QSpinBox | QDoubleSpinBox:
    above, at_least, at_most = (limits.get(name) for name in ("above", "at_least", "at_most"))
    high = LARGEST if at_most is None else at_most
    if kind is int:
        whole = QSpinBox()
        low = at_least if above is None else math.floor(above) + 1
        whole.setRange(-LARGEST if low is None else math.ceil(low), math.floor(high))
        return whole
    number = Number()
    number.setDecimals(DIGITS)
    number.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
    low = at_least if above is None else above + 10.0**-DIGITS
    number.setRange(-LARGEST if low is None else low, high)
    return number
