"""napari with a scan and the Explain widget open, for the command line."""

from pathlib import Path

import napari
from qtpy.QtCore import QTimer

from napari_xai.samples import sample

__all__ = ["open_window"]


def open_window(scan: Path | None = None) -> None:
    """Open a viewer on a scan (the sample brain if none is given) and run until it is closed."""
    viewer = napari.Viewer(title="napari-xai")
    viewer.window.add_plugin_dock_widget("napari-xai", "Explain")
    path = str(scan or sample("volumes/brain_lesion.nii.gz"))
    QTimer.singleShot(0, lambda: viewer.open(path, plugin="napari-xai"))  # as a user does, who can be asked
    napari.run()
