"""A form made from a method's own fields: one editor for each, with its help and its limits."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from methods3d import Method, methods
from napari_xai._editors import Editor, VolumeText, editor
from napari_xai._parts import add_row, form
from napari_xai._words import words

__all__ = ["MethodForm"]


class MethodForm(QWidget):  # type: ignore[misc]
    """The settings of one method; `values` are what its class is called with.

    Parameters
    ----------
    method : the class.
    start : a method whose values stand there at first; None: the class's own defaults.
    """

    changed = Signal()

    def __init__(self, method: type[Method], start: Method | None = None) -> None:
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
            made = _editor(hints[field.name], field.metadata)
            made.write(field.default if start is None else getattr(start, field.name))
            made.changed.connect(self.changed)
            self._editors[field.name] = made
            add_row(rows, words(field.name), made.widget, str(field.metadata.get("help", "")))

    @property
    def values(self) -> dict[str, Any]:
        """The settings as they stand."""
        return {name: one.read() for name, one in self._editors.items()}

    def set(self, **settings: Any) -> None:
        """Take these settings; the others stay."""
        for name, value in settings.items():
            self._editors[name].write(value)

    def offer(self, scans: Sequence[str], labels: Sequence[str]) -> None:
        """Offer the viewer's layers where a volume may be named; what stands there stays."""
        for one in self._editors.values():
            if isinstance(one.widget, VolumeText | Composed):
                one.widget.offer(scans, labels)


class Composed(QWidget):  # type: ignore[misc]
    """A method that another is made of: its name, and its own form below."""

    changed = Signal()

    def __init__(self) -> None:
        """Offer every method."""
        super().__init__()
        self._name = QComboBox()
        self._offered: tuple[Sequence[str], Sequence[str]] = ((), ())
        for name, kind in methods().items():
            self._name.addItem(kind.title, name)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._name)
        self._form: MethodForm | None = None
        self._name.currentIndexChanged.connect(lambda: self._show(None))
        self._show(None)

    def value(self) -> Method:
        """The method; errors as its class raises them."""
        assert self._form is not None  # one is always shown
        return methods()[self._name.currentData()](**self._form.values)

    def set_value(self, method: Method) -> None:
        """Show a method with its settings."""
        self._name.blockSignals(True)
        self._name.setCurrentIndex(self._name.findData(method.name))
        self._name.blockSignals(False)
        self._show(method)

    def offer(self, scans: Sequence[str], labels: Sequence[str]) -> None:
        """Hand layers on to its form."""
        self._offered = (scans, labels)
        if self._form is not None:
            self._form.offer(scans, labels)

    def _show(self, method: Method | None) -> None:
        if self._form is not None:
            self.layout().removeWidget(self._form)
            self._form.setParent(None)
        kind = methods()[self._name.currentData()]
        self._form = MethodForm(kind, method)
        self._form.offer(*self._offered)
        self._form.changed.connect(self.changed)
        self.layout().addWidget(self._form)
        self.changed.emit()


def _editor(kind: Any, limits: Any) -> Editor:
    if kind is not Method:
        return editor(kind, limits)
    inner = Composed()
    return Editor(inner, inner.value, inner.set_value, inner.changed)
