"""Maps that know nothing of the model, and how many volumes run at once: nothing lost, repeated or mixed."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from methods3d import (
    Ablation,
    ClassScore,
    Edges,
    InputItself,
    ModelInfo,
    ParameterError,
    RandomMap,
    RegionScore,
    TorchModel,
    WindowedModel,
    methods,
)
from methods3d.errors import MixedSamples
from methods3d.memory import Batches, PeakBytes, bytes_of

SPACING = (1.0, 2.0, 0.5)
FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in sigmas


def smooth(x, width, spacing):
    """By scipy, for a full width at half maximum in mm."""
    return gaussian_filter(x, [width / FWHM / s for s in spacing], mode="nearest", truncate=15)


@pytest.fixture
def model(make):
    return TorchModel(make("plain", 2), info=ModelInfo(spacing=SPACING))


# --- controls ---


@pytest.mark.parametrize("width", [0.0, 3.0])
def test_random_maps_are_smoothed_noise_of_their_seed(model, volume, width):
    x = volume(2, 2, 9, 8, 12)
    noise = torch.randn((1, 2, 9, 8, 12), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    slow = np.stack([smooth(one, width, SPACING) if width else one for one in noise[0].numpy()])
    found = RandomMap(width=width, seed=7)(model, x, ClassScore(1)).values
    torch.testing.assert_close(found, torch.tensor(slow).expand(2, -1, -1, -1, -1), rtol=0, atol=1e-9)


def test_random_maps_repeat_and_know_nothing(make, model, volume):
    x = volume(1, 2, 8, 8, 8)
    first = RandomMap()(model, x, ClassScore(1))
    torch.manual_seed(3)
    other = RandomMap()(TorchModel(make("densenet", 2), info=model.info), volume(1, 2, 8, 8, 8, seed=9), ClassScore(0))
    assert torch.equal(first.values, other.values)
    assert not first.extensive
    assert first.gap is None
    assert first.scores == model.scores(x, ClassScore(1)) != other.scores
    assert (first.values - RandomMap(seed=1)(model, x, ClassScore(1)).values).abs().max() > 0.01


@pytest.mark.parametrize("width", [3.0, 5.0])
def test_random_maps_are_smooth_to_the_width_asked_for(make, volume, width):
    """Noise through a Gaussian of sigma s has the correlation exp(-d^2 / 4 s^2) at a distance d: 1/4 at the width."""
    spacing = (1.0, 1.0, 0.5)
    model, x = TorchModel(make("plain"), info=ModelInfo(spacing=spacing)), volume(1, 1, 32, 32, 48)
    found = RandomMap(width=width)(model, x, ClassScore(1)).values[0, 0]
    for axis, step in enumerate(spacing):
        lag = round(width / step)
        n = found.shape[axis]
        pair = torch.stack([found.narrow(axis, 0, n - lag).flatten(), found.narrow(axis, lag, n - lag).flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1]) - 0.25) < 0.15  # of few independent places


def test_edges_of_a_ramp_are_its_slope_per_mm(model):
    i, j, k = torch.meshgrid(*(torch.arange(n) * s for n, s in zip((16, 12, 24), SPACING, strict=True)), indexing="ij")
    x = torch.stack([3 * i - 2 * j + 6 * k, 0.5 * j]).double()[None]
    exact = Edges(width=0)(model, x, ClassScore(1)).values
    torch.testing.assert_close(exact[0, 0], torch.full((16, 12, 24), 7.0).double(), rtol=1e-9, atol=0)
    torch.testing.assert_close(exact[0, 1], torch.full((16, 12, 24), 0.5).double(), rtol=1e-9, atol=0)
    soft = Edges(width=1.5)(model, x, ClassScore(1)).values
    inside = (0, slice(None), slice(6, 10), slice(5, 7), slice(8, 16))  # where no border is within six sigmas
    torch.testing.assert_close(soft[inside], exact[inside], rtol=1e-8, atol=0)


@pytest.mark.parametrize("width", [0.0, 2.0])
def test_edges_are_the_length_of_the_gradient(model, volume, width):
    x = volume(2, 2, 8, 9, 10)
    slow = np.empty(x.shape)
    for n, c in itertools.product(range(2), range(2)):
        one = smooth(x[n, c].numpy(), width, SPACING) if width else x[n, c].numpy()
        slow[n, c] = np.sqrt(sum(g**2 for g in np.gradient(one, *SPACING)))
    found = Edges(width=width)(model, x, ClassScore(1))
    torch.testing.assert_close(found.values, torch.tensor(slow), rtol=0, atol=1e-8)
    assert not found.extensive


def test_edges_of_a_single_slice(volume):
    net = nn.Sequential(nn.Conv3d(1, 2, (3, 3, 1)), nn.AdaptiveAvgPool3d(1), nn.Flatten()).double()
    x = volume(1, 1, 6, 7, 1)
    found = Edges(width=0)(TorchModel(net), x, ClassScore(1)).values
    slow = np.hypot(*np.gradient(x[0, 0, :, :, 0].numpy()))
    torch.testing.assert_close(found[0, 0, :, :, 0], torch.tensor(slow))


def test_the_input_itself_is_a_copy(model, volume):
    x = volume(2, 2, 8, 8, 8)
    found = InputItself()(model, x, ClassScore(1))
    assert torch.equal(found.values, x)
    found.values.zero_()
    assert x.abs().max() > 0


@pytest.mark.parametrize("control", [RandomMap(), Edges(), InputItself()], ids=lambda c: c.name)
def test_a_control_costs_the_score(model, volume, counted, control):
    with counted(model.network) as count:
        control(model, volume(1, 2, 8, 8, 8), ClassScore(1))
    cost = control.cost(model, (8, 8, 8))
    assert (count.samples, cost.backward) == (cost.forward, 0)


# --- sizes in words ---


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (None, None),
        (1, 1),
        (4096, 4096),
        ("64", 64),
        ("4GiB", 4 * 2**30),
        ("500 MB", 500 * 10**6),
        (" 1.5 kb ", 1500),
        ("2 KiB", 2048),
        ("3g", 3 * 10**9),
        ("10Mi", 10 * 2**20),
        ("7 B", 7),
        (2.5e9, 2_500_000_000),
    ],
)
def test_sizes_are_read(given, size):
    assert bytes_of(given) == size


@pytest.mark.parametrize("given", [0, -5, "", "GiB", "4 TiB", "4 i", "0.2", "four", "1,5 GB", "-1 GB", True, math.nan])
def test_what_is_no_size_is_refused_in_a_sentence(given):
    with pytest.raises(ParameterError, match="give a size above zero, such as '4GiB', '500 MB' or bytes") as caught:
        bytes_of(given)
    assert repr(given) in str(caught.value)
    assert str(caught.value).endswith(".")


# --- batches ---


FULL = torch.OutOfMemoryError("CUDA out of memory")


def fitting(limit, error=FULL):
    """Work for which so many items fit, and the sizes that were tried."""
    tried = []

    def work(group):
        tried.append(len(group))
        if len(group) > limit:
            raise error
        return [10 * item for item in group]

    return work, tried


def done(batches, items, work, kind=None):
    """All that came out, in order, checked to belong to what went in."""
    found = []
    for group, made in batches.over(items, work, kind):
        assert made == [10 * item for item in group]
        found += group
    return found


@pytest.mark.parametrize("size", [1, 3, 8, 100])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("[enforce fail] can't allocate memory")])
def test_a_group_that_is_too_large_is_halved_and_nothing_is_lost_or_repeated(size, limit, error):
    work, tried = fitting(limit, error)
    assert done(Batches(size), range(23), work) == list(range(23))
    fits = next(n for n in (min(size, 23) // 2**k for k in range(8)) if n <= limit)
    failed = [n for n in tried if n > limit]
    assert failed == [min(size, 23) // 2**k for k in range(len(failed))]
    assert set(tried[len(failed) : -1]) <= {fits}  # and later ones are no larger
    assert sum(tried[len(failed) :]) == 23


def test_memory_that_runs_out_later_halves_from_there():
    full = {"limit": 6}

    def work(group):
        if 12 in group:
            full["limit"] = 2
        if len(group) > full["limit"]:
            raise torch.OutOfMemoryError("x")
        return [10 * item for item in group]

    sizes = []
    assert done(Batches(6), range(30), lambda group: (sizes.append(len(group)), work(group))[1]) == list(range(30))
    assert sizes[:4] == [6, 6, 6, 3]
    assert max(sizes[4:]) == 1


def test_where_one_does_not_fit_the_error_is_raised():
    work, tried = fitting(0)
    with pytest.raises(torch.OutOfMemoryError):
        done(Batches(4), range(9), work)
    assert tried == [4, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 cannot be multiplied"), ValueError("no")])
def test_other_errors_are_not_tried_again(error):
    work, tried = fitting(0, error)
    with pytest.raises(type(error)):
        done(Batches(4), range(9), work)
    assert tried == [4]


def test_samples_that_mix_are_run_one_by_one():
    work, tried = fitting(1, MixedSamples("mixed"))
    assert done(Batches(5), range(12), work) == list(range(12))
    assert tried == [5] + [1] * 12


def test_kinds_do_not_share_what_fits():
    batches = Batches(8)
    small, tried_small = fitting(2)
    large, tried_large = fitting(8)
    assert done(batches, range(9), small, "backward") == list(range(9))
    assert done(batches, range(9), large, "forward") == list(range(9))
    assert tried_large == [8, 1]
    tried_small.clear()
    assert done(batches, range(4), small, "backward") == list(range(4))
    assert tried_small == [2, 2]  # remembered


def test_no_more_items_are_drawn_than_run():
    drawn = []
    items = (drawn.append(n) or n for n in range(100))
    work, _ = fitting(2)
    for group, _ in Batches(8).over(items, work):
        assert len(drawn) <= group[-1] + 8
    assert drawn == list(range(100))


def test_no_items_are_no_groups():
    assert list(Batches(4).over([], lambda group: group)) == []
    assert list(Batches(4, 100).over([], lambda group: group)) == []


# --- a budget ---


def test_the_peak_is_what_is_alive_at_once():
    with PeakBytes() as peak:
        a = torch.zeros(1000, dtype=torch.float64)
        b = a * 2
        b += 1  # in place
        b.view(10, 100)[3:].T  # noqa: B018 - a view
        assert peak.bytes == 16_000
        del b
        c = torch.ones(500, dtype=torch.float64)
        assert peak.bytes == 16_000
        d = a.float()
        assert peak.bytes == 16_000  # 8000 + 4000 + 4000
        e = torch.cat([c, c])
    assert peak.bytes == 24_000
    assert d.numel() == e.numel() == 1000


def test_what_was_there_before_does_not_count():
    x = torch.zeros(1000)
    with PeakBytes() as peak:
        x.mul_(2)
        x.view(10, 100)
    assert peak.bytes == 0


@pytest.mark.parametrize(("memory", "said"), [(4, "1 KiB"), (3 * 2**10, "3 KiB"), (5 * 2**20, "5 MiB")])
def test_a_budget_that_one_item_is_too_large_for_is_said_in_a_size_that_is_not_zero(memory, said):
    batches = Batches(4, memory)
    batches.most = 7 * 2**20
    (warning,) = batches.warnings
    assert warning.startswith(
        f"one volume at a time takes 7 MiB, more than the {said} of the memory budget: allow more"
    )


@pytest.mark.parametrize(("memory", "size"), [(100, 1), (8_000, 1), (16_000, 1), (40_000, 2), (160_000, 10)])
def test_a_budget_decides_how_many_run_at_once(memory, size):
    """One item takes 16 000 bytes at once; it runs alone first."""
    sizes = []

    def work(group):
        sizes.append(len(group))
        a = torch.zeros(len(group), 1000, dtype=torch.float64)
        a = a + 1
        return [10 * item for item in group]

    assert done(Batches(4, memory), range(21), work) == list(range(21))
    assert sizes[0] == 1
    assert set(sizes[1:-1]) == {size}
    assert sum(sizes) == 21


def batch_sizes(net):
    """How many samples each forward pass has."""
    sizes = []
    handle = net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    return sizes, handle


@pytest.mark.parametrize("budget", [0.01, 1, 3.5, 100])
@pytest.mark.parametrize("windows", [False, True])
def test_a_models_budget_changes_how_it_runs_and_not_what_it_finds(make, volume, region, budget, windows):
    net, x = make("gated"), volume(1, 1, 12, 12, 12)
    target = RegionScore(1, region((12, 12, 12), (0, 12), (0, 12), (0, 12)))
    asked = Ablation(features="grid(4)", fill=0.3)
    plain = asked(WindowedModel(net, 8) if windows else TorchModel(net), x, target)
    one = torch.zeros(1, 1, *([8 if windows else 12] * 3), dtype=torch.float64)
    with PeakBytes() as peak, torch.no_grad():
        net(one + 1)
    memory = max(1, int(budget * peak.bytes))
    model = WindowedModel(net, 8, memory=memory) if windows else TorchModel(net, memory=memory)
    sizes, handle = batch_sizes(net)
    found = asked(model, x, target)
    handle.remove()
    torch.testing.assert_close(found.values, plain.values, rtol=1e-9, atol=1e-12)
    assert found.values.abs().max() > 0
    assert max(sizes) <= max(1, budget)  # the pass itself takes no less than was measured here
    assert (max(sizes) > 1) == (budget > 2)


@pytest.mark.parametrize("name", methods())
def test_memory_that_runs_out_changes_no_map(make, volume, smallest, name):
    """A network for which two volumes do not fit."""
    net, x = make("plain"), volume(1, 1, 16, 16, 16)
    asked = smallest(name)
    plain = asked(TorchModel(net), x, ClassScore(1)).values

    def refuse(module, args):
        if len(args[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = net.register_forward_pre_hook(refuse)
    found = asked(TorchModel(net), x, ClassScore(1)).values
    handle.remove()
    assert plain.abs().max() > 0
    torch.testing.assert_close(found, plain, rtol=1e-8, atol=1e-10 * plain.abs().max().item())


# --- networks that mix the samples of a batch ---


class Centred(nn.Module):
    """x less the batch's mean, half of it: one sample alone keeps half."""

    def forward(self, x):
        return x - 0.5 * x.mean(0, keepdim=True)


