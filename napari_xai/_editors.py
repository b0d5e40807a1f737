"""Editors for a method's settings: numbers, choices, text, and text that may name a volume."""

import math
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QHBoxLayout, QLineEdit, QSpinBox, QWidget

from methods3d.baselines import baseline, baselines, filling
from methods3d.features import features
from napari_xai._words import words

__all__ = ["Editor", "VolumeText", "editor"]

LARGEST = 2**31 - 1
DIGITS = 9  # decimals that an editor keeps
AUTOMATIC = "Automatic"
# What of the viewer's layers a text may name, by what reads it: before scans, and before labels.
OF_SCANS: dict[Any, tuple[str, ...]] = {baseline: ("scan",), filling: ("scan",), baselines: ("scan",)}
OF_LABELS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((baseline, filling, baselines), ("inpaint", "neighbours", "complement")),
    features: ("labels",),
}


class Editor(NamedTuple):
    """A widget for one setting."""

    widget: QWidget
    read: Callable[[], Any]
    write: Callable[[Any], None]
    changed: Any  # Qt's signal


class VolumeText(QComboBox):  # type: ignore[misc]
    """Text that may name a volume, with the usual ones and the viewer's layers to choose from."""

    def __init__(self, limits: Any) -> None:
        """Offer the usual ones."""
        super().__init__()
        self._usual, self._reads = tuple(limits["choices"]), limits["reads"]
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.addItems(self._usual)

    def offer(self, scans: Sequence[str], labels: Sequence[str]) -> None:
        """Offer layers, too."""
        text = self.currentText()
        of_scans = [f"{kind}:{name}" for kind in OF_SCANS.get(self._reads, ()) for name in scans]
        of_labels = [f"{kind}:{name}" for kind in OF_LABELS.get(self._reads, ()) for name in labels]
        self.blockSignals(True)
        self.clear()
        self.addItems([*self._usual, *of_scans, *of_labels])
        self.setCurrentText(text)
        self.blockSignals(False)


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


def editor(kind: Any, limits: Any) -> Editor:
    """An editor for a field of this type.

    Raises
    ------
    TypeError : there is none.
    """
    if limits.get("reads") in (*OF_SCANS, *OF_LABELS):
        made = _volume_text(limits)
    elif kind is str:
        made = _suggested(limits["choices"]) if limits.get("choices") else _line()
    elif get_origin(kind) is Literal:
        made = _choice(get_args(kind))
    elif kind is bool:
        box = QCheckBox()
        made = Editor(box, box.isChecked, box.setChecked, box.toggled)
    elif kind in (int, float):
        number = _number(kind, limits)
        made = Editor(number, number.value, number.setValue, number.valueChanged)
    else:
        made = _optional(kind, limits)
    return made


def _line() -> Editor:
    line = QLineEdit()
    line.setPlaceholderText(AUTOMATIC)
    return Editor(line, lambda: line.text().strip(), line.setText, line.textChanged)


def _volume_text(limits: Any) -> Editor:
    text = VolumeText(limits)
    return Editor(
        text, lambda: text.currentText().strip(), lambda v: text.setCurrentText(str(v)), text.currentTextChanged
    )


def _optional(kind: Any, limits: Any) -> Editor:
    inner = [one for one in get_args(kind) if one is not types.NoneType]
    if get_origin(kind) not in (Union, types.UnionType) or inner not in ([int], [float]):
        raise TypeError(
            f"A setting of type {kind} has no editor: use int, float, bool, str, Literal, Method, what reads text, "
            "or a number or None."
        )
    optional = OptionalNumber(_number(inner[0], limits))
    return Editor(optional, optional.value, optional.set_value, optional.changed)


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
