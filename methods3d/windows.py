"""The whole-scan prediction of a network that sees one window at a time, and its exact gradient.

A blended sliding-window output is linear in the window outputs,

    Y(v) = sum_w  g(v) f(x_w)(v) / G(v),      G(v) = sum_w g(v),

so for any differentiable target T the gradient over the whole scan is exact with one window batch in
memory: stitch Y without a graph, take S = dT/dY, and add each window's vector-Jacobian product with
the seed S_w g / G_w in place. A window whose seed is zero contributes nothing and is never run. Where
T is linear and reads a given region, S needs no Y: nothing is stitched at all, and no volume but the
gradient is held.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from methods3d.cells import interpolated, shared_by_voxels
from methods3d.edits import WindowedEdits
from methods3d.errors import ParameterError, TargetError
from methods3d.grid import Grid, Shape
from methods3d.memory import Batches
from methods3d.meter import part_of
from methods3d.model import TARGET, TorchModel
from methods3d.rewriting import Flow, Rules, Site
from methods3d.runner import OutputChoice, Pullback
from methods3d.seeds import Seeds, refuse_classifier
from methods3d.targets import Weighted
from methods3d.types import (
    Blank,
    Box,
    Edit,
    Gradient,
    Layer,
    ModelInfo,
    Output,
    Part,
    Progress,
    Scores,
    Tap,
    Taps,
    Target,
    Volume5d,
    silent,
)

__all__ = ["PADDED", "WindowedModel"]

T = TypeVar("T")
PADDED = Site("", "padded voxels")  # what rules gave to voxels whatever their values, beyond the scan


class WindowedModel:
    """A segmentation network in sliding windows, with the semantics of MONAI's SlidingWindowInferer.

    Parameters
    ----------
    net : the network, or a TorchModel of it.
    roi_size : window in voxels; None or a non-positive entry means the scan's own size there.
    sw_batch_size : windows run at once, where no memory budget says how many.
    overlap : fraction of the window shared by neighbours, 0 <= overlap < 1, one or one an axis.
    mode : blending, "constant" or "gaussian".
    sigma_scale : the Gaussian's sigma as a fraction of the window.
    padding_mode, cval : how a scan smaller than the window is padded (torch.nn.functional.pad).
    sw_device : where windows are run; it has to be where the network is, and defaults to it.
    device : where whole-scan volumes are kept; defaults to the input's, so that a scan on the CPU
        that is larger than the GPU's memory works.
    output, autocast, memory, info : as in TorchModel; the budget is for a group of windows.

    Raises
    ------
    ModelOutputError : the network is a classifier, or puts out another size than its window.
    ParameterError : an overlap, window or blending that does not exist.
    """

    def __init__(
        self,
        net: nn.Module | TorchModel,
        roi_size: Sequence[int | None] | int | None,
        sw_batch_size: int = 4,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "gaussian",
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        *,
        output: OutputChoice = None,
        autocast: torch.dtype | None = None,
        memory: int | str | None = None,
        info: ModelInfo | None = None,
    ) -> None:
        given = {"output": output, "autocast": autocast, "memory": memory, "info": info}
        if isinstance(net, TorchModel) and any(value is not None for value in given.values()):
            raise ParameterError("A TorchModel has its own output, autocast, memory and info: give them there.")
        dense = net if isinstance(net, TorchModel) else TorchModel(net, **given)  # type: ignore[arg-type]
        self.runner, self.memory, self._info = dense.runner, dense.memory, dense.info
        self._grids: dict[Shape, Grid] = {}
        self.roi_size = _triple(roi_size, "roi_size")
        self.sw_batch_size = sw_batch_size
        self.overlap = _triple(overlap, "overlap")
        self.mode = mode
        self.sigma_scale = _triple(sigma_scale, "sigma_scale")
        self.padding_mode = padding_mode
        self.cval = cval
        self.device = None if device is None else torch.device(device)
        if not all(r is None or r == int(r) for r in self.roi_size):
            raise ParameterError(
                f"roi_size is {roi_size}: give whole numbers of voxels, or None for the scan's own size."
            )
        if sw_batch_size != int(sw_batch_size) or sw_batch_size < 1:
            raise ParameterError(f"sw_batch_size is {sw_batch_size}: give 1 or more windows at a time.")
        if not all(o is not None and 0 <= o < 1 for o in self.overlap):
            raise ParameterError(f"overlap is {overlap}: give a fraction from 0 up to, but not including, 1.")
        if mode not in ("constant", "gaussian"):
            raise ParameterError(f"The blending mode is {mode!r}: give 'constant' or 'gaussian'.")
        if not all(s is not None and s > 0 for s in self.sigma_scale):
            raise ParameterError(f"sigma_scale is {sigma_scale}: give a fraction of the window above 0.")
        if padding_mode not in ("constant", "reflect", "replicate", "circular"):
            raise ParameterError(
                f"padding_mode is {padding_mode!r}: give 'constant', 'reflect', 'replicate' or 'circular'."
            )
        if sw_device is not None and torch.device(sw_device).type != self.runner.device.type:
            raise ParameterError(
                f"Windows are to run on {sw_device}, but the network is on {self.runner.device}: "
                "move the network there first."
            )
        self._batches = Batches(sw_batch_size, self.memory)

    @property
    def info(self) -> ModelInfo:
        """What is known of the model's grid and intensities."""
        return self._info

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.runner.net

    @property
    def settings(self) -> dict[str, Any]:
        """How the network is run; JSON-ready."""
        names = ("roi_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval")
        return self.runner.settings | {"windows": {name: getattr(self, name) for name in names}}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found out while it ran: windows that mix, a budget that does not suffice."""
        return (*self.runner.warnings, *self._batches.warnings)

    def cut(self, runner: Callable[[Any], Any]) -> "WindowedModel":
        """The same model with its runner replaced by runner(runner)."""
        other = copy(self)
        other.runner = runner(self.runner)
        other._batches = Batches(self.sw_batch_size, self.memory)
        return other

    def reference(self, x: Volume5d, blank: Blank) -> Volume5d:
        """The scan with nothing in it."""
        return blank.volume(x, self._info)

    # --- the verbs ---

    def output(self, x: Volume5d, *, progress: Progress = silent) -> Output:
        """The stitched prediction, (b, k, i, j, k), without a graph."""
        grid = self._grid(x)
        return grid.cropped(self._stitched(x, grid, grid.pairs(len(x)), progress)).to(x.device)

    def bind(self, x: Volume5d, target: Target) -> tuple[Target, Scores]:
        """The target bound on x's prediction and its value; only the windows that it reads are run."""
        grid = self._grid(x)
        seeds = self._seeds(x, grid, target)
        if seeds.lazy:
            for group, y in self._run(x, grid, seeds.active):
                seeds.add_scores(y, group)
        return seeds.bound, seeds.scores.to(x.device)

    def scores(self, x: Volume5d, target: Target) -> Scores:
        """The target's value for each sample."""
        return self.bind(x, target)[1]

    def gradient(
        self,
        x: Volume5d,
        target: Target,
        *,
        rules: Rules | None = None,
        reference: Volume5d | None = None,
        progress: Progress = silent,
    ) -> Gradient:
        """The target's exact derivative in x, over the stitched prediction."""
        grid = self._grid(x)
        seeds = self._seeds(x, grid, target, part_of(progress, 0, 2), rules, reference)
        heard = progress if seeds.lazy else part_of(progress, 1, 2)  # what was stitched was the first half
        seeds.forget()
        home = self.device or x.device
        total = torch.zeros((len(x), x.shape[1], *grid.padded), dtype=self._precise, device=home)
        voxels: Tensor | None = None
        leaks: dict[tuple[Site, str], Tensor] = {}
        flows: dict[Site, Flow] = {}
        uncovered: frozenset[str] = frozenset()
        done, met = 0, True

        def work(group: list[tuple[int, Box]]) -> tuple[Output, Pullback]:
            view = [grid.windows(v, group, self.cval, self.padding_mode) for v in (x, reference) if v is not None]
            kept: list[Output] = []

            def cotangent(y: Output, y0: Output | None) -> Tensor:
                kept[:] = [y]
                return seeds.cotangent_of(group)(y, y0)

            back = self.runner.pullback(view[0], cotangent, rules, *view[1:])
            return kept[0], back.to(home)

        for group, (y, back) in self._batches.over(seeds.active, work, ("gradient", grid.roi, type(rules))):
            if seeds.lazy:
                seeds.add_scores(y, group)
            if back.voxels is not None and voxels is None:
                voxels = total.new_zeros((len(x), back.voxels.shape[1], *grid.padded))
            for row, (n, box) in enumerate(group):
                place = (n, slice(None), *box)
                total[place] += back.values[row]
                if voxels is not None and back.voxels is not None:
                    voxels[place] += back.voxels[row]
                for at, kept in back.leaks.items():
                    leaks.setdefault(at, torch.zeros(len(x), device=home, dtype=kept.dtype))[n] += kept[row]
                for site, flow in back.flows.items():
                    sums = flows.setdefault(site, Flow(flow.rule, *(flow.received.new_zeros(len(x)) for _ in range(2))))
                    sums.received[n] += flow.received[row]
                    sums.handed[n] += flow.handed[row]
            uncovered |= back.uncovered
            met &= back.met
            done += len(group)
            heard(done, len(seeds.active))
        if rules is not None and reference is None:
            leaks[TARGET, "target"] = seeds.scores - seeds.conserved
            if grid.is_padded and self.padding_mode == "constant":  # padded voxels are inputs too, and hold cval
                leaks[Site("", "windows"), "padding"] = self.cval * _rim(total, grid)
                if voxels is not None:
                    leaks[PADDED, "padding"] = _rim(voxels, grid)
        return Gradient(
            seeds.scores.to(x.device),
            grid.unpadded(total, x, self.cval, self.padding_mode).to(x.device),
            {at: kept.to(x.device) for at, kept in leaks.items()},
            uncovered,
            None if voxels is None else grid.unpadded(voxels, x, self.cval, self.padding_mode).to(x.device),
            flows,
            met,
        )

    def gradients(
        self, points: Iterable[Volume5d], target: Target, *, progress: Progress = silent
    ) -> Iterator[Gradient]:
        """The target's exact derivative at each point, one after the other: it is windows that run together."""
        for point in points:
            yield self.gradient(point, target, progress=progress)

    def layers(self, x: Volume5d) -> Sequence[Layer]:
        """Modules whose output is a volume, in one window."""
        grid = self._grid(x)
        return self.runner.layers(x.new_empty((1, x.shape[1], *grid.roi), device="meta"))

    def taps(self, x: Volume5d, layer: str, target: Target | None = None) -> Taps:
        """The layer's activation in every window; with a target, its gradient too, in windows that have one."""
        grid = self._grid(x)
        seeds = None if target is None else self._seeds(x, grid, target)

        def work(group: list[tuple[int, Box]]) -> list[Tap]:
            view = grid.windows(x, group, self.cval, self.padding_mode)
            cotangent = None if seeds is None else seeds.cotangent_of(group)
            return self.runner.tap(view, group, layer, cotangent)

        def windows() -> Iterator[Tap]:
            pairs = grid.pairs(len(x)) if seeds is None else seeds.active
            for group, taps in self._batches.over(pairs, work, ("tap", grid.roi, layer, seeds is None)):
                if seeds is not None and seeds.lazy:
                    seeds.add_scores(torch.cat([tap.output for tap in taps if tap.output is not None]), group)
                yield from (replace(tap, share=grid.share(tap.box)) for tap in taps)

        return Taps(windows(), lambda: torch.empty(0) if seeds is None else seeds.scores.to(x.device))

    def blend(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d, *, shares: bool = False) -> Tensor:
        """Window maps at any resolution, resampled to the window and stitched as the prediction is, or added."""
        grid = self._grid(x)

        def full(box: Box, part: Tensor) -> Tensor:
            fine = interpolated(part, grid.roi)[0]
            return fine if shares else fine * grid.share(box).to(fine)

        return self._laid(parts, x, grid, full)

    def gathered(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d) -> Tensor:
        """Window maps at any resolution, each cell's value shared by its voxels, added up; padding is left out."""
        grid = self._grid(x)
        return self._laid(parts, x, grid, lambda box, part: shared_by_voxels(part, grid.roi)[0])

    def edited(self, x: Volume5d, target: Target, edits: Iterable[Edit]) -> Iterator[Tensor]:
        """The bound target's value after each edit of the one sample x; only windows that an edit touches are run.

        A linear target needs one clean pass; any other also keeps the stitched prediction, and the clean output of
        windows that edits touch.
        """
        grid = self._grid(x)
        seeds = self._seeds(x, grid, target)
        made = WindowedEdits(x, grid, seeds, self._windowed, self._batches, self.padding_mode, self.cval)
        yield from made.scores(edits)

    def recalled(self, compute: Callable[[], Tensor]) -> Tensor:
        """compute()."""
        return compute()

    def parts(self, x: Volume5d, target: Target) -> Iterator[Part]:
        """Each window with its weighted outputs: only a linear score is the sum of what it has in each window.

        Raises
        ------
        TargetError : the bound target is not linear.
        """
        grid = self._grid(x)
        seeds = self._seeds(x, grid, target)
        if not seeds.bound.linear:
            raise TargetError(
                f"{type(target).__name__} is not linear in the prediction, so that it has no share in each window: "
                "ask about a region (RegionScore, PredictedRegion), or run the scan without windows."
            )
        y: Output | None = None
        for n, box in seeds.active:
            window = grid.windows(x[n : n + 1], [(0, box)], self.cval, self.padding_mode)
            y = self._windowed(window) if y is None else y  # how many channels there are
            yield Part(
                n,
                box,
                window,
                Weighted(seeds.of([(n, box)], y).to(x.device)),
                lambda volume, box=box: grid.windows(volume, [(0, box)], self.cval, self.padding_mode),  # type: ignore[misc]
            )

    def passes(self, shape: Shape, target: Target | None = None) -> int:
        """Windows of one prediction, or those that the target reads."""
        grid = self._grid(torch.empty(1, 1, *shape, device="meta"))
        support = None if target is None else target.support(shape)
        return len(grid.boxes) if support is None else len(grid.touching(grid.padded_mask(support), 0))

    # --- how ---

    def _run(
        self, x: Volume5d, grid: Grid, pairs: Iterable[tuple[int, Box]]
    ) -> Iterator[tuple[list[tuple[int, Box]], Output]]:
        """Windows of the scan, some at a time, and what the network puts out there."""

        def work(group: list[tuple[int, Box]]) -> Output:
            return self._windowed(grid.windows(x, group, self.cval, self.padding_mode))

        return self._batches.over(pairs, work, ("forward", grid.roi))

    def _windowed(self, windows: Volume5d) -> Output:
        y = self.runner.forward(windows)
        refuse_classifier(y, tuple(windows.shape[2:]))
        return y

    def _stitched(self, x: Volume5d, grid: Grid, pairs: Sequence[tuple[int, Box]], progress: Progress) -> Output:
        """Y on the padded grid, from the given windows alone."""
        done = 0

        def parts() -> Iterator[tuple[int, Box, Tensor]]:
            nonlocal done
            for group, y in self._run(x, grid, pairs):
                for row, (n, box) in enumerate(group):
                    yield n, box, y[row : row + 1]
                done += len(group)
                progress(done, len(pairs))

        return self._laid(parts(), x, grid, lambda box, y: y[0] * grid.share(box).to(y), padded=True)

    def _laid(
        self,
        parts: Iterable[tuple[int, Box, Tensor]],
        x: Volume5d,
        grid: Grid,
        full: Callable[[Box, Tensor], Tensor],
        *,
        padded: bool = False,
    ) -> Tensor:
        """The sum of window maps (m, *roi) that full(box, part) makes of parts, on the (padded) grid."""
        home = self.device or x.device
        total: Tensor | None = None
        for n, box, part in parts:
            if total is None:
                total = torch.zeros((len(x), part.shape[1], *grid.padded), dtype=part.dtype, device=home)
            total[(n, slice(None), *box)] += full(box, part).to(home)
        assert total is not None  # there is always a window
        return total if padded else grid.cropped(total).to(x.device)

    def _seeds(
        self,
        x: Volume5d,
        grid: Grid,
        target: Target,
        progress: Progress = silent,
        rules: Rules | None = None,
        reference: Volume5d | None = None,
    ) -> Seeds:
        return Seeds(
            target,
            grid,
            len(x),
            home=self.device or x.device,
            dtype=self._precise,
            stitch=lambda pairs: self._stitched(x, grid, pairs, progress),
            rules=rules,
            stitch_reference=None
            if reference is None
            else lambda pairs: self._stitched(reference, grid, pairs, silent),
        )

    def _grid(self, x: Volume5d) -> Grid:
        """The windows on a scan of this shape; those of the last one are kept."""
        shape = (x.shape[2], x.shape[3], x.shape[4])
        if shape not in self._grids:
            grid = Grid.over(shape, self.roi_size, self.overlap, self.mode, self.sigma_scale, self.runner.dtype)
            self._grids = {shape: grid}
        return self._grids[shape]

    @property
    def _precise(self) -> torch.dtype:
        """What sums over windows are kept in."""
        return torch.promote_types(self.runner.dtype, torch.float32)


def _rim(total: Tensor, grid: Grid) -> Tensor:
    """The sum over voxels that are padding, (b,)."""
    return total.flatten(1).sum(1) - grid.cropped(total).flatten(1).sum(1)


def _triple(value: Sequence[T] | T, name: str) -> tuple[T, T, T]:
    values: Sequence[T] = tuple(value) if isinstance(value, Iterable) else (value,) * 3
    if len(values) != 3:
        raise ParameterError(f"{name} is {value}: give one number, or one for each of the three axes.")
    return values[0], values[1], values[2]
