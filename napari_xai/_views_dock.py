"""The dock "Views": axial, coronal and sagittal at once, linked by a crosshair with the viewer, and the way to 3D.

The pictures are painted here, not by further napari canvases: three slices blended with numpy take milliseconds,
need no graphics driver, and follow the layers of the one viewer instead of copies of them.
"""

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Layer
from napari.utils.notifications import show_error, show_info
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_xai._orientation import letters
from napari_xai._ortho import PLANES, Grid, Seen, base, painted, patient_mm, position, shown_layers
from napari_xai._pane import Pane
from napari_xai._surface import Surface, shown_from, surface, surface_layers
from napari_xai._task import Task
from napari_xai._viewer import own_viewer
from napari_xai._watch import Watch, go, go_in, go_on
from napari_xai.layers import is_scan

if TYPE_CHECKING:
    import napari

__all__ = ["Views"]

SOON = 400  # milliseconds after the last change until surfaces are made anew
FAINT = 0.5  # opacity of the scan around a surface


class Views(QWidget):  # type: ignore[misc]
    """Three planes through the point that the viewer's sliders stand at: there is one crosshair, and it is theirs."""

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = own_viewer(napari_viewer)
        self._closed = False
        self._grid: Grid | None = None
        self._task: Task | None = None
        self._made_of: tuple[Any, Any, dict[int, float]] = (None, None, {})  # the map that surfaces are of, as it was
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON)
        self._before: dict[Any, dict[str, Any]] = {}  # what was changed for 3D, and how it was
        self.panes = {name: Pane(plane, self) for name, plane in PLANES.items()}
        self.position = QLabel()
        self.solid = QPushButton()
        self._lay_out()
        self._watch = Watch(self._viewer, self)
        self._connect()
        self._follow_layers()

    # --- what can be done -------------------------------------------------------------------

    def redraw(self) -> None:
        """Paint the planes as the viewer shows its layers now."""
        if not self.isVisible():
            return
        layers = [Seen(layer, **self._before.get(layer, {})) for layer in self._viewer.layers]
        lowest = base(layers)
        self._grid = None if lowest is None else Grid.of(lowest)
        if self._grid is None or lowest is None:
            for pane in self.panes.values():
                pane.clear()
            self.position.setText("Open a scan to see its planes.")
            return
        point = tuple(self._viewer.dims.point[-3:])
        seen, voxel = shown_layers(layers), self._grid.voxel(point)
        for pane in self.panes.values():
            plane = pane.plane
            number = f"{voxel[plane.axis] + 1} / {self._grid.shape[plane.axis]}"
            sides = letters(lowest, layers, (plane.rows, plane.columns))
            picture = painted(seen, self._grid, plane, point)
            pane.show_picture(picture, self._grid, point, sides, plane.name, number)
        self.position.setText(position(patient_mm(lowest, lowest.world_to_data(self._grid.point(voxel)))))

    def show_solid(self) -> None:
        """Show a surface around what is seen of the relevance, in the scan made faint; or go back to the planes."""
        if self._viewer.dims.ndisplay == 3:
            self._viewer.dims.ndisplay = 2
            return
        self._make_solid(self._map())

    # --- 3D ---------------------------------------------------------------------------------

    def _make_solid(self, layer: Any) -> None:
        if layer is None or self._task is not None:
            return
        values, levels = layer.data, shown_from(layer)
        self._made_of = layer, values, levels

        def work(_: Any) -> tuple[Any, dict[int, Surface | None]]:
            return layer, {sign: surface(values, level, sign) for sign, level in levels.items()}

        self._task = Task(f"Surface of {layer.name}", work, ended=self._surfaced, parent=self)
        self._update()

    def _follow_map(self) -> None:
        """In 3D, make the surfaces anew when the map that they are of is shown otherwise."""
        layer, values, levels = self._made_of
        if self._closed or self._viewer.dims.ndisplay != 3 or layer not in self._viewer.layers:
            return
        if layer.data is not values or shown_from(layer) != levels:
            self._make_solid(layer)

    def _surfaced(self, outcome: Any) -> None:
        self._task = None
        if isinstance(outcome, Exception):
            _say(outcome)
        elif outcome[0] in self._viewer.layers:
            layer, found = outcome
            made = surface_layers(found, layer)
            for old in self._surfaces():
                self._viewer.layers.remove(old)
            if not made:
                show_info("Nothing of this map is shown at its threshold: lower it first.")
            else:
                for data, options, kind in made:
                    self._viewer.add_layer(Layer.create(data, options, kind))
                self._viewer.layers.selection.active = layer
                self._viewer.dims.ndisplay = 3
            self._soon.start()  # it may have been changed meanwhile
        self._update()

    def _turn(self) -> None:
        """Between 2D and 3D, change what would hide the surfaces, and change it back."""
        if self._closed or not isalive(self):
            return
        surfaces = self._surfaces()
        if self._viewer.dims.ndisplay == 3 and surfaces:
            for layer in shown_layers(self._viewer.layers):
                role = layer.metadata.get("napari_xai", {}).get("role")
                if is_scan(layer):
                    self._change(layer, opacity=FAINT, rendering="attenuated_mip", blending="translucent_no_depth")
                elif role in ("relevance", "prediction"):
                    self._change(layer, visible=False)
            for one in surfaces:
                one.visible = True
        elif self._viewer.dims.ndisplay == 2:
            self._undo()
            for one in surfaces:
                one.visible = False
        self._update()

    def _undo(self) -> None:
        """Bring back what was changed for 3D."""
        before, self._before = self._before, {}
        for layer, values in before.items():
            for name, value in values.items():
                setattr(layer, name, value)

    def _change(self, layer: Any, **values: Any) -> None:
        self._before.setdefault(layer, {name: getattr(layer, name) for name in values})
        for name, value in values.items():
            setattr(layer, name, value)

    def _surfaces(self) -> list[Any]:
        return [x for x in self._viewer.layers if x.metadata.get("napari_xai", {}).get("role") == "surface"]

    def _map(self) -> Any | None:
        """The relevance that is selected, else the topmost that is seen."""
        found = [x for x in self._viewer.layers if x.metadata.get("napari_xai", {}).get("role") == "relevance"]
        active = self._viewer.layers.selection.active
        seen = [x for x in found if x.visible]
        return active if active in found else seen[-1] if seen else None

    # --- followed ---------------------------------------------------------------------------

    def _move(self, pane: Pane, row: float, column: float) -> None:
        """Put the crosshair where the pane was clicked."""
        if self._grid is None:
            return
        go_in(self._viewer, self._grid, pane.plane, row, column)

    def _scroll(self, pane: Pane, step: int) -> None:
        if self._grid is None:
            return
        go_on(self._viewer, self._grid, pane.plane, step)

    def _dragged(self, viewer: Any, event: Any) -> Any:
        """With Shift, the crosshair follows the mouse in the viewer's own picture."""
        if self._closed or "Shift" not in event.modifiers or viewer.dims.ndisplay != 2 or not isalive(self):
            return
        while event.type in ("mouse_press", "mouse_move"):
            go(viewer, tuple(event.position[-3:]))
            yield

    def _follow_layers(self) -> None:
        self._before = {layer: was for layer, was in self._before.items() if layer in self._viewer.layers}
        self._update()

    def _update(self, event: Any = None) -> None:
        if not isalive(self):
            return
        solid = self._viewer.dims.ndisplay == 3
        self.solid.setText("Back to 2D" if solid else "Surface in 3D")
        self.solid.setEnabled(self._task is None and (solid or self._map() is not None))
        self.solid.setToolTip(
            "Show the volume as slices again"
            if solid
            else "Being made …"
            if self._task is not None
            else "Show a surface around what is seen of the selected relevance, in the faint scan"
            if self.solid.isEnabled()
            else "There is no relevance to show: explain a scan, or open a map, first."
        )

    def event(self, event: QEvent) -> bool:
        """When the dock is closed, leave the viewer as it was found."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and not self._closed:
            self._closed = True
            self._undo()
            for one in self._surfaces():
                one.visible = False
            if self._dragged in self._viewer.mouse_drag_callbacks:
                self._viewer.mouse_drag_callbacks.remove(self._dragged)
            if self._task is not None:
                self._task.cancel()
        return bool(super().event(event))

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's
        """Catch up with what happened unseen."""
        super().showEvent(event)
        self._watch.soon()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's
        """Beside each other where there is width, below each other where there is height."""
        super().resizeEvent(event)
        wide = self.width() > self.height()
        self._row.setDirection(QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom)

    def _lay_out(self) -> None:
        self.setMinimumWidth(240)
        self._row = QBoxLayout(QBoxLayout.Direction.TopToBottom)
        self._row.setSpacing(2)
        for pane in self.panes.values():
            self._row.addWidget(pane, 1)
        self.position.setToolTip("Where the crosshair is in the patient; Shift and drag moves it in the viewer, too")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2, 2, 2, 2)
        layout.addLayout(self._row, 1)
        layout.addWidget(self.position)
        layout.addWidget(self.solid)

    def _connect(self) -> None:
        for pane in self.panes.values():
            pane.picked.connect(partial(self._move, pane))
            pane.scrolled.connect(partial(self._scroll, pane))
        self.solid.clicked.connect(self.show_solid)
        self._watch.looks.connect(self.redraw)
        self._watch.looks.connect(self._soon.start)
        self._soon.timeout.connect(self._follow_map)
        self._watch.layers.connect(self._follow_layers)
        self._viewer.dims.events.ndisplay.connect(self._turn)
        self._viewer.mouse_drag_callbacks.append(self._dragged)
        self._viewer.layers.selection.events.active.connect(self._update)


def _say(error: Exception) -> None:
    """One notification with one sentence; the traceback is for the log alone."""
    from napari_xai._words import sentence  # imports torch, which nothing else here needs

    logging.getLogger(__name__).debug("shown as a notification", exc_info=error)
    show_error(sentence(error))
