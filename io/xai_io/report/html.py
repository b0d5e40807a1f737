"""A report as one HTML file that needs nothing else: no script, no network, pictures inside."""

from __future__ import annotations

import base64
import os
from importlib.resources import files
from typing import Any

from .._files import written_aside
from .blocks import Block, Figure, words_of
from .content import NOTICE, TITLE, Report


def write_report_html(path: str | os.PathLike[str], report: Report, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a report as one self-contained HTML file.

    Its content security policy lets nothing be loaded or run; the notice is on every printed page.

    Returns
    -------
    tuple of str
        Every word that was drawn into the pixels of its pictures.

    Raises
    ------
    ExportError
        If the file exists and `overwrite` is False, or cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    sections = report.sections()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(files(__package__).joinpath("templates", "report.html").read_text("utf-8"))
    html = template.render(
        title=TITLE,
        notice=NOTICE,
        question=report.question,
        summary=report.summary,
        sections=[
            {"title": section.title, "blocks": [(type(block).__name__, _shown(block)) for block in section.blocks]}
            for section in sections
        ],
    )
    with written_aside(path, overwrite=overwrite) as file:
        file.write(html.encode())
    return words_of(sections)


def _shown(block: Block) -> Any:
    if isinstance(block, Figure):
        return {"png": base64.b64encode(block.picture.png).decode(), "caption": block.caption}
    return block
