"""Path methods against slow twins: sums over points written out, with plain autograd and numpy."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import DeepLiftShap as CaptumDeepLiftShap
from captum.attr._core.gradient_shap import InputBaselineXGradient
from monai.inferers import sliding_window_inference
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from methods3d import (
    BlurIG,
    ClassScore,
    DeepLIFT,
    DeepLIFTSHAP,
    ExpectedGradients,
    GradientSHAP,
    GuidedIG,
    IntegratedGradients,
    ModelInfo,
    ParameterError,
    RegionScore,
    TorchModel,
    WindowedModel,
)
from methods3d.gradient.expected import draws

CLOSE = {"rtol": 1e-9, "atol": 1e-14}
SHAPE = (12, 8, 8)
SPACING = (1.0, 1.5, 3.0)
WINDOWS = pytest.mark.parametrize("windows", [False, True], ids=["dense", "windows"])


@pytest.fixture
def case(make, region):
    """case(windows): a model, its target, and the same score as a plain function of x."""

    def chosen(windows, dense="plain"):
        info = ModelInfo(spacing=SPACING)
        if not windows:
            net = make(dense)
            return TorchModel(net, info=info), ClassScore(1), lambda x: net(x)[0, 1]
        net, mask = make("smooth"), region(SHAPE, (2, 10), (1, 6), (0, 8))
        model = WindowedModel(net, 8, overlap=0.5, mode="gaussian", info=info)

        def score(x):
            return sliding_window_inference(x, (8, 8, 8), 1, net, overlap=0.5, mode="gaussian")[0, 1][mask].mean()

        return model, RegionScore(1, mask), score

    return chosen


def slope(score, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(x), x)[0]


# --- integrated gradients ---


def quadrature(points):
    """Gauss-Legendre on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return [((t + 1) / 2, w / 2) for t, w in zip(nodes.tolist(), weights.tolist(), strict=True)]


def slow_line(score, x, x0, places):
    return (x - x0) * sum(w * slope(score, x0 + t * (x - x0)) for t, w in places)


@WINDOWS
def test_integrated_gradients_are_a_weighted_sum_of_gradients(case, volume, windows):
    (model, target, score), x = case(windows), volume(1, 1, *SHAPE)
    x0 = volume(1, 1, *SHAPE, seed=5)
    found = IntegratedGradients(steps=6, tolerance=0, baseline=x0[0])(model, x, target)
    slow = slow_line(score, x, x0, quadrature(6))
    torch.testing.assert_close(found.values, slow, **CLOSE)
    torch.testing.assert_close(found.gap[0], (score(x) - score(x0) - slow.sum()).detach(), rtol=0, atol=1e-12)
    assert not torch.allclose(slow_line(score, x, x0, quadrature(5)), slow, rtol=1e-6)


@pytest.fixture
def singular(make, volume, region):
    """An instance-norm network, a scan and a region: from zero, the change in score lies next to the baseline."""
    return make("unet"), volume(1, 1, 16, 16, 16) + 2, region((16, 16, 16), (4, 9), (4, 9), (4, 9))


def test_from_a_singular_baseline_the_path_is_split_until_the_gap_is_below_the_tolerance(singular):
    net, x, mask = singular
    model, target, change = TorchModel(net), RegionScore(1, mask), []
    for tolerance in (0, 0.01):
        found = IntegratedGradients(tolerance=tolerance, baseline=0.0)(model, x, target)
        change.append(float(found.values.sum() + found.gap))
        within = bool(found.gap.abs() <= 0.01 * abs(change[-1]))
        assert within == (tolerance > 0)
        assert bool(found.warnings) == (tolerance == 0)
    assert change[0] == pytest.approx(change[1], rel=1e-12)


def test_the_pieces_add_up_to_the_integral(singular):
    """The integral, from pieces that halve 40 times towards the singular end, of 8 points each."""
    net, x, mask = singular

    def score(at):
        return net(at)[0, 1][mask].mean()

    places = []
    for n in range(40):
        low, high = 0.0 if n == 39 else 2.0 ** -(n + 1), 2.0**-n
        places += [(low + t * (high - low), w * (high - low)) for t, w in quadrature(8)]
    exact = slow_line(score, x, torch.zeros_like(x), places)
    assert float((score(x) - score(torch.zeros_like(x)) - exact.sum()).abs()) < 1e-3
    errors = []
    for tolerance in (0, 0.01):
        found = IntegratedGradients(tolerance=tolerance, baseline=0.0)(TorchModel(net), x, RegionScore(1, mask))
        errors.append(float((found.values - exact).norm() / exact.norm()))
    assert errors[1] < 0.02
    assert 10 * errors[1] < errors[0]


