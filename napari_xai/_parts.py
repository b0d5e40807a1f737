"""Small parts that the widget is made of."""

from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QSizePolicy, QWidget

__all__ = ["add_row", "combo", "form", "note", "row"]

LABEL_WIDTH = 84


def combo() -> QComboBox:
    """A combo box that a long name does not widen."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return box


def note() -> QLabel:
    """Small print, as wide as the panel."""
    label = QLabel()
    label.setWordWrap(True)
    label.setStyleSheet("font-size: 11px; font-style: italic;")
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.MinimumExpanding)
    return label


def form() -> QFormLayout:
    """Rows of labels and fields; labels of one width in every form."""
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return rows


def add_row(rows: QFormLayout, label: str, field: QWidget, hint: str = "") -> None:
    """Add a row whose label and field share one help text."""
    rows.addRow(label, field)
    title = rows.labelForField(field)
    title.setMinimumWidth(LABEL_WIDTH)
    for widget in (title, field) if hint else ():
        widget.setToolTip(hint)


def row(*widgets: QWidget) -> QWidget:
    """Widgets side by side."""
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return line
