"""A graph of torch's operators as a network: what `torch.export` made of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Name(str):
    """The name of a value in the graph, where a plain str is a word."""

    __slots__ = ()


DEVICE = object()  # wherever the input is


class ExportedNetwork(nn.Module):
    """A graph of ATen's operators; each is a layer, named as in the graph, that hooks and function modes see.

    Parameters
    ----------
    steps
        The operators in order.
    tensors
        Parameters, buffers and constants, by their name in the graph.
    given
        Name of the input in the graph.
    sizes
        What the file allows along each axis of the input.
    outputs
        The output, or lists, tuples and dicts of such, as names in the graph.
    """

    def __init__(
        self, steps: Sequence[Step], tensors: Mapping[str, Tensor], given: str, sizes: Sequence[Size], outputs: Any
    ) -> None:
        super().__init__()
        self._given, self._sizes, self._outputs = given, tuple(sizes), outputs
        self._tensors: dict[str, str] = {}
        for name, value in tensors.items():
            self._tensors[name] = own = self._free(name)
            if value.is_floating_point():
                self.register_parameter(own, nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(own, value)
        last = {name: n for n, step in enumerate(steps) for name in (*step.writes, *step.reads)}
        for name in (*names(outputs), *tensors):
            last.pop(name, None)
        self._order: list[tuple[str, list[str]]] = []  # layers, and the values that nobody reads after each
        for n, step in enumerate(steps):
            own = self._free(step.name)
            self.add_module(own, step)
            self._order.append((own, [name for name in {*step.writes, *step.reads} if last.get(name) == n]))

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """(b, c, i, j, k) of the input, None where an axis may vary."""
        return tuple(None if size.symbol else size.factor for size in self._sizes)

    def forward(self, x: Tensor) -> Any:
        """The network's output for an input of a size that it was exported for."""
        if x.ndim != len(self._sizes):
            raise ValueError(f"it was exported for an input of {len(self._sizes)} axes, not {x.ndim}")
        symbols: dict[str, int] = {}
        for axis, (n, size) in enumerate(zip(x.shape, self._sizes, strict=True)):
            size.check(n, axis, symbols)
        values: dict[str, Any] = {name: getattr(self, own) for name, own in self._tensors.items()}
        values[self._given] = x
        for own, done in self._order:
            layer = self.get_submodule(own)
            layer.put(layer(values, x.device), values)  # type: ignore[operator]
            for name in done:
                values.pop(name, None)
        return _filled(self._outputs, values, x.device)

    def _free(self, name: str) -> str:
        """The name, changed where every module has an attribute of this name: to, half, type."""
        while hasattr(self, name):
            name += "_"
        return name


class Step(nn.Module):
    """One operator of a graph, and the names of what it reads and writes there."""

    def __init__(
        self, name: str, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any
    ) -> None:
        super().__init__()
        self.name, self._run, self._args, self._kwargs, self._outputs = name, run, args, kwargs, outputs
        self.reads = list(names([args, kwargs]))
        self.writes = list(names(outputs))

    def forward(self, values: Mapping[str, Any], device: torch.device) -> Any:
        """What the operator makes of values of the graph."""
        return self._run(*_filled(self._args, values, device), **_filled(self._kwargs, values, device))

    def put(self, out: Any, values: dict[str, Any]) -> None:
        """Give the output its names."""
        found = (out,) if len(self._outputs) == 1 else out if self._outputs else ()  # an assertion puts out nothing
        for name, one in zip(self._outputs, found, strict=True):
            if isinstance(name, list):
                values.update(zip(name, one, strict=True))
            elif name is not None:
                values[name] = one


@dataclass(frozen=True)
class Size:
    """What a file allows along one axis: a number, or a symbol's multiple within bounds."""

    factor: int
    symbol: str = ""
    least: int = 0
    most: int | None = None

    def check(self, n: int, axis: int, symbols: dict[str, int]) -> None:
        """Refuse another size; `symbols` are those of the axes before."""
        if not self.symbol:
            if n != self.factor:
                raise ValueError(f"it was exported for {self.factor} along axis {axis}, not {n}")
            return
        times, rest = divmod(n, self.factor)
        if rest:
            raise ValueError(f"it was exported for multiples of {self.factor} along axis {axis}, not {n}")
        if times < self.least or (self.most is not None and times > self.most):
            most = "any number" if self.most is None else self.most * self.factor
            raise ValueError(f"it was exported for {self.least * self.factor} to {most} along axis {axis}, not {n}")
        if symbols.setdefault(self.symbol, times) != times:
            raise ValueError(f"it was exported for axes of equal size, and axis {axis} differs with {n}")


def _filled(template: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    """Put values where names are."""
    if isinstance(template, Name):
        return values[template]
    if isinstance(template, list | tuple):
        return type(template)(_filled(one, values, device) for one in template)
    if isinstance(template, dict):
        return {key: _filled(one, values, device) for key, one in template.items()}
    return device if template is DEVICE else template


def names(template: Any) -> Iterator[str]:
    """Every name of a value in it."""
    if isinstance(template, Name):
        yield template
    elif isinstance(template, list | tuple | dict):
        for one in template.values() if isinstance(template, dict) else template:
            yield from names(one)
