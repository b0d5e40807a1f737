"""What there is to choose from: attribution methods, and LRP's composites."""

from dataclasses import fields
from typing import Any

import click
from rich.table import Column, Table

from napari_xai.cli.console import OUT, plain, print_json, summary

__all__ = ["composites", "methods"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def methods(as_json: bool) -> None:
    """List the attribution methods and their sources; with --json their settings, too."""
    from methods3d import FAMILIES
    from methods3d.method import recorded

    found: list[dict[str, Any]] = [
        {
            "name": cls.name,
            "family": family,
            "summary": summary(cls),
            "source": cls.source,
            "settings": {f.name: {"default": recorded(cls())[f.name], "help": f.metadata["help"]} for f in fields(cls)},
        }
        for family, members in FAMILIES.items()
        for cls in members
    ]
    if as_json:
        print_json(found)
        return
    table = Table(Column("method", no_wrap=True), "what it is", "source")
    for family in FAMILIES:
        table.add_row(f"[bold]{family}[/]", "", "")
        for row in found:
            if row["family"] == family:
                table.add_row(row["name"], plain(row["summary"]), plain(row["source"]))
        table.add_section()
    OUT.print(table)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def composites(as_json: bool) -> None:
    """List LRP's composites: their rules, as --composite takes them, and when to use which."""
    from methods3d.rules import COMPOSITES

    if as_json:
        print_json([{"name": n, "rules": str(c), "reason": c.reason} for n, c in COMPOSITES.items()])
        return
    table = Table("composite", "rules", "when")
    for name, found in COMPOSITES.items():
        table.add_row(name, plain(str(found)), found.reason)
    OUT.print(table)
    OUT.print(
        "To edit one, add entries after it: --composite 'epsilon-plus; first: flat; encoder.*: gamma(0.1)'. "
        "Places: a layer's name or pattern, first (what reads the scan), linear, conv, norm, pool, softmax, gate, *."
    )
