"""Grad-CAM: the formula, the layer that it chooses, and what it must not pass off as a map."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from monai.networks.nets import DenseNet, UNet
from torch import nn

from methods3d import ClassScore, GradCAM, LayerError, PredictedRegion, RegionScore, TorchModel, WindowedModel
from methods3d.cam import chosen_layer


@pytest.mark.parametrize("layer", ["features.denseblock1", "features.transition1.conv", "features.norm5"])
@pytest.mark.parametrize("relu", [True, False])
def test_it_is_captums(make, volume, layer, relu):
    """Captum 0.9, LayerGradCam, at the layer's own size; resampled as we do."""
    net, x = make("densenet", 2), volume(2, 2, 32, 32, 32)
    found = GradCAM(layer=layer, relu=relu)(TorchModel(net), x, ClassScore(1))
    theirs = LayerGradCam(net, net.get_submodule(layer)).attribute(x, target=1, relu_attributions=relu).detach()
    theirs = F.interpolate(theirs, size=x.shape[2:], mode="trilinear", align_corners=False)
    assert theirs.abs().max() > 0 or relu
    torch.testing.assert_close(found.values, theirs, rtol=1e-9, atol=1e-14)


def cells(mask, shape):
    """Whether any voxel of a mask falls into each cell of a coarser grid that divides it."""
    (i, a), (j, b), (k, c) = ((n, m // n) for n, m in zip(shape, mask.shape, strict=True))
    return mask.reshape(i, a, j, b, k, c).any(5).any(3).any(1)


@pytest.mark.parametrize("average", ["region", "everywhere"])
def test_a_slow_cam_of_a_region(make, volume, region, average):
    """Seg-Grad-CAM written out: gradients of the region's mean by autograd, channel by channel."""
    net, x = make("unet"), volume(1, 1, 16, 16, 16)
    mask = region((16, 16, 16), (2, 9), (4, 12), (0, 16))
    kept = {}
    module = net.get_submodule(layer := "model.1.submodule.1")
    handle = module.register_forward_hook(lambda m, a, out: kept.setdefault("a", out))
    y = net(x)
    handle.remove()
    (g,) = torch.autograd.grad(y[0, 1][mask].mean(), kept["a"])
    where = cells(mask, g.shape[2:]) if average == "region" else torch.ones(g.shape[2:])
    assert 0 < where.sum() <= where.numel()
    slow = sum((g[0, c] * where).mean() * kept["a"][0, c].detach() for c in range(g.shape[1])).relu()
    slow = F.interpolate(slow[None, None], size=(16, 16, 16), mode="trilinear", align_corners=False)
    found = GradCAM(layer=layer, average=average)(TorchModel(net), x, RegionScore(1, mask))
    torch.testing.assert_close(found.values, slow, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("average", ["region", "everywhere"])
def test_in_windows_all_share_one_set_of_channel_weights(make, volume, region, average):
    """Written out: weights summed over every window first, then weighted maps blended like predictions."""
    net, x = make("unet"), volume(1, 1, 16, 8, 8)
    mask = region((16, 8, 8), (2, 14), (2, 7), (0, 8))
    layer = "model.0"
    model = WindowedModel(net, 8, overlap=0.5, mode="constant")
    slices = [slice(0, 8), slice(4, 12), slice(8, 16)]
    count = torch.zeros(16, 8, 8, dtype=torch.float64)
    for s in slices:
        count[s] += 1
    weights, maps = 0.0, []
    for s in slices:
        kept = {}
        handle = net.get_submodule(layer).register_forward_hook(lambda m, a, out, kept=kept: kept.update(a=out))
        y = net(x[:, :, s])
        handle.remove()
        (g,) = torch.autograd.grad((y[0, 1] * mask[s] / count[s]).sum() / mask.sum(), kept["a"])
        where = cells(mask[s], g.shape[2:]) if average == "region" else torch.ones(g.shape[2:])
        weights = weights + (g * where).mean((2, 3, 4), keepdim=True)
        maps.append(kept["a"].detach())
    expected = torch.zeros(16, 8, 8, dtype=torch.float64)
    for s, a in zip(slices, maps, strict=True):
        cam = (weights * a).sum(1, keepdim=True).relu()
        expected[s] += F.interpolate(cam, size=(8, 8, 8), mode="trilinear", align_corners=False)[0, 0] / count[s]
    found = GradCAM(layer=layer, average=average)(model, x, RegionScore(1, mask))
    torch.testing.assert_close(found.values[0, 0], expected, rtol=1e-9, atol=1e-14)


def test_over_a_region_weights_survive_a_norm_that_takes_away_their_mean(make, volume, region):
    """Below an instance norm the mean over everything is rounding and borders; over the region it is not."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 2, stride=2), torch.nn.InstanceNorm3d(4), torch.nn.ReLU(),
        torch.nn.Upsample(scale_factor=2), torch.nn.Conv3d(4, 2, 1),
    ).double()  # fmt: skip
    x, target = volume(1, 1, 16, 16, 16), RegionScore(1, region((16, 16, 16), (2, 7), (4, 12), (3, 9)))
    lost = GradCAM(layer="0", average="everywhere", relu=False)(TorchModel(net), x, target)
    kept = GradCAM(layer="0", relu=False)(TorchModel(net), x, target)
    assert any("averages to zero" in warning for warning in lost.warnings)
    assert not kept.warnings
    assert lost.values.abs().max() < 1e-9 * kept.values.abs().max()


# --- nothing below the layer is differentiated ---


class Watched(torch.autograd.Function):
    """Fails when a gradient is asked of it; notes whether a graph was built."""

    graphs = 0

    @staticmethod
    def forward(ctx, x):
        Watched.graphs += any(ctx.needs_input_grad)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise AssertionError("a gradient went below the layer")


class WatchedModule(nn.Module):
    def forward(self, x):
        Watched.graphs += torch.is_grad_enabled()
        return Watched.apply(x)


def test_no_graph_is_built_below_the_layer(volume):
    net = nn.Sequential(
        nn.Conv3d(1, 4, 3), WatchedModule(), nn.Conv3d(4, 4, 3, stride=2), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2),
    ).double()  # fmt: skip
    x = volume(1, 1, 16, 16, 16)
    Watched.graphs = 0
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        found = GradCAM(layer="2")(TorchModel(net), x, ClassScore(1))
    assert found.values.abs().max() > 0
    assert Watched.graphs == 0
    assert not [s for s in saved if max(s[2:], default=0) > 6]  # nothing of the layers below, at 14 voxels, was kept

    with pytest.raises(AssertionError, match="below the layer"):  # the watch can bark
        GradCAM(layer="0")(TorchModel(net), x, ClassScore(1))
    assert Watched.graphs > 0


# --- the layer ---


def shape_of(model, x, name):
    return next(layer.shape for layer in model.layers(x) if layer.name == name)


@pytest.mark.parametrize(
    ("net", "size"),
    [
        (lambda: UNet(3, 1, 2, channels=(4, 8, 8), strides=(2, 2)), 32),
        (lambda: UNet(3, 1, 2, channels=(4, 4, 8, 8, 8), strides=(2, 2, 2, 2), num_res_units=2), 32),
        (lambda: DenseNet(3, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2, 2)), 64),
        (lambda: DenseNet(3, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2)), 32),
    ],
)
def test_the_chosen_layer_is_neither_too_coarse_nor_at_full_resolution(net, size, volume):
    with torch.random.fork_rng(devices=[]):
        model = TorchModel(net().double())
    x = volume(1, 1, size, size, size)
    name = chosen_layer(model, x, "")
    assert 8 <= min(shape_of(model, x, name)) <= size // 2
    found = GradCAM()(model, x, PredictedRegion(1, by=0.01) if model.output(x).ndim == 5 else ClassScore(1))
    assert found.provenance.parameters["layer"] == name  # the choice is reported


def test_a_network_that_never_pools_along_one_axis(volume):
    """Thick slices: k is never halved, yet a layer is found."""
    net = UNet(3, 1, 2, channels=(4, 8, 8), strides=((2, 2, 1), (2, 2, 1))).double()
    model, x = TorchModel(net), volume(1, 1, 32, 32, 5)
    assert shape_of(model, x, chosen_layer(model, x, "")) == (16, 16, 5)


def test_a_pooled_voxel_is_no_layer_to_map(volume):
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten()).double()
    with pytest.raises(LayerError, match=r"No layer of the network lies below full resolution: name one with layer=\."):
        GradCAM()(TorchModel(net), volume(1, 1, 8, 8, 8), ClassScore(1))
    assert GradCAM(layer="0")(TorchModel(net), volume(1, 1, 8, 8, 8), ClassScore(1)).values.shape == (1, 1, 8, 8, 8)


@pytest.mark.parametrize("windows", [None, 16])
@pytest.mark.parametrize("relu", [True, False])
def test_at_the_head_the_map_is_the_prediction_and_says_so(make, volume, windows, relu):
    net, x = make("segresnet"), volume(1, 1, 24, 16, 16)
    model = TorchModel(net) if windows is None else WindowedModel(net, windows)
    head = model.layers(x)[-1].name
    found = GradCAM(layer=head, relu=relu)(model, x, PredictedRegion(1))
    assert any("is the prediction itself" in w for w in found.warnings)
    y = model.output(x)[0, 1]
    both = torch.stack([found.values.flatten(), (y.relu() if relu else y).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.999
    assert not any("prediction" in w for w in GradCAM()(model, x, PredictedRegion(1)).warnings)


def test_below_a_norm_no_channel_has_a_weight_and_it_says_so(make, volume):
    """Instance norm takes away what a whole channel shares, so the gradient of what it reads averages to zero."""
    model, x = TorchModel(make("unet")), volume(2, 1, 16, 16, 16)
    unit = "model.1.submodule.0.conv.unit0"
    below = GradCAM(layer=f"{unit}.conv")(model, x, PredictedRegion(1))
    assert any("averages to zero in every channel" in w for w in below.warnings)
    above = GradCAM(layer=f"{unit}.adn.A")(model, x, PredictedRegion(1))
    assert not above.warnings
    assert below.values.abs().max() < 1e-9 * above.values.abs().max()
    windowed = GradCAM(layer=f"{unit}.conv")(WindowedModel(make("unet"), 12), x, PredictedRegion(1))
    assert any("averages to zero" in w for w in windowed.warnings)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("features.nowhere", "no layer 'features.nowhere'"),
        ("class_layers.flatten", "does not put out a volume"),
        ("unused", "does not run in a forward pass"),
        ("aside", "does not depend on the layer 'aside'"),
        ("class_layers.relu", None),
    ],
)
def test_layers_that_cannot_carry_a_map(make, volume, layer, said):
    net = make("densenet")
    net.unused = nn.Conv3d(1, 1, 1)
    net.aside = nn.Conv3d(1, 1, 1).double()
    handle = net.register_forward_pre_hook(lambda m, args: (m.aside(args[0]), None)[1])
    x = volume(1, 1, 16, 16, 16)
    try:
        if said is None:
            assert GradCAM(layer=layer)(TorchModel(net), x, ClassScore(0)).values.shape == x.shape
            return
        with pytest.raises(LayerError, match=said):
            GradCAM(layer=layer)(TorchModel(net), x, ClassScore(0))
    finally:
        handle.remove()


def test_a_layer_that_runs_twice_is_refused(volume):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    with pytest.raises(LayerError, match="runs more than once"):
        GradCAM(layer="conv")(model := TorchModel(Twice().double()), volume(1, 1, 8, 8, 8), PredictedRegion(1, by=0.01))
    assert [layer.name for layer in model.layers(volume(1, 1, 8, 8, 8))] == []
