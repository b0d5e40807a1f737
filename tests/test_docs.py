"""Pages that repeat what the code says, held to it."""

from pathlib import Path

import make_methods

from methods3d import methods
from methods3d.rules import COMPOSITES
from methods3d.rules.composite import RULES

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
