"""Markdown tables, and their places in docs/results.md."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

__all__ = ["machine", "table", "write"]


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[name]) for name in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(page: Path, part: str, text: str) -> None:
    """Put the text in its place, between the page's markers of that name."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}."
