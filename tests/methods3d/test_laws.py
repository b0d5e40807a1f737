"""Laws that hold for every method, or for every method whose theory states them."""

import itertools
from dataclasses import fields

import pytest
import torch
from torch import nn

from methods3d import (
    LRP,
    Cancelled,
    ClassScore,
    IntegratedGradients,
    ModelInfo,
    PredictedRegion,
    RegionScore,
    TorchModel,
    WindowedModel,
    method,
    methods,
)

NAMES = tuple(methods())
SEEDED = tuple(name for name in NAMES if "seed" in {f.name for f in fields(method(name))})
OF_FEATURES = ("ablation", "lime", "kernel-shap", "shapley-sampling", "sobol", "hsic")
GRADIENTS = ("saliency", "input-x-gradient", "integrated-gradients", "guided-ig", "blur-ig", "expected-gradients")
GRADIENTS += ("gradient-shap", "smoothgrad", "squaregrad", "vargrad")
COMPARED = ("deeplift", "deeplift-shap")
IGNORING = (*GRADIENTS, *COMPARED, "guided-backprop", "deconvnet", "lrp", "clrp", "occlusion")
IGNORING += ("ablation", "kernel-shap", "shapley-sampling", "sobol")
INFO = ModelInfo(spacing=(1.0, 1.0, 1.0), air=-9.0)  # nothing of the noise is air


def settings_for(name):
    """What makes a method's map a linear, signed one."""
    signed = {"saliency": {"absolute": False}, "clrp": {"positive": False}}
    return signed.get(name, {"relu": False} if "relu" in {f.name for f in fields(method(name))} else {})


def case(make, volume, name, batch=1):
    """A network, a scan and a target that the method serves."""
    if name == "cam":
        return make("plain", 2), volume(batch, 2, 16, 16, 16), ClassScore(1)
    return make("unet", 2), volume(batch, 2, 16, 16, 16), PredictedRegion(1)


