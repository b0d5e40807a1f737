"""The bounds that a model's own intensity scaling leaves, from the transforms and on a scan."""

import numpy as np
import pytest
from monai.transforms import (
    ClipIntensityPercentilesd,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)

from napari_xai.intensity import intensity_bounds
from napari_xai.scan_space import ModelSpace
from xai_io import Volume

KEY = "image"
WINDOW = ScaleIntensityRanged(KEY, -160, 240, -1.0, 2.0, clip=True)


@pytest.mark.parametrize(
    ("transforms", "bounds"),
    [
        ([], None),
        ([Orientationd(KEY, "RAS")], None),
        ([WINDOW], (-1.0, 2.0)),
        ([WINDOW, Orientationd(KEY, "RAS")], (-1.0, 2.0)),
        ([ScaleIntensityRanged(KEY, -160, 240, 0.0, 1.0, clip=False)], None),
        ([ScaleIntensityd(KEY)], (0.0, 1.0)),
        ([ScaleIntensityd(KEY, minv=None, maxv=None, factor=0.5)], None),
        ([ScaleIntensityRangePercentilesd(KEY, 1, 99, 0.0, 1.0, clip=True)], (0.0, 1.0)),
        ([ScaleIntensityRangePercentilesd(KEY, 1, 99, 0.0, 1.0)], None),
        ([ScaleIntensityRangePercentilesd(KEY, 1, 99, 0.0, 1.0, clip=True, relative=True)], None),
        ([NormalizeIntensityd(KEY)], None),
        ([WINDOW, NormalizeIntensityd(KEY)], None),
        ([ClipIntensityPercentilesd(KEY, 1, 99)], None),
    ],
)
def test_the_last_scaling_decides(transforms, bounds):
    assert intensity_bounds(transforms) == bounds


def test_a_scan_lies_within_its_bounds():
    values = np.random.default_rng(0).normal(0, 500, (1, 6, 7, 8)).astype(np.float32)
    space = ModelSpace.of(Volume(values, np.eye(4)), [WINDOW])
    assert space.bounds == (-1.0, 2.0)
    assert float(space.x.min()) >= -1.0
    assert float(space.x.max()) <= 2.0
