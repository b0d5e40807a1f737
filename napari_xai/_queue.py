"""Runs that wait for their turn, and one run on its way from the queue to its layers. No Qt."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from psygnal import Signal
from torch import Tensor

from methods3d import Progress
from napari_xai._estimate import Known, advised, predict
from napari_xai._session import Job
from napari_xai.explainer import Explainer
from napari_xai.explanation import Explanation, Prediction
from napari_xai.layers import LayerData, relevance_layers
from napari_xai.scan_space import ModelSpace
from xai_io import Volume

__all__ = ["Queue", "Run"]


class Run:
    """One piece of work on a model: made and looked at in the viewer's thread, called in the worker's.

    What comes out before the end is left in attributes, of which each is written in one step.

    Attributes
    ----------
    explainer, scan, job : the model and its input, and what is asked; without a job it ends with the prediction.
    scans : keys of the scans that make up the input; results belong to the first.
    title : what it is called.
    known : what the prediction told; filled in by the run where it was not known before.
    prediction : made by this run; None where it was known before.
    so_far : the layer of the map as it is by now; None until a method shows one.
    """

    def __init__(
        self,
        explainer: Explainer,
        scan: Volume,
        scans: tuple[str, ...],
        *,
        title: str,
        known: Known | None,
        job: Job | None = None,
    ) -> None:
        self.explainer, self.scan, self.scans, self.title, self.job = explainer, scan, scans, title, job
        self.known = known
        self.prediction: Prediction | None = None
        self.so_far: LayerData | None = None
        self._space: ModelSpace | None = None

    def __call__(self, progress: Progress) -> tuple[Job, Explanation, list[LayerData]] | None:
        """Predict if that was not done yet, and explain; errors as `Explainer.explain`."""
        job = self.job
        try:
            if self.known is None or job is None:
                known, self.prediction = predict(self.explainer, self.scan, progress)
                self.known = known
            if job is None:
                return None
            job.check(self.known.predicted)
            explanation = job(lambda done, total, partial=None: self._hear(progress, done, total, partial))
            return job, explanation, explanation.layers()
        except Exception as error:
            raise advised(error, None if job is None else job.method, self.explainer) from error

    def _hear(self, progress: Progress, done: int, total: int, partial: Tensor | None) -> None:
        """Bring a partial map (methods make one every two seconds) to the scan's grid, still in the worker's thread."""
        if partial is not None and bool((partial != 0).any()):
            if self._space is None:
                self._space = self.explainer.space(self.scan)
            # Its scale is not the final one whatever is done here, so that sums are not looked after.
            there = self._space.back(partial[0].sum(0, keepdim=True), extensive=False)
            if np.isfinite(there.data).all():
                (self.so_far,) = relevance_layers(there, f"so far: {self.title}", {})
        progress(done, total)


class Queue:
    """What waits, in order; `changed` is emitted whenever that is not the same any more."""

    changed = Signal()

    def __init__(self) -> None:
        self._waiting: list[Run] = []

    def __iter__(self) -> Iterator[Run]:
        """What waits, the next first."""
        return iter(tuple(self._waiting))

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def append(self, run: Run) -> None:
        """Let a run wait."""
        self._waiting.append(run)
        self.changed.emit()

    def take(self) -> Run | None:
        """The next, which then waits no longer."""
        if not self._waiting:
            return None
        run = self._waiting.pop(0)
        self.changed.emit()
        return run

    def remove(self, run: Any) -> None:
        """Drop one that waits; one that does not is no matter."""
        if run in self._waiting:
            self._waiting.remove(run)
            self.changed.emit()

    def clear(self) -> None:
        """Drop all."""
        if self._waiting:
            self._waiting.clear()
            self.changed.emit()
