"""From a series to a volume: judged, completed as was chosen, and with a note of whatever was done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import GeometryError, ScanError
from ..volume import Source, Volume
from .choices import Choices
from .frame import Frame
from .geometry import Kind, Stack, axes, stacked
from .pixels import decode
from .regrid import deskewed, evened, filled
from .series import Progress, Series
from .suv import suv_factor

_UNITS = {("CT", "HU"): "HU", ("PT", "BQML"): "Bq/mL"}
_FLAGS: dict[Kind, tuple[str, str, str]] = {
    "duplicate": (
        "pass on_duplicate='first' or 'last' (--on-duplicate) to take the lowest or highest instance number",
        "or remove the copies",
        "on_duplicate",
    ),
    "gap": (
        "pass on_gap='fill' (--on-gap fill) to interpolate the missing slices",
        "or copy the complete series",
        "on_gap",
    ),
    "varying spacing": (
        "pass on_spacing='resample' (--on-spacing resample) to interpolate onto the smallest distance",
        "or export it with even spacing",
        "on_spacing",
    ),
    "tilt": (
        "pass on_tilt='keep-shear' (--on-tilt keep-shear) to keep the values on a sheared grid",
        "or 'deskew' to resample them onto an upright one",
        "on_tilt",
    ),
}
_INSTEAD: dict[Kind, str] = {
    "colour": "name the original series, which has grey values",
    "damaged": "copy them again, or remove them",
    "displaced": "export the series again",
}


def read_series(series: Series, choices: Choices | None = None, *, progress: Progress | None = None) -> Volume:
    """Read the pixels of a series as one volume.

    Axes: I runs along the columns of an image, J along its rows, K along the slices in the direction of row x column,
    so that they are right-handed. Values are rescaled slice by slice with the slice's own slope and intercept
    (float32), MONOCHROME1 and padding keep theirs. Whatever was chosen and done is in `Source.notes`; slices that
    were filled in have no instance and no file there, and a resampled volume has none at all. Of a 4D series the
    instances are those of the first volume read.

    Parameters
    ----------
    series
        One of `find_series`.
    choices
        What to do where the series is not regular, 4D, or PET; `Choices()` refuses whatever is not regular.
    progress
        Called with the number of images decoded and their total.

    Raises
    ------
    ScanError
        If the images are damaged, in colour, or there is no such frame; if an uptake cannot be computed for sure.
    DecoderMissing
        If the pixels are compressed and no decoder for them is installed.
    GeometryError
        If the slices do not make one regular grid and no choice says what to do.
    """
    choices = choices or Choices()
    if not series.is_volume:
        raise _refused(series, series.verdict.kind, series.verdict.sentence)
    notes: list[str] = []
    volumes = [_one_a_place(frames, series, choices, notes) for frames in _chosen(series, choices, notes)]
    first = volumes[0]
    stack = _judged(first)
    for kind in stack.found:
        if kind not in _FLAGS or getattr(choices, _FLAGS[kind][2]) == "reject":
            raise _refused(series, kind, stack.verdict.sentence)
    factor, units = suv_factor(series, volumes) if choices.suv == "bw" else (1.0, _units(volumes, series))
    places = stack.places.tolist() if len(stack.places) else list(range(len(first)))
    values = _decoded(volumes, places, notes, series, progress)
    if choices.suv == "bw":
        values *= np.float32(factor)
        notes.append("Values are standardised uptake values by body weight.")
    slices: list[Frame | None] = [None] * (places[-1] + 1)
    for place, frame in zip(places, first, strict=True):
        slices[place] = frame
    affine = stack.affine(first[0].spacing or ())
    if "gap" in stack.found:
        filled(values, places)
        notes.append(f"{len(slices) - len(places)} missing slices were interpolated between their neighbours.")
    if "varying spacing" in stack.found:
        values, stack = evened(values, stack)
        affine, slices = stack.affine(first[0].spacing or ()), []
        notes.append(f"Slices at varying distances were interpolated onto {np.linalg.norm(stack.step):.3g} mm.")
    data = values.transpose(0, 3, 2, 1)
    if "tilt" in stack.found and choices.on_tilt == "deskew":
        data, affine = deskewed(data, stack, affine, outside=_outside(first[0], values, factor))
        slices = []
        notes.append("Tilted slices were resampled within their planes onto an upright grid.")
    elif "tilt" in stack.found:
        notes.append("Slices are tilted against their stacking direction; values are kept and the affine is sheared.")
    modality = series.modality if series.modality in ("CT", "MR", "PT") else ""
    return Volume(data, affine, units=units, modality=modality, source=_source(series, first[0], slices, notes))


def _refused(series: Series, kind: Kind, sentence: str) -> GeometryError | ScanError:
    """The error that says what is wrong, and which choice there is."""
    if kind in ("colour", "damaged"):
        return ScanError(f"{series.path} holds {sentence}; {_INSTEAD[kind]}.")
    if kind in _FLAGS:
        return GeometryError(f"{series.path} holds a series with {sentence}; {', '.join(_FLAGS[kind][:2])}.")
    instead = _INSTEAD.get(kind, "name a series of parallel slices that says where each lies")
    return GeometryError(f"{series.path} holds {sentence}; {instead}.")


def _chosen(series: Series, choices: Choices, notes: list[str]) -> Sequence[Sequence[Frame]]:
    """The volumes of a 4D series that are wanted, or the one there is."""
    count = len(series.stacks)
    if choices.frame is None:
        if count > 1:
            notes.append(f"A 4D series: its {count} volumes ({_few(series.frames)}) are the channels.")
        return series.stacks
    if choices.frame > count:
        raise ScanError(
            f"{series.path} has {count} frames and frame {choices.frame} was asked for; number them from 1."
        )
    if count > 1:
        notes.append(f"Volume {choices.frame} of {count} of a 4D series: {series.frames[choices.frame - 1]}.")
    return series.stacks[choices.frame - 1 : choices.frame]


def _few(names: Sequence[str]) -> str:
    return "; ".join(names[:8]) + ("; ..." if len(names) > 8 else "")


def _one_a_place(frames: Sequence[Frame], series: Series, choices: Choices, notes: list[str]) -> list[Frame]:
    """Frames in the order of K, one at each place."""
    stack = _judged(frames)
    if "duplicate" not in stack.found:
        return [frames[n] for n in stack.order]
    if choices.on_duplicate == "reject":
        raise _refused(series, "duplicate", stack.verdict.sentence)
    kept: dict[int, Frame] = {}
    pick = min if choices.on_duplicate == "first" else max
    for slot, n in zip(stack.slots, stack.order, strict=True):
        both = (kept[slot], frames[n]) if slot in kept else (frames[n],)
        kept[slot] = pick(both, key=lambda frame: (frame.instance_number, str(frame.file)))
    end = "lowest" if choices.on_duplicate == "first" else "highest"
    notes.append(f"{len(frames) - len(kept)} duplicate slices were left out; the {end} instance number was kept.")
    return [kept[slot] for slot in sorted(kept)]


def _judged(frames: Sequence[Frame]) -> Stack:
    row, column = axes(frames[0].orientation or ())
    return stacked(np.array([frame.position for frame in frames], dtype=np.float64), row, column)


def _decoded(
    volumes: Sequence[Sequence[Frame]],
    places: Sequence[int],
    notes: list[str],
    series: Series,
    progress: Progress | None,
) -> npt.NDArray[np.float32]:
    """Values (volumes, slices, rows, columns), those of missing slices not yet set."""
    columns, rows = volumes[0][0].shape
    shape = (len(volumes), places[-1] + 1, rows, columns)
    try:
        values = np.empty(shape, dtype=np.float32)  # the system gives memory only where slices are written
    except (MemoryError, ValueError) as error:
        raise ScanError(
            f"{series.path} would need {np.prod(shape, dtype=float) * 4 / 2**30:.0f} GB of memory; choose one frame of "
            "it, or a smaller series."
        ) from error
    padded, before, total = 0, 0, sum(map(len, volumes))
    for volume, frames in zip(values, volumes, strict=True):

        def done(count: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count, total)

        padded += decode(frames, volume, places, done=done)
        before += len(frames)
    if padded:
        notes.append(f"{padded} voxels hold the padding value of what was not scanned; they keep it, rescaled.")
    return values


def _outside(frame: Frame, values: npt.NDArray[np.float32], factor: float) -> float:
    """What to put where nothing was scanned: the series' padding value, or its lowest."""
    if frame.padding is None:
        return float(values.min())
    return (frame.padding[0] * frame.slope + frame.intercept) * factor


