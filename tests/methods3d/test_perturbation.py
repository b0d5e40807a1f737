"""Occlusion against a loop that forgets nothing, and against Captum 0.9 where boxes tile."""

import itertools
from itertools import pairwise

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from monai.visualize import OcclusionSensitivity
from torch import nn

from methods3d import (
    ClassScore,
    ModelInfo,
    Occlusion,
    ParameterError,
    PredictedRegion,
    RegionScore,
    TorchModel,
    WindowedModel,
)


def slow_occlusion(model, x, target, size, stride, fill):
    """Every box of every sample and channel, one full prediction each, one voxel's mean at a time."""
    bound, scores = model.bind(x, target)
    total, cover = torch.zeros_like(x), torch.zeros_like(x)
    starts = [sorted({*range(0, n - size + 1, stride), n - size}) for n in x.shape[2:]]
    for n, c in itertools.product(range(len(x)), range(x.shape[1])):
        for corner in itertools.product(*starts):
            box = (n, c, *(slice(a, a + size) for a in corner))
            occluded = x.clone()
            occluded[box] = fill
            total[box] += scores[n] - bound(model.output(occluded))[n]
            cover[box] += 1
    assert bool((cover > 0).all())  # every voxel is covered
    return total / cover


WINDOWS = {
    "dense": None,
    "windows": {"roi_size": 8, "overlap": 0.5},
    "padded": {"roi_size": (8, 16, 8), "overlap": 0.25, "cval": 0.4, "mode": "constant"},
    "reflected": {"roi_size": (8, 16, 8), "padding_mode": "reflect"},
    "replicated": {"roi_size": (8, 8, 16), "padding_mode": "replicate", "sw_batch_size": 1},
}


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("kind", ["region", "predicted", "linear", "nonlinear"])
def test_it_is_the_slow_loop(make, volume, region, targets, windows, kind):
    net, x = make("gated", 2), volume(1, 2, 12, 11, 10)
    mask = region((12, 11, 10), (0, 6), (3, 9), (2, 5))
    settings = WINDOWS[windows]
    model = TorchModel(net) if settings is None else WindowedModel(net, **settings)
    target = {
        "region": RegionScore(1, mask),
        "predicted": PredictedRegion(1),
        "linear": targets.Weighted(volume(1, 2, 12, 11, 10, seed=8)),
        "nonlinear": targets.SoftRegion(mask, narrow=windows == "windows"),
    }[kind]
    found = Occlusion(levels=1, size=6, stride=4, unit="voxel", fill=-0.3)(model, x, target)
    slow = slow_occlusion(model, x, target, 6, 4, -0.3)
    assert slow.abs().max() > 0
    # Ours adds differences of windows, the loop differences of whole predictions.
    torch.testing.assert_close(found.values, slow, rtol=1e-8, atol=1e-10 * (1 + found.scores.abs().max().item()))


def test_it_is_captums_where_boxes_tile(make, volume):
    net, x = make("densenet", 2), volume(2, 2, 16, 16, 16)
    found = Occlusion(levels=1, size=8, stride=8, unit="voxel", fill=0.2)(TorchModel(net), x, ClassScore(1))
    theirs = CaptumOcclusion(net).attribute(
        x, sliding_window_shapes=(1, 8, 8, 8), strides=(1, 8, 8, 8), baselines=0.2, target=1
    )
    # Captum collects its sums in float32.
    torch.testing.assert_close(found.values, theirs.double(), rtol=0, atol=1e-6 * found.scores.abs().max().item())


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 2), (5, 5), (7, 3), (4, 9)])
def test_boxes_start_at_both_ends_and_stay_inside(size, stride):
    shape = (7, 9, 12)
    [boxes] = Occlusion(levels=1, size=size, stride=stride, unit="voxel").boxes(shape, ModelInfo())
    cover = torch.zeros(shape)
    for box in boxes:
        assert cover[box].shape == (size,) * 3
        cover[box] += 1
    # A stride longer than the box leaves gaps, as asked for; else every voxel is covered.
    assert bool((cover > 0).all()) == (stride <= size)
    assert cover[0, 0, 0] >= 1 <= cover[-1, -1, -1]
    assert len(set(map(str, boxes))) == len(boxes)


def test_mm_are_voxels_of_an_anisotropic_grid():
    info = ModelInfo(spacing=(1.0, 2.0, 5.0))
    [boxes] = Occlusion(levels=1, size=10.0, stride=10.0, unit="mm").boxes((20, 10, 4), info)
    assert {tuple(s.stop - s.start for s in box) for box in boxes} == {(10, 5, 2)}
    assert len(boxes) == 2 * 2 * 2
    [thin] = Occlusion(levels=1, size=1.0, stride=1.0).boxes((2, 2, 2), ModelInfo(spacing=(4.0, 4.0, 4.0)))
    assert len(thin) == 8  # never less than a voxel


def test_boxes_that_hold_only_air_are_not_run(make, volume, counted):
    net, x = make("plain"), volume(1, 1, 16, 16, 16)
    x[:, :, 8:] = -1.0
    method = Occlusion(levels=1, size=8, stride=8, unit="voxel")
    with counted(net) as count:
        found = method(TorchModel(net, info=ModelInfo(air=-1.0)), x, ClassScore(1))
    assert count.samples == 1 + 4 + 1  # clean, boxes, and one alone to see whether samples mix
    assert found.values[:, :, 8:].abs().max() == 0
    with counted(net) as count:
        method(TorchModel(net), x, ClassScore(1))  # air is another value here
    assert count.samples == 1 + 8 + 1


