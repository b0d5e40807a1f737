"""Gradient methods that are made of others, or read at layers: slow twins, and Captum 0.9 where it is right."""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import Deconvolution as CaptumDeconvolution
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from captum.attr import GuidedGradCam as CaptumGuidedGradCam
from captum.attr import InternalInfluence as CaptumInternalInfluence
from captum.attr import LayerConductance as CaptumLayerConductance
from captum.attr import LayerDeepLift as CaptumLayerDeepLift
from captum.attr import LayerFeatureAblation as CaptumLayerFeatureAblation
from captum.attr import LayerGradientXActivation as CaptumLayerGradientXActivation
from captum.attr import LayerIntegratedGradients as CaptumLayerIntegratedGradients
from captum.attr import NeuronGradient as CaptumNeuronGradient
from captum.attr import NeuronIntegratedGradients as CaptumNeuronIntegratedGradients
from monai.inferers import sliding_window_inference
from monai.visualize import SmoothGrad as MonaiSmoothGrad
from torch import nn

from methods3d import (
    XRAI,
    Ablation,
    ClassScore,
    Conductance,
    Deconvnet,
    DeepLIFT,
    FullGrad,
    GradCAM,
    GuidedBackprop,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    InternalInfluence,
    LayerAttribution,
    LayerUnit,
    Method,
    ModelInfo,
    Occlusion,
    PredictedRegion,
    RegionScore,
    Saliency,
    SmoothGrad,
    SquareGrad,
    TorchModel,
    VarGrad,
    WindowedModel,
    baseline,
)
from methods3d.features import supervoxels

CLOSE = {"rtol": 1e-9, "atol": 1e-14}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def randomly(net, seed=0):
    """Weights and running statistics at random; float64, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    net.double().eval()
    with torch.no_grad():
        for p in net.parameters():
            fan = max(1, p[0].numel()) if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan**0.5)
        for name, b in net.named_buffers():
            if b.is_floating_point():
                b.copy_(torch.rand(b.shape, generator=generator) + (0.5 if name.endswith("var") else -0.5))
    return net


def classifier():
    """ReLUs in modules that run once and not in place, as Captum's hooks need them; layer "3" has 8 of 16 voxels."""
    return randomly(nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv3d(4, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, 3),
    ))  # fmt: skip


def slope(score, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(x), x)[0]


# --- any method on noisy copies ---


@dataclass(frozen=True, kw_only=True)
class Recorded(Method):
    """Another method, whose scans and maps are kept."""

    name: ClassVar[str] = "recorded"
    source: ClassVar[str] = ""
    of: Method
    kept: list

    def attribute(self, model, x, target, progress):
        found = self.of.attribute(model, x, target, progress)
        self.kept.append((x.clone(), target, found.values.clone()))
        return found

    def cost(self, model, shape):
        return self.of.cost(model, shape)


@pytest.mark.parametrize("of", [Saliency(absolute=False), Saliency(), IntegratedGradients(steps=3)], ids=str)
@pytest.mark.parametrize("cls", [SmoothGrad, SquareGrad, VarGrad])
def test_noisy_copies_are_summed_up_as_they_say(volume, cls, of):
    net, x, kept = classifier(), volume(1, 2, 8, 8, 8), []
    found = cls(of=Recorded(of=of, kept=kept), samples=5, noise=0.2, seed=3)(TorchModel(net), x, ClassScore(1))
    assert len(kept) == 5
    maps = np.stack([of(TorchModel(net), copy, ClassScore(1)).values.numpy() for copy, _, _ in kept])
    slow = {
        SmoothGrad: np.mean(maps, 0),
        SquareGrad: np.mean(maps**2, 0),
        VarGrad: np.mean((maps - np.mean(maps, 0)) ** 2, 0),
    }[cls]
    assert np.abs(slow).max() > 0
    np.testing.assert_allclose(found.values.numpy(), slow, rtol=1e-9, atol=1e-12 * np.abs(slow).max())
    assert not np.allclose(maps[0], maps[1], rtol=0.1)
    noise = torch.stack([copy - x for copy, _, _ in kept]) / (0.2 * (x.max() - x.min()))
    # Of 5120 normal numbers the mean has a standard error of 0.014, the deviation one of 0.010.
    assert abs(float(noise.mean())) < 0.06
    assert abs(float(noise.std()) - 1) < 0.04


