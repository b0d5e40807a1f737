"""Work in a thread of napari's: the viewer stays responsive, progress is seen, and it can be cancelled."""

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker
from napari.utils import cancelable_progress
from qtpy.QtCore import QObject, Signal

if TYPE_CHECKING:
    from methods3d import Cancelled

__all__ = ["Task"]

EVERY = 0.05  # seconds between two reports


class Task(QObject):  # type: ignore[misc]
    """One piece of work; its signals arrive in the thread of the viewer.

    It is no generator worker: such a one reports, and can be stopped, only where it yields, and a method is a single
    call. But the method's progress callback is heard in the middle of that call, in the worker's thread. There a Qt
    signal is emitted, which Qt queues for the viewer's thread, and there the worker's flag is read: `Cancelled` is
    raised between two batches, when the button, the activity dock or the closing window has asked for it.
    """

    progressed = Signal(int, int)  # done, total
    ended = Signal()

    def __init__(self, title: str, work: Callable[[Callable[..., None]], Any]) -> None:
        """Prepare work, which is called with a progress callback; `start` starts it."""
        super().__init__()
        self._title, self._work = title, work
        self.outcome: Any = None  # once it has ended: the result, or the exception that came instead
        self._shown, self._told = 0, 0.0
        # Napari's task manager names the task when it asks whether to close the window, and then quits the worker.
        self._worker = create_worker(_Named(title, self._run), _start_thread=False)
        self._activity = cancelable_progress(desc=title, total=0)
        self.progressed.connect(self._show)
        self.ended.connect(self._close)

    def start(self) -> None:
        """Start the work."""
        self._worker.start()

    def cancel(self) -> None:
        """Ask the work to end; it does between two batches."""
        self._worker.quit()

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to end."""
        return bool(self._worker.abort_requested or self._activity.is_canceled)

    def _run(self) -> None:
        """In the worker's thread."""
        try:
            self._hear(0, 0)
            with warnings.catch_warnings():
                # What libraries say to programmers is no notification for a user; a map's own warnings travel with it.
                warnings.simplefilter("ignore")
                self.outcome = self._work(self._hear)
            if self.cancelled:
                self.outcome = _cancelled()
        except Exception as error:
            self.outcome = error
        self.ended.emit()

    def _hear(self, done: int, total: int, partial: object = None) -> None:
        """In the worker's thread, between two batches."""
        if self.cancelled:
            raise _cancelled()
        now = time.monotonic()
        if total and (done == total or now - self._told > EVERY):
            self._told = now
            self.progressed.emit(done, total)

    def _show(self, done: int, total: int) -> None:
        if self._activity.total != total:
            self._activity.total = total
        step, self._shown = done - self._shown, done
        self._activity.update(step)

    def _close(self) -> None:
        self._activity.close()
        self.deleteLater()  # here, in the viewer's thread, not where Python happens to drop it


class _Named:
    """A callable with a name that a user can read."""

    def __init__(self, name: str, call: Callable[[], None]) -> None:
        self._name, self._call = name, call

    def __call__(self) -> None:
        self._call()

    def __str__(self) -> str:
        return self._name


def _cancelled() -> "Cancelled":
    from methods3d import Cancelled  # imports torch, which the first task of all is there to load

    return Cancelled("The run was cancelled.")
