"""The image series that lie somewhere, each with what it is and whether it makes a volume."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GeometryError, ScanError
from .files import File, dicom_files, is_dicom, is_dicomdir, is_zip, quiet
from .frame import Frame
from .geometry import Array, Kind, Stack, Verdict, axes, stacked
from .planes import frames_of
from .sorting import at_same_places, grouped, places_of, told_apart

Progress = Callable[[int, int], None]

_VOLUMES: tuple[Kind, ...] = ("regular", "gap", "duplicate", "tilt", "varying spacing")
_SAME_MM = 0.1  # by which the far ends of planes of one stack may differ: what rounding in headers does
_FEW = 3  # planes of one orientation that stand as a series of their own


@dataclass(frozen=True)
class Series:
    """One image series, or one of the stacks in it, as its headers describe it; no pixel was read.

    Parameters
    ----------
    modality
        As in the header: ``"CT"``, ``"MR"``, ``"PT"`` or another.
    description
        Series description; kept out of `repr` and of messages, because sites write what they like there.
    images
        How many images (frames of multi-frame files) belong to it.
    shape
        Voxels along I, J, K; K counts the places that are taken. None where there is no grid.
    spacing
        mm along I, J, K; None where there is no grid.
    verdict
        Whether it is a regular grid, and if not, why.
    frames
        What each volume of a 4D series is, e.g. ``"echo time 30"``; () where there is one volume.
    study_uid, series_uid
        DICOM identifiers; the stacks of one series share them.
    stacks
        The planes of each volume, as `read_series` needs them.
    path
        Where it was found.
    """

    modality: str
    description: str = field(repr=False)
    images: int
    shape: tuple[int, int, int] | None
    spacing: tuple[float, float, float] | None
    verdict: Verdict
    frames: tuple[str, ...] = ()
    study_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    stacks: tuple[tuple[Frame, ...], ...] = field(default=(), repr=False)
    path: Path = field(default=Path(), repr=False)

    @property
    def is_volume(self) -> bool:
        """Whether it can be read, if need be with a choice."""
        return self.verdict.kind in _VOLUMES

    @property
    def summary(self) -> str:
        """One line without anything that could identify anybody."""
        words = [f"{self.modality or '?'} {self.images} images"]
        if self.shape is not None and self.spacing is not None:
            frames = f" x {len(self.frames)} frames" if self.frames else ""
            words = [f"{self.modality or '?'} {' x '.join(map(str, self.shape))}{frames}"]
            words += [f"{' x '.join(f'{mm:.3g}' for mm in self.spacing)} mm"]
        return ", ".join([*words, self.verdict.sentence])


def find_series(path: str | os.PathLike[str], *, progress: Progress | None = None) -> tuple[Series, ...]:
    """List the image series in a folder, a zip, on a DICOM medium (DICOMDIR), or around one DICOM file.

    Headers only. Images of one SeriesInstanceUID are split by size, orientation, pixel spacing and frame of
    reference; where several lie at one place, or interleave, also by image type, echo, b-value, temporal position,
    acquisition and time. Parts at the same places that differ in any of these but the image type are one 4D series.

    Parameters
    ----------
    path
        A folder (nested, whatever the names), a .zip, a DICOMDIR, or one DICOM file: a multi-frame file stands for
        itself, another for the series that it belongs to in its folder.
    progress
        Called with the number of files done and their total.

    Returns
    -------
    In the order of series number and UID; () where there is no image.

    Raises
    ------
    ScanError
        If there is no such path, or nothing there can be searched.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(f"{path} does not exist; name a folder, a .zip, a DICOMDIR or a DICOM file.")
    one = None
    if path.is_dir() or is_zip(path) or is_dicomdir(path):
        files: Sequence[File] = dicom_files(path)
    elif is_dicom(path):
        one, broken = _parsed([path], None)
        if broken:
            return (_damaged(path, broken),)
        if not one or one[0].number or one[0].tiles > 1 or one[0].images > 1:
            return tuple(_series(one, path))
        files = sorted(file for file in path.parent.iterdir() if file.is_file() and is_dicom(file))
    else:
        raise ScanError(f"{path} is neither a folder, a .zip, a DICOMDIR nor a DICOM file; name one of these.")
    frames, broken = _parsed(files, progress)
    if one:
        frames = [frame for frame in frames if frame.series_uid == one[0].series_uid]
    found = list(_series(frames, path))
    if broken:
        found.append(_damaged(path, broken))
    return tuple(found)