def test_a_smooth_map_that_adds_up_adds_up_to_the_copies_mean_score(volume):
    net, x, kept = classifier(), volume(1, 2, 8, 8, 8), []
    of = Recorded(of=DeepLIFT(baseline=0.3), kept=kept)
    found = SmoothGrad(of=of, samples=4)(TorchModel(net), x, ClassScore(1))
    change = torch.stack([net(copy)[0, 1] for copy, _, _ in kept]).mean() - net(torch.full_like(x, 0.3))[0, 1]
    assert float(found.values.sum()) == pytest.approx(float(change), rel=1e-10)
    assert abs(float(change)) > 0.01


def test_the_region_is_decided_once_for_all_noisy_copies(make, volume):
    net, x, kept = make("unet"), volume(1, 1, 8, 8, 8), []
    found = SmoothGrad(of=Recorded(of=Saliency(absolute=False), kept=kept), samples=3, noise=0.5)(
        TorchModel(net), x, PredictedRegion(1)
    )
    region = net(x)[0].argmax(0) == 1
    slow = torch.stack([slope(lambda z: net(z)[0, 1][region].mean(), copy) for copy, _, _ in kept]).mean(0)
    assert any(not torch.equal(net(copy)[0].argmax(0) == 1, region) for copy, _, _ in kept)
    torch.testing.assert_close(found.values, slow, **CLOSE)


def test_monais_root_mean_square_is_divided_by_the_number_and_not_its_root(volume):
    """MONAI 1.6.1, SmoothGrad(magnitude=True): sqrt(sum of squares) / n."""
    net, x, n = classifier(), volume(1, 2, 8, 8, 8), 9
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = MonaiSmoothGrad(net, stdev_spread=0.1, n_samples=n, magnitude=True, verbose=False)(x.clone(), index=1)
        torch.manual_seed(0)
        width = (0.1 * (x.max() - x.min())).item()
        copies = [x + torch.normal(0, width, size=x.shape, dtype=torch.float32) for _ in range(n)]
    root_mean_square = torch.stack([slope(lambda z: net(z)[0, 1], c) for c in copies]).pow(2).mean(0).sqrt()
    torch.testing.assert_close(theirs, root_mean_square / n**0.5, **CLOSE)


# --- guided backprop, the deconvnet, guided Grad-CAM ---


@pytest.mark.parametrize("k", [0, 2])
def test_guided_methods_are_captums(volume, k):
    net, x = classifier(), volume(2, 2, 16, 16, 16)
    model, target = TorchModel(net), ClassScore(k)
    for method, theirs in ((GuidedBackprop(), CaptumGuidedBackprop), (Deconvnet(), CaptumDeconvolution)):
        expected = theirs(net).attribute(x.clone(), target=k)
        assert expected.abs().max() > 0
        torch.testing.assert_close(method(model, x, target).values, expected, **CLOSE)
    found = GuidedGradCAM(layer="3")(model, x, target)
    expected = CaptumGuidedGradCam(net, net[3]).attribute(x.clone(), target=k, interpolate_mode="trilinear").detach()
    assert expected.abs().max() > 0
    torch.testing.assert_close(found.values, expected, **CLOSE)


def test_in_windows_guided_grad_cam_is_the_product_of_its_two_maps(make, volume, region):
    net, x = make("unet"), volume(1, 1, 16, 8, 8)
    model, target = WindowedModel(net, 8, overlap=0.5), RegionScore(1, region((16, 8, 8), (2, 14), (2, 7), (0, 8)))
    cam = GradCAM(layer="model.0")(model, x, target).values
    fine = GuidedBackprop()(model, x, target).values
    assert (cam * fine).abs().max() > 0
    torch.testing.assert_close(GuidedGradCAM(layer="model.0")(model, x, target).values, cam * fine, **CLOSE)


