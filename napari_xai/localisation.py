"""Where relevance lies, measured against a known lesion."""

import numpy as np
import torch

from xai_io import Volume

__all__ = ["concentration", "peak"]


def concentration(relevance: Volume, lesion: np.ndarray, brain: np.ndarray) -> float:
    """Share of positive relevance inside the lesion, over the lesion's share of the brain.

    Parameters
    ----------
    relevance : (1, i, j, k).
    lesion, brain : (i, j, k) bool on the same grid; the lesion counts as brain.

    Returns
    -------
    1 where relevance is spread evenly over the brain; 0 where there is none.
    """
    positive = np.clip(relevance.data[0].astype(np.float64), 0, None)
    if positive.sum() == 0:
        return 0.0
    share = positive[lesion].sum() / positive.sum()
    return float(share / (lesion.sum() / (brain | lesion).sum()))


def peak(relevance: Volume, smoothing: float = 4.0) -> tuple[int, int, int]:
    """The voxel of largest relevance after Gaussian smoothing (full width at half maximum in mm)."""
    from monai.networks.layers import GaussianFilter

    sigma = [smoothing / 2.3548 / s for s in relevance.spacing]
    smooth = GaussianFilter(3, sigma)(torch.as_tensor(relevance.data[:1], dtype=torch.float32)[None])[0, 0]
    i, j, k = np.unravel_index(int(smooth.argmax()), relevance.shape)
    return int(i), int(j), int(k)
