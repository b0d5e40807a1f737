"""What all commands say and show: tables on stdout, progress and errors on stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["ERR", "OUT", "bar", "plain", "print_json", "summary"]

OUT = Console()
ERR = Console(stderr=True)


@contextmanager
def bar(name: str) -> Iterator[Any]:
    """A progress bar on stderr that hears of real work."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=ERR, transient=True) as shown:
        task = shown.add_task(name, total=None)

        def progress(done: int, total: int, partial: Any = None) -> None:
            shown.update(task, completed=done, total=total)

        yield progress


def summary(cls: type) -> str:
    """First line of its docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def plain(text: str) -> str:
    """Without rich's markup: names may hold brackets."""
    from rich.markup import escape

    return escape(text)


def print_json(value: Any) -> None:
    """On stdout, and nothing else there."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
