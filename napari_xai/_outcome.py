"""What comes out of runs, as layers of one viewer."""

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from napari.utils.notifications import show_warning

from napari_xai._choices import scans
from napari_xai._queue import Run
from napari_xai._session import Job
from napari_xai._workplace import Result, Workplace
from napari_xai.explanation import Explanation
from napari_xai.layers import LayerData, label_layer

if TYPE_CHECKING:
    import napari

__all__ = ["Outcome"]


class Outcome:
    """Adds, updates and removes layers."""

    def __init__(self, viewer: "napari.viewer.Viewer", workplace: Workplace) -> None:
        self._viewer, self._workplace = viewer, workplace
        self._so_far: Any = None
        self._seen: LayerData | None = None

    def predicted(self, run: Run, *, visible: bool) -> None:
        """Show the prediction that a run has made, if it made one that is a label map and is not there yet."""
        found, run.prediction = run.prediction, None
        if found is None or found.labels is None:
            return
        data, options, kind = label_layer(found.labels, "prediction")
        own = self._marked(options, run) | {"names": dict(found.names)}
        options["metadata"]["napari_xai"] = own
        if not self._has(own):
            options["name"] += self._of(run)
            layer = self._viewer.add_layer(Layer.create(data, options | {"visible": visible}, kind))
            layer.contour = 1  # what is inside of it is what one wants to see

    def so_far(self, run: Run) -> None:
        """Show the map as it is by now, in one layer for the whole run."""
        found = run.so_far
        if found is None or found is self._seen:
            return
        first, self._seen = self._seen is None, found
        data, options, kind = found
        if first:
            own = self._marked(options, run)
            options["metadata"]["napari_xai"] = own | {"role": "so far"}
            self._so_far = self._viewer.add_layer(Layer.create(data, options, kind))
        elif self._so_far in self._viewer.layers:  # a user who has removed it does not want it
            self._so_far.data = data
            self._so_far.contrast_limits = options["contrast_limits"]

    def ended(self) -> None:
        """Remove the layer of the map so far."""
        layer, self._so_far, self._seen = self._so_far, None, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
            layer.data = np.zeros((1,) * layer.ndim, np.float32)  # napari keeps removed layers alive

    def explained(self, run: Run, job: Job, explanation: Explanation, layers: list[LayerData]) -> None:
        """Add the layers of a result in place of earlier maps of the scan, and say what is wrong with it."""
        for layer in self._viewer.layers:
            if _own(layer)["role"] == "relevance" and _own(layer).get("scan") == run.scans[0]:
                layer.visible = False  # several at once would be a picture that no method has made
        result = Result(job, explanation, run.scans[0])
        for data, options, kind in layers:
            own = self._marked(options, run)
            if own["role"] == "scan":
                continue
            if own["role"] == "prediction":
                own["names"] = dict(explanation.prediction.names)
            own["map"] = result.key
            options["metadata"]["napari_xai"] = own
            options["name"] += self._of(run)
            if own["role"] == "relevance" or not self._has(own):
                self._viewer.add_layer(Layer.create(data, options, kind))
        for warning in explanation.warnings:
            show_warning(f"{explanation.attribution.provenance.method}: {warning}.")
        self._workplace.add(result)

    def forget_prediction(self, scan: str) -> None:
        """Let predictions of a scan that has changed be label maps like any other."""
        for layer in self._viewer.layers:
            if _own(layer)["role"] == "prediction" and _own(layer).get("scan") == scan:
                layer.metadata["napari_xai"] = {**_own(layer), "role": "region"}

    def prediction(self, scan: str, model: str) -> Any:
        """The label layer of a model's prediction on a scan; None if there is none."""
        wanted = {"role": "prediction", "scan": scan, "model": model}
        return next((layer for layer in self._viewer.layers if wanted.items() <= _own(layer).items()), None)

    def _marked(self, options: dict[str, Any], run: Run) -> dict[str, Any]:
        own: dict[str, Any] = options["metadata"]["napari_xai"]
        return own | {"scan": run.scans[0], "model": run.explainer.loaded.hash}

    def _of(self, run: Run) -> str:
        """Which scan a layer is of, for its name; nothing where there is but one."""
        open_ = scans(self._viewer.layers)
        return f" · {open_[run.scans[0]].name}" if len(open_) > 1 and run.scans[0] in open_ else ""

    def _has(self, own: dict[str, Any]) -> bool:
        return self.prediction(own["scan"], own["model"]) is not None


def _own(layer: Any) -> dict[str, Any]:
    """What a layer says of itself, its role at least."""
    return {"role": "", **layer.metadata.get("napari_xai", {})}
