"""What the docks of one viewer share: the session, what came out of it, and how each map is shown. No Qt."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from psygnal import Signal

from napari_xai._session import Job, Session
from napari_xai._viewer import own_viewer
from napari_xai.explanation import Explanation
from xai_io import Display

__all__ = ["Result", "Workplace", "found_result", "workplace"]


@dataclass(frozen=True, eq=False)
class Result:
    """One run that ended well.

    Attributes
    ----------
    job, explanation : what was asked, and what came out.
    scan : key of the scan's layers.
    key : stands as "map" in the metadata of its relevance layers.
    """

    job: Job
    explanation: Explanation
    scan: str
    key: str = field(default_factory=lambda: uuid4().hex)


class Workplace:
    """Session, results and displays of one viewer; its signals are heard in the thread that emits them.

    Attributes
    ----------
    session : the choices, and the models that are loaded.
    results : by key, in the order in which they came.
    displays : how each map is shown, by the key of its relevance layers; exports use the same.
    """

    explained = Signal(Result)
    displayed = Signal(str, Display)  # a map's key, and how it is shown from now on

    def __init__(self) -> None:
        self.session = Session()
        self.results: dict[str, Result] = {}
        self.displays: dict[str, Display] = {}

    def add(self, result: Result) -> None:
        """Keep a result, and say so."""
        self.results[result.key] = result
        self.explained.emit(result)

    def show(self, key: str, display: Display) -> None:
        """Show a map this way from now on, and say so."""
        if self.displays.get(key) != display:
            self.displays[key] = display
            self.displayed.emit(key, display)

    def forget_closed(self, layers: Iterable[Any]) -> None:
        """Drop results whose layers have all been removed: a map of a large scan takes hundreds of megabytes."""
        own = [layer.metadata.get("napari_xai", {}) for layer in layers]
        there = {one.get("map") for one in own if one.get("role") == "relevance"}
        for key in set(self.results) - there:
            del self.results[key]
            self.displays.pop(key, None)


_ALL: "WeakKeyDictionary[Any, Workplace]" = WeakKeyDictionary()


def workplace(viewer: Any) -> Workplace:
    """The one of this viewer."""
    return _ALL.setdefault(own_viewer(viewer), Workplace())


def found_result(key: str) -> tuple[Workplace, Result] | None:
    """The result by this key, in whichever viewer; None if no open one has it."""
    return next(((place, place.results[key]) for place in _ALL.values() if key in place.results), None)
