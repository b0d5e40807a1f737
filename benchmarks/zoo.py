"""MONAI's networks in 3D, small but structurally complete, in a state in which leaks of relevance show.

A fresh network flatters a method: its norms neither scale nor shift, and its running statistics are those of no
data at all. `prepared` draws the affine part of every norm that has one, and lets every batch norm see scans.
"""

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks import nets
from torch import Tensor, nn

__all__ = ["Entry", "prepared", "volume", "zoo"]

NORMS = (nn.BatchNorm3d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Entry:
    """A network, the input that it is made for, and which of several outputs counts."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    output: int | str | Callable[[Any], Tensor] | None = None


def zoo() -> list[Entry]:
    """Classifiers first, then segmenters; one input channel, two or three classes."""
    # Sizes at which the deepest convolutions still see 2 x 2 x 2 voxels or more; unequal axes where that is cheap.
    small, oblong, large = (32, 32, 32), (64, 48, 32), (64, 64, 64)
    classes = {"spatial_dims": 3, "in_channels": 1, "num_classes": 3}
    resnet = {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 3, "widen_factor": 0.5}
    maps = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    levels = {"channels": (8, 16, 32, 64, 128), "strides": (2, 2, 2, 2)}
    features = (16, 16, 32, 64, 128, 16)
    tokens = {"hidden_size": 192, "mlp_dim": 768, "num_heads": 6}
    vit = partial(nets.ViT, 1, oblong, 16, **tokens, classification=True, num_classes=3)
    swin = partial(nets.SwinUNETR, 1, 2, feature_size=12)
    nested = partial(nets.BasicUNetPlusPlus, **maps, features=features, deep_supervision=True)
    dynamic = {"kernel_size": [3] * 5, "strides": [1, 2, 2, 2, 2], "upsample_kernel_size": [2] * 4}
    return [
        Entry("DenseNet121", partial(nets.DenseNet121, 3, 1, 3), large),
        Entry("ResNet18", partial(nets.resnet18, **resnet), small),
        Entry("ResNet50", partial(nets.resnet50, **resnet), small),
        Entry("SEResNet50", partial(nets.SEResNet50, **classes), large),
        Entry("EfficientNet-B0", partial(nets.EfficientNetBN, "efficientnet-b0", pretrained=False, **classes), large),
        Entry("ViT", vit, oblong, 0),  # MONAI's default head ends in tanh
        Entry("ViT, linear head", partial(vit, post_activation=None), oblong, 0),
        Entry("UNet", partial(nets.UNet, **maps, **levels), small),
        Entry("UNet, residual", partial(nets.UNet, **maps, **levels, num_res_units=2, norm="batch"), small),
        Entry("BasicUNet", partial(nets.BasicUNet, **maps, features=features), small),
        *(Entry(f"BasicUNetPlusPlus, head {n}", nested, small, n) for n in range(4)),
        Entry("SegResNet", partial(nets.SegResNet, **maps, init_filters=8), small),
        Entry("SegResNetDS", partial(nets.SegResNetDS, **maps, init_filters=8, dsdepth=3), small),
        Entry("DynUNet", partial(nets.DynUNet, **maps, **dynamic, filters=(16, 32, 64, 128, 256)), small),
        Entry("VNet", partial(nets.VNet, **maps), small),
        Entry("AttentionUnet", partial(nets.AttentionUnet, **maps, **levels), small),
        Entry("HighResNet", partial(nets.HighResNet, **maps), small),
        Entry("UNETR", partial(nets.UNETR, 1, 2, oblong, feature_size=8, **tokens), oblong),
        Entry("SwinUNETR", swin, large),
        Entry("SwinUNETR v2", partial(swin, use_v2=True), large),
        Entry("DiNTS", dints, small),
        Entry("FlexibleUNet", partial(nets.FlexibleUNet, 1, 2, "efficientnet-b0", spatial_dims=3), large),
    ]


def dints(blocks: int = 4, depths: int = 3) -> nn.Module:
    """DiNTS with every path of its lattice in use, and each of the five cell operations in turn."""
    paths = 3 * depths - 2
    operations = np.add.outer(np.arange(blocks), np.arange(paths)) % 5
    code = [np.ones((blocks, paths)), operations]
    with redirect_stdout(None):  # it prints advice on input sizes
        space = nets.TopologyInstance(code, channel_mul=0.25, num_blocks=blocks, num_depths=depths)
    return nets.DiNTS(space, in_channels=1, num_classes=2, node_a=torch.ones(blocks + 1, depths))


def prepared(entry: Entry, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with random affine norms and running statistics of scan-like input."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = entry.make().eval()
        for norm in (m for m in net.modules() if isinstance(m, NORMS)):
            if norm.weight is not None:
                norm.weight.uniform_(0.5, 1.5)
            if norm.bias is not None:
                norm.bias.normal_(0.0, 0.3)
        for blank in (p for p in net.parameters() if not p.any()):  # tokens and biases that start at zero
            blank.normal_(0.0, 0.3)
        # The batch norms alone train: dropout and dropped paths would put their noise into the statistics.
        momenta = {m: m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm3d)}
        if momenta:
            for norm in momenta:
                norm.train().momentum = 1.0  # what this pass sees replaces what was there
            net(torch.cat([volume(entry, seed + 1), volume(entry, seed + 2)]))  # two, for a variance at any size
            for norm, momentum in momenta.items():
                norm.eval().momentum = momentum
    return net


def volume(entry: Entry, seed: int = 0, *, air: bool = True) -> Tensor:
    """A scan-like (1, 1, i, j, k): smooth blobs and noise of mean 0 and variance 1, with air (exact zeros) around."""
    draw = torch.Generator().manual_seed(seed)
    border = min(entry.shape) // 16 if air else 0
    inner = [n - 2 * border for n in entry.shape]
    blobs = F.interpolate(torch.randn(1, 1, 6, 6, 6, generator=draw), inner, mode="trilinear", align_corners=True)
    body = blobs + 0.3 * torch.randn(1, 1, *inner, generator=draw)
    return F.pad((body - body.mean()) / body.std(), [border] * 6)