class Points:
    """How many samples have gone through a network with a gradient asked for, or without."""

    def __init__(self, net):
        self.with_gradient = self.without = 0
        net.register_forward_pre_hook(self)

    def __call__(self, module, args):
        if args[0].requires_grad:
            self.with_gradient += len(args[0])
        else:
            self.without += len(args[0])


@pytest.mark.parametrize("baseline", [0.0, "tissue"])
@pytest.mark.parametrize("tolerance", [0, 0.01])
def test_the_steps_that_are_reported_are_those_that_were_run(singular, baseline, tolerance):
    net, x, mask = singular
    points = Points(net)
    found = IntegratedGradients(tolerance=tolerance, baseline=baseline)(TorchModel(net), x, RegionScore(1, mask))
    assert found.provenance.parameters["points"] == points.with_gradient
    assert (points.with_gradient > 32) == (tolerance > 0 and baseline == 0.0)  # where the whole path is not enough


@pytest.mark.parametrize("steps", [8, 16])
def test_at_most_twelve_times_the_steps_are_used(singular, steps):
    net, x, mask = singular
    found = IntegratedGradients(steps=steps, tolerance=1e-9, baseline=0.0)(TorchModel(net), x, RegionScore(1, mask))
    assert found.provenance.parameters["points"] <= 12 * steps


# --- guided integrated gradients ---


def slow_guided(score, x, x0, steps, fraction, corridor):
    """Algorithm 1, voxel by voxel: one move takes a fraction of all voxels, and those that have arrived count last."""
    shape, x, x0 = x.shape, x.flatten().tolist(), x0.flatten().tolist()
    voxels = range(len(x))
    place, values = list(x0), [0.0] * len(x)
    whole = sum(abs(x[v] - x0[v]) for v in voxels)
    for step in range(1, steps + 1):
        t, before = step / steps, list(place)
        low, high = max(t - corridor, 0.0), min(t + corridor, 1.0)
        g = slope(score, torch.tensor(place, dtype=torch.float64).view(shape)).flatten().tolist()
        for v in voxels:
            if x[v] != x0[v] and (place[v] - x0[v]) / (x[v] - x0[v]) < low:
                place[v] = x0[v] + low * (x[v] - x0[v])
        while True:
            surplus = sum(abs(x[v] - place[v]) for v in voxels) - (1 - t) * whole
            room = [abs(x0[v] + high * (x[v] - x0[v]) - place[v]) for v in voxels]
            movable = sorted((v for v in voxels if room[v] > 1e-9 * abs(x[v] - x0[v])), key=lambda v: abs(g[v]))
            if surplus <= 1e-9 * whole or not movable:
                break
            taken = max(1, round(fraction * len(voxels)))
            limit = abs(g[movable[min(taken, len(movable)) - 1]])
            chosen = [v for v in movable if abs(g[v]) <= limit]
            share = min(1.0, surplus / sum(room[v] for v in chosen))
            for v in chosen:
                place[v] += share * (x0[v] + high * (x[v] - x0[v]) - place[v])
        for v in voxels:
            values[v] += g[v] * (place[v] - before[v])
    return torch.tensor(values, dtype=torch.float64).view(shape)


@WINDOWS
@pytest.mark.parametrize(
    ("steps", "fraction", "corridor"), [(8, 0.1, 0.05), (6, 0.25, 0.3), (5, 0.3, 1.0), (1, 0.5, 1.0), (7, 1.0, 0.2)]
)
def test_guided_gradients_follow_the_path_of_the_algorithm(case, volume, windows, steps, fraction, corridor):
    (model, target, score), x = case(windows), volume(1, 1, *SHAPE)
    x0 = volume(1, 1, *SHAPE, seed=5)  # not flat: gradients of equal size would make the order a matter of rounding
    x0[..., :2] = x[..., :2]  # voxels that have no way to go
    found = GuidedIG(steps=steps, fraction=fraction, corridor=corridor, baseline=x0[0])(model, x, target)
    slow = slow_guided(score, x, x0, steps, fraction, corridor)
    assert slow.abs().max() > 0
    torch.testing.assert_close(found.values, slow, rtol=1e-9, atol=1e-9 * slow.abs().max().item())
    torch.testing.assert_close(found.gap[0], (score(x) - score(x0) - slow.sum()).detach(), rtol=0, atol=1e-10)


