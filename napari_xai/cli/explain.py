"""Explain scans: one into a folder, many into a folder each."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from napari_xai.cli.console import OUT, bar, plain, print_json
from napari_xai.cli.options import channels_of, display_of, model_options, reading_of, reading_options

__all__ = ["explain"]


class MethodCommand(click.Command):
    """A command whose flags are those of the method that --method names, made from its fields."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for the method first."""
        from methods3d import method as method_named
        from napari_xai.cli.method_flags import MethodFlags, named

        ctx.meta["napari_xai.flags"] = MethodFlags(method_named(named(args, "--method", "-m") or "lrp"), args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own flags and the method's."""
        flags = ctx.meta.get("napari_xai.flags")
        own = super().get_params(ctx)
        return own if flags is None else [*own[:-1], *flags.options, own[-1]]


@click.command(cls=MethodCommand)
@click.argument("scans", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    type=click.Path(path_type=Path),
    help="MONAI bundle folder, TorchScript, .pt2, or weights with --network.",
)
@click.option(
    "--channel", "channels", multiple=True, help="NAME=PATH: instead of SCANS, one scan for each input channel."
)
@click.option("--resample", is_flag=True, help="Bring the channels' scans to the grid of the first.")
@reading_options
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
@click.option(
    "--export",
    "exports",
    multiple=True,
    help="What else to write: report (html, pdf), dicom (pm, sc, seg, sr), zarr, source; once for each.",
)
@click.option("--display", help="How pictures show it: a CT window (lung, bone ...), or a preset's JSON file.")
@click.option("--with-source", is_flag=True, help="Write the de-identified DICOM series, too: results refer to it.")
@click.option("--keep-identity", is_flag=True, help="File DICOM results and reports into the patient's own study.")
@model_options
@click.option("--overwrite", is_flag=True, help="Replace earlier results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def explain(ctx: click.Context, /, scans: Sequence[Path], model: Path, **given: Any) -> None:
    """Explain what MODEL saw in SCANS (NIfTI, NRRD, MetaImage, OME-Zarr, DICOM folders or zips).

    One scan goes straight into the output folder; several get a folder each, a manifest, and go on after an
    interruption. The method's own settings are flags too: `napari-xai explain --method occlusion --help`.
    """
    import numpy as np
    import torch

    from napari_xai.errors import ExplainError
    from napari_xai.explainer import Explainer
    from napari_xai.exports import FILES
    from napari_xai.saving import check_place
    from xai_io import Identity, Volume

    cases: list[Any] = [channels_of(given["channels"])] if given["channels"] else list(scans)
    if not cases or (scans and given["channels"]):
        raise ExplainError("Give SCANS, or one scan with --channel NAME=PATH for each input channel of the model.")
    if len(cases) > 1 and given["region"] is not None:
        raise ExplainError("A region belongs to one scan: explain scans with regions one by one.")
    if len(cases) > 1 and (given["checkpoint"] is not None or given["measure"]):
        raise ExplainError("--checkpoint and --measure are for one scan: explain the scans one by one.")
    if len(cases) == 1:
        nothing = Volume(np.zeros((1, 1, 1, 1)), np.eye(4))  # the scan itself is looked at once it is read
        check_place(given["out"], FILES, nothing, overwrite=given["overwrite"])
    method = ctx.meta["napari_xai.flags"].method(given)
    writing = {
        "exports": [*given["exports"], *(["source"] if given["with_source"] else [])],
        "display": display_of(given["display"]),
        "identity": Identity(keep=given["keep_identity"]),
    }
    explainer = Explainer.of(
        model,
        device=given["device"],
        output=int(given["output"]) if (given["output"] or "").isdigit() else given["output"],
        autocast=getattr(torch, given["autocast"]) if given["autocast"] else None,
        memory=given["memory"],
        reading=reading_of(given),
        network=given["network"],
        trust=given["trust"],
    )
    explainer = replace(explainer, windows=_windows(given["window"], given["overlap"], explainer.windows))
    question = {name: given[name] for name in ("target", "against", "way_back")}
    if given["neuron"] is not None:
        question["target"] = _neuron(given["neuron"], given["target"] or given["against"])
    if len(cases) == 1:
        _explain_one(cases[0], explainer, method, question, writing, given)
    elif not _explain_many(cases, explainer, method, question, writing, given):
        ctx.exit(1)


def _explain_one(
    case: Any, explainer: Any, method: Any, question: dict[str, Any], writing: dict[str, Any], given: dict[str, Any]
) -> None:
    """Explain one scan and print what came out."""
    from napari_xai.exports import FILES, check_display, wanted
    from napari_xai.saving import check_place

    with bar("reading") as progress:
        scan = explainer.read(case, progress)
    wanted(writing["exports"], scan, writing["identity"])  # what cannot be written is refused before the work
    check_display(writing["display"], scan)
    check_place(given["out"], FILES, scan, overwrite=given["overwrite"])
    with bar(method.name) as progress:
        found = explainer.explain(
            scan,
            method=method,
            region=given["region"],
            measure=given["measure"],
            checkpoint=given["checkpoint"],
            progress=progress,
            **question,
        )
    files = found.save(given["out"], overwrite=given["overwrite"], **writing)
    record = json.loads(files["provenance"].read_text(encoding="utf-8"))
    if given["as_json"]:
        print_json(record | {"files": {what: str(path) for what, path in files.items()}})
    else:
        OUT.print(_result(record))
        OUT.print(f"Written to {given['out']}: {', '.join(path.name for path in files.values())}")


def _explain_many(
    scans: Sequence[Path],
    explainer: Any,
    method: Any,
    question: dict[str, Any],
    writing: dict[str, Any],
    given: dict[str, Any],
) -> bool:
    """Explain a cohort and print its rows; whether all went well."""
    from napari_xai.cohort import explain_many

    with bar("scans") as progress:
        cohort = explain_many(
            scans,
            explainer,
            given["out"],
            method=method,
            overwrite=given["overwrite"],
            **writing,
            finished=lambda n, row, found: progress(n + 1, len(scans)),
            **question,
        )
    if given["as_json"]:
        print_json({"settings": cohort.settings, "scans": [asdict(row) for row in cohort.rows]})
    else:
        table = Table("case", "status", "seconds", "warnings or error")
        for row in cohort.rows:
            table.add_row(row.case, row.status, f"{row.seconds:.1f}", plain(row.error or "; ".join(row.warnings)))
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
        "notes on the scan": "; ".join(record["scan"]["notes"]),
        "outside the scan": _share(record["field_of_view"]["relevance_outside"], "of the relevance"),
        "not seen by the model": _share(record["field_of_view"]["scan_unseen"], "of the scan"),
        "not written": "; ".join(f"{name}: {why}" for name, why in record.get("not_written", {}).items()),
        "warnings": "; ".join(record["warnings"]),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, plain(value))
    return table


def _share(share: float, what: str) -> str:
    return f"{share:.1%} {what}" if share >= 5e-4 else ""


def _measured(found: dict[str, Any] | None) -> str:
    """Areas under the curves, beside those of random maps."""
    if found is None:
        return ""

    def one(what: str) -> str:
        control = found[f"{what}, random maps"]
        return f"{what} {found[what]:.3f} (random {min(control):.3f} to {max(control):.3f})"

    return f"{one('deletion')}, lower is better; {one('insertion')}, higher is better"
