"""Windows are invisible: the stitched prediction and its gradient are what autograd finds through MONAI's inferer."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer
from torch import nn

from methods3d import (
    LRP,
    ClassScore,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    ModelInfo,
    ModelOutputError,
    Occlusion,
    ParameterError,
    PredictedRegion,
    RegionScore,
    Saliency,
    TargetError,
    TorchModel,
    WindowedModel,
)
from methods3d.grid import Grid

SMALLEST = [Saliency(), InputXGradient(), IntegratedGradients(steps=3, tolerance=0), LRP(), GradCAM()]
BOXES = Occlusion(levels=1, size=8, stride=4, unit="voxel")


def through_monai(net: nn.Module, x: Any, target: Any, **windows: Any) -> tuple[Any, Any, Any]:
    """Prediction, score and gradient by autograd through MONAI 1.6's own inferer: the whole graph at once."""
    leaf = x.clone().requires_grad_()
    y = SlidingWindowInferer(**windows)(leaf, net)
    scores = target.bind(y.detach())(y)
    (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    return y.detach(), scores.detach(), gradient


def assert_exact(net: nn.Module, x: Any, target: Any, **windows: Any) -> None:
    y, scores, gradient = through_monai(net, x, target, **windows)
    found = (model := WindowedModel(net, **windows)).gradient(x, target)
    # float64 sums in another order: 1e-9 of the largest value leaves room for the networks' depth.
    for ours, theirs in ((model.output(x), y), (found.scores, scores), (found.values, gradient)):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * theirs.abs().max().item())


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, (0.0, 0.3, 0.7)])
@pytest.mark.parametrize("kind", ["linear", "region", "nonlinear", "narrow", "no sum"])
def test_gradient_is_autograd_through_monais_inferer(make, volume, region, targets, mode, overlap, kind):
    x = volume(2, 1, 20, 17, 22)
    mask = region(x.shape[2:], (3, 9), (2, 12), (10, 20))
    target = {
        "linear": targets.Weighted(volume(1, 2, 20, 17, 22, seed=5)),
        "region": RegionScore(1, mask),
        "nonlinear": targets.SoftRegion(mask),
        "narrow": targets.SoftRegion(mask, narrow=True),
        "no sum": targets.Largest(1),
    }[kind]
    assert_exact(make("unet"), x, target, roi_size=(8, 8, 12), sw_batch_size=3, overlap=overlap, mode=mode)


@pytest.mark.parametrize(
    "padding", [("constant", 0.0), ("constant", -1.5), ("reflect", 0.0), ("replicate", 0.0), ("circular", 0.0)]
)
def test_a_scan_smaller_than_the_window_is_padded_as_monai_pads_it(make, volume, targets, padding):
    x = volume(2, 1, 11, 18, 9)
    target = targets.SoftRegion(torch.ones(11, 18, 9))
    padding_mode, cval = padding
    assert_exact(
        make("unet"), x, target, roi_size=(16, 8, 12), overlap=0.25, mode="gaussian",
        padding_mode=padding_mode, cval=cval,
    )  # fmt: skip


@pytest.mark.parametrize("roi_size", [-1, (-1, 8, 0), (None, 8, -1), 40])
def test_an_open_roi_size_means_the_scans_own(make, volume, targets, roi_size):
    x = volume(1, 1, 16, 12, 20)
    net = make("gated")
    if roi_size == 40:  # larger than the scan everywhere
        assert_exact(net, x, targets.SoftRegion(torch.ones(16, 12, 20)), roi_size=roi_size, overlap=0.5)
        return
    # MONAI's inferer takes None within a tuple, and a single negative number, alike.
    own = (roi_size,) * 3 if isinstance(roi_size, int) else roi_size
    y, _, gradient = through_monai(net, x, target := targets.SoftRegion(torch.ones(16, 12, 20)), roi_size=own)
    model = WindowedModel(net, roi_size, mode="constant")
    torch.testing.assert_close(model.output(x), y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.gradient(x, target).values, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [*SMALLEST, BOXES], ids=lambda m: m.name)
