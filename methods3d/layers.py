"""A network cut at a layer: what lies below it has the layer's channels as output, what lies above has them as input.

So every method serves a layer or a neuron: as what is explained (below), or as where relevance is read (above).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from methods3d.cells import interpolated
from methods3d.errors import LayerError, TargetError, VolumeError
from methods3d.functions import JOINS, function_name
from methods3d.model import TorchModel
from methods3d.runner import Reached, Runner
from methods3d.targets import RegionScore
from methods3d.types import Blank, Box, Explainable, Layer, Mask, Output, Part, Scores, Target, Volume5d

__all__ = ["LayerUnit", "UpperPart", "above"]


class Below(Runner):
    """A network up to a layer: its output is the layer's, resampled to the input's grid."""

    def __init__(self, runner: Runner, layer: str) -> None:
        super().__init__(runner.net, runner.choice, runner.autocast)
        self.layer = layer

    def run(self, x: Volume5d) -> Output:
        """The layer's output; nothing above it is run."""
        seen: list[Tensor] = []

        def hook(out: Tensor) -> Tensor:
            seen.append(out)
            raise Reached

        try:
            with self.at(self.layer, hook):
                super().run(x)
        except Reached:
            pass
        out = seen[0]
        out = out if out.dtype == torch.float64 else out.float()
        return interpolated(out, x.shape[2:])

    def layers(self, x: Volume5d) -> list[Layer]:
        """Those that finish before this one does, and itself."""
        found = super().layers(x)
        names = [layer.name for layer in found]
        return found[: names.index(self.layer) + 1] if self.layer in names else found


class Above(Runner):
    """A network from a layer on: its input is the layer's output, for one scan that stays the same.

    What lies below is run once for every batch, without a graph, for what is led past the layer.
    """

    def __init__(self, runner: Runner, layer: str, x: Volume5d) -> None:
        super().__init__(runner.net, runner.choice, runner.autocast)
        self.layer, self._x = layer, x
        self._expanded = False  # whether the scan goes through once for every sample, because its skips do not fit

    def run(self, x: Volume5d) -> Output:
        """The output for the layer's activations x (b, a, i', j', k')."""
        try:
            return self._run(x)
        except VolumeError:  # what is led past the layer may join the batch in a way that is not known
            if self._expanded or len(x) == 1:
                raise
            self._expanded = True
            return self._run(x)

    def _run(self, x: Volume5d) -> Output:
        wanted = torch.is_grad_enabled()

        def hook(out: Tensor) -> Tensor:
            torch.set_grad_enabled(wanted)  # from here on up; the surrounding no_grad restores it
            return x.to(out.dtype)

        with torch.no_grad(), self.at(self.layer, hook), _Alongside(len(x)):
            scan = self._x.expand(len(x), -1, -1, -1, -1) if self._expanded else self._x
            return self._whole(super().run(self.placed(scan)), len(x))

    def _whole(self, y: Output, batch: int) -> Output:
        if len(y) == batch:
            return y
        raise LayerError(f"The output does not depend on the layer {self.layer!r}: choose another.")

    def _chosen(self, y: Any, batch: int) -> Output:
        """Of as many samples as came out."""
        return super()._chosen(y, len(y) if isinstance(y, Tensor) else batch)


