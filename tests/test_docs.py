"""Pages that repeat what the code says, held to it."""

from dataclasses import fields
from pathlib import Path

import make_methods

from methods3d import methods
from methods3d.rules import COMPOSITES
from methods3d.rules.composite import RULES
from napari_xai.exports import ALWAYS, EXPORTS
from xai_io import Choices

DOCS = Path(__file__).resolve().parent.parent / "docs"
LRP = (DOCS / "lrp.md").read_text(encoding="utf-8")


def composites() -> str:
    rows = [f"| `{name}` | `{found}` | {found.reason} |" for name, found in COMPOSITES.items()]
    return "\n".join(["| composite | rules | when |", "| --- | --- | --- |", *rows])


def test_the_page_lists_every_composite_as_it_is():
    section = LRP.partition("<!-- composites: begin -->")[2].partition("<!-- composites: end -->")[0]
    assert section.strip() == composites()


def test_the_page_explains_every_rule():
    assert not [rule.name for rule in RULES if f"`{rule.name}" not in LRP]


def test_the_page_on_methods_is_what_they_say_of_themselves():
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert page == make_methods.page(), "run python docs/make_methods.py"
    for name in methods():
        section = page.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert all(f"- *{what}*: " in section for what in ("When", "Costs", "Source")), name


def exports() -> str:
    rows = [f"| `{name}` | {one.file} | {one.what} |" for name, one in EXPORTS.items()]
    return "\n".join(["| name | file | what it is |", "| --- | --- | --- |", *rows])


def test_the_page_on_exports_lists_each_as_it_is():
    page = (DOCS / "exports.md").read_text(encoding="utf-8")
    assert page.partition("<!-- exports: begin -->")[2].partition("<!-- exports: end -->")[0].strip() == exports()
    assert len(ALWAYS) == 5 and tuple(EXPORTS)[:5] == ALWAYS  # "the first five"


def test_the_page_on_scans_knows_every_question():
    page = (DOCS / "scans.md").read_text(encoding="utf-8")
    assert not [one.name for one in fields(Choices) if f"--{one.name.replace('_', '-')}" not in page]
