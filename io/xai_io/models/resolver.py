"""A MONAI bundle's config read as data: references and a few literal expressions, never Python.

MONAI's own parser evaluates every string that begins with ``$`` and imports whatever ``_target_`` names. Here a
component is built only if the caller's allow-list knows its name, and an expression is worked out only if it is
made of literals, references, plain arithmetic and `len`; anything else is refused by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import ModelError, UntrustedModel
from .expressions import ID, REFERENCE, NeedsCode, absolute, parsed, summands, worked_out

Allowed: TypeAlias = Callable[[str], Callable[..., Any] | None]  # a `_target_` -> what builds it, None if refused

_MACRO = re.compile(rf"%(?:(?P<file>[^%:#]+\.(?:json|yaml|yml))(?:(?:::|#)(?P<key>[\w:#]+))?|(?P<id>{ID}))")
_MOST_STEPS = 100_000  # a config that takes more was made to exhaust memory
OWN_KEYS = ("_target_", "_requires_", "_disabled_", "_desc_", "_mode_")  # of a component, beside its arguments


@dataclass(frozen=True)
class Step:
    """One transform of a pipeline: its place in the config and its name, or the object if trusted code made it."""

    id: str
    target: str
    built: Any = None


class Resolver:
    """Values of a config by id (``"a::b::0"``), worked out where they are asked for and nowhere else.

    Parameters
    ----------
    config
        As it stands in the file.
    neighbour
        Reads another config file, for macros that name one (``"%other.json::key"``); None where there is none.

    Attributes
    ----------
    ran
        Ids of the entries whose code was run, in order.
    """

    def __init__(
        self, config: Mapping[str, Any], neighbour: Callable[[str], Mapping[str, Any] | None] | None = None
    ) -> None:
        self.ran: list[str] = []
        self._config = dict(config)
        self._neighbour = neighbour
        self._known: dict[tuple[str, Allowed], Any] = {}
        self._under_way: list[str] = []
        self._steps_left = _MOST_STEPS

    def has(self, id: str) -> bool:
        """Whether the config has an entry of this id."""
        try:
            self.raw(id)
        except ModelError:
            return False
        return True

    def raw(self, id: str) -> Any:
        """Entry as it stands in the file."""
        node: Any = self._config
        for part in id.split("::"):
            if isinstance(node, Mapping) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            else:
                raise ModelError(f"The bundle's config refers to {id!r}, which it does not define; correct the config.")
        return node

    def value(self, id: str, allowed: Allowed) -> Any:
        """Entry with its references, literal expressions and allowed components worked out.

        Raises
        ------
        UntrustedModel
            If that takes code: an expression, an import, or a component `allowed` does not know.
        ModelError
            If the config is broken: missing or circular references, arguments that do not fit.
        """
        key = (id, allowed)
        if key not in self._known:
            try:
                with _Visit(self._under_way, id):
                    self._known[key] = self._value(self.raw(id), id, allowed)
            except RecursionError:
                raise ModelError(f"The config's entry {id!r} is nested too deeply; correct the config.") from None
        return self._known[key]

    def steps(self, id: str) -> Iterator[Step]:
        """Transforms of a pipeline in order: a component, a list, a Compose, references to and sums of these."""
        node = self.raw(id)
        with _Visit(self._under_way, id):
            if isinstance(node, str) and (other := self._elsewhere(node, id)) is not None:
                yield from self.steps(other)
            elif isinstance(node, str):
                yield from self._expression_steps(node, id)
            elif isinstance(node, list):
                for index in range(len(node)):
                    yield from self.steps(f"{id}::{index}")
            elif isinstance(node, Mapping) and "_target_" in node:
                if self._disabled(node, id):
                    return
                if str(node["_target_"]).rpartition(".")[2] != "Compose":
                    yield Step(id, str(node["_target_"]))
                elif node.get("lazy"):
                    raise ModelError(
                        f"The config's entry {id!r} resamples lazily, which is not supported: set lazy to false."
                    )
                elif "transforms" in node:
                    yield from self.steps(f"{id}::transforms")
            elif node is not None:
                raise ModelError(f"The config's entry {id!r} is not a list of transforms; correct the config.")

    def _expression_steps(self, node: str, id: str) -> Iterator[Step]:
        tree, names = parsed(node, id) if node.startswith("$") else (None, {})
        parts = list(summands(tree)) if tree is not None else []
        if parts and all(isinstance(part, ast.Name) and part.id in names for part in parts):
            for part in parts:
                assert isinstance(part, ast.Name)
                yield from self.steps(names[part.id])
            return
        built = self._needs_code(id, node)
        built = getattr(built, "transforms", built)
        for transform in built if isinstance(built, list | tuple) else [built]:
            yield Step(id, type(transform).__name__, transform)

    def _value(self, node: Any, id: str, allowed: Allowed) -> Any:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise ModelError("The bundle's config unfolds without end; correct the config.")
        if isinstance(node, str):
            return self._text(node, id, allowed)
        if isinstance(node, Mapping):
            if "_target_" in node:
                return self._component(node, id, allowed)
            return {key: self._value(item, f"{id}::{key}", allowed) for key, item in self._enabled(node.items(), id)}
        if isinstance(node, list):
            return [self._value(item, f"{id}::{n}", allowed) for n, item in self._enabled(enumerate(node), id)]
        return node

    def _text(self, text: str, id: str, allowed: Allowed) -> Any:
        if text.startswith("$"):
            tree, names = parsed(text, id)
            try:
                found = worked_out(tree, names, lambda other: self.value(other, allowed))
                self._steps_left -= len(found) if isinstance(found, str | list | tuple) else 0
                return found
            except NeedsCode:
                return self._needs_code(id, text)
            except (TypeError, ValueError, ArithmeticError) as error:
                raise ModelError(
                    f"The config's entry {id!r} ({text[:80]!r}) makes no sense ({error}); correct the config."
                ) from error
        other = self._elsewhere(text, id)
        return text if other is None else self.value(other, allowed)

    def _elsewhere(self, text: str, id: str) -> str | None:
        """Id of what a reference or macro stands for; None if the text is neither."""
        if REFERENCE.fullmatch(text):
            return absolute(text, id)
        if not text.startswith("%"):
            return None
        macro = _MACRO.fullmatch(text)
        if macro is not None and macro["id"]:
            return absolute(text, id)
        mounted = f"%{macro['file']}" if macro else ""
        if mounted not in self._config:
            other = self._neighbour(macro["file"]) if macro and self._neighbour else None
            if other is None:
                raise ModelError(
                    f"The config's entry {id!r} reads from {text[1:80]!r}, which is no JSON or YAML file inside the "
                    "bundle; correct it."
                )
            self._config[mounted] = other
        return "::".join([mounted, *([macro["key"].replace("#", "::")] if macro and macro["key"] else [])])

    def refusals(self, id: str, allowed: Allowed) -> dict[str, str]:
        """All that is more than data in an entry, as id -> what stands there; not only what is met first."""
        try:
            self.value(id, allowed)
        except UntrustedModel as refused:
            found = {refused.entry: refused.what}
            node = self.raw(id)
            if isinstance(node, str) and (other := self._elsewhere(node, id)) is not None:
                return found | self.refusals(other, allowed)
            inner = node if isinstance(node, Mapping) else range(len(node)) if isinstance(node, list) else ()
            for key in inner:
                if key not in OWN_KEYS:
                    found |= self.refusals(f"{id}::{key}", allowed)
            return found
        except ModelError:  # broken, which loading will say
            return {}
        return {}

    def _component(self, node: Mapping[str, Any], id: str, allowed: Allowed) -> Any:
        if self._disabled(node, id):
            return None
        target = node["_target_"]
        build = allowed(target) if isinstance(target, str) else None
        if build is None or "_requires_" in node or node.get("_mode_", "default") != "default":
            return self._needs_code(id, target)
        arguments = {
            key: self._value(item, f"{id}::{key}", allowed)
            for key, item in self._enabled(node.items(), id)
            if key not in OWN_KEYS
        }
        try:
            return build(**arguments)
        except (UntrustedModel, ModelError):
            raise
        except Exception as error:  # whatever a constructor objects to, the config gave it
            raise ModelError(
                f"The config's entry {id!r} ({target}) cannot be built ({error}); correct its arguments."
            ) from error

    def _enabled(self, items: Any, id: str) -> Iterator[tuple[Any, Any]]:
        """Leave out what is switched off by `_disabled_`, as MONAI does."""
        for key, item in items:
            if not (isinstance(item, Mapping) and "_target_" in item and self._disabled(item, f"{id}::{key}")):
                yield key, item

    def _disabled(self, node: Mapping[str, Any], id: str) -> bool:
        off = self._value(node.get("_disabled_", False), f"{id}::_disabled_", _nothing)
        return off.strip().lower() == "true" if isinstance(off, str) else bool(off)

    def _needs_code(self, id: str, what: Any) -> Any:
        """Refuse an entry that is more than data."""
        raise UntrustedModel(
            f"The bundle's config needs code at {id!r} ({str(what)[:80]!r}) and is only read as data; "
            "if you trust where the bundle comes from, trust=True runs it.",
            entry=id,
            what=str(what)[:80],
        )


class _Visit:
    """One entry being worked out; meeting it again inside itself is a circle."""

    def __init__(self, under_way: list[str], id: str) -> None:
        self._under_way, self._id = under_way, id

    def __enter__(self) -> None:
        if self._id in self._under_way or len(self._under_way) > 100:
            raise ModelError(f"The bundle's config refers to {self._id!r} in a circle; correct the config.")
        self._under_way.append(self._id)

    def __exit__(self, *_: object) -> None:
        self._under_way.remove(self._id)


def _nothing(target: str) -> None:
    """Allow no component at all."""
