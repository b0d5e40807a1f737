"""The few expressions of a config that are data: literals, references, plain arithmetic and `len`."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import ModelError

ID = r"(?:(?:::|#)+)?\w+(?:(?:::|#)\w+)*"
REFERENCE = re.compile(f"@{ID}")
_MOST_ITEMS = 100_000  # of a list or text that is put together
_CALLS: Mapping[str, Callable[[Any], Any]] = {
    "len": len, "int": int, "float": float, "str": str, "bool": bool, "tuple": tuple, "list": list,
}  # fmt: skip
_NUMBERS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}  # fmt: skip
_SIGNS: Mapping[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
_COMMON_KEYS = ("image", "label", "pred")  # monai.utils.CommonKeys.IMAGE is "image", and so on
_DTYPES = ("bool", "uint8", "int16", "int32", "int64", "long", "float16", "bfloat16", "float32", "float", "float64")


class NeedsCode(Exception):  # noqa: N818
    """An expression that is more than data."""


def parsed(text: str, id: str) -> tuple[ast.expr | None, dict[str, str]]:
    """Syntax tree of a ``$`` expression with its references as names, and the ids these stand for."""
    names: dict[str, str] = {}

    def named(reference: re.Match[str]) -> str:
        name = f"_reference_{len(names)}_"
        names[name] = absolute(reference[0], id)
        return name

    try:
        return ast.parse(REFERENCE.sub(named, text[1:]).strip(), mode="eval").body, names
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, names


def summands(tree: ast.expr) -> Iterator[ast.expr]:
    """What a chain of + adds up, from the left."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        yield from summands(tree.left)
        yield from summands(tree.right)
    else:
        yield tree


def absolute(reference: str, id: str) -> str:
    """Id that a reference or macro means; one that begins with separators counts from the entry that it stands in."""
    name = reference[1:].replace("#", "::")
    inner = name.lstrip(":")
    up = (len(name) - len(inner)) // 2
    if up == 0:
        return name
    parts = id.split("::")
    if up > len(parts):
        raise ModelError(f"The config's entry {id!r} refers to {reference!r}, above the config itself; correct it.")
    return "::".join([*parts[: len(parts) - up], inner])


def worked_out(  # noqa: PLR0911, PLR0912 - one case a kind of expression
    tree: ast.expr | None, names: Mapping[str, str], value: Callable[[str], Any]
) -> Any:
    """Work out an expression of literals, references, arithmetic and the calls in `_CALLS`.

    Raises
    ------
    NeedsCode
        If it is of anything else.
    TypeError, ValueError, ArithmeticError
        If its values do not fit together.
    """
    match tree:
        case ast.Constant(value=constant) if not (
            isinstance(constant, str) and any(name in constant for name in names)
        ):
            return constant
        case ast.Name(id=name) if name in names:
            return value(names[name])
        case ast.List(elts=items):
            return [worked_out(item, names, value) for item in items]
        case ast.Tuple(elts=items):
            return tuple(worked_out(item, names, value) for item in items)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _SIGNS[type(op)](_number(worked_out(operand, names, value)))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(worked_out(left, names, value), worked_out(right, names, value))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _NUMBERS:
            a, b = worked_out(left, names, value), worked_out(right, names, value)
            return _NUMBERS[type(op)](_number(a), _number(b))
        case ast.Call(func=ast.Name(id=call), args=[argument], keywords=[]) if call in _CALLS:
            return _CALLS[call](worked_out(argument, names, value))
        case ast.IfExp(test=test, body=body, orelse=other):
            return worked_out(body if worked_out(test, names, value) else other, names, value)
        case ast.Attribute(value=ast.Attribute(attr="CommonKeys"), attr=key) if key.lower() in _COMMON_KEYS:
            return key.lower()
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="device")):
            return "cpu"  # the config's device is the one it was trained on; ours is chosen when it runs
        case ast.Attribute(value=ast.Name(id="torch"), attr=dtype) if dtype in _DTYPES:
            import torch

            return getattr(torch, dtype)
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=dtype) if dtype in _DTYPES:
            import numpy as np

            return np.dtype(dtype).type
    raise NeedsCode


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):
        raise NeedsCode  # what Python makes of it, no formula of numbers does
    if abs(value) > 1e18:
        raise TypeError(f"{str(value)[:40]!r} is no number of a sensible size")
    return value


def _sum(a: Any, b: Any) -> Any:
    """Add two numbers, or join two texts, lists or tuples of one kind."""
    if isinstance(a, str | list | tuple) and type(a) is type(b):
        if len(a) + len(b) > _MOST_ITEMS:
            raise ValueError("it grows without end")
        return operator.add(a, b)
    return _number(a) + _number(b)