def _parsed(files: Sequence[File], progress: Progress | None) -> tuple[list[Frame], list[File]]:
    """The planes in all files, and the files that could not be understood."""
    frames: list[Frame] = []
    broken: list[File] = []
    with quiet():
        for done, file in enumerate(files):
            try:
                frames += frames_of(file)
            except (ScanError, ImportError):
                raise  # a refused archive, a broken installation: neither is the file's fault
            except Exception:  # a damaged header may fail anywhere inside pydicom, in words that quote it
                broken.append(file)
            if progress is not None:
                progress(done + 1, len(files))
    return frames, broken


def _damaged(path: Path, broken: Sequence[File]) -> Series:
    """Files that may belong to any series."""
    named = ", ".join(file.name for file in broken[:3]) + (", ..." if len(broken) > 3 else "")
    verdict = Verdict("damaged", f"{len(broken)} DICOM file{'s' * (len(broken) > 1)} cut short or damaged ({named})")
    return Series("", "", len(broken), None, None, verdict, path=path)


def _series(frames: Sequence[Frame], path: Path) -> Iterator[Series]:
    """Every series, and every stack that stands by itself in one."""
    by_uid = grouped(frames, lambda frame: (frame.series_number, frame.study_uid, frame.series_uid))
    for _, members in sorted(by_uid.items()):
        torn = _torn(members)
        if torn:
            yield _made(path, [members], Verdict("damaged", torn))
            continue
        scattered: list[Frame] = []
        for together in grouped(members, _kind).values():
            if together[0].trouble or not _placed(together[0]):
                yield _made(path, [together], _without_place(together))
                continue
            for parallel in _parallel(together):
                if len(parallel) < _FEW and len(parallel) < len(members):
                    scattered += parallel
                else:
                    yield from _volumes(path, parallel)
        if scattered:
            yield from _few(path, scattered)


def _torn(frames: Sequence[Frame]) -> str:
    """What is missing of multi-frame images that were split into files; "" if nothing is."""
    split = {frame.part for frame in frames if frame.part[0]}
    for image in {image for image, _, _ in split}:
        there = {number for name, number, _ in split if name == image}
        files = max(total for name, _, total in split if name == image)
        if len(there) < files:
            return f"{len(there)} of the {files} files that one multi-frame image was split into"
    return ""


def _kind(frame: Frame) -> Hashable:
    """What all planes of a stack share."""
    localiser = _is_localiser(frame)
    trouble = frame.trouble or ("" if _placed(frame) else "no place")
    return localiser, trouble, frame.modality, frame.shape, frame.frame_of_reference_uid


def _placed(frame: Frame) -> bool:
    return bool(frame.position and frame.orientation and frame.spacing)


def _is_localiser(frame: Frame) -> bool:
    return "LOCALIZER" in frame.image_type or "SCOUT" in frame.image_type


def _without_place(frames: Sequence[Frame]) -> Verdict:
    """Why images make no volume, whatever lies around them."""
    first = frames[0]
    if first.trouble == "colour":
        return Verdict("colour", "colour images, which hold no values that the scanner measured")
    lacking = [
        name
        for name, value in (
            ("ImagePositionPatient", first.position),
            ("ImageOrientationPatient", first.orientation),
            ("PixelSpacing", first.spacing),
        )
        if not value
    ]
    why = first.trouble or f"without {' and '.join(lacking)}"
    return Verdict("no geometry", f"{sum(frame.images for frame in frames)} images of unknown place: {why}")


