"""Scans opened by napari: whatever `read_volume` reads."""

import re
from collections.abc import Callable
from pathlib import Path

from napari_xai.layers import LayerData, scan_layers
from xai_io import read_volume, sniff

__all__ = ["get_reader", "read"]

SUFFIXES = re.compile(r"(\.(nii|img|hdr|nrrd|nhdr|mha|mhd|dcm|zip)|(\.ome)?\.zarr)?(\.gz)?$", re.IGNORECASE)


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return `read` if every path is a scan, else None; looks at first bytes only and never raises."""
    paths = path if isinstance(path, list) else [path]
    return read if paths and all(sniff(one) for one in paths) else None


def read(path: str | list[str]) -> list[LayerData]:
    """Open scans as image layers, one for each channel.

    Raises
    ------
    XaiIOError : in one sentence, why a scan cannot be used; napari shows it as a notification.
    """
    paths = path if isinstance(path, list) else [path]
    return [layer for one in paths for layer in scan_layers(read_volume(one), name=_name(one))]


def _name(path: str) -> str:
    return SUFFIXES.sub("", Path(path).name)
