"""The command line: demo, explain, methods, composites, inspect, gui."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

__all__ = ["main"]

OUT = Console()
ERR = Console(stderr=True)


class Commands(click.Group):
    """The commands, in which a user's error is one sentence and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        from napari_xai.errors import USER_ERRORS

        try:
            return super().invoke(ctx)
        except USER_ERRORS as error:
            ERR.print(f"[bold red]Error:[/] {_plain(str(error))}", soft_wrap=True, highlight=False)
            ctx.exit(2)
        except KeyboardInterrupt:
            ERR.print("Interrupted: what was finished is kept, and nothing half-written is left.")
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="napari-xai")
def main() -> None:
    """See what a trained 3D network looked at, back on the scan. Research use only; not a medical device."""


# --- methods ---


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def methods(as_json: bool) -> None:
    """List the attribution methods and their sources; with --json their settings, too."""
    from methods3d import FAMILIES
    from methods3d.method import recorded

    found: list[dict[str, Any]] = [
        {
            "name": cls.name,
            "family": family,
            "summary": _summary(cls),
            "source": cls.source,
            "settings": {f.name: {"default": recorded(cls())[f.name], "help": f.metadata["help"]} for f in fields(cls)},
        }
        for family, members in FAMILIES.items()
        for cls in members
    ]
    if as_json:
        _print_json(found)
        return
    table = Table(Column("method", no_wrap=True), "what it is", "source")
    for family in FAMILIES:
        table.add_row(f"[bold]{family}[/]", "", "")
        for row in found:
            if row["family"] == family:
                table.add_row(row["name"], _plain(row["summary"]), _plain(row["source"]))
        table.add_section()
    OUT.print(table)


# --- explain ---


