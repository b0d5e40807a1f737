"""Work in a thread of napari's: the viewer stays responsive, progress is seen, and it can be cancelled."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from napari.utils import cancelable_progress
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer

if TYPE_CHECKING:
    from methods3d import Cancelled

__all__ = ["Task"]

EVERY = 50  # milliseconds between two looks at the work


class Task:
    """One piece of work, and what the viewer sees of it.

    It is no generator worker: such a one reports, and can be stopped, only where it yields, and a method is a single
    call. But the method's progress callback is heard in the middle of that call, in the worker's thread: there it
    leaves how far it has come, and raises `Cancelled` when the button, the activity dock or the closing window has
    asked for the end. A timer in the viewer's thread looks at what was left. So no Qt object is shared between the two
    threads, none can be dropped in the wrong one, and reports that come too fast cost nothing.

    Parameters
    ----------
    title : what the work is called in the activity dock, and when napari asks whether to close the window.
    work : called in the worker's thread with a progress callback.
    progressed : hears (done, total) in the viewer's thread.
    ended : hears there of the result, or of the exception that came instead.
    parent : the widget that the work is done for; when it is deleted, nobody hears anything any more.
    """

    def __init__(
        self,
        title: str,
        work: Callable[[Callable[..., None]], Any],
        *,
        progressed: Callable[[int, int], None] = lambda done, total: None,
        ended: Callable[[Any], None],
        parent: QObject,
    ) -> None:
        self._title, self._work = title, work
        self._progressed, self._ended = progressed, ended
        self._left: tuple[int, int] = (0, 0)  # by the worker, read by the timer
        self._outcome: tuple[Any] | None = None  # the same
        self._shown = self._left
        self._activity = cancelable_progress(desc=title, total=0)
        self._worker = create_worker(self, _start_thread=False)
        self._timer = QTimer(parent)
        self._timer.timeout.connect(self._look)
        self._timer.start(EVERY)
        self._worker.start()

    def __str__(self) -> str:
        """As napari's task manager writes it."""
        return self._title

    def cancel(self) -> None:
        """Ask the work to end; it does between two batches."""
        self._worker.quit()

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to end, here, in the activity dock or by the closing window."""
        return bool(self._worker.abort_requested or self._activity.is_canceled)

    def __call__(self) -> None:
        """Do the work, in the worker's thread."""
        try:
            with warnings.catch_warnings():
                # What libraries say to programmers is no notification for a user; a map's own warnings travel with it.
                warnings.simplefilter("ignore")
                found = self._work(self._hear)
            self._outcome = (_cancelled() if self.cancelled else found,)
        except Exception as error:
            self._outcome = (error,)

    def _hear(self, done: int, total: int, partial: object = None) -> None:
        """In the worker's thread, between two batches."""
        if self.cancelled:
            raise _cancelled()
        self._left = (done, total)

    def _look(self) -> None:
        """In the viewer's thread."""
        outcome = self._outcome  # before what was left: the last report precedes the end
        if self._left != self._shown:
            step, self._shown = self._left[0] - self._shown[0], self._left
            self._progressed(*self._shown)
            self._activity.total = self._shown[1]
            self._activity.update(step)  # handles events: the window may be closed, or this be called again, in here
        if outcome is not None and isalive(self._timer) and self._timer.isActive():
            self._timer.stop()
            self._timer.deleteLater()
            self._activity.close()
            ended = self._ended
            # napari's task manager never forgets a worker, and by it this: maps would stay in memory for ever.
            del self._outcome, self._work, self._progressed, self._ended
            ended(outcome[0])


def _cancelled() -> "Cancelled":
    from methods3d import Cancelled  # imports torch, which the first task of all is there to load

    return Cancelled("The run was cancelled.")
