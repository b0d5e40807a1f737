"""Parallel planes of one series, sorted into volumes by what their headers say of time, echo, diffusion and kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .frame import Frame
from .geometry import Array, slots_of

Label = tuple[tuple[str, Any], ...]

_FEW = 3  # planes that make a stack
_SAME_PLACE_MM = 0.06
_TIMES = ("trigger time", "frame reference time", "acquisition time")


def places_of(frames: Sequence[Frame], normal: Array) -> dict[int, int]:
    """The place of each plane along the normal, by identity."""
    height = np.array([frame.position for frame in frames]) @ normal
    order = np.argsort(height, kind="stable")
    return {id(frames[n]): int(slot) for n, slot in zip(order, slots_of(height[order]), strict=True)}


def told_apart(frames: Sequence[Frame], slots: dict[int, int]) -> dict[Label, list[Frame]]:
    """Planes that share a place, told apart by as few of their headers' values as it takes."""
    groups: dict[Label, list[Frame]] = {(): list(frames)}
    crowd = max(Counter(slots[id(frame)] for frame in frames).values())
    names = dict.fromkeys(name for frame in frames for name in frame.apart)
    for name in ("image type", *names):
        finer = {
            (*label, (name, value)): members
            for label, group in groups.items()
            for value, members in grouped(group, lambda frame, name=name: _value(frame, name)).items()  # type: ignore[misc]
        }
        fewer = _too_many(finer.values(), slots) < _too_many(groups.values(), slots)
        apart = _interleave(finer, slots, name) if crowd == 1 else fewer and len(finer) <= crowd
        if len(finer) > len(groups) and apart:
            groups = finer
    # Some makers say only how many times there are, and count images through them.
    ranks: list[Callable[[Frame], Any]] = [*map(_of, _TIMES), _counted]
    for rank in ranks:
        if _too_many(groups.values(), slots):
            groups = {
                (*label, *extra): members
                for label, group in groups.items()
                for extra, members in _ranked(group, slots, rank).items()
            }
    return groups


def _of(name: str) -> Callable[[Frame], Any]:
    return lambda frame: frame.apart.get(name)


def _counted(frame: Frame) -> int | None:
    return frame.instance_number if frame.temporal_positions > 1 else None


def _value(frame: Frame, name: str) -> Any:
    return frame.image_type if name == "image type" else frame.apart.get(name)


def _too_many(groups: Iterable[Sequence[Frame]], slots: dict[int, int]) -> int:
    """How many planes lie at a place that another of their group has taken."""
    return sum(len(group) - len({slots[id(frame)] for frame in group}) for group in groups)


def _interleave(groups: dict[Label, list[Frame]], slots: dict[int, int], name: str) -> bool:
    """Whether stacks that a value tells apart lie in one another's gaps, though no place is taken twice.

    Neither the time, which every slice may have of its own, nor stacks that follow one another, make two volumes.
    """
    if name in _TIMES:
        return False
    ends = sorted((min(at), max(at)) for at in ([slots[id(frame)] for frame in group] for group in groups.values()))
    alone = any(len(group) < _FEW for group in groups.values())
    return not alone and any(low <= top for (_, top), (low, _) in pairwise(ends))


def _ranked(group: list[Frame], slots: dict[int, int], when: Callable[[Frame], Any]) -> dict[Label, list[Frame]]:
    """Planes by the order of their times at each place, where each place has as many, all at different times."""
    places = grouped(group, lambda frame: slots[id(frame)])
    times = [[when(frame) for frame in members] for members in places.values()]
    count = len(times[0])
    if count < 2 or any(None in moments or len(moments) != count or len(set(moments)) != count for moments in times):
        return {(): group}
    if when is _counted and any(frame.temporal_positions != count for frame in group):
        return {(): group}
    ranks = [sorted(members, key=when) for members in places.values()]
    return {(("time point", rank + 1),): [members[rank] for members in ranks] for rank in range(count)}


def at_same_places(groups: dict[Label, list[Frame]], slots: dict[int, int]) -> list[list[tuple[Label, list[Frame]]]]:
    """Volumes of one image type whose planes lie at the same places, which are one 4D series.

    They come in the order of what tells them apart; gradient directions have none, and go as they were counted.
    """

    def order(item: tuple[Label, list[Frame]]) -> list[Any]:
        label, frames = item
        counted = _sortable(min(frame.instance_number for frame in frames))
        told = [counted if name == "gradient direction" else _sortable(value) for name, value in label]
        return told + [_sortable(value) for _, value in label]

    together: dict[Hashable, list[tuple[Label, list[Frame]]]] = defaultdict(list)
    for label, group in sorted(groups.items(), key=order):
        members = sorted(group, key=lambda frame: (slots[id(frame)], frame.instance_number, str(frame.file)))
        places = tuple(slots[id(frame)] for frame in members)
        others = together[places, dict(label).get("image type")]
        if others and not _close(others[0][1], members):
            together[places, dict(label).get("image type"), len(together)].append((label, members))
        else:
            others.append((label, members))
    return list(together.values())


def _close(these: Sequence[Frame], those: Sequence[Frame]) -> bool:
    first, second = (np.array([frame.position for frame in frames]) for frames in (these, those))
    return bool(np.abs(first - second).max() < _SAME_PLACE_MM)


def _sortable(value: Any) -> tuple[bool, str, Any]:
    """Nothing first, then numbers and words in their own order."""
    return value is not None, type(value).__name__, value


def grouped(frames: Iterable[Frame], key: Callable[[Frame], Any]) -> dict[Any, list[Frame]]:
    """Frames by a value of theirs, in the order in which these are met."""
    groups: dict[Any, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return dict(groups)
