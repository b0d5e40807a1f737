"""What changes in a viewer, told once however much of it changes at a time; and the point that its sliders stand at."""

from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal

from napari_xai._ortho import Grid, Plane, is_volume

if TYPE_CHECKING:
    import napari

__all__ = ["Watch", "go", "go_in", "go_on"]

LOOKS = ("visible", "opacity", "blending", "affine", "scale", "translate", "set_data")
COLORS = ("colormap", "contrast_limits", "gamma", "selected_label", "show_selected_label", "paint", "labels_update")


class Watch(QObject):  # type: ignore[misc]
    """Ears of one dock."""

    looks = Signal()  # a volume is shown otherwise, or the sliders stand elsewhere
    layers = Signal()  # there are others, or other names or another order

    def __init__(self, viewer: "napari.viewer.Viewer", parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self.looks)
        viewer.dims.events.point.connect(self.soon)
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, event).connect(self._follow)
        self._follow()

    def soon(self, event: object = None) -> None:
        """Tell of another look when the present events are over."""
        if isalive(self):
            self._timer.start()

    def _follow(self, event: object = None) -> None:
        if not isalive(self):
            return
        for layer in self._viewer.layers:
            if is_volume(layer):
                for name in (*LOOKS, *COLORS):
                    emitter = getattr(layer.events, name, None)
                    if emitter is not None:
                        emitter.connect(self.soon)  # once only, however often it is asked for
        self.layers.emit()
        self.soon()


def go(viewer: "napari.viewer.Viewer", point: tuple[float, ...]) -> None:
    """Move the sliders, and with them every crosshair, to a point of the world."""
    last = viewer.dims.ndim
    viewer.dims.set_point(list(range(last - 3, last)), list(point))


def go_on(viewer: "napari.viewer.Viewer", grid: Grid, plane: Plane, step: int) -> None:
    """Move the slider across a plane by some of a grid's slices."""
    voxel, point = grid.voxel(viewer.dims.point), list(viewer.dims.point[-3:])
    index = list(map(float, voxel))
    index[plane.axis] = min(max(voxel[plane.axis] + step, 0), grid.shape[plane.axis] - 1)
    point[plane.axis] = grid.point(index)[plane.axis]
    go(viewer, tuple(point))


def go_in(viewer: "napari.viewer.Viewer", grid: Grid, plane: Plane, row: float, column: float) -> None:
    """Move the sliders along a plane, to a place in its picture."""
    index = list(grid.index(viewer.dims.point))
    index[plane.rows], index[plane.columns] = row, column
    point, there = list(viewer.dims.point[-3:]), grid.point(index)
    for axis in (plane.rows, plane.columns):
        point[axis] = there[axis]
    go(viewer, tuple(point))