@WINDOWS
def test_without_a_corridor_guided_gradients_are_the_straight_paths_left_sum(case, volume, windows):
    (model, target, score), x = case(windows), volume(1, 1, *SHAPE)
    found = GuidedIG(steps=9, corridor=0, baseline=-0.2)(model, x, target)
    left = slow_line(score, x, torch.full_like(x, -0.2), [(n / 9, 1 / 9) for n in range(9)])
    torch.testing.assert_close(found.values, left, **CLOSE)
    wide = GuidedIG(steps=9, corridor=0.3, baseline=-0.2)(model, x, target).values
    assert not torch.allclose(wide, left, rtol=1e-3)


class Bounded(TorchDispatchMode):
    """Fails where more operations run than any legitimate path takes."""

    def __init__(self, most):
        super().__init__()
        self.left = most

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.left -= 1
        assert self.left > 0, "it does not end"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
    ],
)
@pytest.mark.parametrize(("offset", "corridor"), [(0.0, 1.0), (100.0, 0.05)])
def test_a_guided_path_ends_in_any_precision(make, volume, dtype, offset, corridor):
    net, x = make("plain").to(dtype), volume(1, 1, 16, 16, 16).to(dtype) + offset
    with Bounded(20_000):
        GuidedIG(steps=8, fraction=1.0, corridor=corridor, baseline=offset)(TorchModel(net), x, ClassScore(1))


# --- blur integrated gradients ---


def smoothed(x, sigma):
    """In mm; scipy's kernels are cut at 8 sigma, where they are below a float64's digits."""
    widths = [sigma / step for step in SPACING]
    return torch.stack(
        [torch.from_numpy(gaussian_filter(c, widths, mode="nearest", truncate=8)) for c in x[0].numpy()]
    )[None]


@WINDOWS
def test_blur_gradients_are_a_riemann_sum_while_the_scan_comes_into_focus(case, volume, windows):
    (model, target, score), x = case(windows, "smooth_classifier"), volume(1, 1, *SHAPE)
    n, sigma, slow = 400, 6.0, torch.zeros_like(x)
    for step in range(n):
        more, middle, less = (smoothed(x, sigma * (1 - (step + part) / n)) for part in (0, 0.5, 1))
        slow += slope(score, middle) * (less - more)
    found = BlurIG(sigma=sigma, steps=48, tolerance=0)(model, x, target)
    # Midpoints are exact to the square of a step, 1 / n^2 = 6e-6, times what the score curves.
    assert float((found.values - slow).norm() / slow.norm()) < 1e-4
    change = float(score(x) - score(smoothed(x, sigma)))
    assert float(found.values.sum() + found.gap) == pytest.approx(change, rel=1e-8)
    assert abs(change) > 0.01


@WINDOWS
def test_blur_gradients_are_scipys_by_the_same_quadrature(case, volume, windows):
    (model, target, score), x = case(windows), volume(1, 1, *SHAPE)
    sigma, slow = 6.0, torch.zeros_like(x)
    for t, w in quadrature(9):
        width, step = sigma * (1 - t) ** 2, 1e-5
        speed = (smoothed(x, width - step) - smoothed(x, width + step)) / (2 * step)
        slow += w * 2 * sigma * (1 - t) * slope(score, smoothed(x, width)) * speed
    found = BlurIG(sigma=sigma, steps=9, tolerance=0)(model, x, target).values
    # The library repeats the border over 6 sigma: what lies beyond has 1e-8 of the smoothed scan's derivative.
    torch.testing.assert_close(found, slow, rtol=0, atol=1e-7 * slow.abs().max().item())


def test_a_blur_wider_than_the_scan_is_refused(case, volume):
    model, target, _ = case(False)
    with pytest.raises(ParameterError, match="sigma is 25 mm, but the scan is 24 mm long at most"):
        BlurIG(sigma=25)(model, volume(1, 1, *SHAPE), target)


@pytest.mark.parametrize(
    "offset",
    [
        0.0,
        100.0,
    ],
)
def test_blur_gradients_keep_their_digits_in_single_precision(make, volume, offset):
    net, x = make("smooth_classifier"), volume(1, 1, 16, 16, 16) + offset
    exact = BlurIG(sigma=8.0, tolerance=0)(TorchModel(net), x, ClassScore(1)).values
    found = BlurIG(sigma=8.0, tolerance=0)(TorchModel(copy.deepcopy(net).float()), x.float(), ClassScore(1)).values
    assert float((found - exact).norm() / exact.norm()) < 1e-2


