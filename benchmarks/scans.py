"""DICOM series in folders, as they are read here and as dcm2niix converts them: places and values, series by series.

Series that are no regular volume are read with the choice that keeps their values. dcm2niix has to be installed.

python benchmarks/scans.py FOLDER ... [--write docs/results.md]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from _tables import write

from xai_io import Choices, XaiIOError, find_series, read_series

KEEPING = Choices(on_gap="fill", on_tilt="keep-shear", on_duplicate="first")
PLACE_MM, VALUE = 0.01, 1e-5  # of a corner; of the largest value


@dataclass(frozen=True)
class Reference:
    """One file of dcm2niix, turned to RAS."""

    affine: np.ndarray
    data: np.ndarray  # (i, j, k, t)


def turned(data: np.ndarray, affine: np.ndarray) -> Reference:
    image = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    values = np.asarray(image.dataobj, dtype=np.float64)
    return Reference(image.affine, values if values.ndim == 4 else values[..., None])


def converted(folder: Path, to: str) -> list[Reference]:
    command = ["dcm2niix", "-z", "n", "-b", "n", "-p", "n", "-w", "2", "-f", "%s_%e_%r_%p", "-o", to, str(folder)]
    subprocess.run(command, capture_output=True, check=False)
    found = [nib.load(file) for file in sorted(Path(to).glob("*.nii"))]
    grey = [image for image in found if image.get_data_dtype().kind != "V"]
    return [turned(np.asarray(image.dataobj, dtype=np.float64), image.affine) for image in grey]


def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    ends = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)
    return affine[:3, :3] @ ends + affine[:3, 3:]


def judged(ours: Reference, references: list[Reference]) -> str:
    """Whether each volume of ours lies, with its values, where some volume of theirs does."""
    shape = ours.data.shape[:3]
    alike = [one for one in references if one.data.shape[:3] == shape]
    if not alike:
        return "no counterpart"
    top = np.abs(ours.data).max()
    same = []
    for t in range(ours.data.shape[3]):
        mine = ours.data[..., t]
        same.append([
            one
            for one in alike
            if any(np.abs(one.data[..., u] - mine).max() <= VALUE * top for u in range(one.data.shape[3]))
        ])  # fmt: skip
    if not all(same):
        return "values differ"
    mine = corners(ours.affine, shape)
    off = max(min(np.abs(corners(one.affine, shape) - mine).max() for one in some) for some in same)
    return "same" if off <= PLACE_MM else "places differ"


def compared(folder: Path) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    notes = []
    with tempfile.TemporaryDirectory() as to:
        references = converted(folder, to)
        for series in find_series(folder):
            try:
                scan = read_series(series, KEEPING)
            except XaiIOError:
                counts[f"refused: {series.verdict.kind}"] += 1
                continue
            verdict = judged(turned(np.moveaxis(scan.data, 0, 3), scan.affine), references)
            counts[verdict] += 1
            if verdict != "same":
                notes.append(f"{series.summary}: {verdict}")
    return counts, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--write", type=Path, help="Markdown page whose section is replaced.")
    given = parser.parse_args()
    if shutil.which("dcm2niix") is None:
        sys.exit("dcm2niix is not installed")
    lines = ["| folder | series | same places and values | other | refused |", "| --- | --- | --- | --- | --- |"]
    for folder in given.folders:
        counts, notes = compared(folder)
        same = counts.pop("same", 0)
        refused = {kind.removeprefix("refused: "): n for kind, n in counts.items() if kind.startswith("refused")}
        other = {kind: n for kind, n in counts.items() if not kind.startswith("refused")}
        told = [", ".join(f"{n} {kind}" for kind, n in some.items()) or "0" for some in (other, refused)]
        lines.append(f"| {folder.name} | {same + sum(counts.values())} | {same} | {told[0]} | {told[1]} |")
        print(lines[-1], *notes, sep="\n  ")
    if given.write:
        write(given.write, "scans", "\n".join(lines))


if __name__ == "__main__":
    main()
