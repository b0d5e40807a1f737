"""The dock widget "Explain", which opens at once and loads what it needs in the background."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_xai._task import Task

if TYPE_CHECKING:
    import napari

__all__ = ["ExplainWidget"]


class ExplainWidget(QWidget):  # type: ignore[misc]
    """Scan, model, method and question in; relevance layers out.

    PyTorch and MONAI take seconds to import: they do so in a thread, and `panel` appears when they are there.
    """

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.panel: Any = None
        self.setMinimumWidth(350)
        self._label = QLabel("Loading PyTorch and MONAI …")
        self._label.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._label.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addWidget(self._label)
        Task("Loading PyTorch and MONAI", lambda _: import_module("napari_xai._panel"), ended=self._open, parent=self)

    def _open(self, loaded: Any) -> None:
        if isinstance(loaded, Exception):
            self._label.setText(f"napari-xai cannot be used here: {loaded}")
            return
        self.layout().removeWidget(self._label)
        self._label.deleteLater()
        self.panel = loaded.Panel(self._viewer)
        self.layout().insertWidget(0, self.panel)  # above the stretch that napari has added

    def event(self, event: QEvent) -> bool:
        """Stop the work when the dock is closed: its result would have nowhere to go."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and self.panel is not None:
            self.panel.cancel()
        return bool(super().event(event))