def test_how_many_windows_run_at_once_changes_nothing(make, volume, targets, region, method):
    net, x = make("unet", 2), volume(2, 2, 16, 16, 20)
    mask = region(x.shape[2:], (0, 8), (4, 12), (4, 16))
    for target in (RegionScore(1, mask), targets.SoftRegion(mask)):
        one, many = (method(WindowedModel(net, (16, 16, 12), sw_batch_size=n, overlap=0.5), x, target) for n in (1, 7))
        # Convolutions of other batch sizes sum in another order.
        torch.testing.assert_close(one.values, many.values, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", [*SMALLEST, BOXES], ids=lambda m: m.name)
def test_a_batch_in_windows_is_its_samples(make, volume, region, method):
    net, x = make("unet"), volume(2, 1, 16, 16, 20)
    masks = torch.stack([region((16, 16, 20), (0, 8), (0, 8), (0, 4)), region((16, 16, 20), (6, 16), (0, 9), (12, 20))])
    model = WindowedModel(net, (16, 16, 12), overlap=0.5)
    for target, singles in (
        (PredictedRegion(1), [PredictedRegion(1)] * 2),
        (RegionScore(1, masks), [RegionScore(1, masks[0]), RegionScore(1, masks[1])]),
    ):
        both = method(model, x, target)
        for n, single in enumerate(singles):
            alone = method(model, x[n : n + 1], single)
            torch.testing.assert_close(both.values[n : n + 1], alone.values, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(both.scores[n : n + 1], alone.scores)
            for cause, kept in alone.absorbed.items():
                torch.testing.assert_close(both.absorbed[cause][n : n + 1], kept, rtol=1e-9, atol=1e-11)


# --- what is not run ---


def windows_touching(mask: Any, model: WindowedModel) -> int:
    grid = Grid.over(tuple(mask.shape), model.roi_size, model.overlap, "constant", (0.125,) * 3, torch.float64)
    return sum(bool(mask[box].any()) for box in grid.boxes)


def test_windows_without_a_seed_are_not_run(make, volume, region, counted, targets):
    net, x = make("unet"), volume(1, 1, 32, 32, 32)
    model = WindowedModel(net, 8, overlap=0.5)
    mask = region((32, 32, 32), (0, 3), (4, 7), (28, 32))
    n = windows_touching(mask, model)
    assert (n, model.passes((32, 32, 32))) == (2, 343)
    assert model.passes((32, 32, 32), RegionScore(1, mask)) == n
    model.output(x)  # whether windows of a batch mix is found out once, by one pass more

    with counted(net) as count:
        model.gradient(x, RegionScore(1, mask))
    assert count.samples == n  # one forward pass each, none to stitch: the target is linear

    with counted(net) as count:
        model.gradient(x, targets.SoftRegion(mask, narrow=True))
    assert count.samples == 2 * n  # once to stitch what is read, once to differentiate

    with counted(net) as count:
        model.gradient(x, targets.Largest(1))
    assert count.samples == 343 + 343  # it does not say what it reads: all once, and those with a seed

    with counted(net) as count:
        LRP()(model, x, RegionScore(1, mask))
    assert count.samples == n

    with counted(net) as count:
        GradCAM(layer="model.0")(model, x, RegionScore(1, mask))
    assert count.samples == n + 343  # gradients where there are any, the map everywhere


def test_each_sample_runs_the_windows_of_its_own_region(make, volume, region, counted):
    net, x = make("unet"), volume(2, 1, 32, 8, 8)
    masks = torch.stack([region((32, 8, 8), (0, 2), (0, 8), (0, 8)), region((32, 8, 8), (30, 32), (0, 8), (0, 8))])
    model = WindowedModel(net, 8, overlap=0.0)
    model.output(x)
    with counted(net) as count:
        found = model.gradient(x, RegionScore(1, masks))
    assert count.samples == 2
    assert found.values[0, :, 8:].abs().max() == found.values[1, :, :24].abs().max() == 0


def test_occlusion_runs_only_the_windows_that_a_box_touches(make, volume, region, counted, targets):
    net, x = make("gated"), volume(1, 1, 32, 8, 8)
    x[..., :16, :, :] = 0  # air: boxes there change nothing
    model = WindowedModel(net, 8, overlap=0.0)  # four windows in a row
    model.output(x)
    method = Occlusion(levels=1, size=8, stride=8, unit="voxel")
    whole = torch.ones(32, 8, 8, dtype=torch.bool)
    one = region((32, 8, 8), (24, 32), (0, 8), (0, 8))

    with counted(net) as count:
        method(model, x, RegionScore(1, whole))
    assert count.samples == 2 * 4 + 2  # bound, clean, and one window for each of two boxes that hold something

    with counted(net) as count:
        found = method(model, x, RegionScore(1, one))
    assert count.samples == 2 * 1 + 1  # the box outside the region's window is free
    assert found.values[..., :24, :, :].abs().max() == 0 < found.values[..., 24:, :, :].abs().min()

    with counted(net) as count:
        method(model, x, targets.SoftRegion(one, narrow=True))
    assert count.samples == 2 * 1 + 2  # bound, stitched, and the touched window clean and occluded


# --- what is refused ---


def test_a_classifier_is_refused_in_one_sentence(make, volume):
    for verb in (
        lambda m, x: Saliency()(m, x, ClassScore(0)),
        lambda m, x: m.output(x),
        lambda m, x: BOXES(m, x, RegionScore(0, torch.ones(16, 16, 16))),
    ):
        with pytest.raises(ModelOutputError, match=r"^A classifier cannot run in windows, .*TorchModel\)\.$"):
            verb(WindowedModel(make("densenet"), 16), volume(1, 1, 16, 16, 16))


def test_an_output_of_another_size_is_refused(volume):
    with pytest.raises(ModelOutputError, match=r"puts out \(6, 6, 6\) voxels for a window of \(8, 8, 8\)"):
        WindowedModel(nn.Conv3d(1, 2, 3).double(), 8).output(volume(1, 1, 8, 8, 8))


def test_a_class_score_of_a_segmentation_names_the_way_out(make, volume):
    with pytest.raises(TargetError, match="PredictedRegion"):
        Saliency()(WindowedModel(make("unet"), 16), volume(1, 1, 16, 16, 16), ClassScore(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"overlap": -0.1}, "overlap is -0.1"),
        ({"mode": "hann"}, "'constant' or 'gaussian'"),
        ({"padding_mode": "wrap"}, "'circular'"),
        ({"sw_batch_size": 0}, "1 or more windows"),
        ({"sigma_scale": 0.0}, "above 0"),
        ({"roi_size": (8, 8)}, "each of the three axes"),
        ({"sw_device": "cuda"}, "the network is on cpu"),
    ],
)
def test_windows_that_cannot_be_are_refused(make, change, said):
    with pytest.raises(ParameterError, match=said):
        WindowedModel(make("unet"), **{"roi_size": 8, **change})