class MethodCommand(click.Command):
    """A command whose flags are those of the method that --method names, made from its fields."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for the method first."""
        from methods3d import method as method_named
        from napari_xai._flags import MethodFlags, named

        ctx.meta["napari_xai.flags"] = MethodFlags(method_named(named(args, "--method", "-m") or "lrp"), args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own flags and the method's."""
        flags = ctx.meta.get("napari_xai.flags")
        own = super().get_params(ctx)
        return own if flags is None else [*own[:-1], *flags.options, own[-1]]


@main.command(cls=MethodCommand)
@click.argument("scans", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", required=True, type=click.Path(path_type=Path), help="MONAI bundle folder or TorchScript file."
)
@click.option("--method", "-m", "_name", default="lrp", show_default=True, help="See `napari-xai methods`.")
@click.option("--target", help="Class to explain, by name or number; default: what the model predicts.")
@click.option("--against", help="Rather than which class; default: the runner-up. Classifiers only.")
@click.option("--neuron", help="Explain a neuron instead of a class: LAYER:CHANNEL, see `napari-xai inspect`.")
@click.option("--region", type=click.Path(path_type=Path), help="Mask on the scan to ask about. Segmentation only.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("explained"), show_default=True, help="Folder.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option(
    "--window", help="Sliding window in voxels, I,J,K; 'none' runs the whole scan; default: as the bundle says."
)
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of a window that neighbours have in common; default: as the bundle says, or 0.25.",
)
@click.option("--output", help="Which of several outputs to explain: its index or key.")
@click.option("--autocast", type=click.Choice(["float16", "bfloat16"]), help="Lower precision for the forward pass.")
@click.option("--memory", help="What running may take beyond the volumes, such as 4GiB: decides how much runs at once.")
@click.option(
    "--measure", is_flag=True, help="Measure the map: deletion and insertion curves, beside those of random maps."
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that an interrupted run (perturbation methods) leaves behind, and is taken up again from.",
)
@click.option(
    "--way-back", type=click.Choice(["interpolate", "sum-preserving"]), default="interpolate", show_default=True
)
@click.option("--trust", is_flag=True, help="Run the code that the bundle brings.")
@click.option("--overwrite", is_flag=True, help="Replace earlier results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def explain(ctx: click.Context, /, scans: Sequence[Path], model: Path, **given: Any) -> None:
    """Explain what MODEL saw in SCANS (NIfTI files or DICOM folders).

    One scan goes straight into the output folder; several get a folder each, a manifest, and go on after an
    interruption. The method's own settings are flags too: `napari-xai explain --method occlusion --help`.
    """
    import torch

    from napari_xai.errors import ExplainError
    from napari_xai.explainer import Explainer
    from napari_xai.explanation import refuse_existing

    if len(scans) > 1 and given["region"] is not None:
        raise ExplainError("A region belongs to one scan: explain scans with regions one by one.")
    if len(scans) > 1 and (given["checkpoint"] is not None or given["measure"]):
        raise ExplainError("--checkpoint and --measure are for one scan: explain the scans one by one.")
    if len(scans) == 1 and not given["overwrite"]:
        refuse_existing(given["out"])
    method = ctx.meta["napari_xai.flags"].method(given)
    explainer = Explainer.of(
        model,
        device=given["device"],
        output=int(given["output"]) if (given["output"] or "").isdigit() else given["output"],
        autocast=getattr(torch, given["autocast"]) if given["autocast"] else None,
        memory=given["memory"],
        trust=given["trust"],
    )
    explainer = replace(explainer, windows=_windows(given["window"], given["overlap"], explainer.windows))
    question = {name: given[name] for name in ("target", "against", "way_back")}
    if given["neuron"] is not None:
        question["target"] = _neuron(given["neuron"], given["target"] or given["against"])
    if len(scans) == 1:
        with _bar(method.name) as progress:
            found = explainer.explain(
                scans[0],
                method=method,
                region=given["region"],
                measure=given["measure"],
                checkpoint=given["checkpoint"],
                progress=progress,
                **question,
            )
        files = found.save(given["out"], overwrite=given["overwrite"])
        if given["as_json"]:
            _print_json(found.record | {"files": {what: str(path) for what, path in files.items()}})
        else:
            OUT.print(_result(found.record))
            OUT.print(f"Written to {given['out']}: {', '.join(path.name for path in files.values())}")
    elif not _explain_many(scans, explainer, method, question, given):
        ctx.exit(1)


def _explain_many(
    scans: Sequence[Path], explainer: Any, method: Any, question: dict[str, Any], given: dict[str, Any]
) -> bool:
    """Explain a cohort and print its rows; whether all went well."""
    from napari_xai.cohort import explain_many

    with _bar("scans") as bar:
        cohort = explain_many(
            scans,
            explainer,
            given["out"],
            method=method,
            overwrite=given["overwrite"],
            finished=lambda n, row, found: bar(n + 1, len(scans)),
            **question,
        )
    if given["as_json"]:
        _print_json({"settings": cohort.settings, "scans": [asdict(row) for row in cohort.rows]})
    else:
        table = Table("case", "status", "seconds", "warnings or error")
        for row in cohort.rows:
            table.add_row(row.case, row.status, f"{row.seconds:.1f}", _plain(row.error or "; ".join(row.warnings)))
        OUT.print(table)
    return all(row.status == "done" for row in cohort.rows)


def _neuron(text: str, other: str | None) -> Any:
    from methods3d import LayerUnit
    from napari_xai.errors import ExplainError

    layer, _, channel = text.rpartition(":")
    if not layer or not channel.isdigit() or other is not None:
        raise ExplainError(
            f"--neuron is {text!r}: give a layer's name and a channel, as model.1:3, and no --target or --against."
        )
    return LayerUnit(layer, int(channel))


def _windows(window: str | None, overlap: float | None, bundle: Any) -> Any:
    """The bundle's windows, changed as far as asked; a bundle without any gets Gaussian ones."""
    from napari_xai.errors import ExplainError
    from xai_io import WindowSettings

    if overlap is not None and (window == "none" or (window is None and bundle is None)):
        raise ExplainError("--overlap is of windows, and there are none: give --window as well, or leave it out.")
    if window == "none":
        return None
    if window is None:
        return bundle if overlap is None else replace(bundle, overlap=overlap)
    try:
        sizes = tuple(int(n) for n in window.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise ExplainError(f"--window is {window!r}: give one number, three as I,J,K, or 'none'; voxels, at least 1.")
    own = bundle or WindowSettings(roi_size=1, sw_batch_size=4, mode="gaussian")
    return replace(
        own, roi_size=sizes if len(sizes) == 3 else sizes * 3, overlap=own.overlap if overlap is None else overlap
    )


def _result(record: dict[str, Any]) -> Table:
    """One explanation as a table."""
    table = Table(show_header=False)
    rows = {
        "question": record["question"],
        f"prediction ({record['prediction_unit']})": ", ".join(
            f"{name} {value:.4g}" for name, value in record["prediction"].items()
        ),
        "method": record["method"]
        + "".join(f", {k}={v}" for k, v in record["parameters"].items() if v not in ("", None)),
        "score": f"{record['score']:.4g}",
        # The sum of any other map means nothing.
        "sum of relevance": f"{record['sum_on_model_grid']:.4g} (model grid), {record['sum_on_scan']:.4g} (scan)"
        if record["extensive"]
        else "",
        "absorbed": ", ".join(f"{cause} {value:.3g}" for cause, value in record["absorbed"].items()),
        "gap": "" if record["gap"] is None else f"{record['gap']:.3g}",
        "deletion and insertion": _measured(record.get("faithfulness")),
        "seconds": f"{record['seconds']:.1f}",
        "warnings": "; ".join(record["warnings"]),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, _plain(value))
    return table


def _measured(found: dict[str, Any] | None) -> str:
    """Areas under the curves, beside those of random maps."""
    if found is None:
        return ""

    def one(what: str) -> str:
        control = found[f"{what}, random maps"]
        return f"{what} {found[what]:.3f} (random {min(control):.3f} to {max(control):.3f})"

    return f"{one('deletion')}, lower is better; {one('insertion')}, higher is better"


# --- inspect ---


@main.command()
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
@click.option("--trust", is_flag=True, help="Run the code that a bundle brings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def inspect(ctx: click.Context, /, path: Path, lrp: bool, trust: bool, as_json: bool, **asked: Any) -> None:
    """Say what a scan or a model is, and what will be done with it; or where LRP leaks in a model."""
    from napari_xai.errors import ExplainError
    from napari_xai.inspection import inspected

    given = [name for name in asked if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given and not lrp:
        flags = ", ".join("--composite" if name == "rules" else f"--{name}" for name in given)
        raise ExplainError(f"{flags} belongs to the report on LRP: give --lrp as well, or leave it out.")
    if lrp:
        from napari_xai.leaks import leak_report

        report = leak_report(path, trust=trust, **asked)
        _print_json(report) if as_json else _print_leaks(report)
        return
    found = inspected(path, trust=trust)
    if as_json:
        _print_json(found)
        return
    table = Table(show_header=False)
    for name, value in found.items():
        lines = value if isinstance(value, list) else [value]
        table.add_row(name, _plain("\n".join(str(line) for line in lines)))
    OUT.print(table)


def _print_leaks(report: dict[str, Any]) -> None:
    """The account of LRP: every site that relevance went through, and what it all adds up to."""
    score = report["score"] or 1.0
    sites = Table(Column("layer", overflow="fold"), "function", "rule", "received", "handed on", "kept")
    for site in report["sites"]:
        kept = ", ".join(f"{cause} {value / score:+.2%}" for cause, value in _notable(site["absorbed"], score))
        if site["received"] or kept:
            shares = (f"{site[what] / score:.2%}" for what in ("received", "handed on"))
            sites.add_row(_plain(site["layer"]), site["function"], site["rule"], *shares, kept)
    OUT.print(sites)
    OUT.print(
        f"Shares of the score {report['score']:.4g}: {_plain(report['question'])}. Rules: {_plain(report['rules'])}."
    )
    causes = ", ".join(f"{cause} {value / score:+.2%}" for cause, value in _notable(report["absorbed"], score))
    reached = f"{report['sum of relevance'] / score:.2%} reached the scan"
    OUT.print(f"{reached}; absorbed: {causes or 'nothing'}; unaccounted for: {abs(report['gap'] / score):.1e}.")
    for warning in report["warnings"]:
        OUT.print(_plain(warning))


def _notable(absorbed: dict[str, float], score: float) -> list[tuple[str, float]]:
    return [(cause, value) for cause, value in absorbed.items() if abs(value / score) >= 5e-5]


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def composites(as_json: bool) -> None:
    """List LRP's composites: their rules, as --composite takes them, and when to use which."""
    from methods3d.rules import COMPOSITES

    if as_json:
        _print_json([{"name": n, "rules": str(c), "reason": c.reason} for n, c in COMPOSITES.items()])
        return
    table = Table("composite", "rules", "when")
    for name, found in COMPOSITES.items():
        table.add_row(name, _plain(str(found)), found.reason)
    OUT.print(table)
    OUT.print(
        "To edit one, add entries after it: --composite 'epsilon-plus; first: flat; encoder.*: gamma(0.1)'. "
        "Places: a layer's name or pattern, first (what reads the scan), linear, conv, norm, pool, softmax, gate, *."
    )


# --- demo and gui ---


@main.command()
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
    with _bar("demo") as progress:
        rows = run(out, progress, names=tuple(all_methods()) if every else SHOWN, dense=every, quick=quick)
    if as_json:
        _print_json([asdict(row) for row in rows])
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
                OUT.print(f"{row.model}, {row.method}: {_plain(said)}")
    OUT.print("lesion share: share of positive relevance inside the lesion, over the lesion's share of the brain.")
    if not quick:
        OUT.print(f"Written to {out}: for each model and method relevance.nii.gz, montage.png and provenance.json.")


@main.command()
@click.argument("scan", required=False, type=click.Path(path_type=Path))
def gui(scan: Path | None) -> None:
    """Open napari with SCAN (default: the sample brain) and the Explain widget."""
    from napari_xai.errors import ExplainError

    try:
        from napari_xai._gui import open_window
    except ImportError as error:
        raise ExplainError(f"napari is not installed ({error.name}): pip install 'napari-xai[gui]'.") from error
    open_window(scan)


# --- shared ---


@contextmanager
def _bar(name: str) -> Iterator[Any]:
    """A progress bar on stderr that hears of real work."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=ERR, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def progress(done: int, total: int, partial: Any = None) -> None:
            bar.update(task, completed=done, total=total)

        yield progress


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _plain(text: str) -> str:
    """Without rich's markup: names may hold brackets."""
    from rich.markup import escape

    return escape(text)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