class _Alongside(TorchFunctionMode):
    """Lets one sample that was led past the layer join the batch that comes from it."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._batch = batch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        joins = function_name(func) in JOINS and args and self._batch > 1 and all(t.ndim for t in args[0])
        if joins and len({len(t) for t in args[0]} - {1}) == 1:
            batch = max(len(t) for t in args[0])
            args = ([t.expand(batch, *t.shape[1:]) if len(t) == 1 else t for t in args[0]], *args[1:])
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, eq=False)
class LayerUnit(Target):
    """A neuron: the mean activation of one channel of a layer, over the whole grid or a part of it.

    Attributes
    ----------
    layer, unit : the layer's name, and the channel's index.
    mask : (i, j, k) bool on the input's grid: where it is read; one voxel for one neuron. None: everywhere.
    """

    layer: str
    unit: int
    mask: Mask | None = None
    linear = True

    def on(self, model: Explainable, x: Volume5d) -> tuple[Explainable, Target]:
        """The model up to the layer, and the channel as its target.

        Raises
        ------
        LayerError, TargetError : there is no such layer, or it has no such channel.
        """
        region = RegionScore(self.unit, torch.ones(x.shape[2:], dtype=torch.bool) if self.mask is None else self.mask)
        region.support((x.shape[2], x.shape[3], x.shape[4]))  # refuses one that does not fit
        channels = {layer.name: layer.channels for layer in model.layers(x)}.get(self.layer)
        if channels is None and self.layer in dict(model.network.named_modules()):
            raise LayerError(
                f"The layer {self.layer!r} runs more than once in a forward pass, or never, or does not put out a "
                "volume (b, c, i, j, k): choose another."
            )
        if channels is not None and not 0 <= self.unit < channels:
            raise TargetError(
                f"The layer {self.layer!r} has no channel {self.unit}: it has {channels}; choose 0 to {channels - 1}."
            )
        # Of a single channel a region's class 1 is the value, and class 0 its negative.
        return model.cut(partial(Below, layer=self.layer)), replace(region, k=1 if channels == 1 else self.unit)

    def bind(self, output: Output) -> Target:
        """Nothing depends on the prediction."""
        return self

    def support(self, shape: tuple[int, int, int]) -> Mask | None:
        """Of the network's own output, none is read."""
        return None

    def __call__(self, output: Output) -> Scores:
        """Not a score of the network's output."""
        raise TargetError("A layer's unit is no score of the network's output: give it to a method as its target.")

    def __str__(self) -> str:
        """In words."""
        where = "" if self.mask is None else f" in a region of {int(self.mask.bool().sum())} voxels"
        return f"what drives channel {self.unit} of {self.layer}{where}"


class UpperPart(NamedTuple):
    """What lies above a layer for one piece of a scan.

    Attributes
    ----------
    sample, box : as in Part.
    model : the network from the layer on; its baselines are the layer's activations on the scan's baselines.
    activation : (1, a, i', j', k') the layer's output on the scan.
    target : the piece's share in the score.
    """

    sample: int
    box: Box
    model: TorchModel
    activation: Tensor
    target: Target


def above(model: Explainable, x: Volume5d, target: Target, layer: str) -> Iterator[UpperPart]:
    """What lies above a layer, piece by piece of the scan (window by window); shares of the score add up.

    Raises
    ------
    LayerError : there is no such layer, or it puts out no volume.
    TargetError : in windows, a target that is not linear in the prediction.
    """
    blanks: dict[tuple[int, Blank], Volume5d] = {}
    for part in model.parts(x, target):
        runner = model.runner
        activation = _activation(runner, layer, part.x)

        def on(blank: Blank, part: Part = part, runner: Runner = runner) -> Volume5d:
            key = (part.sample, blank)
            if key not in blanks:
                blanks[key] = blank.volume(x[part.sample : part.sample + 1], model.info)
            return _activation(runner, layer, part.crop(blanks[key]))

        spacing = model.info.spacing
        if spacing is not None:
            extent = [s * n for s, n in zip(spacing, part.x.shape[2:], strict=True)]
            i, j, k = (e / n for e, n in zip(extent, activation.shape[2:], strict=True))
            spacing = (i, j, k)
        info = replace(model.info, spacing=spacing, air=0.0, bounds=None)
        upper = _Upper(Above(runner, layer, part.x), memory=model.memory, info=info, on=on)
        yield UpperPart(part.sample, part.box, upper, activation, part.target)


def _activation(runner: Runner, layer: str, x: Volume5d) -> Tensor:
    (tap,) = runner.tap(x, [(0, (slice(None),) * 3)], layer, None)
    return tap.activation.to(x.device)


class _Upper(TorchModel):
    """A network from a layer on."""

    def __init__(self, net: Runner, *, on: Callable[[Blank], Volume5d], **more: Any) -> None:
        super().__init__(net, **more)
        self._on = on

    def reference(self, x: Volume5d, blank: Blank) -> Volume5d:
        """The layer's activation on the scan's baseline."""
        return self._on(blank)
