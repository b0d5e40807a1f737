"""What a user does in a window, and sees there; and how long the window kept them waiting."""

import time

from napari.layers import Layer
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QTimer

from napari_xai.layers import scan_layers

LATE = 0.1  # seconds that the event loop may be held up in mid-run


def show(viewer, scan, name="scan"):
    """The layers of a scan, added."""
    return [viewer.add_layer(Layer.create(*layer)) for layer in scan_layers(scan, name)]


def load(panel, qtbot, path):
    """Choose a model, and wait until it is loaded."""
    panel.choose_model(path)
    idle(panel, qtbot)


def idle(panel, qtbot):
    """Wait until nothing is under way."""
    qtbot.waitUntil(lambda: not panel.runs.busy, timeout=120_000)


def choose(panel, method, **settings):
    """Choose a method, and its settings."""
    panel.rows.method.setCurrentIndex(panel.rows.method.findData(method))
    panel.rows.form.set(**settings)


def said(severity):
    """The notifications so far."""
    return [str(record.message) for record in notification_manager.records if str(record.severity) == severity]


class Clock:
    """How late the event loop comes to a timer that is due every 10 ms."""

    def __init__(self):
        self.latest, self._last = 0.0, time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(10)

    def _tick(self):
        now = time.perf_counter()
        self.latest, self._last = max(self.latest, now - self._last - 0.01), now

    def stop(self):
        """The latest it has come."""
        self._timer.stop()
        return self.latest
