"""The values that pass between targets, models and methods: shapes, scores, taps, attributions.

Tensors are (b, c, i, j, k): batch, channel and the three voxel axes in the file's own order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from methods3d.rewriting import Flow, Rules, Site

Volume5d: TypeAlias = Float[Tensor, "b c i j k"]
Output: TypeAlias = Float[Tensor, "b k *spatial"]
Scores: TypeAlias = Float[Tensor, "b"]
Mask: TypeAlias = Bool[Tensor, "i j k"]
Box: TypeAlias = tuple[slice, slice, slice]


class Target(Protocol):
    """A differentiable score of a model's (stitched) output, one number per sample.

    Implementations are frozen dataclasses. What depends on the prediction (a predicted region, the
    runner-up class) is decided once by `bind`, on the clean scan, and held fixed while a method
    perturbs the scan: a region recomputed along an integration path breaks completeness.
    """

    @property
    def linear(self) -> bool:
        """Whether the bound score is linear in the output: then its cotangent needs no prediction."""
        ...

    def bind(self, output: Output) -> "Target":
        """Decide on the clean output what depends on it; raise TargetError where it cannot be."""
        ...

    def sample(self, n: int, batch: int) -> "Target":
        """The target of sample n of a batch alone; only one that holds a value for each sample differs."""
        return self

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """Voxels that the bound score reads; None means all. Windows that miss them are not run."""
        ...

    def within(self, box: Box) -> "Target | None":
        """What one sample's bound score has in a box: parts of disjoint boxes add up. None: it is no sum over them."""
        return None

    def __call__(self, output: Output) -> Scores:
        """The score of each sample."""
        ...


class Blank(Protocol):
    """What stands for 'nothing there' (methods3d.baselines)."""

    def volume(self, x: Volume5d, info: "ModelInfo") -> Volume5d:
        """The scan x with nothing in it."""
        ...


