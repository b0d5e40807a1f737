"""A report as PDF, A4."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from html import escape
from typing import Any

from .._files import written_aside
from ..pictures.font import drawable, font_file
from .blocks import Block, Facts, Figure, Section, Table, Text, words_of
from .content import NOTICE, TITLE, Report

_INK, _DIM, _RED, _AMBER, _PALE = "#1c1c1c", "#555555", "#a01818", "#c97800", "#fff1d6"
_MARGIN, _HEAD = 15.0, 22.0  # mm
_TALLEST = 150.0  # mm, of a picture: with its caption it fits below the prediction on the first page
_FONT, _BOLD = "DejaVuSans", "DejaVuSans-Bold"


def write_report_pdf(path: str | os.PathLike[str], report: Report, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a report as PDF: what the HTML says, with the notice at the top and the foot of every page.

    Returns
    -------
    tuple of str
        Every word that was drawn, on the pages and into the pixels of the pictures: a PDF holds no text that
        could be searched for as bytes.

    Raises
    ------
    ExportError
        If the file exists and `overwrite` is False, or cannot be written.
    """
    sections = report.sections()
    pages = _Pages()
    pages.add(report, sections)
    data = pages.pdf()
    with written_aside(path, overwrite=overwrite) as file:
        file.write(data)
    return (*pages.words, *words_of(sections))


