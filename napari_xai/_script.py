"""A run of the viewer as the Python script and as the command line that repeat it. No Qt."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import methods3d
from methods3d import Method, Reference
from napari_xai.errors import ExplainError
from napari_xai.reading import Reading
from xai_io import Choices, Volume, WindowSettings

if TYPE_CHECKING:
    from napari_xai._session import Job

__all__ = ["Recipe", "recipe"]


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a run is repeated outside of the viewer.

    Attributes
    ----------
    python : a script.
    shell : a command line; ExplainError if it cannot say what was run.
    volumes : what stands in no file yet, such as a painted region, and where both look for it.
    """

    python: str
    volumes: Mapping[Path, Volume]
    _words: tuple[str, ...] = field(repr=False)
    _unsaid: str = field(repr=False)

    @property
    def shell(self) -> str:
        """The command line."""
        if self._unsaid:
            raise ExplainError(f"The command line cannot say {self._unsaid}: copy the run as Python.")
        return shlex.join(self._words)


def recipe(job: "Job", model: Path, folder: Path) -> Recipe:
    """Write down a run.

    Parameters
    ----------
    job : what was run.
    model : where its model was loaded from.
    folder : where results go, and volumes that stand in no file yet.
    """
    kept: dict[Path, Volume] = {}

    def file(volume: Volume, name: str) -> str:
        # By what it holds: a file of this name holds the same, and a script that was copied before keeps its own.
        held = sha256(volume.affine.tobytes() + np.ascontiguousarray(volume.data).tobytes()).hexdigest()
        path = folder / f"{name}_{held[:8]}.nii.gz"
        kept[path] = volume
        return str(path)

    def stands(volume: Volume) -> bool:
        return volume.source.path is not None and not volume.source.others

    def place(one: Any) -> str:
        """Of a volume in the method's settings; all scans of a run are read alike, one that was not is a file."""
        if one.kind == "scan" and stands(one.source) and job.reading_of(one.source) == reading:
            return str(one.source.source.path)
        return file(one.source, one.kind)

    reading = job.reading if stands(job.scan) else Reading()
    where = str(job.scan.source.path) if stands(job.scan) else file(job.scan, "scan")
    settings = _settings(job.method, place)
    region = None if job.region is None else file(job.region, "region")
    explainer = job.explainer
    running: dict[str, Any] = {
        "device": str(next((p.device for p in explainer.network.parameters()), "cpu")),
        "memory": explainer.memory,
    }
    asked: dict[str, Any] = {"target": job.target, "against": job.against, "region": region}
    said = {name: value for name, value in (asked | running).items() if value is not None}
    sliding = explainer.windows
    windows = {} if sliding == explainer.loaded.windows else {"windows": sliding}
    trust = bool(explainer.loaded.ran)
    run = _Run(where, model, folder, job.method, settings, said, windows, reading, trust)
    return Recipe(
        python=_python(run),
        volumes=kept,
        _words=_words(run),
        _unsaid=_unsaid(windows, explainer.loaded.windows),
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """What both say: where things are, the method and its settings, what is asked, and how scan and model are read."""

    scan: str
    model: Path
    folder: Path
    method: Method
    settings: Mapping[str, Any]
    said: Mapping[str, Any]
    windows: Mapping[str, Any]
    reading: Reading
    trust: bool


def _settings(method: Method, place: Any) -> dict[str, Any]:
    """A method's settings that are not its defaults: numbers, texts, or a method with its own."""
    found: dict[str, Any] = {}
    for f in fields(method):
        value = getattr(method, f.name)
        if isinstance(value, Method):
            found[f.name] = (value, _settings(value, place))
        elif f.metadata.get("reads") and not isinstance(value, str | float | int):
            found[f.name] = _text(value, place)
        elif value != f.default:
            found[f.name] = value
    return found


def _text(value: Any, place: Any) -> str:
    """A baseline or features as they are written; what they hold is a file."""
    if isinstance(value, tuple):
        return "; ".join(_text(one, place) for one in value)
    held = next((one for f in fields(value) if isinstance(one := getattr(value, f.name), Reference)), None)
    if held is None:
        return str(value)
    if not isinstance(held.source, Volume):
        held = Reference(str(held.source), held.kind)
    path = place(held) if isinstance(held.source, Volume) else held.source
    kind = {"scan": "scan", "labels": "labels"}.get(held.kind)
    if kind is None:
        kind = "complement" if value.fill.name == "tissue" else value.fill.name
    return f"{kind}:{path}"


# --- Python -----------------------------------------------------------------------------------


def _python(run: _Run) -> str:
    said, reading = {**run.said, **run.windows}, run.reading
    arguments = {name: repr(value) for name, value in said.items()}
    classes = ", ".join(_classes(run.method, run.settings))
    imports = [f"from methods3d import {classes}", "from napari_xai import explain"]
    names = ["Choices"] if reading.choices != Choices() else []
    if reading != Reading():
        imports.append("from napari_xai.reading import Reading")
        arguments["reading"] = _plain(reading)
    if isinstance(said.get("windows"), WindowSettings):
        names.append("WindowSettings")
    if names:
        imports.append(f"from xai_io import {', '.join(names)}")
    if run.trust:
        arguments["trust"] = "True"  # the model brings code, and it was run
    lines = [f"    {run.scan!r},", f"    {str(run.model)!r},", f"    method={_call(run.method, run.settings)},"]
    lines += [f"    {name}={value}," for name, value in arguments.items()]
    return "\n".join([*imports, "", "found = explain(", *lines, ")", f"found.save({str(run.folder)!r})", ""])


def _classes(method: Method, settings: Mapping[str, Any]) -> list[str]:
    """The method's class, and those of methods that it is made of."""
    names = {type(method).__name__}
    for value in settings.values():
        if isinstance(value, tuple):
            names.update(_classes(*value))
    assert all(hasattr(methods3d, name) for name in names)
    return sorted(names)


def _call(method: Method, settings: Mapping[str, Any]) -> str:
    words = [f"{name}={_call(*value) if isinstance(value, tuple) else repr(value)}" for name, value in settings.items()]
    return f"{type(method).__name__}({', '.join(words)})"


def _plain(reading: Reading) -> str:
    """With what is not the default."""

    def changed(one: Any) -> str:
        words = []
        for f in fields(one):
            value = getattr(one, f.name)
            if value != f.default:
                words.append(f"{f.name}={changed(value) if isinstance(value, Choices) else repr(value)}")
        return f"{type(one).__name__}({', '.join(words)})"

    return changed(reading)


# --- the command line -------------------------------------------------------------------------


def _words(run: _Run) -> tuple[str, ...]:
    words = ["napari-xai", "explain", run.scan, "--model", str(run.model), "--method", run.method.name]
    words += _flags(run.settings)
    for name, value in run.said.items():
        words += [f"--{name}", str(value)]
    if "windows" in run.windows:
        sliding = run.windows["windows"]
        size = "none" if sliding is None else sliding.roi_size
        size = (size,) * 3 if isinstance(size, int) else size
        words += ["--window", size if isinstance(size, str) else ",".join(map(str, size))]
        words += [] if sliding is None else ["--overlap", str(sliding.overlap)]
    if run.reading.series is not None:
        words += ["--series", str(run.reading.series)]
    for f in fields(Choices):
        value = getattr(run.reading.choices, f.name)
        if value != f.default:
            words += [f"--{f.name.replace('_', '-')}", str(value)]
    return (*words, *(["--trust"] if run.trust else []), "--out", str(run.folder))


def _flags(settings: Mapping[str, Any], start: str = "") -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        flag = f"{start}{name.replace('_', '-')}"
        if isinstance(value, tuple):
            inner, own = value
            words += [f"--{flag}", inner.name, *_flags(own, f"{flag}.")]
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--{start}no-{name.replace('_', '-')}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def _unsaid(windows: Mapping[str, Any], own: WindowSettings | None) -> str:
    """What of the windows no flag can say; "" if nothing."""
    sliding = windows.get("windows")
    if sliding is None:
        return ""
    usual = own or WindowSettings(roi_size=1, sw_batch_size=4, mode="gaussian")
    odd = [
        f.name
        for f in fields(WindowSettings)
        if f.name not in ("roi_size", "overlap") and getattr(sliding, f.name) != getattr(usual, f.name)
    ]
    if isinstance(sliding.overlap, tuple):
        odd.append("overlap along each axis")
    return f"these settings of the windows ({', '.join(odd)})" if odd else ""
