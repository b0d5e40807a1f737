"""What stands for 'nothing there': the volumes that a scan is compared with."""

import torch

from methods3d.types import Volume5d

__all__ = ["flat_tissue"]


def flat_tissue(x: Volume5d, air: float) -> Volume5d:
    """The scan with all tissue at its channel's mean, and air as it is: anatomy's outline without its contents.

    Tissue is what differs from air by more than a twentieth of the channel's range.
    """
    low, high = x.flatten(2).aminmax(dim=2)
    tissue = (x - air).abs() > ((high - low) / 20)[:, :, None, None, None]
    total, count = (x * tissue).flatten(2).sum(2), tissue.flatten(2).sum(2).clamp(min=1)
    return torch.where(tissue, (total / count)[:, :, None, None, None], x)
