"""What a report is made of, whatever the format it is written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..pictures.sheet import Picture


@dataclass(frozen=True)
class Text:
    """A paragraph; a strong one is a warning."""

    words: str
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells below heads; those of the columns in `numbers` are set to the right."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Figure:
    """A picture and what is to be seen on it, in words."""

    picture: Picture
    caption: str


Block: TypeAlias = Text | Table | Facts | Figure


@dataclass(frozen=True)
class Section:
    """Blocks below a heading."""

    title: str
    blocks: tuple[Block, ...]


def words_of(sections: Sequence[Section]) -> tuple[str, ...]:
    """Every word that is drawn into the pixels of the pictures."""
    blocks = (block for section in sections for block in section.blocks)
    return tuple(words for block in blocks if isinstance(block, Figure) for words in block.picture.words)
