"""What a scan or a model is, and where LRP leaks in a model."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.table import Column, Table

from napari_xai.cli.console import OUT, bar, plain, print_json
from napari_xai.cli.options import model_options, reading_of, reading_options

__all__ = ["inspect"]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--lrp", is_flag=True, help="Follow relevance through the model: what every function keeps, and why.")
@click.option("--scan", type=click.Path(path_type=Path), help="With --lrp: the scan to follow it on; default: noise.")
@click.option("--target", help="With --lrp and --scan: the class to explain.")
@click.option(
    "--composite", "rules", default="gamma", show_default=True, help="With --lrp: see `napari-xai composites`."
)
@click.option(
    "--bias", type=click.Choice(["spread", "absorb"]), default="spread", show_default=True, help="With --lrp."
)
@reading_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def inspect(
    ctx: click.Context, /, path: Path, lrp: bool, network: Path | None, trust: bool, as_json: bool, **asked: Any
) -> None:
    """Say what a scan or a model is, and what will be done with it; or where LRP leaks in a model.

    Of a folder with several DICOM series, or an irregular one, the series are listed with what is wrong with each.
    """
    from napari_xai.errors import ExplainError
    from napari_xai.inspection import inspected

    reading = reading_of(asked)
    given = [name for name in asked if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given and not lrp:
        flags = ", ".join("--composite" if name == "rules" else f"--{name}" for name in given)
        raise ExplainError(f"{flags} belongs to the report on LRP: give --lrp as well, or leave it out.")
    if lrp:
        from napari_xai.leaks import leak_report

        report = leak_report(path, trust=trust, network=network, **asked)
        print_json(report) if as_json else _print_leaks(report)
        return
    with bar("headers") as progress:
        found = inspected(path, reading=reading, trust=trust, network=network, progress=progress)
    if as_json:
        print_json(found)
        return
    if found["kind"] == "series":
        _print_series(found["series"])
        return
    table = Table(show_header=False)
    for name, value in found.items():
        lines = value if isinstance(value, list) else [value]
        between = "\n" if any(isinstance(line, str) for line in lines) else " to " if name == "values" else " x "
        table.add_row(name, plain(between.join(str(line) for line in lines)))
    OUT.print(table)


def _print_series(series: list[dict[str, Any]]) -> None:
    """The series of a folder, a row each."""
    table = Table("no.", "modality", "description", "images", "voxels", "mm", "geometry")
    for one in series:
        voxels = "" if one["voxels"] is None else " x ".join(map(str, one["voxels"]))
        voxels += f" x {len(one['volumes'])} volumes" if one["volumes"] else ""
        spacing = "" if one["voxel size in mm"] is None else " x ".join(f"{mm:.3g}" for mm in one["voxel size in mm"])
        row = (one["modality"], one["description"], str(one["images"]), voxels, spacing, one["geometry"])
        table.add_row(str(one["number"]), *map(plain, row))
    OUT.print(table)
    OUT.print("Choose one with --series NUMBER, and say with --on-gap, --on-tilt ... what to do where it is irregular.")


def _print_leaks(report: dict[str, Any]) -> None:
    """The account of LRP: every site that relevance went through, and what it all adds up to."""
    score = report["score"] or 1.0
    sites = Table(Column("layer", overflow="fold"), "function", "rule", "received", "handed on", "kept")
    for site in report["sites"]:
        kept = ", ".join(f"{cause} {value / score:+.2%}" for cause, value in _notable(site["absorbed"], score))
        if site["received"] or kept:
            shares = (f"{site[what] / score:.2%}" for what in ("received", "handed on"))
            sites.add_row(plain(site["layer"]), site["function"], site["rule"], *shares, kept)
    OUT.print(sites)
    OUT.print(
        f"Shares of the score {report['score']:.4g}: {plain(report['question'])}. Rules: {plain(report['rules'])}."
    )
    causes = ", ".join(f"{cause} {value / score:+.2%}" for cause, value in _notable(report["absorbed"], score))
    reached = f"{report['sum of relevance'] / score:.2%} reached the scan"
    OUT.print(f"{reached}; absorbed: {causes or 'nothing'}; unaccounted for: {abs(report['gap'] / score):.1e}.")
    for warning in report["warnings"]:
        OUT.print(plain(warning))


def _notable(absorbed: dict[str, float], score: float) -> list[tuple[str, float]]:
    return [(cause, value) for cause, value in absorbed.items() if abs(value / score) >= 5e-5]
