"""Several co-registered scans as the input channels of one model, matched by name and never by chance."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .errors import GeometryError, ScanError
from .resample import covered
from .volume import Volume

_APART = 1e-3  # mm (and mm a voxel) by which affines may differ on one grid: what writing them to files rounds
# Different words for one and the same; T1, T1w, T1c and T1Gd are not: no name says what was injected before.
_SAME = {"t1ce": "t1c", "t1n": "t1", "t2f": "flair", "t2flair": "flair"}
_KNOWN = {
    "t1": "T1", "t1n": "T1", "t1w": "T1w", "t1c": "T1c", "t1ce": "T1c", "t1gd": "T1Gd", "t2": "T2", "t2w": "T2w",
    "t2f": "FLAIR", "t2flair": "FLAIR", "flair": "FLAIR", "adc": "ADC", "dwi": "DWI", "swi": "SWI", "ct": "CT",
    "pet": "PET",
}  # fmt: skip
# Beside a name these say that it is not that scan, or not that scan as such.
_UNSURE = re.compile(
    r"c|ce|gd\w*|gad\w*|dotarem|magnevist|prohance|post\w*|contrast|enh\w*|km|map|\w*mask|seg\w*|labels?\w*|lesions?"
    r"|prob\w*|diff|sub\w*traction|mean|std|inv\w*|star|field|warp\w*"
)
_NUMBER = re.compile(r"\d{4}")


def stack_channels(scans: Mapping[str, Volume], names: Sequence[str], *, resample: bool = False) -> Volume:
    """Put co-registered scans together as the channels of one volume, in the order of a model.

    Parameters
    ----------
    scans
        One-channel volumes by name: as the model calls them, whatever the case, spaces, dashes and underscores; BraTS's
        t1ce is t1c, t1n is t1, and t2f is flair. Or by number, as nnU-Net writes it: ``"0000"``, ``"0001"``.
    names
        Of the model's input channels, in order (`LoadedModel.channel_names`); empty where it does not name them, and
        then scans go by number.
    resample
        Bring the others to the grid of the first scan given (linear interpolation, zero outside of them). What was
        done is said in the result's ``source.notes``.

    Returns
    -------
    Volume
        (C, I, J, K) on the grid, and with the source, of the first scan given.

    Raises
    ------
    ScanError
        If a channel is missing, named twice, or no channel of the model; if a scan has several channels.
    GeometryError
        If the scans lie in different frames of reference, or on different grids and `resample` is False; if two of them
        have no place in common.
    """
    order = _in_order(scans, names)
    first = next(iter(scans.values()))
    main = next(iter(scans))
    notes = list(first.source.notes)
    data = []
    for name in order:
        scan = scans[name]
        if scan.channels != 1:
            raise ScanError(f"The scan given for {name} has {scan.channels} channels; give one with a single channel.")
        frames = {first.source.frame_of_reference_uid, scan.source.frame_of_reference_uid}
        if len(frames - {""}) > 1:
            raise GeometryError(
                f"{name} and {main} lie in different DICOM frames of reference, so that equal places do not mean equal "
                "anatomy; register one to the other first."
            )
        notes += [f"{name}: {note}" for note in scan.source.notes if scan is not first]
        off = _off(scan, first)
        if off and not resample:
            raise GeometryError(
                f"{name} lies on another grid than {main}, with {off}; resample=True brings all to the grid of {main}, "
                "if they are registered."
            )
        if off:
            seen = float(covered(first, scan).mean())
            if seen == 0:
                raise GeometryError(f"{name} and {main} have no place in common; give scans of the same region.")
            outside = "" if seen == 1 else f", of which {1 - seen:.1%} lies outside of it and is zero"
            notes.append(f"{name} was resampled (linear) to the grid of {main}{outside}")
            scan = scan.resampled_to(first)
        data.append(scan.data)
    alike = {scan.units for scan in scans.values()}, {scan.modality for scan in scans.values()}
    units, modality = (values.pop() if len(values) == 1 else "" for values in alike)
    others = tuple(scan.source for scan in scans.values() if scan is not first)
    source = dataclasses.replace(first.source, notes=tuple(notes), others=others)
    return Volume(np.concatenate(data), first.affine, units, modality, source)


def name_of_channel(path: str | os.PathLike[str]) -> str | None:
    """Guess from a file's name which channel it holds: a sequence (BraTS's and usual names) or nnU-Net's number.

    None when unsure: nothing is said, several sequences are, or a word beside it says that it is a contrast-enhanced
    scan, a map or a mask.
    """
    stem = re.sub(r"(\.nii|\.mha|\.nrrd|\.dcm|\.img|\.hdr|\.ome\.zarr|\.zarr)?(\.gz|\.zip)?$", "", Path(path).name)
    if re.search(r"[+*]", stem):  # T1+C, T2*
        return None
    words = [word for word in re.split(r"[^a-z0-9]+", stem.lower()) if word]
    if words and len(words) > 1 and _NUMBER.fullmatch(words[-1]) and stem[-5] == "_":
        return words[-1]
    text = "_".join(words).replace("t2_flair", "t2flair")
    words = text.split("_")
    found = {_KNOWN[word] for word in words if word in _KNOWN}
    if words[0] == "brats" and "t2w" in words:
        found = {name.removesuffix("w") for name in found}  # BraTS calls its T2 so since 2023
    if len(found) != 1 or any(_UNSURE.fullmatch(word) for word in words):
        return None
    return found.pop()


def _in_order(scans: Mapping[str, Volume], names: Sequence[str]) -> list[str]:
    """Keys of the scans in the order of the model's channels."""
    wanted = ", ".join(names) or "channels that have no names: give them as 0000, 0001 ..."
    places = list(range(len(names) or len(scans)))
    keys = [_key(name) for name in names]
    found: dict[int, str] = {}
    for name in scans:
        fits = [place for place, key in enumerate(keys) if key == _key(name)]
        if not fits and _NUMBER.fullmatch(name) and int(name) in places:
            fits = [int(name)]
        if not fits:
            raise ScanError(f"A scan was given for {name}, which is no channel of the model; it takes {wanted}.")
        if len(fits) > 1:
            raise ScanError(f"The model has {len(fits)} channels called {name}; give them by number: 0000, 0001 ...")
        if fits[0] in found:
            raise ScanError(f"Both {found[fits[0]]} and {name} were given for one channel; the model takes {wanted}.")
        found[fits[0]] = name
    missing = [names[place] if names else f"{place:04}" for place in places if place not in found]
    if missing or not scans:
        raise ScanError(f"No scan was given for {', '.join(missing) or 'any channel'}; the model takes {wanted}.")
    return [found[place] for place in places]


def _key(name: str) -> str:
    key = re.sub(r"[\s\-_.]+", "", name.lower())
    return _SAME.get(key, key)


def _off(scan: Volume, first: Volume) -> str:
    """How a scan's grid differs from the first's, in words; "" where it does not."""
    if scan.shape != first.shape:
        return f"{scan.shape} voxels, not {first.shape}"
    most = float(np.abs(scan.affine - first.affine).max())
    return f"an affine that is off by up to {most:.3g} mm" if most > _APART else ""
