"""Places that a user clicks on in the viewer, while a button of the question waits for one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_info
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal

from napari_xai._place import Voxels, ball, component
from napari_xai._question_rows import QuestionRows
from napari_xai._run_rows import say
from napari_xai._task import Task

if TYPE_CHECKING:
    import napari

__all__ = ["Pointing"]


class Pointing(QObject):  # type: ignore[misc]
    """Hears of one click for each press of a button."""

    picked = Signal(object)  # a place in the viewer's world, on a predicted structure
    pointed = Signal(object)  # or in the middle of a ball

    def __init__(self, viewer: "napari.viewer.Viewer", question: QuestionRows, *, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._question = viewer, question
        self._heard: Any = None
        question.picked.connect(lambda waits: self._wait(self.picked, waits))
        question.pointed.connect(lambda waits: self._wait(self.pointed, waits))

    def component(self, layer: Any, position: Any, then: Callable[[tuple[str, Voxels]], None]) -> None:
        """Find the connected part of a label layer at a place, in the background; `then` hears its name and voxels."""
        labels, names, at = (
            np.asarray(layer.data),
            layer.metadata["napari_xai"].get("names", {}),
            _voxel(layer, position),
        )

        def work(_: Any) -> tuple[str, Voxels]:
            label, found = component(labels, at)
            return str(names.get(label, f"class {label}")), found

        def ended(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                say(outcome)
            else:
                then(outcome)

        Task("Finding the structure", work, ended=ended, parent=self)

    def ball(self, layer: Any, position: Any, diameter: float) -> Voxels | None:
        """A ball on a layer's grid; None where it cannot be, which is said."""
        try:
            spacing = np.linalg.norm(layer.affine.affine_matrix[:3, :3], axis=0)
            return ball(layer.data.shape, spacing, _voxel(layer, position), diameter)
        except Exception as error:
            say(error)
            return None

    def _wait(self, signal: Any, waits: bool) -> None:
        """Let the next click go to a signal, or to nothing."""
        callbacks = self._viewer.mouse_drag_callbacks
        if self._heard in callbacks:
            callbacks.remove(self._heard)
        if not waits:
            return
        self._question.release_but(signal is self.picked)
        active = self._viewer.layers.selection.active
        if active is not None and hasattr(active, "mode"):
            active.mode = "pan_zoom"  # or the click would paint, too

        def heard(viewer: Any, event: Any) -> None:
            if not isalive(self):
                viewer.mouse_drag_callbacks.remove(heard)
                return
            place = tuple(event.position)
            self._question.release()
            if viewer.dims.ndisplay == 3:
                show_info("A click in 3D has no depth: show the scan in 2D, and click again.")
            else:
                signal.emit(place)

        self._heard = heard
        callbacks.append(heard)


def _voxel(layer: Any, position: Any) -> tuple[int, ...]:
    """Of a layer, at a place of the viewer's world."""
    return tuple(int(n) for n in np.round(layer.world_to_data(position)))
