"""Volumes that a method's settings name but do not hold: found, and replaced by whoever can read them."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from methods3d.method import Method
from methods3d.types import Reference

__all__ = ["resolved"]

M = TypeVar("M", bound=Method)


def resolved(method: M, read: Callable[[Reference], Tensor | Reference]) -> M:
    """The method with every reference in its settings replaced by read(reference): a tensor on the model's grid.

    Looks into baselines, features, and methods that this one is made of; the method itself where there is nothing.
    """
    changed: dict[str, Any] = {}
    for f in fields(method):
        value, reads = getattr(method, f.name), f.metadata.get("reads")
        if isinstance(value, Method):
            found: Any = resolved(value, read)
        elif reads is not None and value is not None:
            held = reads(value)
            found = tuple(_filled(one, read) for one in held) if isinstance(held, tuple) else _filled(held, read)
            if found == held:
                continue
        else:
            continue
        if found is not value:
            changed[f.name] = found
    return replace(method, **changed) if changed else method


def _filled(value: Any, read: Callable[[Reference], Tensor | Reference]) -> Any:
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {f.name: getattr(value, f.name) for f in fields(value)}
    found = {name: read(part) for name, part in parts.items() if isinstance(part, Reference)}
    return replace(value, **found) if found else value
