"""What of a viewer's layers can be explained, and asked about."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from napari.layers import Image, Labels

from napari_xai.errors import ExplainError
from napari_xai.layers import on_one_grid, scan_of, volume_of
from xai_io import Volume

__all__ = ["Scan", "regions", "scans"]


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan in the viewer: the image layers of its channels."""

    key: str
    layers: tuple[Any, ...]

    @property
    def name(self) -> str:
        """As the first layer is called."""
        return str(self.layers[0].name).removesuffix(", channel 0")

    @property
    def channels(self) -> int:
        """How many channels the scan was opened with."""
        return int(self.layers[0].metadata["napari_xai"]["channels"])

    @property
    def volume(self) -> Volume:
        """The scan as it was read; ScanError if a channel was removed, GeometryError if a layer was cropped."""
        return scan_of([(layer.data, layer.metadata) for layer in self.layers])

    def region(self, labels: Any) -> Volume:
        """The mask of the label that is selected in a labels layer on this scan.

        Raises
        ------
        ExplainError : background is selected.
        """
        chosen = int(labels.selected_label)
        if chosen == 0:
            raise ExplainError(f"Label 0 of {labels.name!r} is background: select the label that you ask about.")
        mask = (np.asarray(labels.data) == chosen).astype(np.uint8)
        return volume_of(mask, self.layers[0].metadata)

    def labels(self, layer: Any) -> Volume:
        """All of a labels layer on this scan, as it is now."""
        return volume_of(np.array(layer.data), self.layers[0].metadata)


def scans(layers: Iterable[Any]) -> dict[str, Scan]:
    """The scans in a viewer by key, the uppermost first; only such as say where they lie in the patient.

    A copy of a layer is a scan of its own, with a key of its own; labels that were made of a scan are none.
    """
    found: dict[str, dict[int, Any]] = {}
    for layer in layers:
        own = layer.metadata.get("napari_xai", {})
        if own.get("role") != "scan" or not isinstance(layer, Image):
            continue
        if own["channel"] in found.get(own["scan"], {}):
            own = layer.metadata["napari_xai"] = {**own, "scan": uuid4().hex, "channel": 0, "channels": 1}
        found.setdefault(own["scan"], {})[own["channel"]] = layer
    return {key: Scan(key, tuple(parts[c] for c in sorted(parts))) for key, parts in reversed(found.items())}


def regions(layers: Iterable[Any], scan: Scan) -> list[Any]:
    """The labels layers on exactly the grid of a scan."""
    known = list(layers)
    return [layer for layer in known if isinstance(layer, Labels) and on_one_grid(layer, scan.layers[0], known)]
