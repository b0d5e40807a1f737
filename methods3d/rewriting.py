"""Rewriting a network's functions while it runs, and the account of what did not reach the input.

Each rule is a value-preserving rewrite of one torch *function*: inside the mode the network computes
the same numbers, but input x gradient of the rewritten graph is the relevance. No module is replaced
and no hook is left; functional and in-place calls are caught, and skips, concatenations, pooling,
interpolation and transposed convolutions need no rule at all, because autograd is already right.

Why the account closes: every rewritten function is positively 1-homogeneous in its inputs and in the
constants added to it, so by Euler's theorem the sum of (input x gradient) and (constant x gradient)
is the output. Each constant is multiplied by a leaf that is one; the leaf's gradient is the relevance
that the constant kept. One leaf for each place, cause and sample.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["Flow", "Rewriting", "Rules", "Site", "carries"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Pure layout: what is true of the scan's voxels before is true of them after.
LAYOUT = _names(
    """
    view view_as reshape flatten unflatten permute transpose swapaxes movedim moveaxis t squeeze unsqueeze expand
    expand_as contiguous clone __getitem__ narrow select slice chunk split split_with_sizes tensor_split unbind
    repeat repeat_interleave roll flip pad constant_pad_nd pixel_shuffle pixel_unshuffle identity alias
    to _to_copy type type_as float double half bfloat16
    """
)
# Functions through which autograd already carries relevance: piecewise linear and homogeneous, or layout.
HOMOGENEOUS = LAYOUT | _names(
    """
    relu relu_ leaky_relu leaky_relu_ prelu _prelu_kernel rrelu abs max amax maximum min amin minimum fn
    max_pool1d max_pool2d max_pool3d max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d lp_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool3d
    add add_ sub sub_ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ rsub neg __neg__ positive sum mean
    mul mul_ __mul__ __rmul__ __imul__ div div_ __truediv__ __itruediv__ matmul __matmul__ __rmatmul__ bmm mm einsum
    cat concat concatenate stack index_select gather fold unfold interpolate upsample
    upsample_nearest3d upsample_trilinear3d upsample_bilinear2d upsample_nearest2d
    dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout as_tensor detach __get__
    """
)
PRODUCTS = _names("mul mul_ __mul__ __rmul__ __imul__ matmul __matmul__ __rmatmul__ bmm mm einsum")
QUOTIENTS = _names("div div_ __truediv__ __itruediv__")
SUMS = _names("add add_ sub sub_ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__")
JOINS = _names("cat concat concatenate stack")

# Sums and means of what they are given: so are the contributions that it was made of.
MEANS = _names(
    """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample
    upsample_nearest3d upsample_trilinear3d mean sum dropout dropout_ dropout1d dropout2d dropout3d as_tensor
    """
)

Handler = Callable[..., Any]


class Site(NamedTuple):
    """Where a function runs: the innermost module's name, and the function's."""

    layer: str
    function: str

    def __str__(self) -> str:
        """As it is written in reports."""
        return f"{self.layer} ({self.function})" if self.layer else self.function


class Flow(NamedTuple):
    """Relevance that arrived at one site and that it handed on to its inputs, (b,) each; the rule that did so."""

    rule: str
    received: Tensor
    handed: Tensor


class Reach(NamedTuple):
    """What gives the sum of |contributions| that a tensor was made of, in which version of the tensor."""

    of: Callable[[], Tensor]
    version: int


class Rules(Protocol):
    """A set of rewrites, as data."""

    def rewriting(self, batch: int) -> "Rewriting":
        """A mode to run one forward pass of `batch` samples in."""
        ...


class Rewriting(TorchFunctionMode):
    """One forward pass under rules: what the functions become, and the leaves of the account.

    Attributes
    ----------
    leaves : (site, cause) -> (batch,) ones, whose gradient is the relevance that was absorbed there.
    uncovered : names of functions that carried relevance without a rule, once it has been propagated
        (attention's query times key has none, but nothing flows through it where softmax is held fixed).
    modules : names of the modules that are running, outermost first.
    voxels : what stands for each voxel where a rule asks for voxels rather than for their values, as the
        input's shape of ones; its gradient is relevance. None until `mark` is called.
    flows : site -> relevance in and out, where it is to be measured.
    """

    def __init__(self, handlers: Mapping[str, Handler], batch: int, *, measured: bool = False) -> None:
        super().__init__()
        self.handlers = handlers
        self.batch = batch
        self.leaves: dict[tuple[Site, str], Tensor] = {}
        self.uncovered: set[str] = set()
        self.modules: list[str] = []
        self.site = Site("", "")
        self.rule = ""  # at this site, for the report
        self.voxels: Tensor | None = None
        self.flows: dict[Site, Flow] | None = {} if measured else None
        self._marks: MutableMapping[Tensor, Tensor] = (
            WeakIdKeyDictionary()
        )  # a tensor that is the input in another layout -> its voxels likewise
        self._reaches: MutableMapping[Tensor, Reach] = (
            WeakIdKeyDictionary()
        )  # a tensor -> the sum of |contributions| that it was made of

    # --- running ---

    @contextmanager
    def over(self, net: nn.Module, given: Tensor | None = None) -> Iterator[None]:
        """The mode, knowing which module of the network runs; nothing stays behind. `given` is the network's input."""

        def leave(*_: Any) -> None:
            self.modules.pop()

        handles = []
        for name, module in net.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self.modules.append(name)))
            handles.append(module.register_forward_hook(leave))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._marks.clear()  # what they hold refers back to this mode: a ring that would keep the graph
            self._reaches.clear()

    def reference(self) -> AbstractContextManager[Any]:
        """The mode for a pass over a reference input, for rules that compare the input with one."""
        raise NotImplementedError(f"{type(self).__name__} compares with no reference.")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Rewrite what has a rule; note what has none."""
        kwargs = kwargs or {}
        name = function_name(func)
        self.site = Site(self.modules[-1] if self.modules else "", name.strip("_"))
        out = self._handled(name, func, args, kwargs)
        if out is NotImplemented:
            reach = self._reach_through(name, func, args, kwargs) if self._reaches else None
            if name in SUMS or name in JOINS:
                args, kwargs = self._book_constants(name, args, kwargs)
            out = func(*args, **kwargs)
            if not self.covers(name, [*args, *kwargs.values()]):
                self._note(out)
            if reach is not None and isinstance(out, Tensor):
                self.set_reach(out, reach)
        if self._marks and name in LAYOUT:
            self._mark_layout(func, name, out, args, kwargs)
        return out

    def _handled(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function's handler makes of it; NotImplemented where there is none or it declines."""
        handler = self.handlers.get(name)
        if handler is None or not any(carries(a) for a in flat((*args, *kwargs.values()))):
            return NotImplemented
        if self.flows is None:
            return handler(self, func, *args, **kwargs)
        self.rule, site = "", self.site
        if site not in self.flows:
            self.flows[site] = Flow("", torch.zeros(self.batch), torch.zeros(self.batch))
        out = handler(self, func, *[self.watched(a, handed=site) for a in args], **kwargs)
        self.flows[site] = self.flows[site]._replace(rule=self.rule or name)
        return self.watched(out, received=site) if isinstance(out, Tensor) else out

    def covers(self, name: str, args: Sequence[Any]) -> bool:
        """Whether autograd alone carries relevance through: of degree one in all activations together."""
        if name in QUOTIENTS:
            return not any(carries(a) for a in flat(args[1:]))
        return name in HOMOGENEOUS and not (name in PRODUCTS and carried(args) > 1)

    def _note(self, out: Any) -> None:
        """Remember the function as uncovered if relevance reaches what it put out."""
        name = self.site.function

        def reached(gradient: Tensor) -> None:
            self.uncovered.add(name)

        for one in flat([out]):
            if carries(one):
                one.register_hook(reached)

    def note_custom(self, y: Tensor) -> None:
        """Remember every torch.autograd.Function below y that relevance reaches: no mode sees them."""
        seen, stack = set(), [y.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            stack += [below for below, _ in node.next_functions]
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                name = type(node).__name__.removesuffix("Backward")
                node.register_prehook(lambda gradients, name=name: self.uncovered.add(name))

    # --- the account ---

    def constant(self, cause: str, value: Tensor) -> Tensor:
        """`value`, booked under `cause` when relevance reaches it; `value` has the batch first."""
        leaf = self.leaves.get((self.site, cause))
        if leaf is None:
            leaf = self.leaves[self.site, cause] = torch.ones(
                self.batch,
                device=value.device,
                dtype=torch.promote_types(value.dtype, torch.float32),
                requires_grad=True,
            )
        leaf = leaf.to(value.dtype)
        # Window partition folds space into the batch, sample by sample; without a batch all samples share alike.
        whole = value.ndim > 0 and len(value) % self.batch == 0
        leaf = leaf.repeat_interleave(len(value) // self.batch) if whole else leaf.mean()[None]
        return value.detach() * leaf.view(-1, *(1,) * max(value.ndim - 1, 0))

    def _book_constants(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Added or concatenated constants (tokens, positions, plain numbers) keep relevance: book them."""
        nested = name in JOINS
        if nested and not args:
            key = next(k for k in ("tensors", "input") if k in kwargs)
            args, kwargs = (kwargs[key],), {k: v for k, v in kwargs.items() if k != key}
        terms = list(args[0]) if nested else list(args[:2])
        first = next((t for t in terms if carries(t)), None)
        if first is None or len(terms) < 2:
            return args, kwargs
        for i, term in enumerate(terms):
            in_place = i == 0 and name in ("add_", "sub_", "__iadd__", "__isub__")
            if in_place or carries(term) or not isinstance(term, Tensor | int | float):
                continue
            value = term if isinstance(term, Tensor) else torch.full_like(first.detach(), term)
            value = value.to(torch.result_type(first, value))
            if not nested:
                value = value + torch.zeros_like(first.detach())  # as the sum will broadcast it
            terms[i] = self.constant("constant", value)
        return ((terms, *args[1:]) if nested else (*terms, *args[2:])), kwargs

    def watched(self, value: Any, *, received: Site | None = None, handed: Site | None = None) -> Any:
        """The same value, whose relevance is added to these sites' flows when it is propagated."""
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            return type(value)(self.watched(v, received=received, handed=handed) for v in value)
        if self.flows is None or not carries(value):
            return value
        # What is put out may be worked on in place, which would take a view's hook along.
        alias, flows = value.clone() if received else value.view_as(value), self.flows
        before = value.detach().clone()
        if value in self._marks:
            self._marks[alias] = self._marks[value]
        if value in self._reaches:
            self._reaches[alias] = self._reaches[value]

        def count(gradient: Tensor) -> None:
            share = self._per_sample(before * gradient).cpu()
            if received:
                flows[received] = flows[received]._replace(received=flows[received].received + share)
            if handed:
                flows[handed] = flows[handed]._replace(handed=flows[handed].handed + share)

        alias.register_hook(count)
        return alias

    def _per_sample(self, value: Tensor) -> Tensor:
        total = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        if total.ndim and len(total) % self.batch == 0:
            return total.reshape(self.batch, -1).sum(1)
        return (total.sum() / self.batch).expand(self.batch)

    # --- what rules may know of a tensor ---

    def mark(self, given: Tensor) -> None:
        """Follow the network's input through changes of layout, for rules that share among voxels."""
        self.voxels = torch.ones_like(given, requires_grad=True)
        self._marks[given] = self.voxels.clone()

    def voxels_of(self, value: Tensor) -> Tensor | None:
        """The voxels in the layout of this tensor; None where it is not the input itself."""
        voxels = self._marks.get(value)
        if voxels is not None:
            voxels = self.watched(voxels, handed=self.site)
        return voxels

    def _mark_layout(
        self, func: Callable[..., Any], name: str, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        voxels = self._marks.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if voxels is None:
            return
        if name in ("pad", "constant_pad_nd"):  # what is padded with a number is no voxel
            mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
            pad = args[1] if len(args) > 1 else kwargs["pad"]
            found = torch.nn.functional.pad(voxels, pad, mode if isinstance(mode, str) else "constant")
        else:
            found = func(voxels, *args[1:], **kwargs)
        for one, its in zip(flat([out]), flat([found]), strict=True):
            self._marks[one] = its

    def set_reach(self, value: Tensor, reach: Callable[[], Tensor]) -> None:
        """Let what is shared among the contributions to `value` go to them in proportion to their magnitude."""
        self._reaches[value] = Reach(cache(reach), value._version)

    def reach_of(self, value: Tensor) -> Tensor:
        """The sum of |contributions| that `value` was made of; its own magnitude where that is not known."""
        reach = self._known_reach(value)()
        if value in self._reaches:
            reach = self.watched(reach, handed=self.site)
        return reach

    def _known_reach(self, value: Tensor) -> Callable[[], Tensor]:
        reach = self._reaches.get(value)
        return value.abs if reach is None or reach.version != value._version else reach.of

    def _reach_through(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Tensor] | None:
        """What the contributions become in a sum, a mean or another layout; constants contribute none."""
        if name in SUMS or name in JOINS:
            terms = [t for t in flat(args[:1] if name in JOINS else args[:2]) if isinstance(t, Tensor)]
            if not any(t in self._reaches for t in terms):
                return None
            parts = [self._known_reach(t) if carries(t) else partial(torch.zeros_like, t) for t in terms]
            if name in SUMS:
                return lambda: sum(part() for part in parts)  # type: ignore[return-value]
            return lambda: func([part() for part in parts], *args[1:], **kwargs)
        if (name in LAYOUT or name in MEANS) and args and isinstance(args[0], Tensor) and args[0] in self._reaches:
            known = self._known_reach(args[0])
            return lambda: func(known(), *args[1:], **kwargs)
        return None


def function_name(func: Callable[..., Any]) -> str:
    """`conv3d`, however it is called: also for an operator of an exported program."""
    if isinstance(func, OpOverload):
        return str(func._schema.name).partition("::")[2]
    return getattr(func, "__name__", "") or repr(func)


def carries(value: Any) -> bool:
    """Whether relevance flows through a value."""
    return isinstance(value, Tensor) and value.requires_grad


def carried(args: Any) -> int:
    """Through how many of the arguments relevance flows."""
    return sum(carries(a) for a in flat(args))


def flat(args: Any) -> list[Any]:
    """The arguments, with lists and tuples opened."""
    return [b for a in args for b in (flat(a) if isinstance(a, list | tuple) else [a])]
