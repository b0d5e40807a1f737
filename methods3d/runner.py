"""A network run with care: in evaluation mode, where its parameters are, and left exactly as found."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import CheckpointError

from methods3d.care import as_found, uncheckpointed
from methods3d.errors import (
    LayerError,
    Methods3dError,
    MixedSamples,
    ModelOutputError,
    ShapeError,
    UnsupportedModelError,
)
from methods3d.memory import ran_out
from methods3d.rewriting import Flow, Rules, Site
from methods3d.types import Box, Layer, Output, Scores, Tap, Volume5d

__all__ = ["Cotangent", "OutputChoice", "Pullback", "Runner"]

OutputChoice: TypeAlias = int | str | Callable[[Any], Tensor] | None
Cotangent: TypeAlias = Callable[[Output, Output | None], Tensor]  # of the output, and of the reference's

HALF_PRECISION_SEED = 6  # log2 of a cotangent's size at which float16 neither flushes to zero nor overflows
ALIKE = {torch.float64: 1e-7, torch.float32: 1e-4}  # of the largest output, by which rounding may tell batches apart
ROUGHLY = 2e-2  # the same in half precision, and on a GPU, whose convolutions may be in TF32


class Runner:
    """One network, its output of interest, and the precision that it runs in.

    Attributes
    ----------
    net, choice, autocast : as in TorchModel.
    mixes : whether a batch was refused because its samples change each other's output.
    single : whether a batch was refused because the network takes one sample at a time.
    """

    def __init__(self, net: nn.Module, choice: OutputChoice = None, autocast: torch.dtype | None = None) -> None:
        self.net, self.choice, self.autocast = net, choice, autocast
        self.mixes = self.single = False
        # Batch norms without running statistics take those of the batch, also in evaluation mode.
        batch_norms = (m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        self._single: set[str] = set()  # layers that are known to run once
        self._mixing: bool | None = True if any(norm.running_mean is None for norm in batch_norms) else None

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next((own.device for own in self._own()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The network's floating-point type."""
        return next((own.dtype for own in self._own() if own.is_floating_point()), torch.float32)

    @property
    def settings(self) -> dict[str, Any]:
        """What else decides its output; JSON-ready."""
        choice = getattr(self.choice, "__qualname__", self.choice)  # of a function its name
        return {
            "output": choice if isinstance(choice, int | str | None) else type(choice).__name__,
            "autocast": None if self.autocast is None else str(self.autocast).removeprefix("torch."),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """That samples run one by one, and why."""
        said = {
            "the network lets samples of a batch change each other's output: they were run one by one": self.mixes,
            "the network takes one sample at a time: they were run one by one": self.single,
        }
        return tuple(words for words, true in said.items() if true)

    def _own(self) -> Iterator[Tensor]:
        yield from self.net.parameters()
        yield from self.net.buffers()

    def forward(self, x: Volume5d) -> Output:
        """The chosen output on the network's device, without a graph.

        Raises
        ------
        MixedSamples : the batch is larger than one, and its samples change each other's output.
        """
        with as_found(self.net), torch.no_grad():
            y = self.run(self.placed(x))
            self._refuse_mixing(x, y)
            return y

    def pullback(
        self, x: Volume5d, cotangent: Cotangent, rules: Rules | None = None, reference: Volume5d | None = None
    ) -> "Pullback":
        """One forward pass, and the vector-Jacobian product with cotangent(output); errors as `forward`."""
        if rules is not None:
            self.refuse_script("rewriting its functions (LRP)")
        with as_found(self.net), torch.enable_grad(), nullcontext() if rules is None else uncheckpointed(self.net):
            leaf = self.placed(x).requires_grad_()
            given = leaf.clone()  # a network may work on its input in place, which a leaf forbids
            mode = None if rules is None else rules.rewriting(len(leaf))
            y0 = None
            if mode is not None and reference is not None:
                with torch.no_grad(), mode.over(self.net), mode.reference():
                    y0 = self.run(self.placed(reference))
            with mode.over(self.net, given) if mode else nullcontext():
                y = self.run(given)
            if not y.requires_grad:
                raise ModelOutputError(
                    "The model's output does not depend differentiably on its input (thresholded or detached?): "
                    "give the logits, choosing them with output=."
                )
            self._refuse_mixing(x, y)
            leaves = [leaf]
            if mode is not None:
                mode.note_custom(y)
                leaves += [*([] if mode.voxels is None else [mode.voxels]), *mode.leaves.values()]
            values, *shares = self._pulled(y, leaves, cotangent(y.detach(), y0))
        if mode is None:
            return Pullback(values, {}, frozenset(), None, {})
        voxels = None if mode.voxels is None else shares.pop(0)
        leaks = dict(zip(mode.leaves, shares, strict=True))
        return Pullback(values, leaks, frozenset(mode.uncovered), voxels, mode.flows or {}, mode.met)

    def tap(self, x: Volume5d, places: Sequence[tuple[int, Box]], layer: str, cotangent: Cotangent | None) -> list[Tap]:
        """A layer's activation and the vector-Jacobian product there, one tap for each row of x and its place.

        No graph is built below the layer; without a cotangent nothing above it is run.
        """
        seen: list[Tensor] = []
        if cotangent is None:
            self._refuse_repeats(layer, x)

        def hook(out: Tensor) -> Tensor:
            if cotangent is None:
                seen.append(out)
                raise Reached
            torch.set_grad_enabled(True)  # from here on up; the surrounding no_grad restores it
            seen.append(out.detach().requires_grad_())
            return seen[0].clone()  # what follows may work in place

        y = gradient = seed = None
        with as_found(self.net), torch.no_grad():
            try:
                with self.at(layer, hook), uncheckpointed(self.net):
                    y = self.run(self.placed(x))
            except Reached:
                pass
            if y is not None and cotangent is not None:
                if not y.requires_grad:
                    raise LayerError(
                        f"The output does not depend on the layer {layer!r} differentiably: choose another."
                    )
                self._refuse_mixing(x, y)
                seed = cotangent(y.detach(), None)
                (gradient,) = self._pulled(y, seen, seed)
        activation = precise(seen[0].detach())
        region = None if seed is None or seed.ndim != 5 else (seed != 0).any(1)
        return [
            Tap(
                *places[n],
                activation=activation[n : n + 1],
                gradient=None if gradient is None else gradient[n : n + 1],
                output=None if y is None else y[n : n + 1].detach(),
                region=None if region is None else region[n],
            )
            for n in range(len(places))
        ]

    def at(self, layer: str, hook: Callable[[Tensor], Tensor]) -> "_Hooked":
        """A context in which the layer puts out hook(its output); it has to run once and put out a volume.

        Raises
        ------
        LayerError : there is no such layer, or it puts out no volume, or runs more than once or never.
        """
        self.refuse_script("reading a layer")
        module = dict(self.net.named_modules()).get(layer) if layer else None
        if module is None:
            names = [name for name, _ in self.net.named_modules() if name]
            raise LayerError(
                f"The network has no layer {layer!r}; `napari-xai inspect MODEL` lists them, "
                f"for example {', '.join(map(repr, names[:3]))}."
            )
        return _Hooked(module, layer, hook)

    def _refuse_repeats(self, layer: str, x: Volume5d) -> None:
        """Raise the errors of `at` for what a pass that ends at the layer would not see."""
        if layer in self._single:
            return
        if layer not in {found.name for found in self.layers(x[:1])}:
            with as_found(self.net), torch.no_grad(), self.at(layer, lambda out: out):
                self.run(self.placed(x[:1]))
        self._single.add(layer)

    def layers(self, x: Volume5d) -> list[Layer]:
        """Modules that run once and put out a volume, in the order in which they finish.

        From shapes alone, without computing, where the network's functions have them: a pass of its own costs.
        """
        self.refuse_script("listing its layers")
        found: dict[str, Layer] = {}
        runs: Counter[str] = Counter()

        def look(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, out: Any) -> None:
                runs[name] += 1
                if isinstance(out, Tensor) and out.ndim == 5 and out.numel():
                    i, j, k = out.shape[2:]
                    scale = (x.shape[2] / i, x.shape[3] / j, x.shape[4] / k)
                    found[name] = Layer(name, out.shape[1], (i, j, k), scale)

            return hook

        with as_found(self.net), torch.no_grad():
            handles = [m.register_forward_hook(look(name)) for name, m in self.net.named_modules() if name]
            try:
                blank = {
                    name: value.to("meta") for name, value in (*self.net.named_parameters(), *self.net.named_buffers())
                }
                functional_call(self.net, blank, (torch.empty(x.shape, dtype=self.dtype, device="meta"),))
            except Exception:  # some function needs values: then they are computed
                found.clear()
                runs.clear()
                self.forward(x)
            finally:
                for handle in handles:
                    handle.remove()
        return [layer for name, layer in found.items() if runs[name] == 1]

    # --- how ---

    def placed(self, x: Volume5d) -> Volume5d:
        """The network's own copy: it may work in place."""
        return x.detach().to(self.device, self.dtype, copy=True)

    def run(self, x: Volume5d) -> Output:
        """One forward pass of what was placed, under the gradient mode that is set."""
        try:
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                y = self.net(x)
        except (Methods3dError, Reached, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, AssertionError, IndexError, MemoryError) as error:
            if ran_out(error):
                raise torch.OutOfMemoryError(str(error)) from error
            if len(x) > 1 and self._takes(x[:1]):
                self.single = True
                raise MixedSamples("The network takes one sample at a time.") from error
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ShapeError(
                f"The network cannot run on an input of shape {tuple(x.shape)} ({reason}): "
                "give the channels and the size that it was made for.",
                x.shape,
            ) from error
        return self._chosen(y, len(x))

    def _takes(self, x: Volume5d) -> bool:
        """Whether one sample runs where a batch did not: exported and traced networks may be made for one."""
        try:
            with torch.no_grad(), torch.autocast(self.device.type, dtype=self.autocast, enabled=bool(self.autocast)):
                self.net(x)
        except Reached:
            return True
        except Exception:  # whatever it is, the batch's own error says what was wrong
            return False
        return True

    def refuse_script(self, wish: str) -> None:
        """Raise UnsupportedModelError for TorchScript, whose inside cannot be seen."""
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.net.modules()):
            raise UnsupportedModelError(
                f"A TorchScript model does not allow {wish}: use a gradient or perturbation method "
                "(saliency, integrated-gradients, occlusion), or load the network itself."
            )

    def _refuse_mixing(self, x: Volume5d, y: Output) -> None:
        """Compare a sample's output alone with that in a batch, once."""
        if len(x) == 1:
            return
        if self._mixing is None and bool((x != x[:1]).any()):  # samples that are alike cannot tell
            with torch.no_grad():
                alone = self.run(self.placed(x[:1]))[0]
            rough = alone.device.type != "cpu" or self.autocast is not None
            off = (alone - y[0].detach()).abs().max()
            self._mixing = bool(off > (ROUGHLY if rough else ALIKE.get(self.dtype, ROUGHLY)) * alone.abs().max())
        if self._mixing:
            self.mixes = True
            raise MixedSamples("The samples of a batch change each other's output: they have to run one by one.")

    def _pulled(self, y: Output, leaves: Sequence[Tensor], seed: Tensor) -> list[Tensor]:
        """The vector-Jacobian product of each leaf (batch first), in float32 or better.

        Half precision flushes a mean over a region to zero on its way back (1e-6 a voxel), so its
        seed is scaled by a power of two, sample by sample, and the gradient scaled back.
        """
        scale = torch.ones(len(seed), device=seed.device, dtype=seed.dtype)
        if torch.float16 in (self.autocast, self.dtype):
            size = (seed.abs().flatten(1).sum(1) * seed.abs().flatten(1).amax(1)).sqrt()  # of all, and of the largest
            scale = torch.where(size > 0, torch.exp2(HALF_PRECISION_SEED - size.log2().floor()), 1.0)
        try:
            found = torch.autograd.grad(y, leaves, seed * _rows(scale, seed), allow_unused=True)
        except CheckpointError as error:
            raise UnsupportedModelError(
                "The network uses activation checkpointing, which runs parts of it anew where no rule sees them: "
                "switch it off."
            ) from error
        except RuntimeError as error:
            if ran_out(error):
                raise torch.OutOfMemoryError(str(error)) from error
            raise
        return [
            torch.zeros_like(precise(leaf)) if g is None else precise(g) / _rows(scale, g)
            for leaf, g in zip(leaves, found, strict=True)
        ]

    def _chosen(self, y: Any, batch: int) -> Output:
        if callable(self.choice):
            y = self.choice(y)
        elif self.choice is not None:
            try:
                y = y[self.choice]
            except (KeyError, IndexError, TypeError) as error:
                raise ModelOutputError(f"The model's output has no {self.choice!r}: {_described(y)}.") from error
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


