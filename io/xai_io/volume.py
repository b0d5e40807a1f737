"""A scan, or any map on its grid: values, where they lie in the patient, and what they mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .errors import GeometryError, ScanError

if TYPE_CHECKING:
    from .resample import Sampling

_AXCODES = [[a, b, c] for a in (0, 1) for b in (2, 3) for c in (4, 5)]  # places in "LRPAIS"


@dataclass(frozen=True)
class Source:
    """Where a volume came from: what later exports refer to, never who the patient is.

    Parameters
    ----------
    format
        ``"nifti"``, ``"dicom"``, or ``""`` for a volume made in memory.
    path
        The file or folder read. Kept out of `repr`: folders are often named after patients.
    study_uid, series_uid, frame_of_reference_uid, sop_class_uid
        DICOM identifiers of the series, ``""`` where there are none.
    instance_uids
        SOP instance UIDs, one per slice, in the order of the volume's K axis; ``""`` for a slice that no instance
        holds (one that was filled in).
    files
        The file of each slice, in the same order; None for a slice that no file holds. () where the volume is no
        longer on the grid of its files.
    frames
        Frame number (from 1) of each slice in its multi-frame file, in the same order; () for single-frame images.
    others
        Where the other channels came from, if each had a file of its own.
    notes
        What was not as it should be and what was done about it, one sentence each, without anything that could
        identify anybody: it goes into records and reports.
    """

    format: str = ""
    path: Path | None = field(default=None, repr=False)
    study_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    frame_of_reference_uid: str = field(default="", repr=False)
    sop_class_uid: str = field(default="", repr=False)
    instance_uids: tuple[str, ...] = field(default=(), repr=False)
    files: tuple[Path | None, ...] = field(default=(), repr=False)
    frames: tuple[int, ...] = field(default=(), repr=False)
    others: tuple[Source, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """Values on a grid in the patient.

    Parameters
    ----------
    data
        Values (C, I, J, K): channels, then the three voxel axes in the file's own order. Nothing here ever
        transposes, flips or resamples them.
    affine
        Voxel index (i, j, k, 1) of a voxel's centre to RAS+ world in mm; 4x4, kept as float64, read-only.
    units
        Of the values: ``"HU"`` for CT, ``""`` when unknown.
    modality
        ``"CT"``, ``"MR"``, ``"PT"``, or ``""`` when unknown.
    source
        Where it was read from.

    Raises
    ------
    ScanError
        If `data` is not four-dimensional numbers, or has no voxel.
    GeometryError
        If `affine` is not a finite, invertible 4x4 matrix whose last row is 0 0 0 1.
    """

    data: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    units: str = ""
    modality: str = ""
    source: Source = Source()

    def __post_init__(self) -> None:
        """Refuse what is no volume, and keep a read-only float64 copy of the affine."""
        data = np.asarray(self.data)
        if data.ndim != 4 or 0 in data.shape:
            raise ScanError(
                f"A volume of shape {data.shape} was given; only four axes (channels, i, j, k) with at least one voxel "
                "are allowed: add the channel axis."
            )
        if data.dtype.kind not in "biuf":
            raise ScanError(
                f"Values of type {data.dtype} were given; only real numbers are allowed: convert them first."
            )
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.array_equal(affine[3], (0, 0, 0, 1)):
            raise GeometryError(
                f"An affine of shape {affine.shape} was given; it must be 4x4 with last row 0 0 0 1: "
                "pass voxel to RAS+ mm."
            )
        if not np.isfinite(affine).all() or _flat(affine[:3, :3]):
            raise GeometryError(
                "The affine given is not finite or not invertible, so that voxels have no place in the patient: "
                "pass voxel to RAS+ mm with three independent axes."
            )
        affine.flags.writeable = False
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J and K."""
        i, j, k = self.data.shape[1:]
        return i, j, k

    @property
    def channels(self) -> int:
        """How many channels (sequences, phases, classes) the volume has."""
        return int(self.data.shape[0])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between voxel centres along I, J and K."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return i, j, k

    @property
    def axcodes(self) -> str:
        """The anatomical direction nearest to I, J and K increasing, e.g. ``"RAS"`` or ``"LPS"``."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    def with_data(self, data: npt.NDArray[Any], *, units: str = "") -> Volume:
        """Put other values on the same grid.

        Parameters
        ----------
        data
            (C, I, J, K) with this volume's I, J, K; any number of channels.
        units
            Of the new values.

        Raises
        ------
        ScanError
            If the grid differs.
        """
        if data.ndim != 4 or data.shape[1:] != self.shape:
            raise ScanError(
                f"Values of shape {data.shape} were given for a grid of {self.shape}; "
                "pass (channels, i, j, k) of that grid."
            )
        return dataclasses.replace(self, data=data, units=units)

    def world_of(self, voxel: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Place in RAS+ mm of voxel coordinates, both (..., 3); whole numbers are voxel centres."""
        return np.asarray(voxel, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def voxel_of(self, world: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Voxel coordinates, not rounded and perhaps outside the grid, of places in RAS+ mm; both (..., 3)."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        return (np.asarray(world, np.float64) - self.affine[:3, 3]) @ inverse.T

    def reoriented(self, axcodes: str) -> Volume:
        """Transpose and flip the axes, so that I, J and K point nearest to the given directions.

        No value and no voxel's place changes; the values are a view. Since slices and files no longer go together,
        the source of a volume that was turned names neither.

        Parameters
        ----------
        axcodes
            One of L or R, one of P or A and one of I or S, in any order: ``"RAS"``, ``"LPS"``, ``"PIR"``.

        Raises
        ------
        GeometryError
            If `axcodes` is anything else.
        """
        if sorted(map("LRPAIS".find, axcodes)) not in _AXCODES:
            raise GeometryError(
                f"The axis codes {axcodes!r} were given; only one of L or R, one of P or A and one of I or S are "
                "allowed, in any order: RAS, LPS, PIR."
            )
        if axcodes == self.axcodes:
            return self
        now, wanted = nib.orientations.io_orientation(self.affine), nib.orientations.axcodes2ornt(axcodes)
        turn = nib.orientations.ornt_transform(now, wanted)
        data = np.moveaxis(nib.orientations.apply_orientation(np.moveaxis(self.data, 0, -1), turn), -1, 0)
        affine = self.affine @ nib.orientations.inv_ornt_aff(turn, self.shape)
        source = dataclasses.replace(self.source, instance_uids=(), files=(), frames=())
        return dataclasses.replace(self, data=data, affine=affine, source=source)

    def resampled_to(self, other: Volume, mode: Sampling = "linear") -> Volume:
        """Lay the values over another volume's grid.

        Parameters
        ----------
        other
            Whose shape, affine and source the result gets; its values are not read.
        mode
            ``"linear"`` and ``"nearest"`` read this volume at each voxel centre of `other`, zero outside of it.
            ``"sum-preserving"`` is the transpose of linear sampling from `other` to this grid: every value is
            handed to the voxels of `other` that it would have been interpolated from, so that the sum is kept, but
            for what lies outside of `other`.

        Returns
        -------
        Volume
            (C, *other.shape), float32, or with ``"nearest"`` of the type it was. Where the voxel centres of both grids
            coincide (turned, cropped, padded), values are only moved, exactly.

        Raises
        ------
        GeometryError
            If `mode` is anything else.
        """
        from .resample import resampled_to

        return resampled_to(self, other, mode)

    def __repr__(self) -> str:
        """Shape and geometry, neither values nor anything that could identify a patient."""
        spacing = " x ".join(f"{mm:.3g}" for mm in self.spacing)
        return (
            f"Volume(channels={self.channels}, shape={self.shape}, spacing='{spacing} mm', axcodes={self.axcodes!r}, "
            f"units={self.units!r}, modality={self.modality!r}, source={self.source!r})"
        )


def _flat(axes: npt.NDArray[np.float64]) -> bool:
    """Whether three axes span no volume, whatever their lengths."""
    lengths = np.linalg.norm(axes, axis=0)
    return bool((lengths == 0).any()) or abs(float(np.linalg.det(axes / lengths))) < 1e-6
