"""What lies in a folder that was dropped, and what has to be asked before it can be opened. No Qt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_xai._reader import layers_of, name_of
from napari_xai.layers import LayerData
from napari_xai.reading import Reading
from xai_io import CT_WINDOWS, Choices, ScanError, Series, XaiIOError, find_series, read_volume
from xai_io.dicom.geometry import axes, stacked
from xai_io.dicom.pixels import decode

__all__ = [
    "OPEN",
    "THUMBNAIL",
    "Question",
    "described",
    "found_in",
    "missing",
    "opened",
    "questions",
    "reading_of",
    "thumbnail",
]

Progress = Callable[[int, int], None]

THUMBNAIL = 96  # pixels along the longer edge
OPEN = object()  # no answer yet


@dataclass(frozen=True)
class Question:
    """What a series leaves open.

    Attributes
    ----------
    field : of `xai_io.Choices`.
    words : what is the matter.
    answers : values of the field, and what each does in words.
    free : whether one may go on without an answer: the first one is usual then.
    """

    field: str
    words: str
    answers: tuple[tuple[Any, str], ...]
    free: bool = False


ASKED: Mapping[str, Question] = {
    "gap": Question("on_gap", "Slices are missing", (("fill", "Fill them between their neighbours"),)),
    "tilt": Question(
        "on_tilt",
        "The slices are tilted",
        (
            ("keep-shear", "Keep the values, and say the tilt in the geometry"),
            ("deskew", "Resample the slices onto an upright grid"),
        ),
    ),
    "duplicate": Question(
        "on_duplicate",
        "Several images lie at one place",
        (("first", "Take the first, by image number"), ("last", "Take the last, by image number")),
    ),
    "varying spacing": Question(
        "on_spacing",
        "The distance between slices varies",
        (("resample", "Resample the slices to the smallest distance"),),
    ),
}


def found_in(path: Path, progress: Progress | None = None) -> tuple[Series, ...]:
    """The series in a folder, zip or DICOM file that the user has to choose from, or to say something about.

    () where there is nothing to ask: a file of another format, or one regular series.

    Raises
    ------
    ScanError : nothing there can be opened, whatever is chosen.
    """
    try:
        found = find_series(path, progress=progress)
    except ScanError:
        return ()  # another format, or nothing: the reader says which
    if len(found) == 1 and (not found[0].is_volume or not questions(found[0])):
        return ()  # it can be opened, or the reader says why not
    return found


def questions(series: Series) -> tuple[Question, ...]:
    """Everything that has to be answered before this series can be opened, or may be."""
    if not series.is_volume:
        return ()
    first = series.stacks[0]
    row, column = axes(first[0].orientation or ())
    kinds = stacked(np.array([frame.position for frame in first], np.float64), row, column).found
    asked = [ASKED[kind] for kind in kinds if kind in ASKED]
    if len(series.frames) > 1:
        each = tuple((n, f"{n}: {name}") for n, name in enumerate(series.frames, 1))
        words = f"There are {len(each)} volumes"
        asked.append(Question("frame", words, ((None, "All of them, as channels"), *each), free=True))
    if series.modality == "PT":
        answers = (("off", "As they are"), ("bw", "Standardised uptake by body weight (SUV)"))
        asked.append(Question("suv", "The values of PET", answers, free=True))
    return tuple(asked)


def missing(series: Series | None, answers: Mapping[str, Any]) -> str:
    """Why a series cannot be opened with these answers, in one sentence; "" if it can."""
    if series is None:
        return "Choose a series."
    if not series.is_volume:
        return f"It is no volume: {series.verdict.sentence}."
    unanswered = [one.words for one in questions(series) if not one.free and one.field not in answers]
    return f"Say what is to be done: {unanswered[0][0].lower()}{unanswered[0][1:]}." if unanswered else ""


def described(series: Series) -> tuple[str, ...]:
    """Modality, description, images, voxels, mm, geometry: a row of the list."""
    voxels = "" if series.shape is None else " × ".join(map(str, series.shape))
    if len(series.frames) > 1:
        voxels += f" × {len(series.frames)}"
    mm = "" if series.spacing is None else " × ".join(f"{step:.3g}" for step in series.spacing)
    verdict = series.verdict.sentence
    return (
        series.modality or "?",
        series.description or "(no description)",
        str(series.images),
        voxels,
        mm,
        verdict[:1].upper() + verdict[1:],
    )


def thumbnail(series: Series) -> np.ndarray | None:
    """The middle slice in grey, uint8 (rows, columns) in square pixels; None where there is none to be shown."""
    frames = series.stacks[0] if series.stacks else ()
    if not frames or any(frame.trouble for frame in frames):
        return None
    try:
        middle = _middle(frames)
        plane = np.empty((1, middle.shape[1], middle.shape[0]), np.float32)
        decode([middle], plane, [0], done=lambda count: None)
    except (XaiIOError, OSError, ValueError):
        return None  # a picture less; opening the series says what is wrong
    values = plane[0]
    if series.modality == "CT":
        level, width = CT_WINDOWS["soft tissue"]
        low, high = level - width / 2, level + width / 2
    else:
        low, high = (float(x) for x in np.percentile(values, (1, 99.5)))
    across, down = middle.spacing or (1.0, 1.0)
    size = values.shape[0] * down, values.shape[1] * across
    rows, columns = (max(1, round(THUMBNAIL * edge / max(size))) for edge in size)
    i = np.linspace(0, values.shape[0] - 1, rows).round().astype(int)
    j = np.linspace(0, values.shape[1] - 1, columns).round().astype(int)
    grey = np.clip((values[np.ix_(i, j)] - low) / max(high - low, 1e-12), 0, 1)
    return np.ascontiguousarray((255 * grey).astype(np.uint8))


def _middle(frames: Sequence[Any]) -> Any:
    """The plane in the middle of a stack, or of the files where nothing says how they lie."""
    if any(not frame.position or not frame.orientation for frame in frames):
        return frames[len(frames) // 2]
    row, column = np.reshape(frames[0].orientation, (2, 3))
    along = [float(np.dot(np.cross(row, column), frame.position)) for frame in frames]
    return frames[int(np.argsort(along)[len(frames) // 2])]


def opened(
    path: Path,
    reading: Reading = Reading(),  # noqa: B008
    progress: Progress | None = None,
    name: str = "",
) -> list[LayerData]:
    """Read a scan, as was chosen, as layers; they remember the choice, and are called by a name, else by the path's.

    Raises
    ------
    XaiIOError : as `xai_io.read_volume`.
    """
    volume = read_volume(path, series=reading.series, choices=reading.choices, progress=progress)
    layers = layers_of(volume, path)
    for _, options, _ in layers if name else ():
        options["name"] = options["name"].replace(name_of(path), name, 1)
    if reading != Reading():
        said = {"series": reading.series, "choices": asdict(reading.choices)}
        for _, options, _ in layers:
            options["metadata"]["napari_xai"]["reading"] = said
    return layers


def reading_of(own: Mapping[str, Any]) -> Reading:
    """How the scan of a layer was read, from what its metadata say under "napari_xai"."""
    said = own.get("reading")
    return Reading() if said is None else Reading(series=said["series"], choices=Choices(**said["choices"]))