MIXERS = {"batch norm": lambda: nn.BatchNorm3d(4, affine=False, track_running_stats=False), "centred": Centred}


def mixing(mixer, classifies=True):
    """A network with such a layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv3d(1, 4, 3, padding=1), MIXERS[mixer](), nn.ReLU(), nn.Conv3d(4, 4, 2, stride=2), nn.ReLU()]
        head = [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)]
        return nn.Sequential(*(layers + head if classifies else [*layers[:3], nn.Conv3d(4, 2, 1)])).double()


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("name", methods())
def test_a_network_that_mixes_samples_gives_the_map_of_batches_of_one(volume, smallest, monkeypatch, name, mixer):
    net, x = mixing(mixer), volume(2, 1, 16, 16, 16)
    asked = smallest(name)
    sizes, handle = batch_sizes(net)
    found = asked(TorchModel(net), x, ClassScore(1))
    handle.remove()
    assert any("run one by one" in warning for warning in found.warnings) == (max(sizes) > 1)
    monkeypatch.setattr("methods3d.model.AT_ONCE", 1)
    sizes, handle = batch_sizes(net)
    alone = [asked(TorchModel(net), x[n : n + 1], ClassScore(1)) for n in (0, 1)]
    handle.remove()
    assert set(sizes) == {1}
    slow = torch.cat([one.values for one in alone])
    torch.testing.assert_close(found.values, slow, rtol=1e-8, atol=1e-10 * slow.abs().max().item())
    assert not any("one by one" in warning for one in alone for warning in one.warnings)
    with torch.no_grad():
        assert (net(x) - torch.cat([net(one[None]) for one in x])).abs().max() > 1e-4  # it does mix


@pytest.mark.parametrize("mixer", MIXERS)
def test_windows_that_mix_give_the_prediction_of_windows_one_by_one(volume, mixer):
    net, x = mixing(mixer, classifies=False), volume(1, 1, 16, 8, 8)
    model = WindowedModel(net, 8, overlap=0.5, mode="constant")
    with torch.no_grad():
        total, count = torch.zeros(1, 2, 16, 8, 8).double(), torch.zeros(16, 1, 1)
        for start in (0, 4, 8):
            total[:, :, start : start + 8] += net(x[:, :, start : start + 8])
            count[start : start + 8] += 1
    torch.testing.assert_close(model.output(x), total / count, rtol=1e-10, atol=1e-12)
    assert any("change each other's output" in warning for warning in model.warnings)


@pytest.mark.parametrize("windows", [False, True])
def test_copies_in_the_first_batch_do_not_hide_that_samples_mix(volume, windows):
    """The first windows of a scan are air, and so are the first cells of a grid: flat tissue leaves them unchanged."""
    net, x = mixing("centred", classifies=not windows), volume(1, 1, 16, 16, 16) + 6
    x[:, :, :8] = 0.0
    info = ModelInfo(air=0.0)
    if windows:
        found, slow = (WindowedModel(net, 8, overlap=0.0, sw_batch_size=n, info=info).output(x) for n in (4, 1))
    else:
        asked = Ablation(features="grid(8)", fill="tissue")
        found = asked(TorchModel(net, info=info), x, ClassScore(1)).values
        slow = torch.zeros_like(x)
        with torch.no_grad():
            for corner in itertools.product((0, 8), repeat=3):
                here = (0, 0, *(slice(a, a + 8) for a in corner))
                without = x.clone()
                without[here] = torch.where(x[here] == 0, 0, x[x != 0].mean())
                slow[here] = (net(x) - net(without))[0, 1]
    torch.testing.assert_close(found, slow, rtol=1e-6, atol=1e-9)