def test_a_scan_too_small_to_reflect_is_refused(make, volume):
    model = WindowedModel(make("unet"), 16, padding_mode="reflect")
    with pytest.raises(ParameterError, match=r"too small to be padded .*'replicate', or a smaller roi_size\.$"):
        model.output(volume(1, 1, 4, 16, 16))


def test_an_empty_region_is_refused_before_anything_runs(make, volume, counted):
    net = make("unet")
    with counted(net) as count, pytest.raises(TargetError, match="The region is empty"):
        Saliency()(WindowedModel(net, 8), volume(1, 1, 16, 16, 16), RegionScore(1, torch.zeros(16, 16, 16)))
    assert count.samples == 0


# --- devices ---


def test_devices_by_name(make, volume):
    net, x = make("unet"), volume(1, 1, 16, 16, 16)
    here = WindowedModel(net, 8, device="cpu", sw_device="cpu").gradient(x, PredictedRegion(1))
    assert torch.equal(here.values, WindowedModel(net, 8).gradient(x, PredictedRegion(1)).values)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("method", [*SMALLEST, BOXES], ids=lambda m: m.name)
def test_a_scan_on_the_cpu_and_a_network_on_the_gpu(make, volume, method):
    net, x = make("unet"), volume(1, 1, 24, 20, 20)
    here = method(WindowedModel(net, 16), x, PredictedRegion(1))
    there = method(WindowedModel(net.cuda(), 16, sw_device="cuda", device="cpu"), x, PredictedRegion(1))
    assert there.values.device == x.device
    # float64 on both; other convolution algorithms.
    torch.testing.assert_close(there.values, here.values, rtol=1e-6, atol=1e-8)


# --- the grid itself ---

shapes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=40, deadline=None)
@given(
    shape=shapes, roi=shapes, overlap=st.floats(0, 0.9), mode=st.sampled_from(["constant", "gaussian"]),
    padding_mode=st.sampled_from(["constant", "replicate"]),
)  # fmt: skip
def test_the_identity_survives_any_windows(shape, roi, overlap, mode, padding_mode):
    x = torch.linspace(-1, 1, 2 * shape[0] * shape[1] * shape[2], dtype=torch.float64).view(1, 2, *shape)
    model = WindowedModel(nn.Identity(), roi, overlap=overlap, mode=mode, padding_mode=padding_mode)
    model.network.register_parameter("none", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    torch.testing.assert_close(model.output(x), x, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, extra=st.tuples(*[st.integers(0, 4)] * 3), mode=st.sampled_from(["constant", "replicate"]))
def test_unpadding_is_the_adjoint_of_padding(shape, extra, mode):
    roi = tuple(s + e for s, e in zip(shape, extra, strict=True))
    grid = Grid.over(shape, roi, (0.0,) * 3, "constant", (0.125,) * 3, torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 1, *shape), generator=generator, dtype=torch.float64)
    g = torch.randn((1, 1, *grid.padded), generator=generator, dtype=torch.float64)
    padded = grid.windows(x, [(0, tuple(slice(0, n) for n in grid.padded))], 0.0, mode)
    left, right = (padded * g).sum(), (x * grid.unpadded(g, x, 0.0, mode)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_spacing_and_names_travel_with_the_model(make):
    info = ModelInfo(spacing=(1.0, 1.0, 3.0), classes={1: "lesion"})
    assert WindowedModel(TorchModel(make("unet"), info=info), 8).info is info
