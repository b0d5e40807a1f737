"""The samples explained, and the viewer."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Column, Table

from napari_xai.cli.console import OUT, bar, plain, print_json

__all__ = ["demo", "gui"]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: demo_output.")
@click.option("--all", "every", is_flag=True, help="Every method, and the segmenter without windows, too.")
@click.option("--quick", is_flag=True, help="On a crop, with the smallest budgets, writing nothing: does it all run?")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(out: Path | None, every: bool, quick: bool, as_json: bool) -> None:
    """Explain the sample brain with the sample models and many methods, and measure where the relevance lies."""
    from methods3d import methods as all_methods
    from napari_xai.demo import SHOWN, run
    from napari_xai.errors import ExplainError

    if quick and out is not None:
        raise ExplainError("--quick writes nothing: leave --out out, or --quick.")
    out = None if quick else out or Path("demo_output")
    with bar("demo") as progress:
        rows = run(out, progress, names=tuple(all_methods()) if every else SHOWN, dense=every, quick=quick)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(
        Column("model", no_wrap=True), Column("method", no_wrap=True), "seconds", "lesion share", "peak inside", "gap"
    )
    for row in (row for row in rows if not row.refused):
        gap = "" if row.gap is None else f"{row.gap:.2g}"
        inside = "yes" if row.peak_in_lesion else "no"
        table.add_row(row.model, row.method, f"{row.seconds:.1f}", f"{row.concentration:.0f} x", inside, gap)
    OUT.print(table)
    for row in rows:
        for said in (*row.warnings, row.refused):
            if said:
                OUT.print(f"{row.model}, {row.method}: {plain(said)}")
    OUT.print("lesion share: share of positive relevance inside the lesion, over the lesion's share of the brain.")
    if not quick:
        OUT.print(f"Written to {out}: for each model and method relevance.nii.gz, montage.png and provenance.json.")


@click.command()
@click.argument("scan", required=False, type=click.Path(path_type=Path))
def gui(scan: Path | None) -> None:
    """Open napari with SCAN (default: the sample brain) and the Explain widget."""
    from napari_xai.errors import ExplainError

    try:
        from napari_xai._gui import open_window
    except ImportError as error:
        raise ExplainError(f"napari is not installed ({error.name}): pip install 'napari-xai[gui]'.") from error
    open_window(scan)
