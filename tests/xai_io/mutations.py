"""Files that are nearly right: seeds of each format, and what may befall them."""

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from xai_io import Volume, write_omezarr

HUGE = (b"99999", b"2147483647", b"-1", b"0", b"nan", b"1e400", b"999999999999999999999", b"", b"\xff\xfe", b"(")


def seeds(folder: Path, rng: np.random.Generator) -> dict[str, Path]:
    """One sound file or folder of each format and packing, by name."""
    import SimpleITK as sitk  # noqa: N813

    folder.mkdir()
    values = rng.normal(size=(6, 5, 4)).astype(np.float32)
    affine = np.diag([2.0, 3, 4, 1])
    for name, kind in (("a.nii", nib.Nifti1Image), ("b.nii.gz", nib.Nifti1Image), ("c.nii", nib.Nifti2Image)):
        image = kind(values, affine)
        image.header.set_qform(affine, code=1)
        nib.save(image, folder / name)
    nib.save(nib.Nifti1Pair((values * 100).astype(np.int16), affine), folder / "d.hdr")
    image = sitk.GetImageFromArray(values)
    for name in ("e.nrrd", "f.mha"):
        sitk.WriteImage(image, folder / name)
        sitk.WriteImage(image, folder / f"z{name}", useCompression=True)
    sitk.WriteImage(sitk.GetImageFromArray(rng.normal(size=(6, 5, 4, 2)), isVector=True), folder / "g.nrrd")
    write_omezarr(folder / "h.zarr", Volume(values[None], affine))
    return {path.name: path for path in sorted(folder.iterdir()) if path.suffix not in (".img",)}


def mutated(seed: Path, target: Path, rng: np.random.Generator) -> None:
    """Copy a seed to a target, damaged in one file by one to three mishaps."""
    files = sorted(file for file in seed.rglob("*") if file.is_file()) if seed.is_dir() else _with_partner(seed)
    hurt = files[rng.integers(len(files))]
    for file in files:
        content = file.read_bytes()
        if file == hurt:
            for _ in range(rng.integers(1, 4)):
                content = _mishaps(content, rng)
        there = target / file.relative_to(seed) if seed.is_dir() else target.with_name(f"{target.stem}{file.suffix}")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content)


def _with_partner(seed: Path) -> list[Path]:
    partner = seed.with_suffix(".img")
    return [seed, partner] if seed.suffix == ".hdr" and partner.exists() else [seed]


def _mishaps(content: bytes, rng: np.random.Generator) -> bytes:
    """One mishap: bytes flipped, in the header or anywhere; cut; doubled; a word replaced; a line lost."""
    data = bytearray(content)
    kind = rng.integers(7)
    if not data:
        return content
    reach = min(len(data), 600 if kind in (0, 1) else len(data))
    if kind in (0, 2):
        for place in rng.integers(reach, size=rng.integers(1, 9)):
            data[place] = rng.integers(256)
    elif kind == 1:
        data[rng.integers(reach)] ^= 1 << rng.integers(8)
    elif kind == 3:
        del data[rng.integers(len(data)) :]
    elif kind == 4:
        start = rng.integers(len(data))
        data[start:start] = data[start : start + rng.integers(1, 400)]
    else:
        words = list(_words(bytes(data[:4000]), b"\n" if kind == 6 else b" \n,:[]()"))
        if words:
            start, stop = words[rng.integers(len(words))]
            data[start:stop] = b"" if kind == 6 else HUGE[rng.integers(len(HUGE))]
    return bytes(data)


def _words(text: bytes, breaks: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    for at, byte in enumerate(text):
        if byte in breaks:
            if at > start:
                yield start, at
            start = at + 1