@pytest.mark.parametrize("windows", [None, 12])
@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_equals_the_first_bit_for_bit(make, volume, smallest, name, windows):
    net, x, target = case(make, volume, name)
    if name == "cam" and windows:
        pytest.skip("a classifier has no windows")
    model = TorchModel(net, info=INFO)
    model = model if windows is None else WindowedModel(model, windows, overlap=0.5)
    one, two = (smallest(name)(model, x, target) for _ in range(2))
    assert torch.equal(one.values, two.values)
    assert torch.equal(one.scores, two.scores)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_samples(make, volume, smallest, name):
    net, x, target = case(make, volume, name, batch=2)
    both = smallest(name)(TorchModel(net, info=INFO), x, target)
    for n in range(2):
        alone = smallest(name)(TorchModel(net, info=INFO), x[n : n + 1], target)
        # Convolutions of other batch sizes sum in another order.
        torch.testing.assert_close(both.values[n : n + 1], alone.values, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(both.scores[n : n + 1], alone.scores)
        for cause, kept in alone.absorbed.items():
            torch.testing.assert_close(both.absorbed[cause][n : n + 1], kept, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cam"])
def test_one_window_that_holds_the_scan_is_the_dense_model(make, volume, smallest, name):
    net, x, target = case(make, volume, name)
    dense, windowed = (
        smallest(name)(m, x, target)
        for m in (TorchModel(net, info=INFO), WindowedModel(TorchModel(net, info=INFO), 16))
    )
    # g / G is one up to rounding; the fit of a mask multiplies it up.
    loose = 1e-6 if name == "extremal-perturbation" else 1e-9
    torch.testing.assert_close(windowed.values, dense.values, rtol=loose, atol=loose * 1e-3)
    torch.testing.assert_close(windowed.scores, dense.scores)
    assert windowed.absorbed.keys() == dense.absorbed.keys()
    for cause, kept in dense.absorbed.items():
        torch.testing.assert_close(windowed.absorbed[cause], kept, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_repeats_bits_and_another_does_not(make, volume, smallest, name):
    net, x, target = case(make, volume, name)
    torch.manual_seed(1)  # of no consequence
    first = smallest(name, seed=3)(TorchModel(net, info=INFO), x, target).values
    torch.manual_seed(2)
    again, other = (smallest(name, seed=n)(TorchModel(net, info=INFO), x, target).values for n in (3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("windows", [None, 12])
@pytest.mark.parametrize("name", IGNORING)
def test_a_channel_that_the_network_ignores_gets_nothing(make, volume, smallest, name, windows):
    net, x = make("gated", 3), volume(1, 3, 16, 16, 16)
    with torch.no_grad():
        net.a.weight[:, 1] = 0
    model = TorchModel(net, info=INFO)
    model = model if windows is None else WindowedModel(model, windows)
    asked = smallest(name, **({"features": "channels"} if name in OF_FEATURES else {}))
    found = asked(model, x, RegionScore(1, torch.ones(16, 16, 16)))
    assert found.values.shape == x.shape  # one volume for each channel
    # Perturbation adds and takes away whole scores: zero up to rounding.
    assert found.values[:, 1].abs().max() < 1e-13
    assert found.values[:, 0].abs().max() > 0


# What these show is of the scan, of activations, or of a fit; and a softmax shares one among channels that do nothing.
WHATEVER = (
    "random",
    "edges",
    "input",
    "eigen-cam",
    "fem",
    "smoe-scale",
    "score-cam",
    "is-cam",
    "extremal-perturbation",
)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHATEVER])
def test_a_network_that_sees_nothing_has_no_map_and_it_says_so(make, volume, smallest, name):
    net, x, _ = case(make, volume, "cam")
    with torch.no_grad():
        net[-1].weight.zero_()
    found = smallest(name)(TorchModel(net, info=INFO), x, ClassScore(1))
    assert found.values.abs().max() < 1e-15
    assert any("the map is zero everywhere" in w for w in found.warnings), found.values.abs().max()


class Doubled(nn.Module):
    """The same function as a sum of two convolutions, whose weights are halves, after an identity."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv3d(conv.in_channels, conv.out_channels, 3, padding=1).double() for _ in range(2))
        with torch.no_grad():
            for part in (self.a, self.b):
                part.weight.copy_(conv.weight / 2)
                part.bias.copy_(conv.bias / 2)

    def forward(self, x):
        return self.a(x * 1) + self.b(x)


BLACK_BOX = (*GRADIENTS, "occlusion", *OF_FEATURES, "rise", "extremal-perturbation", "xrai")


@pytest.mark.parametrize("name", BLACK_BOX)
def test_how_a_function_is_implemented_changes_nothing(make, volume, smallest, name):
    """Sundararajan et al. 2017, sec. 2.2; LRP and CAM do not promise it."""
    net, x = make("plain"), volume(1, 1, 16, 16, 16)
    other = nn.Sequential(Doubled(net[0]), *net[1:])
    torch.testing.assert_close(other(x), net(x))
    one, two = (smallest(name)(TorchModel(n, info=INFO), x, ClassScore(1)).values for n in (net, other))
    loose = 1e-6 if name in ("extremal-perturbation", "hsic") else 1e-9  # a fit; a median distance
    torch.testing.assert_close(two, one, rtol=loose, atol=loose * one.abs().max().item())


# A path that gradients choose, what is cut at zero or contrasted, and squares are not linear in the score.
LINEAR = ("saliency", "input-x-gradient", "integrated-gradients", "blur-ig", "expected-gradients", "gradient-shap")
LINEAR += ("smoothgrad", *COMPARED, "lrp", "occlusion", "ablation", "rise", "lime", "kernel-shap", "shapley-sampling")
LINEAR += ("grad-cam", "xgrad-cam", "hires-cam", "internal-influence", "conductance", "layer-attribution")


@pytest.mark.parametrize("name", LINEAR)
def test_the_map_of_a_sum_of_scores_is_the_sum_of_maps(make, volume, smallest, targets, name):
    net, x = make("unet", 2), volume(1, 2, 16, 16, 16)
    a, b = volume(1, 2, 16, 16, 16, seed=3), volume(1, 2, 16, 16, 16, seed=4)
    asked = smallest(name, **settings_for(name), **({"average": "everywhere"} if name == "grad-cam" else {}))
    for model in (TorchModel(net, info=INFO), WindowedModel(TorchModel(net, info=INFO), 12)):
        one, two, both = (asked(model, x, targets.Weighted(w)).values for w in (a, b, 3 * a - b))
        torch.testing.assert_close(both, 3 * one - two, rtol=0, atol=1e-8 * one.abs().max().item())


# --- turned scans ---


def mirrored(net: nn.Module) -> nn.Module:
    """Kernels averaged over all flips and permutations of the axes: pointwise and symmetric."""
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv3d):
                w = sum(m.weight.permute(0, 1, *axes) for axes in itertools.permutations((2, 3, 4))) / 6
                for axis in (2, 3, 4):
                    w = (w + w.flip(axis)) / 2
                m.weight.copy_(w)
    return net


TURNS = {
    "flip i": lambda t: t.flip(2),
    "flip j, k": lambda t: t.flip((3, 4)),
    "rotate axes": lambda t: t.permute(0, 1, 3, 4, 2),
    "swap i, k": lambda t: t.transpose(2, 4),
}
# Noise, masks and supervoxels are drawn on the grid as it is; salience lays its patches from one corner; and which of
# two voxels with gradients of one size moves first is a matter of rounding.
UNTURNED = ("smoothgrad", "squaregrad", "vargrad", "gradient-shap", "smooth-grad-cam++", "rise", "xrai", "random")
UNTURNED += ("salient-relevance", "extremal-perturbation", "guided-ig")


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNTURNED])
def test_a_turned_scan_has_a_turned_map(make, volume, smallest, name, turn):
    net, x = mirrored(make("plain")), volume(1, 1, 12, 12, 12)
    labels = torch.arange(12**3).view(1, 1, 12, 12, 12) // 300  # regions of no symmetry
    layer = {"layer": "3"} if "layer" in {f.name for f in fields(method(name))} else {}
    small = {"size": 6.0, "stride": 2.0} if name == "occlusion" else {}

    other = volume(1, 1, 12, 12, 12, seed=5)  # where a flat baseline is the largest in a pool is a matter of order

    def asked(its_labels, its_other):
        own = {"features": its_labels[0, 0], "baseline": its_other, "baselines": its_other}
        own = {key: value for key, value in own.items() if key in {f.name for f in fields(method(name))}}
        return smallest(name, **layer, **small, **own, **settings_for(name))

    model = TorchModel(net, info=INFO)
    straight = asked(labels, other)(model, x, ClassScore(1))
    turned = asked(turn(labels), turn(other))(model, turn(x), ClassScore(1))
    assert straight.values.abs().max() > 0
    torch.testing.assert_close(turn(straight.values), turned.values, rtol=1e-8, atol=1e-11)


# --- completeness ---


@pytest.mark.parametrize(
    ("name", "settings", "tolerance"),
    [
        ("integrated-gradients", {"steps": 24}, 1e-6),
        ("blur-ig", {"steps": 24}, 1e-3),  # on voxels a Gaussian far below one is not smooth in its width
        ("guided-ig", {"steps": 200}, 2e-2),  # a left Riemann sum
        ("expected-gradients", {"samples": 400, "baselines": 0.0}, 2e-3),  # one place drawn in each of 400 pieces
        ("conductance", {"steps": 64, "layer": "a"}, 1e-3),  # trapezoids
        ("deeplift", {}, 1e-10),
        ("deeplift-shap", {}, 1e-10),
        ("fullgrad", {}, 1e-10),
        ("lrp", {}, 1e-10),
        ("kernel-shap", {"features": "grid(8)"}, 1e-10),
        ("shapley-sampling", {"features": "grid(8)"}, 1e-10),
        ("layer-attribution", {"of": IntegratedGradients(steps=24, tolerance=0), "layer": "a"}, 1e-6),
        ("layer-attribution", {"of": LRP(), "layer": "a"}, 1e-10),
    ],
    ids=str,
)
@pytest.mark.parametrize("windows", [None, 12])
def test_what_is_promised_arrives(make, volume, smallest, name, settings, tolerance, windows):
    net, x = make("smooth"), volume(1, 1, 16, 16, 16)
    model = TorchModel(net, info=INFO)
    model = model if windows is None else WindowedModel(model, windows)
    found = smallest(name, **settings)(model, x, RegionScore(1, torch.ones(16, 16, 16)))
    size = max(float(found.values.abs().sum()), float(found.scores.abs()))
    assert float(found.gap.abs()) < tolerance * size
    assert float(found.gap.abs()) < 0.05 * float(found.scores.abs())


# --- what is the caller's ---


@pytest.mark.parametrize("windows", [None, 12])
@pytest.mark.parametrize("name", NAMES)
def test_network_and_scan_are_left_as_they_were(make, volume, smallest, unchanged, name, windows):
    net, x, target = case(make, volume, name)
    if name == "cam" and windows:
        pytest.skip("a classifier has no windows")
    net.train()(x).sum().backward()
    x.requires_grad_()
    model = TorchModel(net, info=INFO)
    model = model if windows is None else WindowedModel(model, windows)
    with unchanged(net, x):
        found = smallest(name)(model, x, target)
    assert not found.values.requires_grad
    assert found.values.data_ptr() != x.data_ptr()

    def stop(done, total, partial=None):
        if done:
            raise Cancelled("enough")

    with unchanged(net, x), pytest.raises(Cancelled):
        smallest(name)(model, x, target, progress=stop)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("windows", [None, 12])
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_finds_what_the_cpu_finds(make, volume, smallest, name, windows):
    net, x, target = case(make, volume, name)
    if name == "cam" and windows:
        pytest.skip("a classifier has no windows")
    maps = []
    for device in ("cpu", "cuda"):
        model = TorchModel(net.to(device), info=INFO)
        model = model if windows is None else WindowedModel(model, windows)
        maps.append(smallest(name)(model, x, target).values)
    assert maps[1].device == x.device
    # float64 on both; other convolution algorithms. A fit multiplies the difference up.
    loose = 1e-3 if name in ("extremal-perturbation", "guided-ig") else 1e-6
    torch.testing.assert_close(maps[1], maps[0], rtol=loose, atol=loose * maps[0].abs().max().item())
