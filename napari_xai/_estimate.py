"""What a run will take: passes through the network, timed and weighed by one prediction. No Qt."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from methods3d import Explainable, Method, Progress
from methods3d.memory import PeakBytes, ran_out
from methods3d.types import Volume5d
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.explanation import Prediction
from xai_io import Volume

__all__ = ["Estimate", "Known", "Remaining", "advised", "predict"]

TOGETHER = 4  # volumes that a method lets run at once where no budget of memory says how many
HELD = 12  # volumes of the input's size that a method holds beside the network: masks, sums, baselines
SHORT = 1.0  # seconds below which a prediction is timed again: the first one warms up, and weighing takes time, too
SETTLED = 1.0  # seconds of a run before its time left is told


@dataclass(frozen=True)
class Estimate:
    """What a run will take, roughly.

    Attributes
    ----------
    passes : through the network, forward and backward.
    seconds, bytes : for all of them, and at once.
    """

    passes: int
    seconds: float
    bytes: int

    def __str__(self) -> str:
        """As it stands before Run."""
        return f"About {duration(self.seconds)}, {size(self.bytes)}"


@dataclass(frozen=True, eq=False)
class Known:
    """What one prediction told of a model on a scan.

    Attributes
    ----------
    classes : name -> probability, or predicted volume in mm3.
    segments : whether it is the latter.
    model, shape : as the methods see it, and the grid of its input.
    seconds : of one pass by itself.
    seconds_together : of one pass among several that run at once.
    forward : bytes that one pass takes without a graph.
    graph : bytes that one pass makes in all, which a graph keeps.
    volume : bytes of the input.
    """

    classes: Mapping[str, float]
    segments: bool
    model: Explainable
    shape: tuple[int, int, int]
    seconds: float
    seconds_together: float
    forward: int
    graph: int
    volume: int

    @property
    def predicted(self) -> int | None:
        """The class that a classifier gives the scan."""
        if self.segments:
            return None
        shares = list(self.classes.values())
        return shares.index(max(shares))

    def estimate(self, method: Method) -> Estimate | None:
        """What a method will take; None where it cannot say."""
        try:
            cost = method.cost(self.model, self.shape)
        except Exception:  # whatever is wrong with its settings is said when it is run
            return None
        passes = cost.forward + cost.backward
        budget, windows = self.model.memory, self.model.passes(self.shape)
        together = TOGETHER if windows == 1 and passes > TOGETHER else 1
        taken = together * (self.graph if cost.backward else self.forward)
        if budget is not None:
            taken = max(min(taken, budget), taken // together)
        seconds = self.seconds if together == 1 else self.seconds_together
        return Estimate(passes, passes * seconds, taken + HELD * self.volume)


class _Made(PeakBytes):  # type: ignore[no-untyped-call]
    """Counts also what was made in all."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def _count(self, made: Tensor) -> None:
        super()._count(made)
        self.made += made.untyped_storage().nbytes()


def predict(explainer: Explainer, scan: Volume, progress: Progress) -> tuple[Known, Prediction]:
    """Let a model predict, and measure what one pass takes; errors as `Explainer.explain`."""
    space = explainer.space(scan)
    model = explainer.on(space)
    started = time.perf_counter()
    with _Made() as memory:
        output = model.output(space.x, progress=progress)
    seconds = together = time.perf_counter() - started
    if seconds < SHORT:
        seconds = _seconds(model, space.x)
        together = min(seconds, _seconds(model, space.x.repeat(TOGETHER, 1, 1, 1, 1)) / TOGETHER)
    _, _, i, j, k = space.x.shape
    windows = model.passes((i, j, k))
    batches = 1 if explainer.windows is None else -(-windows // explainer.windows.sw_batch_size)
    found = explainer.prediction(output, space)
    known = Known(
        classes=dict(found.classes),
        segments=found.labels is not None,
        model=model,
        shape=(i, j, k),
        seconds=seconds / windows,
        seconds_together=together / windows,
        forward=memory.bytes,
        graph=max(memory.made // batches, memory.bytes),
        volume=space.x.nbytes,
    )
    return known, found


def _seconds(model: Explainable, x: Volume5d) -> float:
    started = time.perf_counter()
    model.output(x)
    return time.perf_counter() - started


class Remaining:
    """How long a run will go on, by the pace of the part that it is in."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None
        self._last = 0

    def heard(self, done: int, total: int, now: float) -> float | None:
        """Seconds left at `now`; None until the pace is known."""
        if self._start is None or done < self._last:  # the next part of the run has begun
            self._start = (now, done)
        self._last = done
        since, first = now - self._start[0], done - self._start[1]
        if since < SETTLED or not first:
            return None
        return since * (total - done) / first


def advised(error: Exception, method: Method | None, explainer: Explainer) -> Exception:
    """An error that says what to change if memory ran out; any other as it is."""
    if not any(one is not None and ran_out(one) for one in (error, error.__cause__)):
        return error
    ways = []
    if explainer.windows is None:
        ways.append("crop the scan")
    if method is not None:
        ways.append("take the method's fast look, or one that keeps no graph, such as occlusion or RISE")
    device = next((p.device.type for p in explainer.network.parameters()), "cpu")
    if device != "cpu":
        ways.append("let the model run on the CPU")
    ways.append("close other programs that use memory")
    where = "The computer" if device == "cpu" else "The GPU"
    return ExplainError(f"{where} ran out of memory: {', or '.join(ways)}.")


def duration(seconds: float) -> str:
    """Rounded as a guess deserves: 8 s, 40 s, 3 min, 2 h."""
    if seconds < 1:
        return "1 s"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds < 20 else f"{10 * round(seconds / 10)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Bytes: 35 MB, 1.2 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
