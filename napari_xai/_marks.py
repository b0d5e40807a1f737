"""What a viewer shows around scans: letters of orientation, scale bar, axis names; window and level by mouse."""

from typing import Any
from weakref import WeakSet

from napari.components.overlays import TextOverlay
from napari.utils.notifications import show_warning

from napari_xai._orientation import askew, letters
from napari_xai._viewer import own_viewer
from napari_xai._window_level import drag, reset
from napari_xai.layers import grid_of

__all__ = ["mark"]

PLACES = {"left": "middle_left", "right": "middle_right", "top": "top_center", "bottom": "bottom_center"}
NAME = "anatomy_{}"
COLOUR = (1.0, 0.85, 0.3, 1.0)  # yellow stands out on tissue and on air, and is no colour of relevance

_MARKED: "WeakSet[Any]" = WeakSet()


def mark(viewer: Any) -> None:
    """Switch the marks on, once in each viewer; what the user changes later stays as it is."""
    own = own_viewer(viewer)
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

    told: set[frozenset[str]] = set()  # of which scans it was said that they do not lie over each other

    def update(event: Any = None) -> None:
        _write(own)

    def seen(event: Any) -> None:
        update()
        _warn(own, event.source, told)

    def came(layer: Any) -> None:
        layer.events.visible.connect(seen)
        _warn(own, layer, told)

    def inserted(event: Any) -> None:
        update()
        came(event.value)

    def removed(event: Any) -> None:
        update()
        event.value.events.visible.disconnect(seen)

    own.layers.events.inserted.connect(inserted)
    own.layers.events.removed.connect(removed)
    own.layers.events.reordered.connect(update)
    own.dims.events.order.connect(update)
    own.dims.events.ndisplay.connect(update)
    own.scene.camera.events.orientation.connect(update)
    for layer in own.layers:
        came(layer)
    update()


def _write(viewer: Any) -> None:
    """Letters of the uppermost volume that is seen; none in 3D, and none where it is not known how that one lies."""
    words = {}
    if viewer.dims.ndisplay == 2 and viewer.dims.ndim == 3:
        top = next((layer for layer in reversed(viewer.layers) if layer.visible and _fills(layer)), None)
        down, right = viewer.scene.camera.orientation2d
        camera = str(down), str(right)
        words = {} if top is None else letters(top, viewer.layers, tuple(viewer.dims.displayed), camera)
    for edge in PLACES:
        overlay = viewer.canvas.overlays[NAME.format(edge)]
        overlay.text = words.get(edge, "")
        overlay.visible = bool(words)


def _warn(viewer: Any, layer: Any, told: set[frozenset[str]]) -> None:
    """Say once of which scans one that is seen now is not shown in the same place."""
    if not (layer.visible and _fills(layer) and grid_of(layer)):
        return
    names = {}
    for other in viewer.layers:
        pair = frozenset((_scan(layer), _scan(other)))
        seen = other.visible and _fills(other) and grid_of(other)
        if seen and len(pair) == 2 and pair not in told and askew(layer, other):
            told.add(pair)
            names[_scan(other)] = _name(other)
    if names:
        show_warning(
            f"{_name(layer)} and {', '.join(names.values())} do not lie over each other in the viewer, because each is "
            "shown along its own axes: hide one, or resample one to the other's grid first."
        )


def _fills(layer: Any) -> bool:
    """Whether a layer is an image or labels of a volume, which hides what lies below."""
    return layer._type_string in ("image", "labels") and layer.ndim == 3


def _scan(layer: Any) -> str:
    """What tells the scan that a layer shows, or lies on, from others."""
    return str(layer.metadata.get("napari_xai", {}).get("scan") or id(layer))


def _name(layer: Any) -> str:
    return str(layer.name).removesuffix(", channel 0")
