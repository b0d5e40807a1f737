"""Where relevance lies, as rows of a table: hot spots above the threshold, or the regions of a labels layer. No Qt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_xai._look import Look
from napari_xai.layers import to_ras, volume_of
from xai_io import Region, clusters, region_table
from xai_io.pictures.slices import direction
from xai_io.regions import effect

__all__ = ["COLUMNS", "cells", "hot_spots", "peak_index", "regions_in"]

COLUMNS = ("No.", "Name", "Effect", "mm³", "Share", "Mean", "Peak", "Peak at (mm)")
MOST = 20


def hot_spots(values: npt.NDArray[Any], metadata: Mapping[str, Any], look: Look) -> tuple[Region, ...]:
    """Clusters of what is shown, the weightiest first; with no threshold there are none."""
    if look.display.threshold == 0:
        return ()
    volume = volume_of(values, metadata)
    _, found = clusters(volume, look.display.threshold, sign=look.display.sign, most=MOST)
    return found


def regions_in(
    values: npt.NDArray[Any], metadata: Mapping[str, Any], labels: npt.NDArray[Any], names: Mapping[int, str]
) -> tuple[Region, ...]:
    """Relevance in each label of a layer on the map's grid, the weightiest first; background is none."""
    own = {key: value for key, value in metadata["napari_xai"].items() if key in ("affine_ras_mm", "shape")}
    return region_table(volume_of(values, metadata), volume_of(labels, {"napari_xai": own}), names)


def cells(region: Region) -> Sequence[str]:
    """One row, as read by people."""
    return (
        str(region.number),
        region.name,
        effect(region),
        f"{region.volume_mm3:,.0f}",
        f"{region.share:.1%}",
        f"{region.mean:+.3g}",
        f"{region.peak:+.3g}",
        " ".join(direction(mm, axis) for axis, mm in enumerate(region.peak_mm)),
    )


def peak_index(region: Region, metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The voxel of a layer's data that a region's peak lies in."""
    back = np.linalg.inv(to_ras(metadata))
    return tuple(int(n) for n in np.rint((back @ [*region.peak_mm, 1.0])[:3]))
