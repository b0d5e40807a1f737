"""The whole-scan prediction of a network that sees one window at a time, and its exact gradient.

A blended sliding-window output is linear in the window outputs,

    Y(v) = sum_w  g(v) f(x_w)(v) / G(v),      G(v) = sum_w g(v),

so for any differentiable target T the gradient over the whole scan is exact with one window batch in
memory: stitch Y without a graph, take S = dT/dY, and add each window's vector-Jacobian product with
the seed g S_w / G_w in place. A window whose seed is zero contributes nothing and is never run. Where
T is linear and reads a given region, S needs no Y: nothing is stitched at all.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods3d.errors import ParameterError
from methods3d.grid import Grid, Shape
from methods3d.model import TARGET, OutputChoice, TorchModel, shared_by_voxels
from methods3d.rewriting import Flow, Rules, Site
from methods3d.seeds import Seeds, refuse_classifier
from methods3d.types import (
    Box,
    Edit,
    Gradient,
    Layer,
    ModelInfo,
    Output,
    Progress,
    Scores,
    Tap,
    Taps,
    Target,
    Volume5d,
    silent,
)

__all__ = ["WindowedModel"]


class WindowedModel:
    """A segmentation network in sliding windows, with the semantics of MONAI's SlidingWindowInferer.

    Parameters
    ----------
    net : the network, or a TorchModel of it.
    roi_size : window in voxels; None or a non-positive entry means the scan's own size there.
    sw_batch_size : windows run at once.
    overlap : fraction of the window shared by neighbours, 0 <= overlap < 1, one or one an axis.
    mode : blending, "constant" or "gaussian".
    sigma_scale : the Gaussian's sigma as a fraction of the window.
    padding_mode, cval : how a scan smaller than the window is padded (torch.nn.functional.pad).
    sw_device : where windows are run; it has to be where the network is, and defaults to it.
    device : where whole-scan volumes are kept; defaults to the input's, so that a scan on the CPU
        that is larger than the GPU's memory works.
    output, autocast, info : as in TorchModel.

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
        info: ModelInfo | None = None,
    ) -> None:
        self.dense = (
            net if isinstance(net, TorchModel) else TorchModel(net, output=output, autocast=autocast, info=info)
        )
        self.roi_size = _triple(roi_size, "roi_size")
        self.sw_batch_size = sw_batch_size
        self.overlap = _triple(overlap, "overlap")
        self.mode = mode
        self.sigma_scale = _triple(sigma_scale, "sigma_scale")
        self.padding_mode = padding_mode
        self.cval = cval
        self.device = None if device is None else torch.device(device)
        if sw_batch_size < 1:
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
        if sw_device is not None and torch.device(sw_device).type != self.dense.device.type:
            raise ParameterError(
                f"Windows are to run on {sw_device}, but the network is on {self.dense.device}: "
                "move the network there first."
            )

    @property
    def info(self) -> ModelInfo:
        """What is known of the model's grid and intensities."""
        return self.dense.info

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.dense.network

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
            for group in _batches(seeds.active, self.sw_batch_size):
                seeds.add_scores(self._windowed(grid.windows(x, group, self.cval, self.padding_mode)), group)
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
        seeds = self._seeds(x, grid, target, progress, rules, reference)
        home = self.device or x.device
        total = torch.zeros((len(x), x.shape[1], *grid.padded), dtype=_precise(self), device=home)
        voxels: Tensor | None = None
        leaks: dict[tuple[Site, str], Tensor] = {}
        flows: dict[Site, Flow] = {}
        uncovered: frozenset[str] = frozenset()
        done = 0

        for group in _batches(seeds.active, self.sw_batch_size):
            view = [grid.windows(v, group, self.cval, self.padding_mode) for v in (x, reference) if v is not None]
            back = self.dense.pullback(view[0], seeds.cotangent_of(group), rules, *view[1:]).to(home)
            if back.voxels is not None and voxels is None:
                voxels = torch.zeros_like(total)
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
            done += len(group)
            progress(done, len(seeds.active))
        if rules is not None and reference is None:
            leaks[TARGET, "target"] = seeds.scores - seeds.conserved
            if grid.is_padded and self.padding_mode == "constant":  # padded voxels are inputs too, and hold cval
                lost = self.cval * _rim(total, grid) + (0.0 if voxels is None else _rim(voxels, grid))
                leaks[Site("", "windows"), "padding"] = lost
        return Gradient(
            seeds.scores.to(x.device),
            grid.unpadded(total, x, self.cval, self.padding_mode).to(x.device),
            {at: kept.to(x.device) for at, kept in leaks.items()},
            uncovered,
            None if voxels is None else grid.unpadded(voxels, x, self.cval, self.padding_mode).to(x.device),
            flows,
        )

    def layers(self, x: Volume5d) -> Sequence[Layer]:
        """Modules whose output is a volume, in one window."""
        grid = self._grid(x)
        return self.dense.layers(grid.windows(x, [(0, grid.boxes[0])], self.cval, self.padding_mode))

    def taps(self, x: Volume5d, layer: str, target: Target | None = None, *, rules: Rules | None = None) -> Taps:
        """The layer's activation in every window; with a target, its gradient too, in windows that have one."""
        grid = self._grid(x)
        seeds = None if target is None else self._seeds(x, grid, target)

        def windows() -> Iterator[Tap]:
            for group in _batches(grid.pairs(len(x)) if seeds is None else seeds.active, self.sw_batch_size):
                cotangent = None if seeds is None else seeds.cotangent_of(group)
                view = grid.windows(x, group, self.cval, self.padding_mode)
                yield from self.dense.tap(view, group, layer, cotangent, rules)

        return Taps(windows(), lambda: torch.empty(0) if seeds is None else seeds.scores.to(x.device))

    def blend(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d) -> Tensor:
        """Window maps at any resolution, resampled to the window and stitched as the prediction is."""
        grid = self._grid(x)
        home = self.device or x.device
        total: Tensor | None = None
        for n, box, part in parts:
            if total is None:
                total = torch.zeros((len(x), part.shape[1], *grid.padded), dtype=part.dtype, device=home)
            full = F.interpolate(part, size=grid.roi, mode="trilinear", align_corners=False)[0].to(home)
            total[(n, slice(None), *box)] += full * grid.weight.to(full)
        assert total is not None  # there is always a window
        return grid.cropped(total / grid.norm.to(total)).to(x.device)

    def gathered(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d) -> Tensor:
        """Window maps at any resolution, each cell's value shared by its voxels, added up; padding is left out."""
        grid = self._grid(x)
        home = self.device or x.device
        total: Tensor | None = None
        for n, box, part in parts:
            if total is None:
                total = torch.zeros((len(x), part.shape[1], *grid.padded), dtype=part.dtype, device=home)
            total[(n, slice(None), *box)] += shared_by_voxels(part, grid.roi)[0].to(home)
        assert total is not None  # there is always a window
        return grid.cropped(total).to(x.device)

    def edited(self, x: Volume5d, target: Target, edits: Sequence[Edit], *, batch: int) -> Iterator[Tensor]:
        """The bound target's value after each edit of the one sample x; only windows that an edit touches are run.

        A linear target needs one clean pass; any other also keeps the stitched prediction, and runs the
        clean windows that a batch of edits touches once more.
        """
        grid = self._grid(x)
        seeds = self._seeds(x, grid, target)
        if seeds.lazy or target.linear:
            yield from self._edited_linear(x, grid, seeds, edits, batch)
        else:
            yield from self._edited(x, grid, seeds, edits, batch)

    def passes(self, shape: Shape, target: Target | None = None) -> int:
        """Windows of one prediction, or those that the target reads."""
        grid = self._grid(torch.empty(1, 1, *shape, device="meta"))
        support = None if target is None else target.support(shape)
        return len(grid.boxes) if support is None else len(grid.touching(grid.padded_mask(support), 0))

    # --- how ---

    def _edited_linear(
        self, x: Volume5d, grid: Grid, seeds: Seeds, edits: Sequence[Edit], batch: int
    ) -> Iterator[Tensor]:
        clean: list[Tensor] = []
        for group in _batches(seeds.active, self.sw_batch_size):
            y = self._windowed(grid.windows(x, group, self.cval, self.padding_mode))
            if seeds.lazy:
                seeds.add_scores(y, group)
            clean += list((y * seeds.of(group).to(y)).flatten(1).sum(1).to(x.device))
        base = seeds.scores[:1].to(x.device)
        for few in _batches(edits, batch):
            change = torch.zeros(len(few), dtype=base.dtype, device=x.device)
            jobs = [
                (e, w)
                for e, edit in enumerate(few)
                for w, (_, box) in enumerate(seeds.active)
                if self._meets(grid, edit, box)
            ]
            for some in _batches(jobs, self.sw_batch_size):
                boxes = [seeds.active[w] for _, w in some]
                y = self._windowed(torch.cat([self._edited_window(x, grid, few[e], seeds.active[w]) for e, w in some]))
                values = (y * seeds.of(boxes).to(y)).flatten(1).sum(1).to(x.device)
                for (e, w), value in zip(some, values, strict=True):
                    change[e] += value - clean[w]
            yield base + change

    def _edited(self, x: Volume5d, grid: Grid, seeds: Seeds, edits: Sequence[Edit], batch: int) -> Iterator[Tensor]:
        stitched = seeds.stitched
        assert stitched is not None  # a target that is not lazy was bound on it
        weight, norm = grid.weight.to(stitched), grid.norm.to(stitched)
        for few in _batches(edits, batch):
            touched = {w for edit in few for w, (_, box) in enumerate(seeds.pairs) if self._meets(grid, edit, box)}
            clean: dict[int, Tensor] = {}
            for some in _batches(sorted(touched), self.sw_batch_size):
                y = self._windowed(grid.windows(x, [seeds.pairs[w] for w in some], self.cval, self.padding_mode))
                clean |= {w: row.to(stitched) for w, row in zip(some, y, strict=True)}
            after = []
            for edit in few:
                prediction = stitched.clone()
                mine = [w for w in sorted(touched) if self._meets(grid, edit, seeds.pairs[w][1])]
                for some in _batches(mine, self.sw_batch_size):
                    y = self._windowed(torch.cat([self._edited_window(x, grid, edit, seeds.pairs[w]) for w in some]))
                    for w, row in zip(some, y, strict=True):
                        box = seeds.pairs[w][1]
                        prediction[(0, slice(None), *box)] += (row.to(stitched) - clean[w]) * weight / norm[box]
                after.append(seeds.bound(grid.cropped(prediction)))
            yield torch.cat(after).to(x.device)

    def _meets(self, grid: Grid, edit: Edit, box: Box) -> bool:
        """Whether an edit (unpadded voxels) changes what a window (padded voxels) sees."""
        if grid.is_padded and self.padding_mode != "constant":
            return True  # the padding repeats voxels: an edit may show anywhere
        return all(
            e.start + lo < b.stop and b.start < e.stop + lo for e, b, lo in zip(edit.box, box, grid.before, strict=True)
        )

    def _edited_window(self, x: Volume5d, grid: Grid, edit: Edit, pair: tuple[int, Box]) -> Volume5d:
        if grid.is_padded and self.padding_mode != "constant":
            copy = x.clone()
            copy[(slice(None), edit.channels, *edit.box)] = edit.values
            return grid.windows(copy, [pair], self.cval, self.padding_mode)
        window = grid.windows(x, [pair], self.cval, self.padding_mode).clone()
        inside, part = [], []  # the box as the window sees it, and the part of the box that it sees
        for e, b, lo in zip(edit.box, pair[1], grid.before, strict=True):
            start, stop = max(e.start + lo, b.start), min(e.stop + lo, b.stop)
            inside.append(slice(start - b.start, stop - b.start))
            part.append(slice(start - e.start - lo, stop - e.start - lo))
        window[(slice(None), edit.channels, *inside)] = edit.values[(slice(None), *part)]
        return window

    def _windowed(self, windows: Volume5d) -> Output:
        y = self.dense.forward(windows)
        refuse_classifier(y, tuple(windows.shape[2:]))
        return y

    def _stitched(self, x: Volume5d, grid: Grid, pairs: Sequence[tuple[int, Box]], progress: Progress) -> Output:
        """Y on the padded grid, from the given windows alone."""
        home = self.device or x.device
        total: Tensor | None = None
        done = 0
        for group in _batches(pairs, self.sw_batch_size):
            y = self._windowed(grid.windows(x, group, self.cval, self.padding_mode))
            if total is None:
                total = torch.zeros((len(x), y.shape[1], *grid.padded), dtype=y.dtype, device=home)
            y = (y * grid.weight.to(y)).to(home)
            for row, (n, box) in enumerate(group):
                total[(n, slice(None), *box)] += y[row]
            done += len(group)
            progress(done, len(pairs))
        assert total is not None  # there is always a window
        return total.div_(grid.norm.to(total))

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
            dtype=_precise(self),
            stitch=lambda pairs: self._stitched(x, grid, pairs, progress),
            rules=rules,
            stitch_reference=None
            if reference is None
            else lambda pairs: self._stitched(reference, grid, pairs, silent),
        )

    def _grid(self, x: Volume5d) -> Grid:
        shape = (x.shape[2], x.shape[3], x.shape[4])
        return Grid.over(shape, self.roi_size, self.overlap, self.mode, self.sigma_scale, self.dense.dtype)


T = TypeVar("T")


def _precise(model: WindowedModel) -> torch.dtype:
    """What sums over windows are kept in."""
    return torch.promote_types(model.dense.dtype, torch.float32)


def _rim(total: Tensor, grid: Grid) -> Tensor:
    """The sum over voxels that are padding, (b,)."""
    return total.flatten(1).sum(1) - grid.cropped(total).flatten(1).sum(1)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _triple(value: Sequence[T] | T, name: str) -> tuple[T, T, T]:
    values: Sequence[T] = value if isinstance(value, Sequence) else (value,) * 3
    if len(values) != 3:
        raise ParameterError(f"{name} is {value}: give one number, or one for each of the three axes.")
    return values[0], values[1], values[2]
