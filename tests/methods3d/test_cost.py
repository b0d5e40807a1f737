"""What a map costs, counted: floating-point operations in forward passes, and memory in copies of the scan."""

import pytest
import torch
from _flops import flops
from monai.networks.nets import UNet
from torch import nn

from methods3d import (
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    PredictedRegion,
    RegionScore,
    Saliency,
    TorchModel,
    WindowedModel,
)
from methods3d.memory import PeakBytes


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(3, 1, 2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1).eval()


@pytest.fixture
def scan():
    return torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


WHOLE = RegionScore(1, torch.ones(32, 32, 32, dtype=torch.bool))


def test_a_gradient_costs_two_passes(net, scan):
    model = TorchModel(net)
    once = flops(lambda: model.output(scan))
    assert once > 1e7
    for method in (Saliency(), InputXGradient()):
        assert flops(lambda m=method: m(model, scan, WHOLE)) <= 2.05 * once


@pytest.mark.parametrize("steps", [40, 64])
def test_integrated_gradients_cost_two_passes_a_point(net, scan, steps):
    model = TorchModel(net)
    once = flops(lambda: model.output(scan))
    model.output(torch.cat([scan, -scan]))  # whether samples mix is found out once
    cost = flops(lambda: IntegratedGradients(steps=steps, tolerance=0)(model, scan, WHOLE))
    assert 2 * steps * once < cost <= 2.05 * steps * once


def test_in_windows_a_nonlinear_target_costs_a_pass_and_a_cam_two(net, scan, targets, counted):
    model = WindowedModel(net, 16, overlap=0.0)
    model.output(scan)
    windows, nonlinear = 8, targets.SoftRegion(torch.ones(32, 32, 32))
    for method, target, passes in (
        (Saliency(), WHOLE, 1),
        (Saliency(), nonlinear, 2),
        (GradCAM(layer="model.0"), WHOLE, 2),
        (GradCAM(layer="model.0"), nonlinear, 3),
    ):
        with counted(net) as count:
            method(model, scan, target)
        assert count.samples == passes * windows


class Classes(nn.Module):
    """A cheap network of so many classes, whose windows hold little beside the scan."""

    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv3d(1, classes, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("kind", ["given region", "predicted region", "nonlinear"])
def test_memory_beside_a_window_batch_in_copies_of_the_scan(targets, classes, kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WindowedModel(Classes(classes), 16, sw_batch_size=1, overlap=0.25, mode="gaussian")
    shape = (160, 160, 96)
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[40:80, 40:80, 20:60] = True
    target = {
        "given region": RegionScore(classes - 1, mask),
        "predicted region": PredictedRegion(min(1, classes - 1)),
        "nonlinear": targets.SoftRegion(mask),
    }[kind]
    copy = x.numel() * x.element_size()
    with PeakBytes() as window:
        model.gradient(x[..., :16, :16, :16], RegionScore(classes - 1, torch.ones(16, 16, 16, dtype=torch.bool)))
    with PeakBytes() as peak:
        Saliency()(model, x, target)
    copies = 1 + (peak.bytes - window.bytes) / copy  # the scan itself is one
    assert copies < (3 if kind == "given region" else 2 * classes + 3)
