"""The dock "Window and level": presets by modality, and both numbers."""

from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QDoubleSpinBox, QVBoxLayout, QWidget

from napari_xai._parts import add_row, combo, form, note
from napari_xai._viewer import own_viewer
from napari_xai._watch import Watch
from napari_xai._window_level import presets, set_window, uppermost

if TYPE_CHECKING:
    import napari

__all__ = ["WindowWidget"]

HINT = "Or drag on the scan with the right mouse button: right is wider, up is brighter. Double-click right: undo."


class WindowWidget(QWidget):  # type: ignore[misc]
    """Window and level of the scan that is seen, the uppermost visible one."""

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = own_viewer(napari_viewer)
        self._layer: Any = None
        self.preset, self.level, self.width_ = combo(), QDoubleSpinBox(), QDoubleSpinBox()
        self.preset.setPlaceholderText("Choose a window")
        self.hint = note()
        for box, low in ((self.level, -1e9), (self.width_, 1e-9)):
            box.setRange(low, 1e9)
            box.setKeyboardTracking(False)
            box.valueChanged.connect(self._take)
        self.preset.activated.connect(self._choose)
        rows = form()
        add_row(rows, "Preset", self.preset)
        add_row(rows, "Level", self.level, "The value that is shown mid-grey")
        add_row(rows, "Width", self.width_, "From black to white")
        layout = QVBoxLayout(self)
        layout.addLayout(rows)
        layout.addWidget(self.hint)
        layout.addStretch(1)
        self._watch = Watch(napari_viewer, self)
        self._watch.looks.connect(self._follow)
        napari_viewer.layers.selection.events.changed.connect(self._follow)
        self._follow()

    def _follow(self, event: Any = None) -> None:
        """Take the scan that is seen now."""
        if not isalive(self):
            return
        layer = uppermost(self._viewer)
        for box in (self.preset, self.level, self.width_):
            box.setEnabled(layer is not None)
            box.setToolTip("" if layer is not None else "Open a scan first.")
        self.hint.setText(f"{layer.name}. {HINT}" if layer is not None else "Open a scan first.")
        if layer is self._layer:
            return
        if self._layer is not None:
            self._layer.events.contrast_limits.disconnect(self._show)
        self._layer = layer
        self.preset.clear()
        if layer is None:
            return
        layer.events.contrast_limits.connect(self._show)
        own = layer.metadata["napari_xai"]
        for name, window in presets(layer.data, own).items():
            self.preset.addItem(name[:1].upper() + name[1:], window)
        units = own.get("units", "")
        for box in (self.level, self.width_):
            box.setSuffix(f" {units}" if units else "")
        self._show()

    def _show(self, event: Any = None) -> None:
        """Show the layer's numbers, and the preset that they are."""
        if not isalive(self) or self._layer is None:
            return
        low, high = (float(x) for x in self._layer.contrast_limits)
        digits = 0 if high - low > 200 else 2 if high - low > 2 else 5
        for box, value in ((self.level, (low + high) / 2), (self.width_, high - low)):
            blocker = QSignalBlocker(box)
            box.setDecimals(digits)
            box.setSingleStep((high - low) / 50)
            box.setValue(value)
            blocker.unblock()
        near = (high - low) / 1000
        windows = [self.preset.itemData(n) for n in range(self.preset.count())]
        same = (n for n, one in enumerate(windows) if abs(one[0] - low) < near and abs(one[1] - high) < near)
        self.preset.setCurrentIndex(next(same, -1))

    def _choose(self) -> None:
        set_window(self._layer, self.preset.currentData())

    def _take(self) -> None:
        if self._layer is not None:
            level, width = self.level.value(), self.width_.value()
            set_window(self._layer, (level - width / 2, level + width / 2))
