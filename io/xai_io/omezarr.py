"""OME-Zarr folders: one image read where it says how it lies in the patient, one written that says so exactly.

The standard (https://ngff.openmicroscopy.org/0.5) has room for a scale and a translation along the axes of the array,
and RFC-4 for the anatomical direction nearest to each axis; not for oblique axes. `write_omezarr` fills these in, and
keeps the affine itself beside them, in the attribute ``xai_io`` of the group, which other programs pass over.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ._files import folder_written_aside
from .errors import ExportError, GeometryError, ScanError, XaiIOError
from .volume import Source, Volume

_OURS = "xai_io"
_METADATA = ("zarr.json", ".zattrs")  # of Zarr 3 (OME-Zarr 0.5) and Zarr 2 (0.4)
_TO_MM = {"nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0, "centimeter": 10.0, "meter": 1e3}
_TOWARDS = {  # the end of an axis: its RAS+ coordinate, and the sign
    "left-to-right": (0, 1),
    "right-to-left": (0, -1),
    "posterior-to-anterior": (1, 1),
    "anterior-to-posterior": (1, -1),
    "inferior-to-superior": (2, 1),
    "superior-to-inferior": (2, -1),
}
_BY_CODE = dict(zip("RLAPSI", _TOWARDS, strict=True))
# What only unpacks numbers. Other codecs compute, or unpickle and so run whatever a file holds.
_CODECS = {"bytes", "transpose", "blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "crc32c", "sharding_indexed"}
_CHUNK = 64
_RATIO = 2**16  # a constant chunk is packed about 30,000 : 1; what promises more than this is damaged


def is_omezarr(path: Path) -> bool:
    """Whether the folder holds an OME-Zarr image."""
    try:
        return any((path / name).is_file() and b'"multiscales"' in (path / name).read_bytes() for name in _METADATA)
    except OSError:
        return False


def read_omezarr(path: Path) -> Volume:
    """Read the highest resolution of an OME-Zarr 0.4 or 0.5 image.

    The axes z, y, x of the array become K, J, I; a channel or time axis becomes channels. Chunks that are absent
    read as the fill value, as the standard has it, and are noted.

    Raises
    ------
    ScanError
        If it is no single image of three axes in space, is damaged, or packed by what is no plain compression.
    GeometryError
        If its unit of length or the anatomical direction of an axis (RFC-4) is not said, or if scale and translation
        contradict the affine that `write_omezarr` put beside them.
    """
    import zarr

    try:
        attributes = _attributes(path)
        image = attributes.get("ome", attributes)["multiscales"]
        version = attributes.get("ome", image[0]).get("version", "0.4")
        if version not in ("0.4", "0.5"):
            raise ScanError(f"{path} is an OME-Zarr {version}; only 0.4 and 0.5 are understood: convert it.")
        if len(image) != 1:
            raise ScanError(f"{path} holds {len(image)} images; only one is allowed: name the folder of one.")
        level = image[0]["datasets"][0]
        if not re.fullmatch(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", level["path"]):
            raise ScanError(f"{path} names an array outside itself; only arrays inside the folder are read.")
        array = zarr.open_array(path / level["path"], mode="r")
        axes, shape = image[0]["axes"], array.shape
        space = [n for n, axis in enumerate(axes) if axis.get("type") == "space"]
        others = [shape[n] for n in range(len(axes)) if n not in space and shape[n] != 1]
        if len(space) != 3 or len(axes) != len(shape) or len(others) > 1 or 0 in shape:
            raise ScanError(
                f"{path} has the shape {shape}, {len(space)} axes of it in space; only three and one of channels are "
                "allowed: split it first."
            )
        notes = _check(array, path / level["path"])
        described = _described(axes, space[::-1], [level, image[0]], path)
        affine, exact = _affine(described, attributes.get(_OURS), path)
        if not exact:
            notes += ("An OME-Zarr says only which direction of the patient its axes are nearest to; they were taken "
                      "to lie exactly along it.",)  # fmt: skip
        values = np.asarray(array[...])
        values = values.transpose(*(n for n in range(len(shape)) if n not in space), *space[::-1])
        values = values.reshape(-1, *values.shape[-3:])
    except XaiIOError:
        raise
    except Exception as error:  # a damaged folder may fail anywhere inside zarr
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ScanError(f"{path} is no OME-Zarr image or is damaged ({reason}); copy or convert it again.") from error
    ours = attributes.get(_OURS, {}) if exact else {}
    source = Source(format="ome-zarr", path=path, notes=notes)
    return Volume(values, affine, str(ours.get("units", "")), str(ours.get("modality", "")), source)


def write_omezarr(path: str | os.PathLike[str], volume: Volume, *, overwrite: bool = False) -> None:
    """Write a volume as an OME-Zarr 0.5 image (Zarr 3) of one resolution, axes c, z, y, x.

    Values keep their type (bool becomes uint8). Scale and translation are along the array's axes, in mm, with the
    nearest anatomical direction of each (RFC-4); the exact affine, units and modality stand beside them in the
    attribute ``xai_io``. Nothing about the source or its patient is written.

    Raises
    ------
    ExportError
        If something is there already and may not be replaced, or is no OME-Zarr, or the folder cannot be written.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    path = Path(path)
    if overwrite and path.is_dir() and not is_omezarr(path):
        raise ExportError(f"{path} is a folder but no OME-Zarr image, and was not replaced; name another one.")
    scale, translation, towards = _along_axes(volume.affine)
    axes = [
        {"name": "c", "type": "channel"},
        *(
            {
                "name": name,
                "type": "space",
                "unit": "millimeter",
                "orientation": {"type": "anatomical", "value": towards[axis]},
            }
            for axis, name in ((2, "z"), (1, "y"), (0, "x"))
        ),
    ]
    steps = [
        {"type": "scale", "scale": [1.0, *scale[::-1]]},
        {"type": "translation", "translation": [0.0, *translation[::-1]]},
    ]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ours = {"affine": volume.affine.tolist(), "units": volume.units, "modality": volume.modality}
    data = volume.data.astype(np.uint8) if volume.data.dtype == np.bool_ else volume.data
    with folder_written_aside(path, overwrite=overwrite) as folder:
        attributes: Any = {"ome": {"version": "0.5", "multiscales": [image]}, _OURS: ours}
        group = zarr.create_group(folder, zarr_format=3, attributes=attributes)
        values = data.transpose(0, 3, 2, 1)
        chunks = tuple(min(n, _CHUNK) for n in values.shape[1:])
        array = group.create_array(
            "0",
            shape=values.shape,
            dtype=values.dtype.newbyteorder("="),
            chunks=(1, *chunks),
            dimension_names=["c", "z", "y", "x"],
            compressors=ZstdCodec(checksum=True),
            config={"write_empty_chunks": True},  # so that an absent chunk is a lost one
        )
        array[...] = values


