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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods3d.functions import (
    HOMOGENEOUS,
    JOINS,
    PRODUCTS,
    QUOTIENTS,
    SUMS,
    carried,
    carries,
    flat,
    function_name,
    is_composed,
    opened,
)
from methods3d.lineage import Lineage

__all__ = ["Flow", "Handler", "Rewriting", "Rules", "Site"]

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
    met : whether any function had a rule.
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
        self.lineage = Lineage()
        self.met = False

    # --- running ---

    @contextmanager
    def over(self, net: nn.Module, given: Tensor | None = None) -> Iterator[None]:
        """The mode, knowing which module of the network runs; nothing stays behind. `given` is the network's input."""

        def leave(*_: Any) -> None:
            self.modules.pop()

        handles = []
        try:
            for name, module in net.named_modules():
                handles.append(module.register_forward_pre_hook(lambda *_, name=name: self.modules.append(name)))
                handles.append(module.register_forward_hook(leave))
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self.modules.clear()  # a pass that was ended in the middle did not leave them
            self.lineage.clear()  # what it holds refers back to this mode: a ring that would keep the graph

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
            reach = self.lineage.reach_through(name, func, args, kwargs)
            if name in SUMS or name in JOINS:
                args, kwargs = self._book_constants(name, args, kwargs)
            out = func(*args, **kwargs)
            if not self.covers(name, [*args, *kwargs.values()]):
                self._note(out)
            if reach is not None and isinstance(out, Tensor):
                self.lineage.set_reach(out, reach)
        self.lineage.voxels_through(name, func, out, args, kwargs)
        return out

    def _handled(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function's handler makes of it; NotImplemented where there is none or it declines."""
        handler = self.handlers.get(name)
        if not any(carries(a) for a in flat((*args, *kwargs.values()))):
            return NotImplemented
        if handler is None and name not in HOMOGENEOUS and is_composed(func):
            with self:  # what it is made of may have rules
                return opened(func)(*args, **kwargs)
        if handler is None:
            return NotImplemented
        if self.flows is None:
            out = handler(self, func, *args, **kwargs)
            self.met |= out is not NotImplemented
            return out
        self.met = True
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
        self.lineage.same(alias, value)

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
        self.lineage.set_voxels(given, self.voxels.clone())

    def voxels_of(self, value: Tensor) -> Tensor | None:
        """The voxels in the layout of this tensor; None where it is not the input itself."""
        voxels = self.lineage.voxels(value)
        if voxels is not None:
            voxels = self.watched(voxels, handed=self.site)
        return voxels

    def reach_of(self, value: Tensor) -> Tensor:
        """The sum of |contributions| that `value` was made of; its own magnitude where that is not known."""
        reach = self.lineage.reach(value)()
        if self.lineage.knows_reach(value):
            reach = self.watched(reach, handed=self.site)
        return reach