def _parallel(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Planes of the same orientation and pixel spacing, but for rounding."""
    groups: list[tuple[Array, list[Frame]]] = []
    seen: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        exact = (frame.orientation, frame.spacing)
        if exact not in seen:
            plane = _edges(frame)
            near = (group for other, group in groups if np.abs(other - plane).max() < _SAME_MM)
            group = next(near, None)
            if group is None:
                group = []
                groups.append((plane, group))
            seen[exact] = group
        seen[exact].append(frame)
    return [group for _, group in groups]


def _edges(frame: Frame) -> Array:
    """The plane's two edges as vectors in mm, so that what counts is where its far pixels lie."""
    directions = np.reshape(frame.orientation or (0.0,) * 6, (2, 3))
    return directions * np.multiply(frame.shape, frame.spacing or (0.0, 0.0))[:, None]


def _few(path: Path, frames: Sequence[Frame]) -> Iterator[Series]:
    """Single planes that belong to no stack of their series."""
    planes = {(frame.orientation, frame.shape, frame.spacing, frame.frame_of_reference_uid) for frame in frames}
    if any(map(_is_localiser, frames)):
        yield _made(path, [frames], Verdict("localiser", f"a localiser of {len(frames)} images"))
    elif len(planes) == 1 and len(frames) > 1:
        yield from _volumes(path, frames)
    elif len(frames) == 1:
        yield _made(path, [frames], Verdict("single slice", "a single image, and a volume needs two slices or more"))
    else:
        words = f"{len(frames)} images that mix orientations, sizes or frames of reference"
        yield _made(path, [frames], Verdict("mixed orientation", words))


def _volumes(path: Path, frames: Sequence[Frame]) -> Iterator[Series]:
    """Parallel planes as one volume, as the volumes of one 4D series, or as several series."""
    try:
        row, column = axes(frames[0].orientation or ())
        if min(frames[0].spacing or (0.0,)) <= 0:
            raise GeometryError("pixel spacing that is not positive")
    except GeometryError as error:
        yield _made(path, [frames], Verdict("no geometry", f"{len(frames)} images with an {error}"))
        return
    normal = np.cross(row, column)
    slots = places_of(frames, normal)
    for together in at_same_places(told_apart(frames, slots), slots):
        positions = np.array([frame.position for _, part in together[:1] for frame in part])
        parts = [part for _, part in together]
        if _is_localiser(parts[0][0]):
            yield _made(path, parts, Verdict("localiser", f"a localiser of {len(parts[0])} images"))
        elif len({slots[id(frame)] for frame in parts[0]}) < 2:
            words = "images at a single place" if len(parts[0]) > 1 else "a single image"
            yield _made(path, parts, Verdict("single slice", f"{words}, and a volume needs two slices or more"))
        else:
            stack = stacked(positions, row, column)
            labels = [dict(label) for label, _ in together]
            told = [name for name in labels[0] if len({label[name] for label in labels}) > 1]
            names = [
                ", ".join(  # the time of day stays out of listings and records
                    f"time point {n + 1}" if name == "acquisition time" else f"{name} {_word(label[name])}"
                    for name in told
                )
                for n, label in enumerate(labels)
            ]
            yield _made(path, parts, stack.verdict, stack, names if len(parts) > 1 else [])


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_word, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _made(
    path: Path,
    parts: Sequence[Sequence[Frame]],
    verdict: Verdict,
    stack: Stack | None = None,
    names: Sequence[str] = (),
) -> Series:
    """Put a series together."""
    first = parts[0][0]
    shape = spacing = None
    if stack is not None:
        across, down = first.spacing or (0.0, 0.0)
        between = float(np.linalg.norm(stack.step)) if len(stack.places) else float(np.median(np.diff(stack.along)))
        shape, spacing = (*first.shape, len(stack.along)), (across, down, between)
    return Series(
        modality=first.modality,
        description=first.description,
        images=sum(frame.images for part in parts for frame in part),
        shape=shape,
        spacing=spacing,
        verdict=verdict,
        frames=tuple(names),
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        stacks=tuple(map(tuple, parts)),
        path=path,
    )
