"""Salient relevance: agrees with its definition in slow loops, finds what stands out, and knows about millimetres."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods3d import (
    LRP,
    Cancelled,
    ClassScore,
    ModelInfo,
    ParameterError,
    PredictedRegion,
    RuleError,
    TorchModel,
    WindowedModel,
)
from methods3d.lrp.salient import SalientRelevance, salience

# --- the definition, in loops ---


def pooled(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mean over the voxels that each cell touches."""
    out = np.zeros(shape)
    for cell in itertools.product(*map(range, shape)):
        spans = [
            slice(i * n // m, math.ceil((i + 1) * n / m)) for i, n, m in zip(cell, volume.shape, shape, strict=True)
        ]
        out[cell] = volume[tuple(spans)].mean()
    return out


def stretched(volume: np.ndarray, shape: tuple[int, ...], *, corners: bool) -> np.ndarray:
    """Linear interpolation, axis by axis, between cell centres that lie at the ends, or half a cell from them."""
    for axis, (n, m) in enumerate(zip(volume.shape, shape, strict=True)):
        at = np.linspace(0, n - 1, m) if corners else (np.arange(m) + 0.5) * n / m - 0.5
        volume = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, volume)
    return volume


def slow_salience(
    volume: np.ndarray, spacing: tuple[float, ...], patch: int, neighbours: int, resolution: int
) -> np.ndarray:
    step = max(1, patch // 2)
    extent = [n * s for n, s in zip(volume.shape, spacing, strict=True)]
    total: Any = 0.0
    for scale in (1.0, 0.8, 0.5, 0.3):
        cells = scale * min(resolution, max(volume.shape))  # along the longest axis
        centres = [max(1, math.floor(e / max(extent) * cells / step + 0.5)) for e in extent]
        grid = tuple(step * (c - 1) + 1 for c in centres)
        if scale == 1.0:
            first = pooled(volume, grid)
            low, high, base = first.min(), first.max(), grid
        values = (pooled(volume, grid) - low) / (high - low)
        edge = [e / g for e, g in zip(extent, grid, strict=True)]

        def patch_at(place: tuple[int, ...], values: np.ndarray = values, grid: tuple[int, ...] = grid) -> np.ndarray:
            margin = range(-(patch // 2), patch // 2 + 1)
            at = [
                tuple(min(max(p + o, 0), g - 1) for p, o, g in zip(place, offset, grid, strict=True))
                for offset in itertools.product(margin, margin, margin)
            ]
            return np.array([values[one] for one in at])

        places = [tuple(step * p for p in place) for place in itertools.product(*map(range, centres))]
        patches = {place: patch_at(place) for place in places}
        found = {}
        for i in places:
            d = []
            for j in places:
                if i != j:
                    unlike = math.sqrt(((patches[i] - patches[j]) ** 2).mean())
                    apart = math.sqrt(sum(((a - b) * e) ** 2 for a, b, e in zip(i, j, edge, strict=True)))
                    d.append(unlike / (1 + 3 * apart / max(extent)))
            nearest = sorted(d)[:neighbours]
            found[i] = 1 - math.exp(-sum(nearest) / len(nearest)) if nearest else 0.0
        s = np.array([found[place] for place in places]).reshape(centres)
        total = total + stretched(stretched(s, grid, corners=True), base, corners=False) / 4
    total = total / total.max()
    foci = [place for place in np.ndindex(*base) if total[place] > 0.8]
    edge = [e / g for e, g in zip(extent, base, strict=True)]
    for place in np.ndindex(*base):
        away = min(
            math.sqrt(sum(((a - b) * e) ** 2 for a, b, e in zip(place, focus, edge, strict=True))) for focus in foci
        )
        total[place] *= max(0.0, 1 - away / max(extent))
    return stretched(total, volume.shape, corners=False)


@pytest.mark.parametrize(
    ("shape", "spacing", "settings"),
    [
        ((6, 6, 6), (1.0, 1.0, 1.0), {"patch": 5, "neighbours": 4}),
        ((7, 6, 5), (1.0, 1.5, 2.0), {"patch": 3, "neighbours": 9}),
        ((8, 5, 3), (0.5, 1.0, 4.0), {"patch": 3, "neighbours": 64}),
        ((9, 10, 11), (2.0, 1.0, 1.0), {"patch": 3, "neighbours": 6, "resolution": 6}),
        ((9, 1, 7), (1.0, 1.0, 1.0), {"patch": 1, "neighbours": 5}),
    ],
    ids=str,
)
def test_it_is_what_the_slow_loops_give(volume, shape, spacing, settings):
    x = volume(*shape)
    slow = slow_salience(x.numpy(), spacing, **({"resolution": 48} | settings))
    np.testing.assert_allclose(salience(x, spacing, **settings).numpy(), slow, rtol=1e-6, atol=1e-7)


def test_rows_at_a_time_make_no_difference(volume, monkeypatch):
    x = volume(9, 8, 7)
    whole = salience(x)
    monkeypatch.setattr("methods3d.lrp.salient.CHUNK", 1)
    torch.testing.assert_close(salience(x), whole, rtol=1e-6, atol=1e-7)


# --- what it finds ---


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> Tensor:
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    return (sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2).double()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("background", [0.0, 0.3, -5.0])
def test_a_lone_blob_is_the_peak_and_a_constant_background_is_dark(sign, background):
    shape, centre = (24, 20, 22), (7, 12, 15)
    blob = ball(shape, centre, 2.5)
    found = salience(background + sign * blob, neighbours=27)
    peak = np.unravel_index(int(found.argmax()), shape)
    assert math.dist(peak, centre) <= 2
    assert found[blob > 0].mean() > 0.5
    background = found[ball(shape, centre, 9) == 0]
    assert background.mean() < 0.02 and background.max() < 0.1  # patches of the coarsest scale are nine voxels wide
    assert found.min() >= 0 and found.max() <= 1


def test_it_shows_the_region_and_not_each_voxel(volume):
    """Relevance is scattered over a lesion, as gradients scatter it, and noise is everywhere: the lesion is whole."""
    shape, centre = (32, 32, 32), (11, 20, 16)
    lesion = ball(shape, centre, 5)
    grains = (volume(*shape, seed=2) > 0.5).double() * lesion
    found = salience(grains + 0.05 * volume(*shape, seed=3))
    missed = (found[lesion > 0] < 0.3).double().mean()
    assert missed < 0.1  # though most of the lesion's voxels have no relevance of their own
    assert (grains[lesion > 0] == 0).double().mean() > 0.5
    assert found[lesion > 0].mean() > 3 * found[ball(shape, centre, 10) == 0].mean()


def test_what_repeats_stands_out_less_than_what_does_not():
    """One bright blob among many faint ones that are alike: only the first is salient."""
    shape = (32, 32, 32)
    x = ball(shape, (16, 16, 16), 2.5)
    for place in itertools.product((4, 12, 20, 28), (4, 12, 20, 28), (4, 28)):
        x = x + 0.5 * ball(shape, place, 2.5)
    found = salience(x)
    alone = found[ball(shape, (16, 16, 16), 2.5) > 0].mean()
    assert alone > 3 * found[ball(shape, (4, 4, 4), 2.5) > 0].mean()


def test_nothing_stands_out_of_a_constant():
    assert salience(torch.full((8, 8, 8), 2.5)).abs().max() == 0
    assert salience(torch.zeros(1, 1, 1)).abs().max() == 0
    assert salience(torch.tensor([[[0.0, torch.nan, 1.0]]])).isnan().any()  # which the method then reports


def test_it_does_not_depend_on_scale_and_offset_of_the_relevance(volume):
    x = volume(10, 9, 8)
    torch.testing.assert_close(salience(1e-9 * x), salience(x), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(salience(3 * x - 7), salience(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(12, 9, 8), (13, 7, 10)])
def test_flips_and_turns_go_along(volume, shape):
    x = volume(*shape)
    spacing = (1.0, 1.3, 0.8)
    found = salience(x, spacing, patch=3)
    for axes in ((0,), (1,), (2,), (0, 1, 2)):
        torch.testing.assert_close(salience(x.flip(axes), spacing, patch=3), found.flip(axes), rtol=1e-6, atol=1e-7)
    turned = salience(x.permute(2, 0, 1), (0.8, 1.0, 1.3), patch=3)
    torch.testing.assert_close(turned, found.permute(2, 0, 1), rtol=1e-6, atol=1e-7)


def test_millimetres_count_and_not_voxels():
    """The same blob in thick slices: with their spacing it is as round as it was, without it is not."""
    fine = ball((24, 24, 24), (9, 12, 12), 3.5)
    thick = F.avg_pool3d(fine[None, None], (1, 1, 3))[0, 0]
    whole = F.avg_pool3d(salience(fine)[None, None], (1, 1, 3))[0, 0]
    right, wrong = salience(thick, (1.0, 1.0, 3.0)), salience(thick)
    assert (right - whole).abs().mean() < 0.5 * (wrong - whole).abs().mean()
    torch.testing.assert_close(salience(thick, (2.0, 2.0, 6.0)), right)  # it is the proportions that count


# --- the method ---


@pytest.mark.parametrize("name", ["densenet", "segresnet"])
def test_it_is_the_salience_of_lrp(make, volume, unchanged, name):
    x = volume(2, 2, 16, 16, 16)
    net = make(name, 2)
    model = TorchModel(net, info=ModelInfo(spacing=(1.0, 1.0, 2.5)))
    target: Any = ClassScore(1) if name == "densenet" else PredictedRegion(1)
    method = SalientRelevance(composite="epsilon-plus", bias="absorb", patch=3, neighbours=10, resolution=12)
    with unchanged(net, x):
        found = method(model, x, target)
    lrp = LRP(composite="epsilon-plus", bias="absorb")(model, x, target)
    assert found.values.shape == (2, 1, 16, 16, 16)
    for n in range(2):
        summed = lrp.values[n, 0] + lrp.values[n, 1]
        expected = salience(summed, (1.0, 1.0, 2.5), patch=3, neighbours=10, resolution=12)
        torch.testing.assert_close(found.values[n, 0], expected)
    torch.testing.assert_close(found.scores, lrp.scores)
    assert found.gap is None and not found.extensive and not found.absorbed
    assert found.provenance.parameters["composite"] == lrp.provenance.parameters["composite"]
    again = method(model, x, target)
    assert torch.equal(again.values, found.values)
    assert method.cost(model, (16, 16, 16)) == LRP(composite="epsilon-plus", bias="absorb").cost(model, (16, 16, 16))


def test_progress_has_two_halves_and_can_cancel(make, volume):
    x = volume(2, 1, 16, 16, 16)
    model = WindowedModel(make("segresnet"), 8, overlap=0.0, sw_batch_size=2)
    heard: list[tuple[int, int]] = []
    SalientRelevance(resolution=16)(
        model, x, PredictedRegion(1), progress=lambda done, total, *_: heard.append((done, total))
    )
    after = [done / total for done, total in heard]
    first, second = [one for one in after if one <= 0.5], [one for one in after if one > 0.5]
    assert max(first) == 0.5 and after == first + second
    assert second == sorted(second) and len(second) > 4 and second[-1] == 1

    def cancel(done: int, total: int, partial: Any = None) -> None:
        if done > 0.6 * total:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        SalientRelevance()(model, x, PredictedRegion(1), progress=cancel)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ParameterError, match="patch is 4, but has to be an odd number"):
        SalientRelevance(patch=4)
    with pytest.raises(ParameterError, match="neighbours is 0, but has to be at least 1"):
        SalientRelevance(neighbours=0)
    with pytest.raises(ParameterError, match="resolution is 0, but has to be at least 1"):
        SalientRelevance(resolution=0)
    with pytest.raises(RuleError, match="no rule 'nonsense'"):
        SalientRelevance(composite="nonsense")