def _attributes(path: Path) -> Mapping[str, Any]:
    """Attributes of the group, of Zarr 3 or 2."""
    if (path / "zarr.json").is_file():
        found: Mapping[str, Any] = json.loads((path / "zarr.json").read_bytes())["attributes"]
    else:
        found = json.loads((path / ".zattrs").read_bytes())
    return found


def _check(array: Any, path: Path) -> tuple[str, ...]:
    """Refuse what would run code or take memory without end; note what is absent."""
    metadata = array.metadata.to_dict()
    codecs = _codecs([metadata.get(name) for name in ("codecs", "compressor", "filters")])
    if array.dtype.kind not in "biuf" or not codecs <= _CODECS:
        raise ScanError(
            f"{path} holds {array.dtype} values packed by {', '.join(sorted(codecs)) or 'nothing'}; only real numbers "
            "and plain compression are allowed: write it again."
        )
    on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    chunk = array.dtype.itemsize * int(np.prod(array.chunks, dtype=np.float64))
    if max(array.nbytes, chunk) > on_disk * _RATIO:
        raise ScanError(f"{path} promises {array.nbytes} bytes, and {on_disk} are there; copy it again.")
    there = array.nchunks_initialized
    if there == 0:
        raise ScanError(f"{path} has none of its {array.nchunks} chunks; copy it again.")
    if there == array.nchunks:
        return ()
    return (f"{array.nchunks - there} of {array.nchunks} chunks are absent and were read as {array.fill_value}.",)