class _Pages:
    """What flows over the pages, and the words of it."""

    def __init__(self) -> None:
        from reportlab.lib.pagesizes import A4
        from reportlab.lib.styles import ParagraphStyle
        from reportlab.lib.units import mm
        from reportlab.pdfbase import pdfmetrics
        from reportlab.pdfbase.ttfonts import TTFont

        for name, bold in ((_FONT, False), (_BOLD, True)):
            if name not in pdfmetrics.getRegisteredFontNames():
                pdfmetrics.registerFont(TTFont(name, str(font_file(bold=bold))))
        self._mm = mm
        self._size = A4
        self._wide = A4[0] - 2 * _MARGIN * mm
        self.words: list[str] = []
        self._flow: list[Any] = []
        plain = ParagraphStyle("plain", fontName=_FONT, fontSize=8.5, leading=11.5, textColor=_INK, splitLongWords=1)
        self._styles = {
            "plain": plain,
            "number": ParagraphStyle("number", plain, alignment=2),
            "head": ParagraphStyle("head", plain, fontName=_BOLD, fontSize=8),
            "number head": ParagraphStyle("number head", plain, fontName=_BOLD, fontSize=8, alignment=2),
            "name": ParagraphStyle("name", plain, textColor=_DIM),
            "caption": ParagraphStyle("caption", plain, textColor=_DIM, fontSize=8, leading=10.5, spaceBefore=4),
            "title": ParagraphStyle("title", plain, fontName=_BOLD, fontSize=17, leading=21),
            "question": ParagraphStyle("question", plain, fontSize=11, leading=14, spaceAfter=2),
            "section": ParagraphStyle(
                "section", plain, fontName=_BOLD, fontSize=11, spaceBefore=11, spaceAfter=4, keepWithNext=1
            ),
            "warning": ParagraphStyle(
                "warning", plain, fontName=_BOLD, backColor=_PALE, borderColor=_AMBER, borderWidth=1, borderPadding=4,
                spaceBefore=6, spaceAfter=6,
            ),
        }  # fmt: skip

    def add(self, report: Report, sections: tuple[Section, ...]) -> None:
        """Put everything on the pages, a heading never parted from what follows it."""
        self._flow += [self._words(TITLE, "title"), self._words(report.question, "question")]
        self._flow.append(self._words(report.summary, "name"))
        for section in sections:
            self._flow.append(self._words(section.title, "section"))
            self._flow += [flowable for block in section.blocks for flowable in self._block(block)]

    def pdf(self) -> bytes:
        """Lay out the pages; the same bytes for the same content."""
        from reportlab.platypus import SimpleDocTemplate

        file = io.BytesIO()
        document = SimpleDocTemplate(
            file, pagesize=self._size, leftMargin=_MARGIN * self._mm, rightMargin=_MARGIN * self._mm,
            topMargin=_HEAD * self._mm, bottomMargin=_HEAD * self._mm, title=TITLE, author="", subject=NOTICE,
            creator="napari-xai", invariant=1,
        )  # fmt: skip
        document.build(self._flow, onFirstPage=self._marked, onLaterPages=self._marked)
        return file.getvalue()

    def _marked(self, canvas: Any, document: Any) -> None:
        """Say on a page what it must not be used for, and which page it is."""
        mm, (wide, high) = self._mm, self._size
        canvas.saveState()
        canvas.setFillColor(_RED)
        canvas.rect(0, high - 13 * mm, wide, 13 * mm, stroke=0, fill=1)
        canvas.setFont(_BOLD, 11)
        canvas.drawCentredString(wide / 2, 10 * mm, NOTICE)
        canvas.setFillColor("#ffffff")
        canvas.drawCentredString(wide / 2, high - 9 * mm, NOTICE)
        canvas.setFillColor(_DIM)
        canvas.setFont(_FONT, 8)
        canvas.drawRightString(wide - _MARGIN * mm, 10 * mm, f"page {document.page}")
        canvas.restoreState()

    def _block(self, block: Block) -> Iterator[Any]:
        if isinstance(block, Text):
            yield self._words(block.words, "warning" if block.strong else "plain")
        elif isinstance(block, Facts):
            rows = [[self._words(name, "name"), self._words(value)] for name, value in block.pairs]
            yield self._grid(rows, [0.26 * self._wide, 0.74 * self._wide])
        elif isinstance(block, Table):
            yield self._table(block)
        else:
            yield from self._figure(block)

    def _figure(self, figure: Figure) -> Iterator[Any]:
        from reportlab.platypus import Image

        wide, high = figure.picture.size
        scale = min(self._wide / wide, _TALLEST * self._mm / high)
        image = Image(io.BytesIO(figure.picture.png), scale * wide, scale * high)
        image.hAlign = "LEFT"
        image.keepWithNext = True
        yield image
        yield self._words(figure.caption, "caption")

    def _table(self, table: Table) -> Any:
        """Set a table whose columns are as wide as their longest words, the widest giving way."""
        from reportlab.pdfbase.pdfmetrics import stringWidth

        rows = [[self._words(h, "number head" if n in table.numbers else "head") for n, h in enumerate(table.heads)]]
        for cells in table.rows:
            rows.append([self._words(c, "number" if n in table.numbers else "plain") for n, c in enumerate(cells)])
        needed = [
            max([stringWidth(head, _BOLD, 8), *(stringWidth(drawable(row[n]), _FONT, 8.5) for row in table.rows)]) + 14
            for n, head in enumerate(table.heads)
        ]
        over = sum(needed) - self._wide
        if over > 0:
            widest = needed.index(max(needed))
            needed[widest] = max(needed[widest] - over, 60)
            needed = [wide * min(1, self._wide / sum(needed)) for wide in needed]
        return self._grid(rows, needed, headed=True)

    def _grid(self, rows: list[list[Any]], widths: list[float], *, headed: bool = False) -> Any:
        from reportlab.platypus import LongTable

        rules: list[Any] = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 10),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
        ]
        if headed:
            rules += [("LINEBELOW", (0, 0), (-1, 0), 0.7, _DIM), ("LINEBELOW", (0, 1), (-1, -1), 0.3, "#d8d8d8")]
        grid = LongTable(rows, colWidths=widths, repeatRows=int(headed), hAlign="LEFT", splitInRow=1)
        grid.setStyle(rules)
        grid.spaceAfter = 5
        return grid

    def _words(self, words: str, style: str = "plain") -> Any:
        from reportlab.platypus import Paragraph

        said = drawable(words)
        self.words.append(said)
        return Paragraph(escape(said), self._styles[style])
