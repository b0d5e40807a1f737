"""A network that sees the whole volume at once, as every method wants to see it."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from methods3d.cells import interpolated, shared_by_voxels
from methods3d.cotangent import score_and_cotangent
from methods3d.edits import edited_volume
from methods3d.errors import MixedSamples
from methods3d.memory import Batches, bytes_of
from methods3d.rewriting import Flow, Rules, Site
from methods3d.runner import OutputChoice, Runner
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

__all__ = ["TARGET", "TorchModel", "whole"]

T = TypeVar("T")
TARGET = Site("", "target")
AT_ONCE = 4  # volumes that run together where no memory budget says how many


class TorchModel:
    """Any network (b, c, i, j, k) -> (b, k) or (b, k, i, j, k), explained as it is.

    It runs in evaluation mode where its parameters are; inputs are moved there, results come back to
    the input's device. The network is left exactly as found: flags, gradients, hooks, also after an error.

    Parameters
    ----------
    net : the network; TorchScript serves gradient and perturbation methods only.
    output : which of several outputs to explain: an index, a key, or a callable that picks a tensor.
    autocast : lower precision for the forward pass (torch.float16, torch.bfloat16), or None.
    memory : what running may take beyond the volumes themselves, in bytes or as "4GiB": decides how many volumes
        run at once. None: four, and fewer once memory ran out.
    info : what is known of the input grid and intensities.

    Raises
    ------
    ModelOutputError : the network returns a tuple or dict and `output` does not choose from it.
    VolumeError : the network cannot run on the given shape.
    """

    def __init__(
        self,
        net: nn.Module | Runner,
        *,
        output: OutputChoice = None,
        autocast: torch.dtype | None = None,
        memory: int | str | None = None,
        info: ModelInfo | None = None,
    ) -> None:
        self.runner = net if isinstance(net, Runner) else Runner(net, output, autocast)
        self.memory = bytes_of(memory)
        self._batches = Batches(AT_ONCE, self.memory)
        self._info = info or ModelInfo()

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
        return self.runner.settings | {"windows": None}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found out while it ran: samples that mix, a budget that does not suffice."""
        return (*self.runner.warnings, *self._batches.warnings)

    def cut(self, runner: Callable[[Any], Any]) -> "TorchModel":
        """The same model with its runner replaced by runner(runner)."""
        return TorchModel(runner(self.runner), memory=self.memory, info=self._info)

    def reference(self, x: Volume5d, blank: Blank) -> Volume5d:
        """The scan with nothing in it."""
        return blank.volume(x, self._info)

    # --- the verbs ---

    def output(self, x: Volume5d, *, progress: Progress = silent) -> Output:
        """The prediction, without a graph."""
        y = torch.cat(self._together_or_apart(x, lambda part, n: self.runner.forward(part), ("forward", x.shape[1:])))
        progress(1, 1)
        return y.to(x.device)

    def bind(self, x: Volume5d, target: Target) -> tuple[Target, Scores]:
        """The target bound on x's prediction, and its value there."""
        y = self.output(x)
        bound = target.bind(y)
        return bound, bound(y)

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
        """The target's derivative in x."""

        def work(part: Volume5d, n: int | None) -> Gradient:
            its_target = target if n is None else target.sample(n, len(x))
            its_reference = reference if reference is None or n is None else reference[n : n + 1]
            return self._gradient(part, its_target, rules, its_reference)

        found = joined(self._together_or_apart(x, work, ("gradient", x.shape[1:], type(rules))))
        progress(1, 1)
        return found

    def gradients(
        self, points: Iterable[Volume5d], target: Target, *, progress: Progress = silent
    ) -> Iterator[Gradient]:
        """The target's derivative at each point."""

        def work(group: list[Volume5d]) -> Gradient:
            return self._gradient(torch.cat(group), target)

        drawn = iter(points)
        first = next(drawn, None)
        if first is None:
            return
        for group, found in self._batches.over(chain([first], drawn), work, ("gradient", first.shape)):
            progress(1, 1)
            for n in range(len(group)):
                yield Gradient(found.scores[n : n + 1], found.values[n : n + 1])

    def layers(self, x: Volume5d) -> Sequence[Layer]:
        """Modules that run once and put out a volume, in the order in which they finish."""
        return self.runner.layers(x[:1])

    def taps(self, x: Volume5d, layer: str, target: Target | None = None) -> Taps:
        """The layer's activation, and gradient if a target is given: one tap a sample."""
        scores: list[Scores] = []

        def work(part: Volume5d, n: int | None) -> list[Tap]:
            if not n:  # from the start (again)
                scores.clear()

            def cotangent(y: Output, y0: Output | None) -> Tensor:
                assert target is not None  # else it is not asked for
                its_target = target if n is None else target.sample(n, len(x))
                its_scores, seed = score_and_cotangent(its_target.bind(y), y)
                scores.append(its_scores)
                return seed

            places = [(row, whole(x)) for row in (range(len(x)) if n is None else [n])]
            return self.runner.tap(part, places, layer, None if target is None else cotangent)

        def windows() -> Iterator[Tap]:
            for found in self._together_or_apart(x, work, ("tap", x.shape[1:], layer, target is None)):
                yield from found

        return Taps(windows(), lambda: torch.cat(scores).to(x.device) if scores else torch.empty(0))

    def blend(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d, *, shares: bool = False) -> Tensor:
        """Each sample's map, resampled to the input grid: (b, m, i, j, k)."""
        maps = {n: interpolated(m, x.shape[2:]) for n, _, m in parts}
        return torch.cat([maps[n] for n in range(len(x))]).to(x.device)

    def gathered(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d) -> Tensor:
        """Each sample's map with every cell's value shared by its voxels: (b, m, i, j, k)."""
        maps = {n: shared_by_voxels(m, x.shape[2:]) for n, _, m in parts}
        return torch.cat([maps[n] for n in range(len(x))]).to(x.device)

    def edited(self, x: Volume5d, target: Target, edits: Iterable[Edit]) -> Iterator[Tensor]:
        """The bound target's value after each edit of the one sample x."""

        def work(group: list[Edit]) -> Scores:
            y = self.runner.forward(torch.cat([edited_volume(x, edit) for edit in group])).to(x.device)
            return target.bind(y)(y)

        for _, scores in self._batches.over(edits, work, ("edited", x.shape)):
            yield scores

    def recalled(self, compute: Callable[[], Tensor]) -> Tensor:
        """compute()."""
        return compute()

    def parts(self, x: Volume5d, target: Target) -> Iterator[Part]:
        """Each sample whole."""
        for n in range(len(x)):
            one = x[n : n + 1]
            bound, _ = self.bind(one, target.sample(n, len(x)))
            yield Part(n, whole(x), one, bound, lambda volume: volume)

    def passes(self, shape: tuple[int, int, int], target: Target | None = None) -> int:
        """One."""
        return 1

    def _together_or_apart(self, x: Volume5d, work: Callable[[Volume5d, int | None], T], kind: Hashable) -> list[T]:
        """work(x, None); where the samples may not fit together, or mix, work(sample, its number) for each."""
        if self.memory is None:
            try:
                return [work(x, None)]
            except (MixedSamples, torch.OutOfMemoryError):
                if len(x) == 1:
                    raise
        # Each is a group of its own, so that a budget hears of what it takes.
        found = (self._batches.over([n], lambda row: work(x[row[0] : row[0] + 1], row[0]), kind) for n in range(len(x)))
        return [one for group in found for _, one in group]

    def _gradient(
        self, x: Volume5d, target: Target, rules: Rules | None = None, reference: Volume5d | None = None
    ) -> Gradient:
        scores = conserved = torch.empty(0)

        def cotangent(y: Output, y0: Output | None) -> Tensor:
            nonlocal scores, conserved
            scores, seed = score_and_cotangent(target.bind(y), y, rules, y0)
            conserved = (seed * y).flatten(1).sum(1)
            return seed

        back = self.runner.pullback(x, cotangent, rules, reference)
        if rules is not None and reference is None:
            back = back._replace(leaks={**back.leaks, (TARGET, "target"): scores - conserved})
        return Gradient(scores.to(x.device), *back.to(x.device))