class Pullback(NamedTuple):
    """A vector-Jacobian product in float32 or better; fields as in Gradient."""

    values: Volume5d
    leaks: Mapping[tuple[Site, str], Scores]
    uncovered: frozenset[str]
    voxels: Volume5d | None
    flows: Mapping[Site, Flow]
    met: bool = True

    def to(self, device: torch.device) -> "Pullback":
        """The same elsewhere."""
        return self._replace(
            values=self.values.to(device),
            leaks={at: kept.to(device) for at, kept in self.leaks.items()},
            voxels=None if self.voxels is None else self.voxels.to(device),
        )


class Reached(Exception):  # noqa: N818 - ends a forward pass that nothing above the layer is wanted of
    """The layer was reached."""


class _Hooked:
    """While it lasts, a module puts out what a function makes of its output."""

    def __init__(self, module: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> None:
        self._module, self._layer, self._change = module, layer, change
        self._runs = 0

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(self._hook)

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        self._handle.remove()
        if kind is None and not self._runs:
            raise LayerError(f"The layer {self._layer!r} does not run in a forward pass: choose another.")

    def _hook(self, module: nn.Module, args: Any, out: Any) -> Tensor:
        self._runs += 1
        if self._runs > 1:
            raise LayerError(
                f"The layer {self._layer!r} runs more than once in a forward pass: choose one that runs once."
            )
        if not isinstance(out, Tensor) or out.ndim != 5:
            raise LayerError(
                f"The layer {self._layer!r} does not put out a volume (b, c, i, j, k): choose one that does."
            )
        return self._change(out)


def precise(value: Tensor) -> Tensor:
    """Float32 or better."""
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
