"""Where sliding windows lie on a scan, how they are blended, and what padding means."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.errors import ParameterError
from methods3d.types import Box, Volume5d

__all__ = ["Grid", "Shape"]

Shape: TypeAlias = tuple[int, int, int]


SHARES = 8  # kept: windows in the middle of a scan all have the same


@dataclass(frozen=True)
class Grid:
    """Where the windows lie on one scan, and how they are blended.

    Attributes
    ----------
    shape, roi : the scan's, and a window's, in voxels.
    before, after : voxels padded on each side of each axis.
    boxes : the windows on the padded grid.
    weight : g, a window's importance map (i, j, k).
    """

    shape: Shape
    roi: Shape
    before: Shape
    after: Shape
    boxes: tuple[Box, ...]
    weight: Tensor
    _shares: dict[tuple[tuple[int, ...], ...], Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def over(
        cls,
        shape: Shape,
        roi_size: Sequence[int | None],
        overlap: Sequence[float],
        mode: str,
        sigma_scale: Sequence[float],
        dtype: torch.dtype,
    ) -> "Grid":
        """The windows that MONAI's sliding_window_inference would run on a scan of this shape."""
        from monai.data.utils import compute_importance_map, dense_patch_slices

        roi = _three(r if r is not None and r > 0 else s for r, s in zip(roi_size, shape, strict=True))
        missing = tuple(max(r - s, 0) for r, s in zip(roi, shape, strict=True))
        before = _three(m // 2 for m in missing)
        after = _three(m - b for m, b in zip(missing, before, strict=True))
        padded = _three(s + m for s, m in zip(shape, missing, strict=True))
        # MONAI's interval: whole windows where the window holds the axis, else the window less the overlap.
        step = tuple(r if r == p else max(1, int(r * (1 - o))) for r, p, o in zip(roi, padded, overlap, strict=True))
        boxes = tuple((i, j, k) for i, j, k in dense_patch_slices(padded, roi, step))
        precise = torch.promote_types(dtype, torch.float32)
        weight = compute_importance_map(roi, mode=mode, sigma_scale=sigma_scale, dtype=precise)
        return cls(shape, roi, before, after, boxes, weight)

    @property
    def padded(self) -> Shape:
        """The scan's shape with its padding."""
        return _three(s + b + a for s, b, a in zip(self.shape, self.before, self.after, strict=True))

    @property
    def is_padded(self) -> bool:
        """Whether the window is larger than the scan."""
        return self.padded != self.shape

    @property
    def _pads(self) -> list[int]:
        return [n for b, a in zip(reversed(self.before), reversed(self.after), strict=True) for n in (b, a)]

    def share(self, box: Box) -> Tensor:
        """g / G on a window: what it has in the prediction of each of its voxels (i, j, k); over all windows one.

        G is summed up over the windows that overlap: on the whole scan it would take as much memory as the scan.
        """
        near = tuple(
            tuple(start - side.start for start in along if abs(start - side.start) < size)
            for along, side, size in zip(self._starts, box, self.roi, strict=True)
        )
        if near not in self._shares:
            if len(self._shares) >= SHARES:
                del self._shares[next(iter(self._shares))]
            self._shares[near] = self._share(near)
        return self._shares[near]

    @cached_property
    def _starts(self) -> list[list[int]]:
        return [sorted({box[axis].start for box in self.boxes}) for axis in range(3)]

    def _share(self, near: tuple[tuple[int, ...], ...]) -> Tensor:
        norm = torch.zeros_like(self.weight)
        for offset in itertools.product(*near):
            here = tuple(slice(max(o, 0), n + min(o, 0)) for o, n in zip(offset, self.roi, strict=True))
            there = tuple(slice(max(-o, 0), n + min(-o, 0)) for o, n in zip(offset, self.roi, strict=True))
            norm[here] += self.weight[there]
        return self.weight / norm

    def pairs(self, batch: int) -> list[tuple[int, Box]]:
        """Every window of every sample."""
        return [(n, box) for n in range(batch) for box in self.boxes]

    def touching(self, mask: Tensor, sample: int) -> list[tuple[int, Box]]:
        """The sample's windows in which a padded mask is anywhere true."""
        return [(sample, box) for box in self.boxes if bool(mask[box].any())]

    def windows(self, x: Volume5d, pairs: Sequence[tuple[int, Box]], cval: float, padding_mode: str) -> Volume5d:
        """The given windows of the padded scan, (w, c, *roi)."""
        parts = [x[(slice(n, n + 1), slice(None), *self.on_scan(box)[0])] for n, box in pairs]
        return torch.cat([self.pad(part, cval, padding_mode) for part in parts])

    def pad(self, x: Volume5d, cval: float, padding_mode: str) -> Volume5d:
        """The scan, or what a window sees of it, padded: a window holds all of an axis that is padded."""
        if not self.is_padded:
            return x
        fill = {"value": cval} if padding_mode == "constant" else {}
        short = max(
            after - n + (padding_mode == "reflect") for n, after in zip(self.shape, self.after, strict=True)
        )  # after >= before
        if padding_mode in ("reflect", "circular") and short > 0:
            raise ParameterError(
                f"A scan of {self.shape} is too small to be padded to the window {self.roi} by padding_mode "
                f"{padding_mode!r}: give 'constant' or 'replicate', or a smaller roi_size."
            )
        return F.pad(x, self._pads, mode=padding_mode, **fill)

    def cropped(self, padded: Tensor) -> Tensor:
        """Without the padding."""
        i, j, k = (slice(b, b + s) for b, s in zip(self.before, self.shape, strict=True))
        return padded[..., i, j, k]

    def padded_mask(self, mask: Tensor) -> Tensor:
        """A mask or cotangent on the padded grid, zero in the padding."""
        return F.pad(mask, self._pads) if self.is_padded else mask

    def on_scan(self, box: Box) -> tuple[Box, Box]:
        """The part of a window that lies on the scan: on the scan's own grid, and within the window."""
        there, inside = [], []
        for side, lo, n in zip(box, self.before, self.shape, strict=True):
            start, stop = max(side.start - lo, 0), min(side.stop - lo, n)
            there.append(slice(start, stop))
            inside.append(slice(start + lo - side.start, stop + lo - side.start))
        return (there[0], there[1], there[2]), (inside[0], inside[1], inside[2])

    def unpadded(self, gradient: Volume5d, x: Volume5d, cval: float, padding_mode: str) -> Volume5d:
        """The adjoint of padding: what a gradient on the padded scan means on the scan."""
        if not self.is_padded or padding_mode == "constant":
            return self.cropped(gradient).contiguous()
        with torch.enable_grad():
            leaf = x.detach().to(gradient).requires_grad_()
            (back,) = torch.autograd.grad(self.pad(leaf, cval, padding_mode), leaf, gradient)
        return back


def _three(values: Iterable[int]) -> Shape:
    i, j, k = values
    return i, j, k
