"""Lesions drawn into the sample brain, and the scanner that then looks at it.

Everything is drawn from a `numpy.random.Generator`, so a seed names a scan. Needs numpy and nibabel only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

VOLUMES = Path(__file__).resolve().parent / "volumes"
WHITE_MATTER = 1000.0  # what white matter measures in the clean brain; contrasts are told as shares of it

# First words of the seeds: what is trained on and what is tested on can never be the same draw.
TRAINING, HELD_OUT = 1, 2

Array = NDArray[np.float32]
Scan = NDArray[np.int16]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Brain:
    """A brain without lesion: tissue brightness (air is 0), its parenchyma and its affine (RAS+ mm)."""

    tissue: Array
    parenchyma: NDArray[np.bool_]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """The edges of a voxel in mm."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))

    @cached_property
    def depths(self) -> NDArray[np.intp]:
        """The voxels deep enough in the parenchyma (more than two layers) to be the centre of a lesion."""
        return np.argwhere(_eroded(self.parenchyma, 2))


@lru_cache(maxsize=2)
def load_brain(folder: Path = VOLUMES) -> Brain:
    """Read the clean sample brain; its arrays are read-only, because they are shared between calls."""
    image = nib.load(folder / "brain_clean.nii.gz")
    tissue = np.asarray(image.dataobj, dtype=np.float32)
    parenchyma = np.asarray(nib.load(folder / "brain_mask.nii.gz").dataobj) > 0
    tissue.flags.writeable = parenchyma.flags.writeable = False
    return Brain(tissue, parenchyma, image.affine)


def held_out(seed: int, brain: Brain | None = None) -> tuple[Scan, Mask]:
    """Return the scan and truth mask of a lesion that the sample models were not trained on."""
    return lesioned(brain or load_brain(), np.random.default_rng([HELD_OUT, seed]))


def held_out_clean(seed: int, brain: Brain | None = None) -> Scan:
    """Return the same scan as `held_out(seed)` as it would be without its lesion."""
    return pair(brain or load_brain(), np.random.default_rng([HELD_OUT, seed]))[0]


def lesioned(brain: Brain, rng: np.random.Generator) -> tuple[Scan, Mask]:
    """Draw one lesion into the brain, and scan it: the scan (int16, air is 0) and the truth mask (uint8)."""
    _, scan, mask = pair(brain, rng)
    return scan, mask


def pair(brain: Brain, rng: np.random.Generator) -> tuple[Scan, Scan, Mask]:
    """Scan the brain without and with a lesion; the two scans share gain, bias field and noise."""
    brightness, mask = lesion(brain, rng)
    clean_rng, lesion_rng = _twins(rng)
    clean = scanned(brain.tissue, clean_rng)
    return _int16(clean), _int16(scanned(brain.tissue + brightness, lesion_rng)), mask


def lesion(brain: Brain, rng: np.random.Generator) -> tuple[Array, Mask]:
    """Draw a lesion of random place, size, shape and contrast.

    Returns the brightness it adds to the tissue, and its mask (where it adds at least half of its contrast):
    a tilted ellipsoid of 4 to 10 mm mean radius with an uneven surface and an edge 2.5 mm wide.
    """
    centre = brain.depths[rng.integers(len(brain.depths))]
    radius = rng.uniform(4.0, 10.0)
    stretch = np.exp(rng.normal(0.0, 0.15, size=3).clip(-0.3, 0.3))
    radii = radius * stretch / stretch.prod() ** (1 / 3)
    tilt, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    contrast = rng.uniform(0.35, 0.7) * WHITE_MATTER

    reach = np.ceil(2.5 * radius / brain.spacing).astype(int)  # no surface is uneven enough to leave this box
    low, high = (centre - reach).clip(0), np.minimum(centre + reach + 1, brain.tissue.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    voxels = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij"), axis=-1)
    offsets = (voxels - centre) * brain.spacing

    distance = np.linalg.norm(offsets @ tilt / radii, axis=-1) * (1 + 0.12 * _waves(offsets, 2 * radius, rng))
    profile = ((1 - distance) * radius / 2.5 + 0.5).clip(0, 1) * (brain.tissue[box] > 0)
    texture = 1 + 0.1 * _waves(offsets, 8.0, rng)
    brightness, mask = np.zeros(brain.tissue.shape, np.float32), np.zeros(brain.tissue.shape, np.uint8)
    brightness[box], mask[box] = contrast * profile * texture, profile >= 0.5
    return brightness, mask


def scanned(tissue: Array, rng: np.random.Generator) -> Array:
    """Look at the tissue as some scanner would: contrast, bias field, noise and gain differ, air stays 0."""
    gamma, noise, gain = rng.uniform(0.9, 1.1), rng.uniform(0.01, 0.04), rng.uniform(0.75, 1.25)
    signal = WHITE_MATTER * (tissue / WHITE_MATTER) ** gamma * bias_field(tissue.shape, rng)
    signal += noise * WHITE_MATTER * rng.standard_normal(tissue.shape, dtype=np.float32)
    return np.where(tissue > 0, gain * signal.clip(1.0), 0.0).astype(np.float32)


def bias_field(shape: tuple[int, ...], rng: np.random.Generator, strength: float = 0.1) -> Array:
    """Draw a smooth multiplicative field about 1: products of one slow cosine along each axis."""
    log_field = np.zeros(shape, np.float32)
    for _ in range(3):
        waves = (np.cos(np.linspace(0, np.pi * rng.uniform(0.3, 1.2), n) + rng.uniform(0, 2 * np.pi)) for n in shape)
        i, j, k = (wave.astype(np.float32) for wave in waves)
        log_field += rng.uniform(0.3, 1.0) * i[:, None, None] * j[:, None] * k
    return np.exp(strength * log_field)


def _waves(offsets: NDArray[np.float64], length: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sum six plane waves about `length` mm long in random directions: a smooth field of unit size."""
    field = np.zeros(offsets.shape[:-1])
    for _ in range(6):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / length / np.linalg.norm(direction)
        field += np.cos(offsets @ direction + rng.uniform(0, 2 * np.pi))
    return field / np.sqrt(3.0)


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Peel `steps` layers of face neighbours off the mask; what touches the border of the array goes too."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        inner = slice(1, -1)
        mask = mask.copy()
        for axis in range(3):
            for side in (slice(None, -2), slice(2, None)):
                mask &= padded[tuple(side if a == axis else inner for a in range(3))]
    return mask


def _twins(rng: np.random.Generator) -> Iterator[np.random.Generator]:
    """Yield two generators that draw the same numbers."""
    seed = int(rng.integers(2**63))
    yield np.random.default_rng(seed)
    yield np.random.default_rng(seed)


def _int16(scan: Array) -> Scan:
    return np.rint(scan).astype(np.int16)