def test_the_drop_of_a_linear_network_is_what_the_box_held(volume):
    """T = <w, x>: covering a box with 0 takes exactly <w, x> over the box away."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4 * 4, 1, bias=False)).double()
    x = volume(1, 2, 4, 4, 4)
    product = (net[1].weight.detach().view_as(x) * x)[0]
    method = Occlusion(levels=1, size=2, stride=2, unit="voxel", fill=0.0)
    found = method(TorchModel(net), x, ClassScore(1)).values[0]
    for c, i, j, k in itertools.product(range(2), *[(0, 2)] * 3):
        box = (c, slice(i, i + 2), slice(j, j + 2), slice(k, k + 2))
        torch.testing.assert_close(found[box], product[box].sum().expand(2, 2, 2), rtol=1e-10, atol=1e-12)


def test_partial_maps_arrive_and_work_is_counted(make, volume, monkeypatch):
    monkeypatch.setattr("methods3d.meter.PARTIAL_EVERY", -1.0)
    monkeypatch.setattr("methods3d.model.AT_ONCE", 3)
    seen = []
    found = Occlusion(levels=1, size=8, stride=8, unit="voxel")(
        TorchModel(make("plain", 2)), volume(1, 2, 16, 16, 16), ClassScore(1),
        progress=lambda done, total, partial=None: seen.append((done, total, partial)),
    )  # fmt: skip
    assert [done for done, _, _ in seen] == [3, 6, 8, 11, 14, 16]
    assert {total for _, total, _ in seen} == {16}
    assert torch.equal(seen[-1][2], found.values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "mm"}, "spacing is unknown, so a length in mm means nothing: give unit='voxel'."),
        ({"size": 17}, "a box of 17 voxel is 17 voxels wide, but the scan has 16: give a smaller size."),
    ],
)
def test_boxes_that_cannot_be(make, volume, change, said):
    with pytest.raises(ParameterError, match=said):
        Occlusion(levels=1, **{"size": 4, "unit": "voxel", **change})(
            TorchModel(make("plain")), volume(1, 1, 16, 16, 16), ClassScore(1)
        )


def test_the_cost_is_an_upper_bound(make, volume, counted, region):
    net, x = make("gated"), volume(1, 1, 16, 16, 16)
    method = Occlusion(levels=1, size=8, stride=8, unit="voxel")
    for model in (TorchModel(net), WindowedModel(net, 8)):
        model.output(torch.cat([x, -x]))  # whether samples mix is found out once
        with counted(net) as count:
            method(model, x, RegionScore(1, region((16, 16, 16), (0, 16), (0, 16), (0, 16))))
        assert count.samples <= method.cost(model, (16, 16, 16)).forward


def test_monais_probabilities_sum_to_more_than_one(volume):
    """MONAI 1.6.1 picks sigmoid or softmax by the *input's* channels; we explain the logit, and pick none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    theirs, _ = OcclusionSensitivity(net, mask_size=4, n_batch=8)(volume(1, 1, 8, 8, 8).float())
    assert not torch.allclose(theirs.sum(1), torch.ones(1), atol=0.05)


# --- from coarse to fine ---


class Bump(nn.Module):
    """The sum of a weighted input: an occlusion by zero drops the score by exactly what it covers."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        total = (x * self.weight).flatten(1).sum(1, keepdim=True)
        return torch.cat([-total, total], 1)


def test_levels_find_what_every_box_finds_at_a_fraction_of_the_cost():
    weight = torch.zeros(32, 32, 32, dtype=torch.float64)
    weight[19:22, 5:8, 11:14] = 1.0
    model, x = TorchModel(Bump(weight)), torch.ones(1, 1, 32, 32, 32, dtype=torch.float64)
    x[..., 0] = 0.999  # not constant
    runs = {1: [], 3: []}
    maps = {
        levels: Occlusion(levels=levels, size=4, stride=2, unit="voxel", fill=0.0)(
            model, x, ClassScore(1), progress=lambda done, total, partial=None, heard=heard: heard.append((done, total))
        ).values[0, 0]
        for levels, heard in runs.items()
    }
    assert maps[3].max() == maps[1].max()
    best = maps[1] == maps[1].max()
    assert torch.equal(maps[3] == maps[1].max(), best)  # the finest boxes reached the place
    assert (best & (weight > 0)).any()
    assert runs[3][-1][0] < 0.2 * runs[1][-1][0]
    assert runs[3][-1][0] == runs[3][-1][1]
    assert all(a <= b for a, b in pairwise(done for done, _ in runs[3]))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_cost_of_levels_is_an_upper_bound(make, volume, channels):
    model = TorchModel(make("plain", channels), info=ModelInfo(channels=channels))
    x = volume(1, channels, 24, 24, 24)
    method, heard = Occlusion(levels=3, size=4, stride=2, unit="voxel"), []
    method(model, x, ClassScore(1), progress=lambda done, total, partial=None: heard.append((done, total)))
    assert heard[-1][0] < method.cost(model, (24, 24, 24)).forward
    assert all(done <= total for done, total in heard)


def test_a_coarse_box_is_never_larger_than_the_grid():
    for boxes in Occlusion(levels=6, size=4, stride=2, unit="voxel").boxes((9, 20, 5), ModelInfo()):
        cover = torch.zeros(9, 20, 5)
        for box in boxes:
            cover[box] += 1
        assert (cover > 0).all()
