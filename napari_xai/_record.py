"""The record of a map beside its file, so that a map that was saved and opened again still says how it was made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xai_io import ExportError, Volume, write_json

__all__ = ["check_record_place", "record_beside", "record_place", "write_record"]

ENDS = (".nii.gz", ".nii")
OF_RESULTS = "relevance.nii.gz", "provenance.json"  # as `Explanation.save` calls them


def record_place(path: Path) -> Path:
    """Where the record of a map is written: map.json beside map.nii.gz, as is usual for NIfTI."""
    end = next((end for end in ENDS if path.name.endswith(end)), path.suffix)
    return path.with_name(f"{path.name.removesuffix(end)}.json")


def record_beside(path: Path, volume: Volume) -> dict[str, Any] | None:
    """The record of the map in a file; None where none lies there, or it is of another grid. Never raises."""
    places = [record_place(path)]
    if path.name == OF_RESULTS[0]:
        places.append(path.with_name(OF_RESULTS[1]))
    for place in places:
        found = _read(place)
        if found is not None and _of_grid(found, volume):
            return found
    return None


def write_record(
    path: Path, record: Mapping[str, Any], *, part: str = "", look: Mapping[str, Any] | None = None
) -> Path:
    """Write the record of the map at `path` beside it; one that lies there already is replaced.

    Parameters
    ----------
    part : which of the input's channels the map is of; "" if there is but one.
    look : how it is looked at.

    Raises
    ------
    ExportError : another file has the name, or it cannot be written.
    """
    place = record_place(path)
    check_record_place(path)
    more = {"part": part, "look": None if look is None else dict(look)}
    write_json(place, dict(record) | {name: value for name, value in more.items() if value}, overwrite=True)
    return place


def check_record_place(path: Path) -> None:
    """Refuse to write over a JSON file that is not such a record; errors as `write_record`."""
    place = record_place(path)
    if place.exists() and _read(place) is None:
        raise ExportError(
            f"{place} holds something else than the record of a map, which would stand there: choose another name."
        )


def _read(place: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        ours = isinstance(found["method"], str) and isinstance(found["question"], str)
        return found if ours and isinstance(found["scan"], dict) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _of_grid(record: Mapping[str, Any], volume: Volume) -> bool:
    """Whether a record's map lies on the grid of a volume, as far as a NIfTI header can say it."""
    scan = record["scan"]
    try:
        affine = np.asarray(scan["affine_ras_mm"], np.float64)
        return list(scan["shape"]) == list(volume.shape) and np.allclose(affine, volume.affine, atol=1e-3)
    except (KeyError, TypeError, ValueError):
        return False