def _codecs(found: Any) -> set[str]:
    """Names of all codecs in metadata, those inside a sharding codec too."""
    if isinstance(found, Mapping):
        names = {str(found[key]) for key in ("name", "id") if key in found}
        return names.union(*(_codecs(value) for value in found.values() if isinstance(value, list | tuple | Mapping)))
    if isinstance(found, list | tuple):
        return set().union(*map(_codecs, found))
    return set()


def _described(
    axes: list[Any], space: list[int], levels: list[Any], path: Path
) -> tuple[list[float], list[float], list[str]]:
    """Scale and translation in mm, and direction, of the axes I, J and K."""
    scale, translation = np.ones(len(axes)), np.zeros(len(axes))
    for level in levels:
        for step in level.get("coordinateTransformations", []):
            if step["type"] == "identity":
                continue
            if step["type"] not in ("scale", "translation") or len(step[step["type"]]) != len(axes):
                raise GeometryError(
                    f"{path} places its voxels by a {step['type']} that is not understood; only scale and translation "
                    "with a number for each axis are allowed."
                )
            given = np.array(step[step["type"]], dtype=np.float64)
            if step["type"] == "scale":
                scale, translation = scale * given, translation * given
            else:
                translation = translation + given
    units = [_TO_MM.get(axes[n].get("unit", "")) for n in space]
    towards = [axes[n].get("orientation", {}).get("value", "") for n in space]
    if None in units or not set(towards) <= _TOWARDS.keys() or len({_TOWARDS[one][0] for one in towards}) != 3:
        raise GeometryError(
            f"{path} does not say where its voxels lie in the patient: each axis in space needs a unit of length "
            "(millimeter, micrometer, ...) and an anatomical orientation (left-to-right, ...; OME-Zarr's RFC-4): add "
            "them to its axes."
        )
    mm = np.array(units, dtype=np.float64)
    return (scale[space] * mm).tolist(), (translation[space] * mm).tolist(), towards


def _affine(
    described: tuple[list[float], list[float], list[str]], ours: Any, path: Path
) -> tuple[npt.NDArray[np.float64], bool]:
    """Voxel to RAS+ mm, and whether it is the affine that was written and not what is made of the description."""
    scale, translation, towards = described
    if ours is not None:
        affine = np.array(ours["affine"], dtype=np.float64)
        meant = _along_axes(Volume(np.zeros((1, 1, 1, 1), np.float32), affine).affine)
        if towards != meant[2] or not np.allclose(scale + translation, meant[0] + meant[1], rtol=1e-6, atol=1e-6):
            raise GeometryError(
                f"{path} was changed (cropped, scaled or moved) by a program that does not know the affine it holds; "
                "remove the attribute xai_io if its axes lie along the patient's, or write it again."
            )
        return affine, True
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, one in enumerate(towards):
        row, sign = _TOWARDS[one]
        affine[row, axis], affine[row, 3] = sign * scale[axis], sign * translation[axis]
    return affine, False


def _along_axes(affine: npt.NDArray[np.float64]) -> tuple[list[float], list[float], list[str]]:
    """Scale and translation in mm, and the nearest direction, of the axes I, J and K of an affine."""
    towards = [_BY_CODE[code] for code in nib.orientations.aff2axcodes(affine)]
    scale: list[float] = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return scale, [float(sign * affine[row, 3]) for row, sign in (_TOWARDS[one] for one in towards)], towards