@dataclass(frozen=True, eq=False)
class Reference:
    """A volume that is not on the model's grid yet, in a method's settings: whoever knows the scan replaces it.

    Attributes
    ----------
    source : where it comes from: a path, or a volume of the caller's own kind.
    kind : what it is: a scan, a mask, or a label map.
    """

    source: Any
    kind: Literal["scan", "mask", "labels"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a method may need to know of the grid and the intensities that a model reads.

    Attributes
    ----------
    spacing : voxel size of the model's input grid in mm along (i, j, k), or None if unknown.
    air : value of empty background after the model's own intensity scaling.
    bounds : lowest and highest value that the intensity scaling can give, or None if it has no bounds.
    classes : class index -> name.
    model_hash : SHA-256 of the weights and configuration, "" if unknown.
    channels : of the input, or None if unknown.
    """

    spacing: tuple[float, float, float] | None = None
    air: float = 0.0
    bounds: tuple[float, float] | None = None
    classes: Mapping[int, str] = field(default_factory=dict)
    model_hash: str = ""
    channels: int | None = None


class Gradient(NamedTuple):
    """A score, its gradient in the input, and, under rules, what did not reach the input.

    Attributes
    ----------
    scores : (b,) the target's value.
    values : (b, c, i, j, k) dT/dx; under rules, the rewritten graph's gradient.
    leaks : (site, cause) -> (b,) relevance kept on the way (empty without rules).
    uncovered : functions of the network that relevance went through without a rule.
    voxels : (b, c, i, j, k) relevance that rules gave to voxels whatever their values; None without such rules.
    flows : site -> relevance in and out of it, if the rules measure that.
    met : whether a rule served any function.
    """

    scores: Scores
    values: Volume5d
    leaks: Mapping[tuple[Site, str], Scores] = {}
    uncovered: frozenset[str] = frozenset()
    voxels: Volume5d | None = None
    flows: Mapping[Site, Flow] = {}
    met: bool = True

    @property
    def absorbed(self) -> dict[str, Scores]:
        """Cause -> (b,) relevance kept on the way, over all sites."""
        total: dict[str, Scores] = {}
        for (_, cause), kept in self.leaks.items():
            total[cause] = total[cause] + kept if cause in total else kept
        return total

    @property
    def warnings(self) -> tuple[str, ...]:
        """The functions without a rule, named."""
        if not self.uncovered:
            return ()
        return (f"no rule covers {', '.join(sorted(self.uncovered))}: plain gradients were used there",)


@dataclass(frozen=True, slots=True)
class Tap:
    """One layer's activation in one window (the whole input, for a model without windows).

    Attributes
    ----------
    box : sample index and the window's voxels on the (padded) input grid.
    activation : (1, a, i', j', k') at the layer's own resolution.
    gradient : the score's derivative in it, or None if no target was given.
    output : (1, k, *spatial) what the network puts out there; None without a target.
    region : (i, j, k) the window's voxels whose output the score reads; None without a target, or where
        the output is no volume.
    share : (i, j, k) what the window has in the stitched prediction of its voxels; None: all.
    """

    sample: int
    box: Box
    activation: Tensor
    gradient: Tensor | None
    output: Output | None
    region: Mask | None
    share: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Taps:
    """A layer read window by window; the scores are complete once every tap has been read."""

    windows: Iterator[Tap]
    read_scores: Callable[[], Scores]

    def __iter__(self) -> Iterator[Tap]:
        """Tap by tap, each run when it is asked for."""
        return self.windows

    @property
    def scores(self) -> Scores:
        """The target's value (b,); empty if no target was given."""
        return self.read_scores()


@dataclass(frozen=True, slots=True)
class Edit:
    """A box of the input, the channels that are changed in it, and the values (c, i, j, k) that they take."""

    box: Box
    channels: slice
    values: Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a scan that the network runs over at once, and its share in the score: shares of a sample add up.

    Attributes
    ----------
    sample, box : which sample, and the piece's voxels on the (padded) input grid.
    x : (1, c, i, j, k) what the network is given.
    target : the piece's score, bound.
    crop : cuts the same piece out of another volume (1, c, i, j, k) on the sample's grid.
    """

    sample: int
    box: Box
    x: Volume5d
    target: Target
    crop: Callable[[Volume5d], Volume5d]


@dataclass(frozen=True, slots=True)
class Layer:
    """A module of the network that puts out a volume.

    Attributes
    ----------
    name, channels, shape : of what it puts out, for one window.
    scale : voxels of the input that a cell spans along each axis.
    """

    name: str
    channels: int
    shape: tuple[int, int, int]
    scale: tuple[float, float, float]


class Progress(Protocol):
    """Hears of real work done; may raise Cancelled, which ends the run between two batches."""

    def __call__(self, done: int, total: int, partial: Tensor | None = None) -> None:
        """Report `done` of `total` units of work, and a partial map where the method has one."""
        ...


def silent(done: int, total: int, partial: Tensor | None = None) -> None:
    """Report to nobody."""


class Explainable(Protocol):
    """What a method asks of a model, dense or in windows.

    A verb that is given an unbound target binds it on its own x.
    """

    @property
    def info(self) -> ModelInfo:
        """What is known of the model's grid and intensities."""
        ...

    @property
    def network(self) -> torch.nn.Module:
        """The network itself; it is never changed."""
        ...

    @property
    def runner(self) -> Any:
        """The network with what running it takes (methods3d.runner)."""
        ...

    @property
    def memory(self) -> int | None:
        """What running may take beyond the volumes themselves, in bytes."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """How the network is run, as far as it decides what comes out: windows, output, autocast; JSON-ready."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found out while it ran, such as that samples of a batch change each other's output."""
        ...

    def output(self, x: Volume5d, *, progress: Progress = silent) -> Output:
        """The (stitched) prediction, without a graph; `progress` hears of every batch of windows."""
        ...

    def bind(self, x: Volume5d, target: Target) -> tuple[Target, Scores]:
        """The target bound on x's prediction, and its value (b,) there."""
        ...

    def scores(self, x: Volume5d, target: Target) -> Scores:
        """The bound target's value for each sample, without a graph."""
        ...

    def gradient(
        self,
        x: Volume5d,
        target: Target,
        *,
        rules: Rules | None = None,
        reference: Volume5d | None = None,
        progress: Progress = silent,
    ) -> Gradient:
        """The bound target's derivative in x, exact over the stitched output; `progress` as in `output`.

        Under rules that compare x with a reference, `reference` is taken through the same windows and the target.
        """
        ...

    def gradients(
        self, points: Iterable[Volume5d], target: Target, *, progress: Progress = silent
    ) -> Iterator[Gradient]:
        """The one sample's bound target differentiated at each point (1, c, i, j, k), in order.

        Points are drawn when they are needed, as many at once as fit. `progress` hears of windows, not of points.
        """
        ...

    def layers(self, x: Volume5d) -> Sequence[Layer]:
        """Modules that run once and put out a volume, in the order in which they finish; nothing is computed."""
        ...

    def taps(self, x: Volume5d, layer: str, target: Target | None = None) -> Taps:
        """The layer's activation, and gradient if a target is given, window by window."""
        ...

    def blend(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d, *, shares: bool = False) -> Tensor:
        """Lay maps made from taps over the input grid, with the weights that stitch the prediction.

        Maps that are made of derivatives carry their window's share in the score already (`shares`): they are added.
        """
        ...

    def gathered(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d) -> Tensor:
        """Add up maps made from taps on the input grid: each cell's value is shared by its voxels, sums are kept."""
        ...

    def edited(self, x: Volume5d, target: Target, edits: Iterable[Edit]) -> Iterator[Tensor]:
        """The bound target's value after each edit of the one sample x, in order, some (n,) at a time.

        Edits are drawn when they are needed, as many at once as fit.
        """
        ...

    def recalled(self, compute: Callable[[], Tensor]) -> Tensor:
        """compute(); where a run is taken up again, what it gave the time before (methods3d.checkpoint)."""
        ...

    def parts(self, x: Volume5d, target: Target) -> Iterator[Part]:
        """The pieces that the network runs over, with their shares in the bound score (in windows: linear scores)."""
        ...

    def cut(self, runner: Callable[[Any], Any]) -> "Explainable":
        """The same model with its runner replaced by runner(runner): what methods3d.layers makes of it."""
        ...

    def reference(self, x: Volume5d, blank: Blank) -> Volume5d:
        """The input that stands for 'nothing there' beside x."""
        ...

    def passes(self, shape: tuple[int, int, int], target: Target | None = None) -> int:
        """How many times the network runs for one prediction (or one reading of the bound target)."""
        ...


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run will cost: passes through the network (a backward pass counts as one)."""

    forward: int
    backward: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an attribution came about; JSON-ready, without anything about the patient."""

    method: str
    parameters: Mapping[str, Any]
    running: Mapping[str, Any]  # windows, output, autocast
    target: str
    network: str
    model_hash: str
    versions: Mapping[str, str]
    device: str
    dtype: str
    seconds: float
    peak_memory: int | None  # bytes: the accelerator's peak, or the process's on CPU where the system tells it


@dataclass(frozen=True, slots=True)
class Attribution:
    """A relevance volume and everything needed to trust it.

    Attributes
    ----------
    values : (b, c, i, j, k), signed, in units of the score; one volume per input channel, or a
        single one (c = 1) where the method cannot tell channels apart (CAM).
    at : "input", or the name of the layer that was read.
    extensive : whether sums over voxels mean something (gradient x input, LRP); decides how the
        map is resampled on its way back to the scan.
    scores : (b,) the target's value on the clean input.
    absorbed : cause -> (b,) relevance that did not reach the input (LRP).
    gap : (b,) what the method promises minus sum(values) minus absorbed; None where it promises nothing.
    warnings : silent failures that were caught.
    provenance : method, parameters, model, versions, time, memory.
    """

    values: Volume5d
    at: str
    extensive: bool
    scores: Scores
    absorbed: Mapping[str, Scores]
    gap: Scores | None
    warnings: tuple[str, ...]
    provenance: Provenance
