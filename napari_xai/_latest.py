"""Of several pieces of work that are asked for one after the other, the latest."""

import logging
from collections.abc import Callable
from typing import Any

from napari.utils.notifications import show_error
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer

from napari_xai._task import Task
from napari_xai._words import sentence

__all__ = ["Latest"]


class Latest(QObject):  # type: ignore[misc]
    """One piece of work at a time, in the background; what is asked for meanwhile waits, and only the last of it.

    Parameters
    ----------
    parent : the widget that the work is done for.
    wait : milliseconds in which nothing else must be asked for before work begins.
    """

    def __init__(self, parent: QObject, wait: int) -> None:
        super().__init__(parent)
        self._task: Task | None = None
        self._asked: tuple[str, Callable[[], Any], Callable[[Any], None]] | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(wait)
        self._timer.timeout.connect(self._start)

    @property
    def busy(self) -> bool:
        """Whether anything is under way, or waits."""
        return self._task is not None or self._asked is not None

    def ask(self, title: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do this work in a thread, and then that with its result, unless something later is asked for before."""
        self._asked = title, work, then
        self._timer.start()

    def drop(self) -> None:
        """Nothing is wanted any more."""
        self._asked = None
        self._timer.stop()
        if self._task is not None:
            self._then: Callable[[Any], None] = lambda outcome: None

    def _start(self) -> None:
        if self._asked is None or self._task is not None:
            return
        (title, work, self._then), self._asked = self._asked, None
        self._task = Task(title, lambda _: work(), ended=self._ended, parent=self)

    def _ended(self, outcome: Any) -> None:
        self._task = None
        if self._asked is not None:  # what has ended is out of date
            if not self._timer.isActive():
                self._start()
            return
        try:
            if isinstance(outcome, Exception):
                raise outcome
            if isalive(self.parent()):
                self._then(outcome)
        except Exception as error:
            logging.getLogger(__name__).debug("shown as a notification", exc_info=error)
            show_error(sentence(error))
