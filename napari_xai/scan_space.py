"""From the scan's grid to the model's by the model's own transforms, and back.

The model's spatial transforms (orientation, spacing, crops, pads, resizes) leave an affine behind that says
where every voxel of the model's grid lies in the patient. The way back goes through the world by that
affine, in one interpolation whatever the transforms were: no transform is inverted, so that none can fail to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from napari_xai.errors import ExplainError
from napari_xai.intensity import intensity_bounds
from xai_io import Volume, resampled_to

__all__ = ["ModelSpace", "WayBack"]

WayBack = Literal["interpolate", "sum-preserving"]


@dataclass(frozen=True, eq=False)
class ModelSpace:
    """A scan as a model sees it.

    Attributes
    ----------
    scan : the scan as it was read.
    x : (1, c, i, j, k) float32, what the preprocessing made of it.
    grid : the model's grid: its affine (RAS+ mm) and shape.
    bounds : lowest and highest value that the model's intensity scaling can leave; None if it has no bounds.
    """

    scan: Volume
    x: Tensor
    grid: Volume
    bounds: tuple[float, float] | None = None

    @classmethod
    def of(cls, scan: Volume, preprocessing: Sequence[Any]) -> "ModelSpace":
        """Apply a model's MONAI dictionary transforms (key "image") to a scan.

        Raises
        ------
        ExplainError : a transform fails on this scan, or leaves no volume.
        """
        data = torch.as_tensor(np.ascontiguousarray(scan.data, dtype=np.float32))
        if not preprocessing:
            return cls(scan, data[None], scan)
        from monai.data import MetaTensor

        # Copied, because a transform may work in place and the scan belongs to the caller.
        item = {"image": MetaTensor(data.clone(), affine=torch.as_tensor(scan.affine.copy()), meta={"space": "RAS"})}
        for transform in preprocessing:
            try:
                item = transform(item)
            except Exception as error:
                raise ExplainError(
                    f"The model's transform {type(transform).__name__} fails on this scan of shape {scan.shape} "
                    f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): "
                    "check that the scan is of the kind that the model was trained on."
                ) from error
        image = item["image"]
        values = image.as_tensor().to(torch.float32)
        if values.ndim != 4 or 0 in values.shape:
            raise ExplainError(
                f"The model's preprocessing leaves {tuple(values.shape)} of this scan, which is no volume: "
                "check that the scan is of the kind that the model was trained on."
            )
        affine = np.asarray(image.affine, dtype=np.float64)
        # Zero-stride values: the grid is a place, nobody reads its voxels.
        blank = np.broadcast_to(np.float32(0), (1, *values.shape[1:]))
        grid = Volume(blank, affine, source=scan.source)
        return cls(scan, values[None].contiguous(), grid, intensity_bounds(preprocessing))

    @property
    def air(self) -> float:
        """The background's value in model space: the median over the faces of the volume."""
        faces = [self.x.select(axis, side).flatten() for axis in (2, 3, 4) for side in (0, -1)]
        return float(torch.cat(faces).median())

    def region(self, mask: Volume) -> Tensor:
        """A mask painted on the scan, on the model's grid: (i, j, k) bool, by nearest neighbour.

        Raises
        ------
        ExplainError : the mask has several channels, or lies elsewhere, so that nothing of it is seen by the model.
        """
        if mask.channels != 1:
            raise ExplainError(f"The region has {mask.channels} channels: give a mask with one.")
        painted = mask.with_data((mask.data != 0).astype(np.uint8))
        seen = torch.as_tensor(resampled_to(painted, self.grid, mode="nearest").data[0]) > 0
        if not bool(seen.any()):
            raise ExplainError(
                "No voxel of the region lies inside what the model sees of this scan: "
                "paint the region on the scan itself, and larger than one voxel of the model's grid."
            )
        return seen

    def label_map(self, painted: Volume) -> Tensor:
        """A label map painted on the scan, on the model's grid: (i, j, k) whole numbers, by nearest neighbour.

        Raises
        ------
        ExplainError : it has several channels.
        """
        if painted.channels != 1:
            raise ExplainError(f"The label map has {painted.channels} channels: give one with one.")
        whole = painted.with_data(np.rint(painted.data).astype(np.int32))
        return torch.as_tensor(resampled_to(whole, self.grid, mode="nearest").data[0]).long()

    def beside(self, other: "ModelSpace") -> Tensor:
        """Another scan's values (c, i, j, k) on this one's model grid, by where they lie; air where there are none."""
        there = Volume(other.x[0].numpy(), other.grid.affine)
        if there.shape == self.grid.shape and np.allclose(there.affine, self.grid.affine, atol=1e-3):
            return other.x[0]
        inside = resampled_to(there.with_data(np.ones((1, *there.shape), np.float32)), self.grid, mode="linear").data
        found = resampled_to(there, self.grid, mode="linear").data
        return torch.as_tensor(np.where(inside > 0.5, found, np.float32(other.air)))

    def labels(self, labels: Tensor) -> Volume:
        """A label map (i, j, k) of the model's grid, on the scan's grid, by nearest neighbour."""
        there = self._on_grid(labels[None].to(torch.int16).numpy())
        return resampled_to(there, self.scan, mode="nearest")

    def back(self, values: Tensor, *, extensive: bool, way: WayBack = "interpolate") -> Volume:
        """A map (c, i, j, k) of the model's grid, on the scan's grid: exactly its shape and affine.

        "interpolate" reads the map at each voxel of the scan; where sums mean something (extensive), values
        are scaled by the ratio of the voxel volumes, so that sums stay comparable. "sum-preserving" hands each
        value to the scan's voxels that it was made from (the transpose of interpolation): sums are kept
        exactly, but for what the model saw outside the scan. Voxels that the model did not see are zero.
        """
        there = self._on_grid(values.detach().cpu().to(torch.float32).numpy())
        if way == "sum-preserving":
            if not extensive:
                raise ExplainError(
                    "A sum-preserving return needs a map whose sum means something (gradient x input, LRP): "
                    "use way_back='interpolate' for this method."
                )
            return resampled_to(there, self.scan, mode="adjoint")
        if self.grid.shape == self.scan.shape and np.array_equal(self.grid.affine, self.scan.affine):
            return self.scan.with_data(there.data)
        found = resampled_to(there, self.scan, mode="linear")
        if extensive:
            ratio = abs(np.linalg.det(self.scan.affine[:3, :3]) / np.linalg.det(self.grid.affine[:3, :3]))
            found = found.with_data((found.data * ratio).astype(np.float32))
        return found

    def _on_grid(self, values: np.ndarray) -> Volume:
        return Volume(values, self.grid.affine, source=self.scan.source)
