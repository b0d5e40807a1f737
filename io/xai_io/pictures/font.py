"""The font of everything that is drawn, and what it has no letters for."""

from __future__ import annotations

import functools
import unicodedata
from pathlib import Path

FAMILY = "DejaVu Sans"  # comes with matplotlib, under a permissive licence, on every platform


def font_file(*, bold: bool = False) -> Path:
    """The TrueType file."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


def drawable(words: str) -> str:
    r"""Put words on one line, with what the font has no letter for as an escape (``\u75c5``), so that nothing is lost.

    Control characters would move or hide other words: they become spaces.
    """
    letters = _letters()
    clean = "".join(" " if unicodedata.category(c).startswith("C") else c for c in words)
    return "".join(
        c if ord(c) in letters else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
        for c in " ".join(clean.split())
    )


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_file())).get_charmap()) & frozenset(
        FT2Font(str(font_file(bold=True))).get_charmap()
    )
