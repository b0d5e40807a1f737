"""Flags that several commands share, and what they stand for."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import click

from napari_xai.cli.console import ERR

if TYPE_CHECKING:
    from napari_xai.reading import Reading
    from xai_io import Display

__all__ = ["channels_of", "display_of", "model_options", "reading_of", "reading_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

ANSWERS = {
    "on_gap": "Missing slices",
    "on_tilt": "Slices that are not stacked upright",
    "on_duplicate": "Several images at one place",
    "on_spacing": "Slices at varying distances",
    "suv": "PET as standardised uptake by body weight",
    "on_nan": "Voxels that are NaN",
}


def reading_options(command: Command) -> Command:
    """What a scan may leave open: one flag for each field of `xai_io.Choices`, and which series."""
    from xai_io import Choices

    hints = get_type_hints(Choices)
    flags = [
        click.option("--series", help="Which DICOM series, by number (see `napari-xai inspect`) or UID."),
        click.option("--frame", type=click.IntRange(1), help="Which volume of a 4D series; default: all, as channels."),
    ]
    for choice in fields(Choices):
        if choice.name in ANSWERS:
            allowed = click.Choice(get_args(hints[choice.name]))
            name = f"--{choice.name.replace('_', '-')}"
            flags.append(
                click.option(name, type=allowed, default=choice.default, show_default=True, help=ANSWERS[choice.name])
            )
    for flag in reversed(flags):
        command = flag(command)
    return command


def reading_of(given: dict[str, Any]) -> "Reading":
    """Take these flags out of what was given."""
    from napari_xai.reading import Reading
    from xai_io import Choices

    series = given.pop("series")
    chosen = Choices(**{choice.name: given.pop(choice.name) for choice in fields(Choices)})
    number = int(series) if series is not None and series.isdigit() else series
    return Reading(series=number, choices=chosen, resample=given.pop("resample", False))


def model_options(command: Command) -> Command:
    """How a model is loaded."""
    network = click.option(
        "--network", type=click.Path(path_type=Path), help="JSON or YAML file with the network_def of plain weights."
    )
    trust = click.option(
        "--trust", is_flag=True, help="Run the code that the model brings, this once (`napari-xai trust`: always)."
    )
    return network(trust(command))


def display_of(text: str | None) -> "Display | str | None":
    """A CT window by its name, or the preset in a file; what the viewer only looks through is said not to be exported.

    Raises
    ------
    ExplainError : it is neither.
    ExportError : the preset lacks a setting.
    """
    from napari_xai.errors import ExplainError
    from xai_io import CT_WINDOWS, Display

    if text is None or text in CT_WINDOWS:
        return text
    try:
        record = json.loads(Path(text).read_text(encoding="utf-8"))
        filters = record.get("filters", {})
        if filters.get("smoothing_mm") or filters.get("between", [None, None]) != [None, None]:
            ERR.print("[yellow]The preset's smoothing and scan values are for looking: pictures show the map itself.")
        return Display.of(record.get("display", record))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ExplainError(
            f"--display is {text!r}: give a window ({', '.join(CT_WINDOWS)}), a preset's JSON file, or an earlier "
            "provenance.json."
        ) from error


def channels_of(given: tuple[str, ...]) -> Mapping[str, Path]:
    """Scans by channel, from NAME=PATH.

    Raises
    ------
    ExplainError : one is written in another way, or given twice.
    """
    from napari_xai.errors import ExplainError

    pairs = [text.partition("=") for text in given]
    wrong = [name for name, equals, path in pairs if not (name and equals and path)]
    if wrong or len({name for name, _, _ in pairs}) < len(pairs):
        raise ExplainError(f"--channel is {' '.join(given)!r}: give NAME=PATH, once for each channel.")
    return {name: Path(path) for name, _, path in pairs}
