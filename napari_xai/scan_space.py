"""From the scan's grid to the model's by the model's own transforms, and back.

The model's spatial transforms (orientation, spacing, crops, pads, resizes) leave an affine behind that says
where every voxel of the model's grid lies in the patient. The way back goes through the world by that
affine, in one interpolation whatever the transforms were: no transform is inverted, so that none can fail to be.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_xai.errors import ExplainError
from napari_xai.intensity import intensity_bounds
from xai_io import Volume, covered

__all__ = ["FieldOfView", "ModelSpace", "WayBack", "check_way_back", "refuse_false_affine"]

WayBack = Literal["interpolate", "sum-preserving"]


@dataclass(frozen=True)
class FieldOfView:
    """What the scan's grid and the model's do not share.

    Attributes
    ----------
    relevance_outside : share of sum |relevance| on the model's grid that lies where the scan has no voxel (padding,
        corners of a turned grid), and so does not come back; 0 where the map is zero.
    scan_unseen : share of the scan's voxels that lie outside the model's grid (cropped away): their relevance is
        zero because the model never saw them.
    """

    relevance_outside: float
    scan_unseen: float


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
        ExplainError : a transform fails on this scan, moves voxels without saying where to, or leaves no volume.
        """
        data = torch.as_tensor(np.ascontiguousarray(scan.data, dtype=np.float32))
        if not preprocessing:
            return cls(scan, data[None], scan)
        from monai.data import MetaTensor
        from monai.transforms import LazyTransform
        from monai.transforms.lazy.functional import apply_pending_transforms

        for transform in _flat(preprocessing):
            refuse_false_affine(transform)
        # Copied, because a transform may work in place and the scan belongs to the caller.
        image = MetaTensor(data.clone(), affine=torch.as_tensor(scan.affine.copy()), meta={"space": "RAS"})
        item = {"image": image}
        for transform in preprocessing:
            before, shape = image.affine, image.shape
            try:
                # Lazy transforms wait for the next one to be done with it; here each is done at once.
                item = apply_pending_transforms(transform(item), ("image",), None)
                image = item["image"]
            except Exception as error:
                raise ExplainError(
                    f"The model's transform {type(transform).__name__} fails on this scan of shape {scan.shape} "
                    f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): "
                    "check that the scan is of the kind that the model was trained on."
                ) from error
            # MONAI's spatial transforms are all LazyTransforms, and only they tell the affine what they do.
            if not isinstance(image, MetaTensor) or not (
                isinstance(transform, LazyTransform)
                or image.shape[1:] == shape[1:]
                or not torch.equal(image.affine, before)
            ):
                raise ExplainError(
                    f"The model's transform {type(transform).__name__} moves voxels without saying where they lie "
                    "afterwards, so that no map could come back to the scan: use MONAI's spatial transforms, with "
                    "track_meta."
                )
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
        seen = torch.as_tensor(painted.resampled_to(self.grid, "nearest").data[0]) > 0
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
        return torch.as_tensor(whole.resampled_to(self.grid, "nearest").data[0]).long()

    def beside(self, other: "ModelSpace") -> Tensor:
        """Another scan's values (c, i, j, k) on this one's model grid, by where they lie; air where there are none."""
        there = Volume(other.x[0].numpy(), other.grid.affine)
        if there.shape == self.grid.shape and np.allclose(there.affine, self.grid.affine, atol=1e-3):
            return other.x[0]
        found = there.resampled_to(self.grid).data
        return torch.as_tensor(np.where(covered(self.grid, there), found, np.float32(other.air)))

    def labels(self, labels: Tensor) -> Volume:
        """A label map (i, j, k) of the model's grid, on the scan's grid, by nearest neighbour."""
        there = self._on_grid(labels[None].to(torch.int16).numpy())
        return there.resampled_to(self.scan, "nearest")

    def back(self, values: Tensor, *, extensive: bool, way: WayBack = "interpolate") -> Volume:
        """A map (c, i, j, k) of the model's grid, on the scan's grid: exactly its shape and affine.

        "interpolate" reads the map at each voxel of the scan; where sums mean something (extensive), values
        are scaled by the ratio of the voxel volumes, so that sums stay comparable. "sum-preserving" hands each
        value to the scan's voxels that it was made from (the transpose of interpolation): sums are kept
        exactly, but for what the model saw outside the scan. Voxels that the model did not see are zero.
        """
        check_way_back(way, extensive=extensive)
        there = self._on_grid(values.detach().cpu().to(torch.float32).numpy())
        if way == "sum-preserving":
            return there.resampled_to(self.scan, "sum-preserving")
        found = there.resampled_to(self.scan)
        if extensive:
            ratio = abs(np.linalg.det(self.scan.affine[:3, :3]) / np.linalg.det(self.grid.affine[:3, :3]))
            found = found.with_data(found.data * np.float32(ratio))
        return found

    @cached_property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Which of the scan's voxels (i, j, k) lie inside the model's grid; elsewhere a map is zero unasked."""
        return covered(self.scan, self.grid)

    def field_of_view(self, values: Tensor) -> FieldOfView:
        """How much of a map (c, i, j, k) of the model's grid, and of the scan, the other one does not hold."""
        weight = values.detach().cpu().abs().sum(0, dtype=torch.float64)
        total = float(weight.sum())
        outside = float(weight[torch.as_tensor(~covered(self.grid, self.scan))].sum())
        return FieldOfView(outside / total if total else 0.0, float(1 - self.seen.mean()))

    def _on_grid(self, values: np.ndarray) -> Volume:
        return Volume(values, self.grid.affine, source=self.scan.source)


def check_way_back(way: WayBack, *, extensive: bool) -> None:
    """Refuse a way back that a map does not allow; ask before the run, since whether sums mean something is known.

    Raises
    ------
    ExplainError : "sum-preserving" for a map whose sum means nothing (CAM, occlusion).
    """
    if way == "sum-preserving" and not extensive:
        raise ExplainError(
            "A sum-preserving return needs a map whose sum means something (gradient x input, LRP): "
            "use way_back='interpolate' for this method."
        )


def _flat(transforms: Sequence[Any]) -> Iterator[Any]:
    """The transforms one by one, those inside a Compose too."""
    for transform in transforms:
        inner = getattr(transform, "transforms", None)
        yield from (transform,) if inner is None else _flat(inner)


def refuse_false_affine(transform: Any) -> None:
    """Refuse the settings with which MONAI 1.6's affine is not where the voxels lie, measured on a planted field."""
    name = type(transform).__name__
    if name == "Spacingd" and transform.spacing_transform.recompute_affine:
        wrong = "recompute_affine=True (the scan's position and rotation are dropped)"
    elif name in ("Resized", "Zoomd") and _setting(transform, "mode") == "nearest":
        wrong = "mode='nearest' (voxels shift by up to half a voxel; 'nearest-exact' or 'trilinear' do not)"
    elif name == "Affined" and transform.affine.resampler.align_corners:
        wrong = "align_corners=True (voxels shift by up to half a voxel)"
    else:
        return
    raise ExplainError(
        f"The model's transform {name} has {wrong}, so that MONAI's affine is not where its voxels lie and a map would "
        "come back to the wrong place: change that setting in the bundle's config."
    )


def _setting(transform: Any, name: str) -> Any:
    """A setting that a dictionary transform holds once per key, for the image."""
    value = dict(zip(transform.keys, getattr(transform, name), strict=False)).get("image")
    return getattr(value, "value", value)
