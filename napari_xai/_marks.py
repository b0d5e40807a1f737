"""What a viewer shows around scans: letters of orientation, scale bar, axis names; window and level by mouse."""

from typing import Any
from weakref import WeakSet

from napari.components.overlays import TextOverlay

from napari_xai._orientation import edges
from napari_xai._window_level import drag, reset

__all__ = ["mark"]

PLACES = {"left": "middle_left", "right": "middle_right", "top": "top_center", "bottom": "bottom_center"}
NAME = "anatomy_{}"
COLOUR = (1.0, 0.85, 0.3, 1.0)  # yellow stands out on tissue and on air, and is no colour of relevance

_MARKED: "WeakSet[Any]" = WeakSet()


def mark(viewer: Any) -> None:
    """Switch the marks on, once in each viewer; what the user changes later stays as it is."""
    own = getattr(viewer, "__wrapped__", viewer)
    if own in _MARKED:
        return
    _MARKED.add(own)
    for edge, place in PLACES.items():
        own.canvas.overlays[NAME.format(edge)] = TextOverlay(
            position=place, font_size=13, color=COLOUR, gridded=True, visible=False
        )
    own.canvas.overlays.scale_bar.visible = True
    own.canvas.overlays.axes.visible = True
    own.mouse_drag_callbacks.append(drag)
    own.mouse_double_click_callbacks.append(reset)

    def update(event: Any = None) -> None:
        _write(own)

    for name in ("inserted", "removed"):
        getattr(own.layers.events, name).connect(update)
    own.dims.events.order.connect(update)
    own.dims.events.ndisplay.connect(update)
    own.scene.camera.events.orientation.connect(update)
    update()


def _write(viewer: Any) -> None:
    """Letters as the axes lie now; none in 3D, and none where no layer says where it lies."""
    layers = [layer.metadata["napari_xai"] for layer in viewer.layers if "napari_xai" in layer.metadata]
    placed = [own for own in layers if "affine_ras_mm" in own]
    flat = viewer.dims.ndisplay == 2 and viewer.dims.ndim == 3 and bool(placed)
    words = {}
    if flat:
        first = next((own for own in placed if own.get("role") == "scan"), placed[0])
        camera = viewer.scene.camera.orientation2d
        words = edges(first, tuple(viewer.dims.displayed), (str(camera[0]), str(camera[1])))
    for edge in PLACES:
        overlay = viewer.canvas.overlays[NAME.format(edge)]
        overlay.text = words.get(edge, "")
        overlay.visible = flat