# --- over several baselines ---

SET = "0.3; air; blur(2)"


def blanks(x):
    return [torch.full_like(x, 0.3), torch.zeros_like(x), smoothed(x, 2.0)]


@WINDOWS
@pytest.mark.parametrize("samples", [2, 7])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_expected_gradients_and_gradient_shap_are_the_mean_over_their_draws(case, volume, windows, samples, noise):
    (model, target, score), x = case(windows), volume(1, 1, *SHAPE)
    slow, base = torch.zeros_like(x), 0.0
    for n, t, end in draws(x, samples, 3, noise, 4):
        x0 = blanks(x)[n]
        slow += (end - x0) * slope(score, x0 + t * (end - x0)) / samples
        base += float(score(x0)) / samples
    methods = [GradientSHAP(samples=samples, noise=noise, baselines=SET, seed=4)]
    if not noise:
        methods.append(ExpectedGradients(samples=samples, baselines=SET, seed=4))
    for method in methods:
        found = method(model, x, target)
        assert slow.abs().max() > 0
        # The library's blur is cut at 6 sigma beyond the borders: 2e-9 of a voxel.
        torch.testing.assert_close(found.values, slow, rtol=0, atol=2e-8 * slow.abs().max().item())
        assert float(found.gap) == pytest.approx(float(score(x)) - base - float(slow.sum()), abs=1e-8)


def test_draws_are_spread_over_baselines_and_places_and_noise_has_its_width(volume):
    x = volume(1, 1, *SHAPE) * 3
    drawn = list(draws(x, 64, 3, 0.1, 7))
    assert [n for n, _, _ in drawn] == [n % 3 for n in range(64)]
    for which, turns in ((0, 22), (1, 21), (2, 21)):
        places = [t * turns for n, t, _ in drawn if n == which]
        assert [int(place) for place in places] == list(range(turns))  # one in each part of the way
        assert len({round(place % 1, 6) for place in places}) == turns  # anywhere in it
    noise = torch.stack([end - x for _, _, end in drawn]) / (0.1 * (x.max() - x.min()))
    # Of 49152 normal numbers the mean has a standard error of 0.0045, the deviation one of 0.0032.
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.015
    other = list(draws(x, 64, 3, 0.1, 8))
    assert not torch.equal(drawn[0][2], other[0][2])
    assert all(torch.equal(end, x) for _, _, end in draws(x, 3, 3, 0.0, 7))


def test_gradient_shap_is_captums_with_the_same_draws(make, volume, monkeypatch):
    """Captum 0.9 draws its own: its sum over samples is handed ours."""
    net, x = make("plain"), volume(1, 1, *SHAPE)
    drawn = list(draws(x, 6, 2, 0.1, 0))
    ends = torch.cat([end for _, _, end in drawn])
    starts = torch.cat([torch.full_like(x, (0.3, -0.5)[n]) for n, _, _ in drawn])
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.array([t for _, t, _ in drawn]))
    theirs = InputBaselineXGradient(net).attribute(ends, starts, target=2).detach().mean(0, keepdim=True)
    found = GradientSHAP(samples=6, noise=0.1, baselines="0.3; -0.5", seed=0)(TorchModel(net), x, ClassScore(2))
    assert theirs.abs().max() > 0
    torch.testing.assert_close(found.values, theirs, **CLOSE)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_deeplift_shap_is_the_mean_of_deeplift_and_captums(make, volume):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Conv3d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
        ).double()  # fmt: skip
    x, others = volume(2, 2, 8, 8, 8), volume(3, 2, 8, 8, 8, seed=6)
    model, target = TorchModel(net), ClassScore(1)
    found = DeepLIFTSHAP(baselines=others)(model, x, target)
    each = [DeepLIFT(baseline=other)(model, x, target) for other in others]
    torch.testing.assert_close(found.values, sum(e.values for e in each) / 3, **CLOSE)
    torch.testing.assert_close(found.gap, sum(e.gap for e in each) / 3, rtol=0, atol=1e-12)
    theirs = CaptumDeepLiftShap(net).attribute(x.clone(), others, target=1).detach()
    torch.testing.assert_close(found.values, theirs, rtol=1e-9, atol=1e-12)
    change = found.scores - net(others)[:, 1].mean()
    torch.testing.assert_close(found.values.flatten(1).sum(1), change.detach(), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(each[0].values, found.values, rtol=1e-2)
