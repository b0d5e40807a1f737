"""A method's fields as command-line flags; of a method that is made of another, the other's too: --of, --of.samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from methods3d import Method
from methods3d import method as method_named

__all__ = ["MethodFlags", "named"]


class MethodFlags:
    """The flags of one method, and the method made of what was given to them.

    Parameters
    ----------
    cls : the method's class.
    args : the command line, in which --of may name another method than the default one.
    start : what flags begin with: "" or "of.".
    defaults : the method whose values are the defaults; None: the class's own.
    """

    def __init__(self, cls: type[Method], args: Sequence[str], start: str = "", defaults: Method | None = None) -> None:
        self._cls, self._start = cls, start
        self._defaults = cls() if defaults is None else defaults
        self._inner: dict[str, MethodFlags] = {}
        for f in fields(cls):
            held = getattr(self._defaults, f.name)
            if isinstance(held, Method):
                inner = method_named(named(args, f"--{start}{f.name}") or held.name)
                known = held if type(held) is inner else None
                self._inner[f.name] = MethodFlags(inner, args, f"{start}{f.name}.", known)

    @property
    def options(self) -> Iterator[click.Option]:
        """One for each field, and those of inner methods."""
        hints = get_type_hints(self._cls)
        for f in fields(self._cls):
            flag = f"--{self._start}{f.name.replace('_', '-')}"
            name, help_text = self._name(f.name), f.metadata["help"]
            if f.name in self._inner:
                inner = self._inner[f.name]
                yield click.Option(
                    [flag, name], default=inner._cls.name, show_default=True, help=f"{help_text}, with its own flags"
                )
                yield from inner.options
                continue
            default, kind = getattr(self._defaults, f.name), _kind(hints[f.name], f.metadata)
            if kind is bool:
                both = f"{flag}/--{self._start}no-{f.name.replace('_', '-')}"
                yield click.Option([both, name], default=default, show_default=True, help=help_text)
                continue
            shown = default not in ("", None)
            yield click.Option([flag, name], type=kind, default=default, show_default=shown, help=help_text)

    def method(self, given: Mapping[str, Any]) -> Method:
        """The method with these values."""
        values = {f.name: given[self._name(f.name)] for f in fields(self._cls)}
        return self._cls(**values | {name: inner.method(given) for name, inner in self._inner.items()})

    def _name(self, field: str) -> str:
        """The parameter's name in Python; inner ones do not meet the command's own."""
        return f"{self._start.replace('.', '__')}{field}" if self._start else f"method__{field}"


def named(args: Sequence[str], *flags: str) -> str | None:
    """The word that follows one of these flags, or is written to it; of several the last, as click has it."""
    found = None
    for word, following in zip(args, [*args[1:], ""], strict=False):
        short = next((flag for flag in flags if len(flag) == 2 and word.startswith(flag)), None)
        if word in flags:
            found = following
        elif word.partition("=")[0] in flags and "=" in word:
            found = word.partition("=")[2]
        elif short:
            found = word.removeprefix(short)
    return found


def _kind(hint: Any, metadata: Mapping[str, Any]) -> Any:
    """What click makes of the word; settings that are read from text are text."""
    if metadata.get("reads"):
        return str
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return click.Choice(get_args(hint)) if get_origin(hint) is Literal else hint
