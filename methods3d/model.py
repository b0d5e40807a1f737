"""A network that sees the whole volume at once, as every method wants to see it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from methods3d.errors import (
    LayerError,
    Methods3dError,
    ModelOutputError,
    TargetError,
    UnsupportedModelError,
    VolumeError,
)
from methods3d.rewriting import Flow, Rules, Site
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

__all__ = ["TorchModel"]

OutputChoice: TypeAlias = int | str | Callable[[Any], Tensor] | None
Cotangent: TypeAlias = Callable[[Output, Output | None], Tensor]  # of the output, and of the reference's
TARGET = Site("", "target")

HALF_PRECISION_SEED = 6  # log2 of a cotangent's size at which float16 neither flushes to zero nor overflows


class TorchModel:
    """Any network (b, c, i, j, k) -> (b, k) or (b, k, i, j, k), explained as it is.

    It runs in evaluation mode where its parameters are; inputs are moved there, results come back to
    the input's device. The network is left exactly as found: flags, gradients, hooks, also after an error.

    Parameters
    ----------
    net : the network; TorchScript serves gradient and perturbation methods only.
    output : which of several outputs to explain: an index, a key, or a callable that picks a tensor.
    autocast : lower precision for the forward pass (torch.float16, torch.bfloat16), or None.
    info : what is known of the input grid and intensities.

    Raises
    ------
    ModelOutputError : the network returns a tuple or dict and `output` does not choose from it.
    VolumeError : the network cannot run on the given shape.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        output: OutputChoice = None,
        autocast: torch.dtype | None = None,
        info: ModelInfo | None = None,
    ) -> None:
        self._net = net
        self._choice = output
        self._autocast = autocast
        self._info = info or ModelInfo()

    @property
    def info(self) -> ModelInfo:
        """What is known of the model's grid and intensities."""
        return self._info

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._net

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next((p.device for p in self._net.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The network's floating-point type."""
        return next((p.dtype for p in self._net.parameters() if p.is_floating_point()), torch.float32)

    # --- the verbs ---

    def output(self, x: Volume5d, *, progress: Progress = silent) -> Output:
        """The prediction, without a graph."""
        y = self.forward(x).to(x.device)
        progress(1, 1)
        return y

    def bind(self, x: Volume5d, target: Target) -> tuple[Target, Scores]:
        """The target bound on x's prediction, and its value there."""
        y = self.forward(x)
        bound = target.bind(y)
        return bound, bound(y).to(x.device)

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
        scores = conserved = torch.empty(0)

        def cotangent(y: Output, y0: Output | None) -> Tensor:
            nonlocal scores, conserved
            scores, seed = score_and_cotangent(target.bind(y), y, rules, y0)
            conserved = (seed * y).flatten(1).sum(1)
            return seed

        back = self.pullback(x, cotangent, rules, reference)
        progress(1, 1)
        if rules is not None and reference is None:
            back = back._replace(leaks={**back.leaks, (TARGET, "target"): scores - conserved})
        return Gradient(scores.to(x.device), *back.to(x.device))

    def layers(self, x: Volume5d) -> Sequence[Layer]:
        """Modules that run once and put out a volume, in the order in which they finish."""
        self._refuse_script("layers")
        found: dict[str, Layer] = {}
        runs: Counter[str] = Counter()

        def look(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, out: Any) -> None:
                runs[name] += 1
                if isinstance(out, Tensor) and out.ndim == 5:
                    found[name] = Layer(name, out.shape[1], (out.shape[2], out.shape[3], out.shape[4]))

            return hook

        handles = [m.register_forward_hook(look(name)) for name, m in self._net.named_modules() if name]
        try:
            self.forward(x)
        finally:
            for handle in handles:
                handle.remove()
        return [layer for name, layer in found.items() if runs[name] == 1]

    def taps(self, x: Volume5d, layer: str, target: Target | None = None, *, rules: Rules | None = None) -> Taps:
        """The layer's activation, and gradient if a target is given: one tap a sample."""
        scores = torch.empty(0)

        def cotangent(y: Output, y0: Output | None) -> Tensor:
            nonlocal scores
            assert target is not None
            scores, seed = score_and_cotangent(target.bind(y), y)
            return seed

        def windows() -> Iterator[Tap]:
            whole: Box = (slice(0, x.shape[2]), slice(0, x.shape[3]), slice(0, x.shape[4]))
            places = [(n, whole) for n in range(len(x))]
            yield from self.tap(x, places, layer, None if target is None else cotangent, rules)

        return Taps(windows(), lambda: scores.to(x.device))

    def blend(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d) -> Tensor:
        """Each sample's map, resampled to the input grid: (b, m, i, j, k)."""
        maps = {n: F.interpolate(m, size=x.shape[2:], mode="trilinear", align_corners=False) for n, _, m in parts}
        return torch.cat([maps[n] for n in range(len(x))]).to(x.device)

    def gathered(self, parts: Iterable[tuple[int, Box, Tensor]], x: Volume5d) -> Tensor:
        """Each sample's map with every cell's value shared by its voxels: (b, m, i, j, k)."""
        maps = {n: shared_by_voxels(m, x.shape[2:]) for n, _, m in parts}
        return torch.cat([maps[n] for n in range(len(x))]).to(x.device)

    def edited(self, x: Volume5d, target: Target, edits: Sequence[Edit], *, batch: int) -> Iterator[Tensor]:
        """The bound target's value after each edit of the one sample x."""
        for start in range(0, len(edits), batch):
            group = edits[start : start + batch]
            copies = x.repeat(len(group), 1, 1, 1, 1)
            for copy, edit in zip(copies, group, strict=True):
                copy[(edit.channels, *edit.box)] = edit.values
            yield self.scores(copies, target)

    def passes(self, shape: tuple[int, int, int], target: Target | None = None) -> int:
        """One."""
        return 1

    # --- what windows build on ---

    def forward(self, x: Volume5d) -> Output:
        """The chosen output on the network's device, without a graph."""
        with as_found(self._net), torch.no_grad():
            return self._run(self._placed(x))

    def pullback(
        self, x: Volume5d, cotangent: Cotangent, rules: Rules | None = None, reference: Volume5d | None = None
    ) -> "Pullback":
        """One forward pass, and the vector-Jacobian product with cotangent(output)."""
        if rules is not None:
            self._refuse_script("rewriting its functions (LRP)")
        with as_found(self._net), torch.enable_grad(), nullcontext() if rules is None else uncheckpointed(self._net):
            leaf = self._placed(x).requires_grad_()
            given = leaf.clone()  # a network may work on its input in place, which a leaf forbids
            mode = None if rules is None else rules.rewriting(len(leaf))
            y0 = None
            if mode is not None and reference is not None:
                with torch.no_grad(), mode.over(self._net), mode.reference():
                    y0 = self._run(self._placed(reference))
            with mode.over(self._net, given) if mode else nullcontext():
                y = self._run(given)
            if not y.requires_grad:
                raise ModelOutputError(
                    "The model's output does not depend differentiably on its input (thresholded or detached?): "
                    "give the logits, choosing them with output=."
                )
            leaves = [leaf]
            if mode is not None:
                mode.note_custom(y)
                leaves += [*([] if mode.voxels is None else [mode.voxels]), *mode.leaves.values()]
            values, *shares = self._pulled(y, leaves, cotangent(y.detach(), y0))
        if mode is None:
            return Pullback(values, {}, frozenset(), None, {})
        voxels = None if mode.voxels is None else shares.pop(0)
        leaks = dict(zip(mode.leaves, shares, strict=True))
        return Pullback(values, leaks, frozenset(mode.uncovered), voxels, mode.flows or {})

    def tap(
        self,
        x: Volume5d,
        places: Sequence[tuple[int, Box]],
        layer: str,
        cotangent: Cotangent | None,
        rules: Rules | None = None,
    ) -> Iterator[Tap]:
        """A layer's activation and the vector-Jacobian product there, one tap for each row of x and its place.

        No graph is built below the layer; without a cotangent nothing above it is run.
        """
        self._refuse_script("reading a layer")
        module = dict(self._net.named_modules()).get(layer) if layer else None
        if module is None:
            raise LayerError(
                f"The network has no layer {layer!r}; `napari-xai inspect MODEL` lists them, "
                f"for example {', '.join(repr(n) for n, _ in list(self._net.named_modules())[1:4])}."
            )
        seen: list[Tensor] = []

        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            if seen:
                raise LayerError(
                    f"The layer {layer!r} runs more than once in a forward pass: choose one that runs once."
                )
            if not isinstance(out, Tensor) or out.ndim != 5:
                raise LayerError(
                    f"The layer {layer!r} does not put out a volume (b, c, i, j, k): choose one that does."
                )
            if cotangent is None:
                seen.append(out)
                raise _Reached
            torch.set_grad_enabled(True)  # from here on up; the surrounding no_grad restores it
            seen.append(out.detach().requires_grad_())
            return seen[0].clone()  # what follows may work in place

        gradient = seed = None
        handle = module.register_forward_hook(hook)
        mode = None if rules is None else rules.rewriting(len(x))
        try:
            with as_found(self._net), torch.no_grad():
                with uncheckpointed(self._net), mode.over(self._net) if mode else nullcontext():
                    y = self._run(self._placed(x))
                if seen and cotangent is not None:
                    if not y.requires_grad:
                        raise LayerError(
                            f"The output does not depend on the layer {layer!r} differentiably: choose another."
                        )
                    seed = cotangent(y.detach(), None)
                    if mode is not None:
                        mode.note_custom(y)
                    (gradient,) = self._pulled(y, seen, seed)
        except _Reached:
            pass
        finally:
            handle.remove()
        if not seen:
            raise LayerError(f"The layer {layer!r} does not run in a forward pass: choose another.")
        activation = _precise(seen[0].detach())
        region = None if seed is None or seed.ndim != 5 else (seed != 0).any(1)
        for row, (n, box) in enumerate(places):
            yield Tap(
                sample=n,
                box=box,
                activation=activation[row : row + 1],
                gradient=None if gradient is None else gradient[row : row + 1],
                region=None if region is None else region[row],
                uncovered=frozenset(mode.uncovered) if mode else frozenset(),
            )

    def _placed(self, x: Volume5d) -> Volume5d:
        """The network's own copy: it may work in place."""
        return x.detach().to(self.device, self.dtype, copy=True)

    def _pulled(self, y: Output, leaves: Sequence[Tensor], seed: Tensor) -> list[Tensor]:
        """The vector-Jacobian product of each leaf (batch first), in float32 or better.

        Half precision flushes a mean over a region to zero on its way back (1e-6 a voxel), so its
        seed is scaled by a power of two, sample by sample, and the gradient scaled back.
        """
        scale = torch.ones(len(seed), device=seed.device, dtype=seed.dtype)
        if torch.float16 in (self._autocast, self.dtype):
            size = (seed.abs().flatten(1).sum(1) * seed.abs().flatten(1).amax(1)).sqrt()  # of all, and of the largest
            scale = torch.where(size > 0, torch.exp2(HALF_PRECISION_SEED - size.log2().floor()), 1.0)
        try:
            found = torch.autograd.grad(y, leaves, seed * _rows(scale, seed), allow_unused=True)
        except CheckpointError as error:
            raise UnsupportedModelError(
                "The network uses activation checkpointing, which runs parts of it anew where no rule sees them: "
                "switch it off."
            ) from error
        return [
            torch.zeros_like(_precise(leaf)) if g is None else _precise(g) / _rows(scale, g)
            for leaf, g in zip(leaves, found, strict=True)
        ]

    def _run(self, x: Volume5d) -> Output:
        try:
            with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
                y = self._net(x)
        except (Methods3dError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise VolumeError(
                f"The network cannot run on an input of shape {tuple(x.shape)} ({reason}): "
                "give the channels and the size that it was made for."
            ) from error
        return self._chosen(y, len(x))

    def _chosen(self, y: Any, batch: int) -> Output:
        if callable(self._choice):
            y = self._choice(y)
        elif self._choice is not None:
            try:
                y = y[self._choice]
            except (KeyError, IndexError, TypeError) as error:
                raise ModelOutputError(f"The model's output has no {self._choice!r}: {_described(y)}.") from error
        if not isinstance(y, Tensor):
            raise ModelOutputError(
                f"The model returns {_described(y)}: choose one with output=INDEX, KEY or a callable."
            )
        if y.ndim not in (2, 5) or len(y) != batch:
            raise ModelOutputError(
                f"The model puts out {tuple(y.shape)} for {batch} sample(s), but (b, k) or (b, k, i, j, k) is needed: "
                "choose or reshape it with output=CALLABLE."
            )
        if not y.is_floating_point():
            raise ModelOutputError(f"The model puts out {y.dtype}, which has no gradient: give its logits instead.")
        return y if y.dtype == torch.float64 else y.float()

    def _refuse_script(self, wish: str) -> None:
        if any(isinstance(module, torch.jit.ScriptModule) for module in self._net.modules()):
            raise UnsupportedModelError(
                f"A TorchScript model does not allow {wish}: use a gradient or perturbation method "
                "(saliency, integrated-gradients, occlusion), or load the network itself."
            )


class Pullback(NamedTuple):
    """A vector-Jacobian product in float32 or better; fields as in Gradient."""

    values: Volume5d
    leaks: Mapping[tuple[Site, str], Scores]
    uncovered: frozenset[str]
    voxels: Volume5d | None
    flows: Mapping[Site, Flow]

    def to(self, device: torch.device) -> "Pullback":
        """The same elsewhere."""
        return self._replace(
            values=self.values.to(device),
            leaks={at: kept.to(device) for at, kept in self.leaks.items()},
            voxels=None if self.voxels is None else self.voxels.to(device),
        )


class _Reached(Exception):  # noqa: N818 - ends a forward pass that nothing above the layer is wanted of
    """The layer was reached."""


def score_and_cotangent(
    bound: Target, y: Output, rules: Rules | None = None, y0: Output | None = None
) -> tuple[Scores, Tensor]:
    """T(Y) and dT/dY, both without a graph; with a reference Y0, the multipliers of T(Y) - T(Y0) under the rules."""
    mode = None if rules is None or y0 is None else rules.rewriting(len(y))
    if mode is not None and y0 is not None:
        with torch.no_grad(), mode, mode.reference():
            bound(y0)
    with torch.enable_grad(), mode or nullcontext():
        leaf = y.detach().requires_grad_()
        scores = bound(leaf * 1)
        if not scores.requires_grad:
            raise TargetError(
                f"{type(bound).__name__} does not depend differentiably on the model's output: give another target."
            )
        (seed,) = torch.autograd.grad(scores.sum(), leaf)
    return scores.detach(), seed


@contextmanager
def as_found(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients, undone on leaving, whatever happens."""
    training = [(m, m.training) for m in net.modules() if hasattr(m, "training")]  # frozen TorchScript has none
    wanted = [(p, p.requires_grad) for p in net.parameters()]
    try:
        for m, _ in training:
            m.training = False  # what eval() does, which exported programs refuse
        for p, _ in wanted:
            p.requires_grad_(False)
        yield
    finally:
        for m, flag in training:
            m.training = flag
        for p, flag in wanted:
            p.requires_grad_(flag)


@contextmanager
def uncheckpointed(net: nn.Module) -> Iterator[None]:
    """Without MONAI's activation checkpointing, which would run parts of the network anew outside the rules."""
    checkpointing: list[Any] = [m for m in net.modules() if getattr(m, "use_checkpoint", False) is True]
    try:
        for m in checkpointing:
            m.use_checkpoint = False
        yield
    finally:
        for m in checkpointing:
            m.use_checkpoint = True


def shared_by_voxels(cells: Tensor, shape: Sequence[int]) -> Tensor:
    """Cells (b, m, i', j', k') on a finer grid, each shared evenly by the voxels that it covers; the sum is kept."""
    with torch.enable_grad():
        fine = torch.zeros(*cells.shape[:2], *shape, dtype=cells.dtype, device=cells.device, requires_grad=True)
        pooled = F.adaptive_avg_pool3d(fine, list(cells.shape[2:]))  # type: ignore[arg-type]
        return torch.autograd.grad(pooled, fine, cells)[0]


def _precise(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _rows(factor: Tensor, like: Tensor) -> Tensor:
    """One factor a sample, shaped to multiply a tensor with the batch first."""
    return factor.view(-1, *(1,) * (like.ndim - 1))


def _described(y: Any) -> str:
    if isinstance(y, Mapping):
        return f"a dict with the keys {', '.join(map(repr, y))}"
    if isinstance(y, list | tuple):
        return f"a {type(y).__name__} of {len(y)}"
    return f"a {type(y).__name__}"
