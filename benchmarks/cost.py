"""What a map costs: floating-point operations in forward passes, and memory on a large scan in copies of it.

python benchmarks/cost.py [--write docs/results.md]
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _flops import flops
from _tables import machine, table, write
from monai.networks.nets import DenseNet, UNet
from monai.visualize import GradCAM as MonaiGradCAM

from methods3d import (
    CAM,
    LRP,
    ClassScore,
    Contrast,
    DeepLIFT,
    FullGrad,
    GradCAM,
    GradCAMpp,
    HiResCAM,
    IntegratedGradients,
    LayerCAM,
    Method,
    PredictedRegion,
    RegionScore,
    Saliency,
    TorchModel,
    WindowedModel,
    XGradCAM,
)
from methods3d.memory import PeakBytes

SCAN = (512, 512, 256)
WINDOW = 96


def operations() -> str:
    """A classifier and a segmenter, dense: every method that needs one gradient, and integrated gradients."""
    torch.manual_seed(0)
    dense = DenseNet(3, 1, 2, init_features=16, growth_rate=16, block_config=(2, 4, 4)).eval()
    unet = UNet(3, 1, 2, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2).eval()
    x = torch.randn(1, 1, 64, 64, 64)
    rows = []
    methods: list[tuple[str, Method]] = [
        ("saliency", Saliency()),
        ("integrated-gradients, 64 points", IntegratedGradients(steps=64, tolerance=0)),
        *((m.name, m()) for m in (GradCAM, GradCAMpp, XGradCAM, HiResCAM, LayerCAM)),
        ("lrp, epsilon absorbed", LRP(composite="epsilon", bias="absorb")),
        ("lrp", LRP()),
        ("deeplift", DeepLIFT()),
        ("fullgrad", FullGrad()),
    ]
    cost: dict[str, list[float]] = {name: [] for name, _ in methods}
    layers = {}
    for net, target in ((dense, ClassScore(1)), (unet, RegionScore(1, torch.ones(64, 64, 64, dtype=torch.bool)))):
        model = TorchModel(net)
        once = flops(lambda m=model: m.output(x))
        for name, method in methods:
            found: list[Any] = []
            spent = flops(lambda method=method, m=model, t=target, f=found: f.append(method(m, x, t)))
            cost[name].append(spent / once)
            layers[name, type(net).__name__] = found[0].provenance.parameters.get("layer", "")
    for name, (classifier, segmenter) in cost.items():
        rows.append(
            {
                "method": name,
                "DenseNet": f"{classifier:.2f}",
                "UNet": f"{segmenter:.2f}",
                "layer read": ", ".join(filter(None, (layers[name, "DenseNet"], layers[name, "UNet"]))) or "-",
            }
        )
    model = TorchModel(dense)
    once = flops(lambda: model.output(x))
    cam = flops(lambda: CAM()(model, x, ClassScore(1))) / once
    layer = GradCAM()(model, x, ClassScore(1)).provenance.parameters["layer"]
    theirs = flops(lambda: MonaiGradCAM(dense, layer)(x, class_idx=1)) / once
    rows.append({"method": "cam", "DenseNet": f"{cam:.2f}", "UNet": "-", "layer read": "the last"})
    rows.append({"method": "MONAI's GradCAM", "DenseNet": f"{theirs:.2f}", "UNet": "-", "layer read": layer})
    return table(rows)


class Windowed:
    """A network for windows, cheap enough for a processor, with a receptive field and two resolutions."""

    def __init__(self, classes: int) -> None:
        torch.manual_seed(0)
        self.net = UNet(3, 1, classes, channels=(4, 8), strides=(2,)).eval()
        self.model = WindowedModel(self.net, WINDOW, sw_batch_size=1, overlap=0.25, mode="gaussian")


@contextmanager
def resident(found: dict[str, float]) -> Iterator[None]:
    """Peak of what tensors take, by storages that are alive."""
    with PeakBytes() as peak:
        yield
    found["bytes"] = peak.bytes


def memory(classes: int) -> list[dict[str, object]]:
    """Saliency of several questions about a scan of 512 x 512 x 256 in windows of 96."""
    model = Windowed(classes).model
    x = torch.randn(1, 1, *SCAN, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(SCAN, dtype=torch.bool)
    mask[100:220, 150:260, 60:140] = True
    copy = x.numel() * x.element_size()
    one = x[..., :WINDOW, :WINDOW, :WINDOW]
    batch: dict[str, float] = {}
    with resident(batch):
        model.gradient(one, RegionScore(1, torch.ones(one.shape[2:], dtype=torch.bool)))
    rows = []
    for name, target, limit in (
        ("a given region", RegionScore(1, mask), 3.0),
        ("a predicted region", PredictedRegion(1), 2 * classes + 3.0),
        ("a contrast over a given region", Contrast(RegionScore(1, mask)), 2 * classes + 3.0),
    ):
        spent: dict[str, float] = {}
        started = time.perf_counter()
        with resident(spent):
            Saliency()(model, x, target)
        copies = 1 + (spent["bytes"] - batch["bytes"]) / copy
        rows.append(
            {
                "question": name,
                "classes K": classes,
                "copies of the scan": f"{copies:.2f}",
                "limit": f"{limit:g}",
                "met": "yes" if copies < limit else "no",
                "seconds": f"{time.perf_counter() - started:.0f}",
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    rows = [row for classes in (2, 4) for row in memory(classes)]
    text = (
        "Floating-point operations of one map in plain forward passes of the same network, dense, on 64 x 64 x 64 "
        "voxels; layers as the methods choose them (their shapes are found without computing).\n\n"
        f"{operations()}\n\n"
        f"Peak memory of a saliency map of a scan of {' x '.join(map(str, SCAN))} float32 voxels (one copy is "
        f"{4 * SCAN[0] * SCAN[1] * SCAN[2] / 2**20:.0f} MiB) in windows of {WINDOW} with overlap 0.25, blended by a "
        "Gaussian, with K output channels: the scan itself, the map and all else that is alive at once, beside what "
        f"one window batch takes.\n\n{table(rows)}\n\n{machine()}"
    )
    sys.stdout.write(text + "\n")
    if given.write:
        write(given.write, "cost", text)
    if any(row["met"] == "no" for row in rows):
        sys.exit("A limit on memory is not met.")


if __name__ == "__main__":
    main()