# --- full gradients ---

VOXELWISE = ("unet", "segresnet", "gated", "smooth")


def shared(cells, shape):
    """Cells (c, i', j', k') on a grid of the same extent: each shared by the voxels that lie in it or touch it."""
    out = torch.zeros(len(cells), *shape, dtype=cells.dtype)
    for cell in product(*(range(n) for n in cells.shape[1:])):
        box = [slice(u * m // n, -(-(u + 1) * m // n)) for u, m, n in zip(cell, shape, cells.shape[1:], strict=True)]
        voxels = prod(b.stop - b.start for b in box)
        out[(slice(None), *box)] += (cells[(slice(None), *cell)] / voxels)[:, None, None, None]
    return out


@pytest.mark.parametrize("stride", [1, 2])
def test_full_gradients_of_a_small_network_by_hand(volume, region, stride):
    """Conv, batch norm, ReLU, conv: x dT/dx, and each bias times the gradient where it is added."""
    net = randomly(nn.Sequential(
        nn.Conv3d(2, 4, 3, stride=stride, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1)
    ))  # fmt: skip
    x = volume(1, 2, 8, 8, 8)
    mask = region((8 // stride,) * 3, (1, 3), (0, 4), (2, 4))
    conv, norm, _, head = net
    leaf = x.clone().requires_grad_()
    a = F.conv3d(leaf, conv.weight, None, stride, 1)
    first = conv.bias[:, None, None, None].expand(a.shape).detach().clone().requires_grad_()
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * factor
    b = (a + first) * factor[:, None, None, None]
    second = shift[:, None, None, None].expand(b.shape).detach().clone().requires_grad_()
    c = F.conv3d(F.relu(b + second), head.weight, None, 1, 1)
    third = head.bias[:, None, None, None].expand(c.shape).detach().clone().requires_grad_()
    score = (c + third)[0, 1][mask].mean()
    assert float(score.detach()) == pytest.approx(float(net(x)[0, 1][mask].mean()), rel=1e-12)
    parts = [leaf, first, second, third]
    terms = [p.detach() * g for p, g in zip(parts, torch.autograd.grad(score, parts), strict=True)]
    assert float(sum(t.sum() for t in terms)) == pytest.approx(float(score), rel=1e-12)
    slow = sum(shared(t[0].abs(), (8, 8, 8)).sum(0) for t in terms)
    target = RegionScore(1, mask)
    if stride > 1:
        net = nn.Sequential(*net, nn.Upsample(scale_factor=2))
        mask = mask.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
        target = RegionScore(1, mask)
    found = FullGrad()(TorchModel(net), x, target)
    assert all(float(t.abs().sum()) > 1e-3 for t in terms)
    torch.testing.assert_close(found.values[0, 0], slow, **CLOSE)
    assert float(found.gap) == pytest.approx(0, abs=1e-13)


def test_what_a_nonlinear_function_adds_is_its_value_less_its_tangent(volume):
    """SiLU and instance norm, whose derivatives are written out by hand."""
    net = randomly(nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.SiLU(), nn.InstanceNorm3d(2, affine=True)))
    x = volume(1, 1, 8, 8, 8)
    weights = volume(1, 2, 8, 8, 8, seed=9)
    mask = weights[0, 1] > 0
    conv, _, norm = net
    z = conv(x).detach()
    s = torch.sigmoid(z)
    silu = z * s
    bent = silu - z * (s + z * s * (1 - s))
    # y = w (h - m) / r + b with the mean m and r^2 = v + eps: the derivative of y along h is w (h - m) eps / r^3.
    m, v = silu.mean((2, 3, 4), keepdim=True), silu.var((2, 3, 4), keepdim=True, unbiased=False)
    w, b = (p.detach()[:, None, None, None] for p in (norm.weight, norm.bias))
    r = (v + norm.eps).sqrt()
    out = w * (silu - m) / r + b
    added = out - w * (silu - m) * norm.eps / r**3
    g_out = torch.zeros_like(out)
    g_out[0, 1][mask] = 1 / int(mask.sum())
    unit = (silu - m) / r
    g_silu = w / r * (g_out - g_out.mean((2, 3, 4), keepdim=True) - unit * (g_out * unit).mean((2, 3, 4), keepdim=True))
    g_z = g_silu * (s + z * s * (1 - s))
    g_x = F.conv_transpose3d(g_z, conv.weight.detach(), padding=1)
    bias = conv.bias.detach()[:, None, None, None]
    terms = [x * g_x, bias * g_z, bent * g_silu, added * g_out]
    torch.testing.assert_close(out, net(x).detach())
    found = FullGrad()(TorchModel(net), x, RegionScore(1, mask))
    slow = sum(t.abs().sum(1) for t in terms)
    torch.testing.assert_close(found.values[0], slow, rtol=1e-9, atol=1e-12 * slow.max().item())
    assert float(sum(t.sum() for t in terms)) == pytest.approx(float(found.scores), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "windows"),
    [(name, False) for name in ("densenet", "tokens", *VOXELWISE)] + [(name, True) for name in VOXELWISE],
)
def test_full_gradients_add_up_to_the_score(make, volume, name, windows):
    net, x, classifies = make(name), volume(2, 1, 16, 16, 16), name not in VOXELWISE
    model = WindowedModel(net, 12) if windows else TorchModel(net)
    target = ClassScore(1) if classifies else PredictedRegion(1, by=0.3)
    found, plain = FullGrad()(model, x, target), InputXGradient()(model, x, target)
    size = found.scores.abs().maximum(plain.values.abs().flatten(1).sum(1))
    assert bool((found.gap.abs() < 1e-12 * size).all())
    without = (plain.scores - plain.values.flatten(1).sum(1)).abs()
    assert bool((without > 1e-3 * size).any())  # the biases have something to add
    assert bool((found.values >= 0).all())
    assert found.values.shape == (2, 1, 16, 16, 16)


# --- XRAI ---


@pytest.mark.parametrize("count", [2, 30])
def test_regions_are_taken_greedily(volume, count):
    net, x = classifier(), volume(1, 2, 12, 12, 12)
    x[..., :3] = 0.0  # air
    info = ModelInfo(spacing=(1.0, 1.0, 2.5), air=0.0)
    model, target = TorchModel(net, info=info), ClassScore(1)
    voxelwise = InputXGradient()(model, x, target).values[0].sum(0).numpy()
    divisions = [supervoxels(x, max(2, round(count * share)), info)[0].numpy() for share in (1.0, 0.5, 0.25)]
    regions = [division == n for division in divisions for n in range(1, division.max() + 1)]
    slow, left, order = np.zeros((12, 12, 12)), np.ones((12, 12, 12), bool), []
    while True:
        gains = [voxelwise[r & left].mean() if (r & left).any() else -np.inf for r in regions]
        best = int(np.argmax(gains))
        if gains[best] == -np.inf:
            break
        slow[regions[best] & left] = gains[best]
        order.append(gains[best])
        left &= ~regions[best]
    found = XRAI(of=InputXGradient(), count=count)(model, x, target)
    assert len(order) > 1
    assert found.values.shape == (1, 1, 12, 12, 12)
    assert slow[..., :3].max() == 0.0 == slow[..., :3].min()
    np.testing.assert_allclose(found.values[0, 0].numpy(), slow, rtol=1e-9, atol=1e-14)


# --- any method at a layer ---


def at_layer(net, n):
    return net[: n + 1], net[n + 1 :]


@pytest.mark.parametrize(("layer", "size"), [("2", 16), ("4", 14)])
def test_at_a_layer_methods_are_captums(volume, layer, size):
    """Summed over channels, each cell shared by its voxels; 14 voxels lie on 5 cells, which share some."""
    net, x, x0 = classifier(), volume(2, 2, size, size, size), 0.3
    model, target, module, base = TorchModel(net), ClassScore(1), net[int(layer)], torch.full_like(x, x0)
    ig = CaptumLayerIntegratedGradients(net, module).attribute(x, base, target=1, n_steps=5, method="gausslegendre")
    pairs = [
        (InputXGradient(), CaptumLayerGradientXActivation(net, module).attribute(x, target=1), CLOSE),
        # Captum rounds the quadrature's weights to float32.
        (IntegratedGradients(steps=5, tolerance=0, baseline=x0), ig, {"rtol": 0, "atol": 1e-7 * ig.abs().max().item()}),
        (DeepLIFT(baseline=x0), CaptumLayerDeepLift(net, module).attribute(x, base, target=1), CLOSE),
    ]
    for of, theirs, close in pairs:
        found = LayerAttribution(of=of, layer=layer)(model, x, target)
        assert theirs.abs().max() > 0
        slow = torch.stack([shared(one.sum(0, keepdim=True), x.shape[2:]) for one in theirs.detach()])
        torch.testing.assert_close(found.values, slow, **close)
        torch.testing.assert_close(found.values.flatten(1).sum(1), theirs.detach().flatten(1).sum(1), rtol=1e-6, atol=0)


def ablated_channels(net, layer, x, base):
    """Captum's sum of all channels' drops, which every voxel has."""
    channels = torch.arange(4)[None, :, None, None, None].expand_as(net[: layer + 1](x[:1]))
    drops = CaptumLayerFeatureAblation(net, net[layer]).attribute(
        x, layer_baselines=base, target=1, layer_mask=channels
    )
    return drops[:, :, :1, :1, :1].sum(1, keepdim=True).expand(-1, 1, *x.shape[2:]).detach()


@pytest.mark.parametrize("fill", [0.3, "tissue"])
def test_what_fills_a_layer_is_its_activation_on_the_scans_baseline(volume, fill):
    net, x = classifier(), volume(2, 2, 16, 16, 16)
    base = net[:3](baseline(fill).volume(x, ModelInfo())).detach()
    found = LayerAttribution(of=Ablation(features="channels", fill=fill), layer="2")(TorchModel(net), x, ClassScore(1))
    torch.testing.assert_close(found.values, ablated_channels(net, 2, x, base), **CLOSE)


def test_a_layers_gap_is_what_it_leaves_of_the_change(volume):
    net, x = classifier(), volume(1, 2, 16, 16, 16)
    for of in (IntegratedGradients(steps=3, tolerance=0, baseline=0.3), DeepLIFT(baseline=0.3)):
        found = LayerAttribution(of=of, layer="0")(TorchModel(net), x, ClassScore(1))
        change = net(x)[0, 1] - net(torch.full_like(x, 0.3))[0, 1]
        assert float(found.gap) == pytest.approx(float(change - found.values.sum()), abs=1e-12)
        assert found.extensive


def resampled(cells, size=(8, 8, 8)):
    return F.interpolate(cells, size=size, mode="trilinear", align_corners=False)


WINDOWS = [slice(0, 8), slice(4, 12), slice(8, 16)]


def two_parts():
    """A voxel-wise network in two parts: the lower's output has half the voxels."""
    lower = nn.Sequential(nn.Conv3d(1, 3, 3, stride=2, padding=1), nn.Tanh())
    upper = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.Softplus(), nn.Upsample(scale_factor=2), nn.Conv3d(4, 2, 1))
    return randomly(nn.Sequential(lower, upper))


@pytest.mark.parametrize("of", ["input-x-gradient", "integrated-gradients", "saliency"])
def test_in_windows_each_windows_layer_has_its_share_of_the_score(volume, region, of):
    """Windows written out: each window's share of the score is a function of its own layer."""
    net, x = two_parts(), volume(1, 1, 16, 8, 8)
    lower, upper = net
    mask = region((16, 8, 8), (2, 13), (2, 7), (0, 8))
    count = torch.zeros(16, 8, 8, dtype=torch.float64)
    for s in WINDOWS:
        count[s] += 1
    slow = torch.zeros(1, 16, 8, 8, dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    for s in WINDOWS:

        def share(a, s=s):
            return (upper(a)[0, 1] * mask[s] / count[s]).sum() / mask.sum()

        a, a0 = (lower(v[:, :, s]).detach() for v in (x, torch.full_like(x, 0.3)))
        if of == "integrated-gradients":
            each = [w / 2 * slope(share, a0 + (t + 1) / 2 * (a - a0)) for t, w in zip(nodes, weights, strict=True)]
            part = (a - a0) * sum(each)
        elif of == "saliency":
            part = slope(share, a)
        else:
            part = a * slope(share, a)
        part = part.sum(1, keepdim=True)
        # A derivative is no amount to be shared: it is read at the voxels.
        slow[:, s] += resampled(part)[0] if of == "saliency" else shared(part[0], (8, 8, 8))
    method = {
        "input-x-gradient": InputXGradient(),
        "integrated-gradients": IntegratedGradients(steps=4, tolerance=0, baseline=0.3),
        "saliency": Saliency(absolute=False),
    }[of]
    model = WindowedModel(net, 8, overlap=0.5, mode="constant")
    found = LayerAttribution(of=method, layer="0")(model, x, RegionScore(1, mask))
    assert slow.abs().max() > 0
    torch.testing.assert_close(found.values[0], slow, **CLOSE)


# --- what goes through a layer ---


def line(x, x0, steps):
    return [x0 + t / steps * (x - x0) for t in range(steps + 1)]


def test_conductance_is_the_sum_over_pieces_of_the_path(volume):
    net, x, x0, n = classifier(), volume(2, 2, 16, 16, 16), 0.3, 6
    lower, upper = at_layer(net, 2)
    slow = []
    for one in x:
        path = [lower(p).detach() for p in line(one[None], torch.full_like(one[None], x0), n)]
        steep = [slope(lambda a: upper(a)[0, 1], a) for a in path]
        cells = sum((steep[p] + steep[p + 1]) / 2 * (path[p + 1] - path[p]) for p in range(n))
        slow.append(shared(cells[0].sum(0, keepdim=True), (16, 16, 16)))
    slow = torch.stack(slow)
    found = Conductance(layer="2", steps=n, baseline=x0)(TorchModel(net), x, ClassScore(1))
    assert slow.abs().max() > 0
    torch.testing.assert_close(found.values, slow, **CLOSE)
    change = net(x)[:, 1] - net(torch.full_like(x, x0))[:, 1]
    torch.testing.assert_close(found.gap, (change - slow.flatten(1).sum(1)).detach(), rtol=0, atol=1e-12)
    assert bool((found.gap.abs() < 0.05 * change.abs()).all())


def test_conductance_and_captums_meet_as_steps_get_finer(make, volume):
    """Captum takes the gradient at each piece's end: exact to a step's size, where trapezoids are to its square."""
    net, x = make("smooth_classifier"), volume(1, 1, 12, 12, 12)
    base, errors = torch.full_like(x, 0.3), []

    def ours(steps):
        return Conductance(layer="0", steps=steps, baseline=0.3)(TorchModel(net), x, ClassScore(1)).values[0]

    exact = ours(512)
    for steps in (8, 64):
        theirs = CaptumLayerConductance(net, net[0]).attribute(
            x, base, target=1, n_steps=steps, method="riemann_trapezoid"
        )
        theirs = shared(theirs[0].detach().sum(0, keepdim=True), (12, 12, 12))
        errors.append([float((v - exact).norm() / exact.norm()) for v in (ours(steps), theirs)])
    (first, captums_first), (last, captums_last) = errors
    assert last < first / 40 < 1e-3
    assert captums_last < captums_first / 6 < 0.1
    assert captums_last > 10 * last


def test_captums_conductance_by_default_leaves_out_the_ends_of_the_path(make, volume):
    """Captum 0.9: differences between Gauss points, of which none lies at the baseline or the scan."""
    net, x = make("smooth_classifier"), volume(1, 1, 12, 12, 12)
    _, theirs = CaptumLayerConductance(net, net[0]).attribute(
        x, torch.full_like(x, 0.3), target=1, n_steps=16, return_convergence_delta=True
    )
    ours = Conductance(layer="0", steps=16, baseline=0.3)(TorchModel(net), x, ClassScore(1))
    assert float(theirs.abs()) > 100 * float(ours.gap.abs())


def test_internal_influence_is_the_mean_gradient_at_the_paths_midpoints(volume):
    net, x, x0, n = classifier(), volume(2, 2, 16, 16, 16), 0.3, 5
    lower, upper = at_layer(net, 2)
    slow = []
    for one in x.split(1):
        base = torch.full_like(one, x0)
        points = [lower(base + (p + 0.5) / n * (one - base)).detach() for p in range(n)]
        slow.append(sum(slope(lambda a: upper(a)[0, 1], a) for a in points).sum(1, keepdim=True) / n)
    slow = torch.cat(slow)
    theirs = CaptumInternalInfluence(net, net[2]).attribute(
        x, torch.full_like(x, x0), target=1, n_steps=n, method="riemann_middle"
    )
    torch.testing.assert_close(theirs.sum(1, keepdim=True).detach(), slow, rtol=0, atol=1e-7 * slow.abs().max().item())
    found = InternalInfluence(layer="2", steps=n, baseline=x0)(TorchModel(net), x, ClassScore(1))
    assert slow.abs().max() > 0
    torch.testing.assert_close(found.values, resampled(slow, (16, 16, 16)), **CLOSE)


def channel_sums(net, n, x, x0, steps, of):
    lower, upper = at_layer(net, n)
    base = torch.full_like(x, x0)
    if of is InternalInfluence:
        points = [lower(base + (p + 0.5) / steps * (x - base)).detach() for p in range(steps)]
        cells = sum(slope(lambda a: upper(a)[0, 1], a) for a in points) / steps
    else:
        path = [lower(p).detach() for p in line(x, base, steps)]
        steep = [slope(lambda a: upper(a)[0, 1], a) for a in path]
        cells = sum((steep[p] + steep[p + 1]) / 2 * (path[p + 1] - path[p]) for p in range(steps))
    return cells[0].flatten(1).sum(1)


@pytest.mark.parametrize("of", [InternalInfluence, Conductance])
def test_the_record_names_the_strongest_channels(volume, of):
    net, x = classifier(), volume(1, 2, 16, 16, 16)
    found = of(layer="2", steps=4, baseline=0.3)(TorchModel(net), x, ClassScore(1))
    sums = channel_sums(net, 2, x, 0.3, 4, of)
    assert found.provenance.parameters["strongest channels"] == sums.abs().argsort(descending=True).tolist()


@pytest.mark.parametrize("of", [InternalInfluence, Conductance])
def test_what_goes_through_a_layer_in_windows(volume, region, of):
    net, x, n = two_parts(), volume(1, 1, 16, 8, 8), 4
    lower, upper = net
    mask = region((16, 8, 8), (2, 13), (2, 7), (0, 8))
    count = torch.zeros(16, 8, 8, dtype=torch.float64)
    for s in WINDOWS:
        count[s] += 1
    slow = torch.zeros(16, 8, 8, dtype=torch.float64)
    base = torch.full_like(x, 0.3)
    for s in WINDOWS:

        def share(a, s=s):
            return (upper(a)[0, 1] * mask[s] / count[s]).sum() / mask.sum()

        if of is Conductance:
            path = [lower(p[:, :, s]).detach() for p in line(x, base, n)]
            steep = [slope(share, a) for a in path]
            cells = sum((steep[p] + steep[p + 1]) / 2 * (path[p + 1] - path[p]) for p in range(n))
        else:
            points = [lower((base + (p + 0.5) / n * (x - base))[:, :, s]).detach() for p in range(n)]
            cells = sum(slope(share, a) for a in points) / n
        cells = cells.sum(1, keepdim=True)
        slow[s] += shared(cells[0], (8, 8, 8))[0] if of is Conductance else resampled(cells)[0, 0]
    model = WindowedModel(net, 8, overlap=0.5, mode="constant")
    found = of(layer="0", steps=n, baseline=0.3)(model, x, RegionScore(1, mask))
    assert slow.abs().max() > 0
    torch.testing.assert_close(found.values[0, 0], slow, **CLOSE)


@pytest.mark.parametrize(
    "method",
    [InternalInfluence(layer="1", steps=3, baseline=0.3), LayerAttribution(of=Saliency(absolute=False), layer="1")],
    ids=["internal-influence", "layer-attribution"],
)
def test_windows_change_no_derivative_of_a_network_that_sees_one_voxel(volume, region, method):
    net, x = randomly(nn.Sequential(nn.Conv3d(1, 3, 1), nn.Tanh(), nn.Conv3d(3, 2, 1))), volume(1, 1, 16, 8, 8)
    target = RegionScore(1, region((16, 8, 8), (2, 13), (2, 7), (0, 8)))
    dense = method(TorchModel(net), x, target).values
    windowed = method(WindowedModel(net, 8, overlap=0.5, mode="constant"), x, target).values
    torch.testing.assert_close(windowed, dense, **CLOSE)


# --- neurons ---


def test_one_neuron_is_captums(volume, region):
    net, x, place = classifier(), volume(1, 2, 8, 8, 8), (3, 4, 6)
    unit = LayerUnit("0", 2, region((8, 8, 8), *((n, n + 1) for n in place)))
    model, selected = TorchModel(net), (2, *place)
    found = Saliency(absolute=False)(model, x, unit)
    expected = CaptumNeuronGradient(net, net[0]).attribute(x.clone(), selected)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found.values, expected, **CLOSE)
    assert float(found.scores) == pytest.approx(float(net[0](x)[(0, *selected)]), rel=1e-12)
    unit = LayerUnit("1", 2, unit.mask)
    found = IntegratedGradients(steps=7, tolerance=0, baseline=-0.2)(model, x, unit)
    expected = CaptumNeuronIntegratedGradients(net, net[1]).attribute(
        x.clone(), selected, torch.full_like(x, -0.2), n_steps=7
    )
    assert expected.abs().max() > 0
    # Captum rounds the quadrature's weights to float32.
    torch.testing.assert_close(found.values, expected.detach(), rtol=0, atol=1e-7 * expected.abs().max().item())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("windows", [False, True], ids=["dense", "windows"])
def test_a_unit_is_the_mean_of_its_channel_on_the_inputs_grid(volume, region, masked, windows):
    net, x = two_parts(), volume(1, 1, 16, 8, 8)
    mask = region((16, 8, 8), (2, 9), (1, 8), (3, 5)) if masked else torch.ones(16, 8, 8, dtype=torch.bool)

    def lower(z):
        return F.interpolate(net[0](z), size=z.shape[2:], mode="trilinear", align_corners=False)

    def score(z):
        if windows:
            return sliding_window_inference(z, (8, 8, 8), 1, lower, overlap=0.5, mode="gaussian")[0, 1][mask].mean()
        return lower(z)[0, 1][mask].mean()

    model = WindowedModel(net, 8, overlap=0.5, mode="gaussian") if windows else TorchModel(net)
    unit = LayerUnit("0", 1, mask if masked else None)
    found = Saliency(absolute=False)(model, x, unit)
    torch.testing.assert_close(found.values, slope(score, x), **CLOSE)
    assert float(found.scores) == pytest.approx(float(score(x)), rel=1e-10)
    occluded = Occlusion(levels=1, size=8, stride=8, unit="voxel", fill=0.3)(model, x, unit)
    for half in (slice(0, 8), slice(8, 16)):
        gone = x.clone()
        gone[:, :, half] = 0.3
        drop = float(score(x) - score(gone))
        assert float(occluded.values[0, 0, half].mean()) == pytest.approx(drop, rel=1e-9)
