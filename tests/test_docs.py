"""Pages that repeat what the code says, held to it."""

from pathlib import Path

from methods3d.rules import COMPOSITES
from methods3d.rules.composite import RULES

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "methods.md").read_text()


def composites() -> str:
    rows = [f"| `{name}` | `{found}` | {found.reason} |" for name, found in COMPOSITES.items()]
    return "\n".join(["| composite | rules | when |", "| --- | --- | --- |", *rows])


def test_the_page_lists_every_composite_as_it_is():
    section = PAGE.partition("<!-- composites: begin -->")[2].partition("<!-- composites: end -->")[0]
    assert section.strip() == composites()


def test_the_page_explains_every_rule():
    assert not [rule.name for rule in RULES if f"`{rule.name}" not in PAGE]
