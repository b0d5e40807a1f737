"""Where sliding windows lie on a scan, how they are blended, and what padding means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d.errors import ParameterError
from methods3d.types import Box, Volume5d

__all__ = ["Grid", "Shape"]

Shape: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """Where the windows lie on one scan, and how they are blended."""

    shape: Shape
    roi: Shape
    before: Shape  # voxels padded in front of each axis
    after: Shape
    boxes: tuple[Box, ...]  # on the padded grid
    weight: Tensor  # g, of the window's shape
    norm: Tensor  # G, of the padded shape

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
        norm = torch.zeros(padded, dtype=weight.dtype)
        for box in boxes:
            norm[box] += weight
        return cls(shape, roi, before, after, boxes, weight, norm)

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

    def pairs(self, batch: int) -> list[tuple[int, Box]]:
        """Every window of every sample."""
        return [(n, box) for n in range(batch) for box in self.boxes]

    def touching(self, mask: Tensor, sample: int) -> list[tuple[int, Box]]:
        """The sample's windows in which a padded mask is anywhere true."""
        return [(sample, box) for box in self.boxes if bool(mask[box].any())]

    def windows(self, x: Volume5d, pairs: Sequence[tuple[int, Box]], cval: float, padding_mode: str) -> Volume5d:
        """The given windows of the padded scan, (w, c, *roi)."""
        padded = self._pad(x, cval, padding_mode)
        return torch.stack([padded[(n, slice(None), *box)] for n, box in pairs])

    def _pad(self, x: Volume5d, cval: float, padding_mode: str) -> Volume5d:
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

    def unpadded(self, gradient: Volume5d, x: Volume5d, cval: float, padding_mode: str) -> Volume5d:
        """The adjoint of padding: what a gradient on the padded scan means on the scan."""
        if not self.is_padded or padding_mode == "constant":
            return self.cropped(gradient).contiguous()
        with torch.enable_grad():
            leaf = x.detach().to(gradient).requires_grad_()
            (back,) = torch.autograd.grad(self._pad(leaf, cval, padding_mode), leaf, gradient)
        return back


def _three(values: Iterable[int]) -> Shape:
    i, j, k = values
    return i, j, k
