"""Slices that are missing, unevenly spaced or tilted, put on a regular upright grid by linear interpolation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..errors import GeometryError
from .geometry import Array, Stack

Values = npt.NDArray[np.float32]

_FINEST = 4  # times as many slices as there are, at most


def filled(values: Values, places: Sequence[int]) -> None:
    """Interpolate, in place, the slices of (..., slices, rows, columns) that lie between `places`."""
    for low, high in pairwise(places):
        for place in range(low + 1, high):
            share = np.float32((place - low) / (high - low))
            values[:, place] = (1 - share) * values[:, low] + share * values[:, high]


def evened(values: Values, stack: Stack) -> tuple[Values, Stack]:
    """Interpolate unevenly spaced slices onto about their smallest distance, from the first slice to the last.

    Raises
    ------
    GeometryError
        If this would take several times as many slices.
    """
    extent = float(stack.along[-1] - stack.along[0])
    count = round(extent / float(np.diff(stack.along).min())) + 1
    if count > _FINEST * len(stack.along):
        raise GeometryError(
            f"Slices lie up to {np.diff(stack.along).max():.2f} mm and down to {np.diff(stack.along).min():.2f} mm "
            f"apart, so that even spacing would take {count} of them instead of {len(stack.along)}; export the series "
            "with even spacing."
        )
    heights = np.linspace(stack.along[0], stack.along[-1], count)
    upper = np.clip(np.searchsorted(stack.along, heights), 1, len(stack.along) - 1)
    share = (heights - stack.along[upper - 1]) / (stack.along[upper] - stack.along[upper - 1])
    even = np.empty((len(values), count, *values.shape[2:]), dtype=np.float32)
    for place, (above, part) in enumerate(zip(upper, share.astype(np.float32), strict=True)):
        even[:, place] = (1 - part) * values[:, above - 1] + part * values[:, above]
    return even, dataclasses.replace(
        stack, along=heights, places=np.arange(count), step=stack.step * (extent / (count - 1))
    )


def deskewed(data: npt.NDArray[np.float32], stack: Stack, affine: Array, *, outside: float) -> tuple[Values, Array]:
    """Resample tilted slices (C, I, J, K), each within its own plane, onto an upright grid that holds them all.

    The slices stay where they are; only their pixels move, so that columns of voxels follow the slice normal.
    """
    from scipy.ndimage import affine_transform

    spacing = np.linalg.norm(affine[:3, :2], axis=0)
    shear = np.array([stack.step @ stack.row, stack.step @ stack.column]) / spacing  # in pixels, a slice
    moved = np.round(np.arange(data.shape[3])[:, None] * shear, 6)  # where each slice's first pixel lies, in pixels
    low = np.floor(moved.min(0))
    extra = (np.ceil(moved.max(0)) - low).astype(int)
    upright = np.full(
        (len(data), data.shape[1] + extra[0], data.shape[2] + extra[1], data.shape[3]), outside, np.float32
    )
    for channel, values in zip(upright, data, strict=True):
        for k in range(data.shape[3]):
            channel[..., k] = affine_transform(
                values[..., k], np.eye(2), low - moved[k], channel.shape[:2], order=1, mode="constant", cval=outside
            )
    straight = affine.copy()
    straight[:3, 2] -= affine[:3, :2] @ shear
    straight[:3, 3] += affine[:3, :2] @ low
    return upright, straight
