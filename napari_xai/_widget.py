"""Dock widgets, which open at once and load what they need in the background."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from napari_xai._task import Task
from napari_xai._viewer import own_viewer

if TYPE_CHECKING:
    import napari

__all__ = ["CompareWidget", "Dock", "ExplainWidget", "InsideWidget", "RelevanceWidget", "ReportWidget"]

WIDTH, MARGIN = 380, 6  # pixels; the widest panel has room beside a scroll bar


class Dock(QWidget):  # type: ignore[misc]
    """A place for the `Panel` of a module, which appears when the module is there.

    PyTorch and MONAI take seconds to import: they do so in a thread.
    """

    module: ClassVar[str]

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = own_viewer(napari_viewer)
        self.panel: Any = None
        self._placed = False
        self.setMinimumWidth(WIDTH)
        self._label = QLabel("Loading PyTorch and MONAI …")
        self._label.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._label.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        layout.addWidget(self._label)
        Task("Loading PyTorch and MONAI", lambda _: import_module(self.module), ended=self._open, parent=self)

    def _open(self, loaded: Any) -> None:
        if isinstance(loaded, Exception):
            self._label.setText(f"napari-xai cannot be used here: {loaded}")
            return
        self.layout().removeWidget(self._label)
        self._label.deleteLater()
        self.panel = loaded.Panel(self._viewer)
        grows = self.panel.sizePolicy().verticalPolicy() == QSizePolicy.Policy.Expanding
        self.layout().insertWidget(0, self.panel if grows else _scrolled(self.panel), 100)  # napari has added a stretch

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's
        """Become a tab of the plugin's other panels: below each other they would squeeze each other."""
        super().showEvent(event)
        if not self._placed:
            self._placed = True
            QTimer.singleShot(0, self._join)

    def _join(self) -> None:
        own: Any = _dock_of(self) if isalive(self) else None
        window = None if own is None else own.parent()
        if not isinstance(window, QMainWindow) or own.isFloating():
            return
        docks = {_dock_of(one): window.dockWidgetArea(_dock_of(one)) for one in window.findChildren(Dock)}
        others = [dock for dock, area in docks.items() if dock is not own and area == docks[own]]
        if others and not window.tabifiedDockWidgets(own):
            window.tabifyDockWidget(others[0], own)
            own.raise_()

    def event(self, event: QEvent) -> bool:
        """Stop the work when the dock is closed: its result would have nowhere to go."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and self.panel is not None:
            self.panel.cancel()
        return bool(super().event(event))


def _dock_of(widget: QWidget) -> Any:
    """The QDockWidget that a widget lies in; None if in none."""
    while widget is not None and not isinstance(widget, QDockWidget):
        widget = widget.parent()
    return widget


def _scrolled(panel: QWidget) -> QScrollArea:
    """A long form on a low screen: it must not make the window higher than that."""
    area = QScrollArea()
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidgetResizable(True)
    area.setWidget(panel)
    return area


class ExplainWidget(Dock):
    """Scan, model, method and question in; relevance layers out."""

    module = "napari_xai._panel"


class RelevanceWidget(Dock):
    """How a relevance map is shown, what lies under the cursor, and where its relevance lies."""

    module = "napari_xai._look_dock"


class ReportWidget(Dock):
    """Pictures, reports, DICOM and scripts of a map that was made in this window."""

    module = "napari_xai._report_dock"


class CompareWidget(Dock):
    """Maps of one scan side by side, how far they agree, and the controls beside them."""

    module = "napari_xai._compare_dock"


class InsideWidget(Dock):
    """The layers of the model, and what any of them puts out for the scan."""

    module = "napari_xai._inside_dock"