def joined(found: Sequence[Gradient]) -> Gradient:
    """The gradients of consecutive samples as one of the batch."""
    if len(found) == 1:
        return found[0]

    def over_samples(parts: Sequence[Mapping[Any, Tensor]]) -> dict[Any, Tensor]:
        keys = dict.fromkeys(key for part in parts for key in part)
        blank = torch.zeros_like(found[0].scores)
        return {key: torch.cat([part.get(key, blank) for part in parts]) for key in keys}

    received = over_samples([{site: flow.received for site, flow in f.flows.items()} for f in found])
    handed = over_samples([{site: flow.handed for site, flow in f.flows.items()} for f in found])
    rules = {site: flow.rule for f in found for site, flow in f.flows.items()}
    return Gradient(
        torch.cat([f.scores for f in found]),
        torch.cat([f.values for f in found]),
        over_samples([f.leaks for f in found]),
        frozenset[str]().union(*(f.uncovered for f in found)),
        None if any(f.voxels is None for f in found) else torch.cat([f.voxels for f in found if f.voxels is not None]),
        {site: Flow(rules[site], received[site], handed[site]) for site in rules},
        any(f.met for f in found),
    )


def whole(x: Volume5d) -> Box:
    """All of a volume."""
    return slice(0, x.shape[2]), slice(0, x.shape[3]), slice(0, x.shape[4])