def _units(volumes: Sequence[Sequence[Frame]], series: Series) -> str:
    """Units of the rescaled values.

    Raises
    ------
    ScanError
        If the headers do not agree on what the values are: then they are not comparable from slice to slice.
    """
    kinds = {(frame.modality, frame.units, frame.rescale) for frames in volumes for frame in frames}
    if len(kinds) > 1:
        told = ("modality", "units", "rescaling")
        differ = [what for what, values in zip(told, zip(*kinds, strict=True), strict=True) if len(set(values)) > 1]
        raise ScanError(
            f"{series.path} has slices that differ in {' and '.join(differ)}, so that their values are not comparable; "
            "export the series again, or name another."
        )
    modality, units, _ = kinds.pop()
    return _UNITS.get((modality, units), "")


def _source(series: Series, first: Frame, slices: Sequence[Frame | None], notes: Sequence[str]) -> Source:
    """Where the slices came from."""
    numbers = tuple(0 if frame is None else frame.number for frame in slices)
    return Source(
        format="dicom",
        path=series.path,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
        sop_class_uid=first.sop_class_uid,
        instance_uids=tuple("" if frame is None else frame.uid for frame in slices),
        files=tuple(frame.file if frame is not None and isinstance(frame.file, Path) else None for frame in slices),
        frames=numbers if any(numbers) else (),
        notes=tuple(notes),
    )
