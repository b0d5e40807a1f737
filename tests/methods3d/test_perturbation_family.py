"""Methods that change the scan and watch the score, against loops from their papers and against Captum 0.9."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum._utils.models.model import Model
from captum.attr import FeatureAblation as CaptumFeatureAblation
from captum.attr import KernelShap as CaptumKernelShap
from captum.attr import Lime as CaptumLime
from captum.attr import ShapleyValueSampling as CaptumShapleyValueSampling
from scipy.ndimage import gaussian_filter
from torch import nn

from methods3d import (
    HSIC,
    LIME,
    RISE,
    Ablation,
    ClassScore,
    ExtremalPerturbation,
    KernelSHAP,
    ModelInfo,
    Occlusion,
    ParameterError,
    PredictedRegion,
    RegionScore,
    ShapleySampling,
    Sobol,
    TorchModel,
    WindowedModel,
)
from methods3d.features import supervoxels

SPACING = (1.0, 2.0, 1.5)
SUMS = {"rtol": 1e-9, "atol": 1e-11}  # the order of sums, and the scores' own rounding in differences


# --- what is taken out, and by what it is replaced, voxel by voxel ---


def flat_tissue(x, air):
    """Each channel's voxels that differ from air by more than a twentieth of its range, at their mean."""
    empty = x.clone()
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        channel = x[n, c]
        there = (channel - air).abs() > (channel.max() - channel.min()) / 20
        empty[n, c][there] = channel[there].mean()
    return empty


def blurred(x, sigma, spacing):
    widths = (0, 0, *(sigma / s for s in spacing))
    return torch.tensor(gaussian_filter(x.numpy(), widths, mode="nearest", truncate=12))


def laplace(x, hole, spacing):
    """Every voxel of the hole the mean of its neighbours, weighted by 1 / mm^2: one dense system."""
    places = {tuple(p): n for n, p in enumerate(hole.nonzero().tolist())}
    filled = x.clone()
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        matrix, right = np.zeros((len(places), len(places))), np.zeros(len(places))
        for place, row in places.items():
            for axis, step in itertools.product(range(3), (-1, 1)):
                other = list(place)
                other[axis] += step
                if not 0 <= other[axis] < x.shape[2 + axis]:
                    continue
                matrix[row, row] += spacing[axis] ** -2
                if tuple(other) in places:
                    matrix[row, places[tuple(other)]] -= spacing[axis] ** -2
                else:
                    right[row] += spacing[axis] ** -2 * float(x[n, c][tuple(other)])
        for place, value in zip(places, np.linalg.solve(matrix, right), strict=True):
            filled[n, c][place] = float(value)
    return filled


def next_to_it(x, hole, spacing):
    """The mean of the voxels outside that lie within 3 mm of a voxel inside along every axis."""
    reach = [max(1, round(3 / s)) for s in spacing]
    near = torch.zeros_like(hole)
    for i, j, k in hole.nonzero().tolist():
        near[tuple(slice(max(p - r, 0), p + r + 1) for p, r in zip((i, j, k), reach, strict=True))] = True
    near &= ~hole
    filled = x.clone()
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        filled[n, c][hole] = x[n, c][near].mean()
    return filled


OTHER = torch.randn((2, 12, 10, 8), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
FILLS = {
    "value": (-0.3, lambda x, hole, info: torch.full_like(x, -0.3)),
    "tissue": ("tissue", lambda x, hole, info: flat_tissue(x, info.air)),
    "air": ("air", lambda x, hole, info: torch.full_like(x, info.air)),
    "blur": ("blur(2.5)", lambda x, hole, info: blurred(x, 2.5, info.spacing)),
    "inpaint": ("inpaint", lambda x, hole, info: laplace(x, hole, info.spacing)),
    "neighbours": ("neighbours", lambda x, hole, info: next_to_it(x, hole, info.spacing)),
    "another scan": (OTHER, lambda x, hole, info: OTHER[None]),
}
# Laplace's equation is solved until the residual is a ten-thousandth; a blur is cut off at six sigmas.
LOOSER = {"inpaint": {"rtol": 0, "atol": 1e-4}, "blur": {"rtol": 0, "atol": 1e-8}}


def scanned(volume, info, kind=""):
    """A scan with a slab of air, and noise elsewhere; neighbours that are air have a test of their own."""
    x = volume(1, 2, 12, 10, 8) + 6
    if kind != "neighbours":
        x[..., :3] = info.air + 0.01 * volume(1, 2, 12, 10, 3, seed=4)
    return x


def close(found, slow, kind=""):
    """To the tolerance of the filling, in units of the largest value."""
    size = slow.abs().max().item()
    assert size > 0
    tolerance = LOOSER.get(kind, SUMS)
    torch.testing.assert_close(found, slow, rtol=tolerance["rtol"], atol=tolerance["atol"] * max(size, 1.0))


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("windows", [None, 8])
def test_occlusion_with_each_filling_is_the_slow_loop(make, volume, region, kind, windows):
    info = ModelInfo(spacing=SPACING, air=-1.0)
    net, x = make("gated", 2), scanned(volume, info, kind)
    model = TorchModel(net, info=info) if windows is None else WindowedModel(net, windows, overlap=0.25, info=info)
    target = RegionScore(1, region((12, 10, 8), (2, 9), (0, 8), (1, 6)))
    fill, by_hand = FILLS[kind]
    bound, score = model.bind(x, target)
    total, cover = torch.zeros_like(x), torch.zeros_like(x)
    starts = [[0, 4, 8], [0, 4, 6], [0, 4]]
    for c, corner in itertools.product(range(2), itertools.product(*starts)):
        hole = torch.zeros(12, 10, 8, dtype=torch.bool)
        hole[tuple(slice(a, a + 4) for a in corner)] = True
        occluded = x.clone()
        occluded[0, c][hole] = by_hand(x, hole, info)[0, c][hole]
        total[0, c] += hole * (score - bound(model.output(occluded)))
        cover[0, c] += hole
    found = Occlusion(levels=1, size=4, stride=4, unit="voxel", fill=fill)(model, x, target)
    close(found.values, total / cover, kind)


def test_two_fillings_give_two_maps(make, volume, region):
    """What the loop above would not notice if every filling were the same."""
    info = ModelInfo(spacing=SPACING, air=-1.0)
    model, x = TorchModel(make("gated", 2), info=info), scanned(volume, info)
    target = RegionScore(1, region((12, 10, 8), (2, 9), (0, 8), (1, 6)))
    maps = [
        Occlusion(levels=1, size=4, stride=4, unit="voxel", fill=fill)(model, x, target).values
        for fill, _ in FILLS.values()
    ]
    for a, b in itertools.combinations(maps, 2):
        assert (a - b).abs().max() > 1e-2 * a.abs().max()


# --- ablation ---


def gapped(shape):
    """A label map whose numbers have gaps, with voxels that belong to none."""
    labels = torch.zeros(shape, dtype=torch.long)
    labels[1:5, 2:6, 1:5], labels[6:11, 1:9, 2:4], labels[4:7, 6:9, 5:8] = 7, 3, 40
    labels[0, 0, 0] = 12
    return labels


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("windows", [None, 8])
def test_ablation_of_labels_is_the_slow_loop(make, volume, kind, windows):
    info = ModelInfo(spacing=SPACING, air=-1.0)
    net, x, labels = make("gated", 2), scanned(volume, info, kind), gapped((12, 10, 8))
    model = TorchModel(net, info=info) if windows is None else WindowedModel(net, windows, overlap=0.5, info=info)
    fill, by_hand = FILLS[kind]
    bound, score = model.bind(x, PredictedRegion(1))
    slow = torch.zeros_like(x)
    for label in (3, 7, 12, 40):
        hole = labels == label
        without = torch.where(hole, by_hand(x, hole, info), x)
        slow[:, :, hole] = score - bound(model.output(without))
    found = Ablation(features=labels, fill=fill)(model, x, PredictedRegion(1))
    close(found.values, slow, kind)
    assert (found.values[:, :, labels == 0] == 0).all()


def division(kind, x, info):
    """What to ask for, and each voxel's feature (b, c, i, j, k), 0 for none."""
    if kind == "labels":
        labels = gapped(x.shape[2:])
        return labels, labels.expand(x.shape)
    if kind == "channels":
        return kind, torch.arange(1, x.shape[1] + 1)[None, :, None, None, None].expand(x.shape)
    if kind == "grid(4)":
        i, j, k = (torch.arange(n) // 4 for n in x.shape[2:])
        return kind, (9 * i[:, None, None] + 3 * j[:, None] + k + 1).expand(x.shape)
    return kind, supervoxels(x, 6, info)[None].expand(x.shape)


@pytest.mark.parametrize("kind", ["labels", "grid(4)", "channels", "supervoxels(6)"])
def test_ablation_is_captums(make, volume, kind):
    """Captum 0.9, FeatureAblation, with our division as its mask and our filling as its baseline."""
    info = ModelInfo(air=-1.0)
    net, x = make("plain", 2), blurred(scanned(volume, info), 1.0, (1.0, 1.0, 1.0))
    features, mask = division(kind, x, info)
    assert len(mask.unique()) > 2 - (kind == "channels")
    found = Ablation(features=features, fill="tissue")(TorchModel(net, info=info), x, ClassScore(2))
    theirs = CaptumFeatureAblation(net).attribute(x, baselines=flat_tissue(x, -1.0), target=2, feature_mask=mask)
    assert theirs.dtype == torch.float64
    close(found.values, theirs.masked_fill(mask == 0, 0))  # Captum takes 0 for a feature like any other


def test_channels_cannot_be_inpainted(make, volume):
    with pytest.raises(ParameterError, match="nothing surrounds a whole scan"):
        Ablation(features="channels", fill="inpaint")(
            TorchModel(make("plain", 2)), volume(1, 2, 8, 8, 8), ClassScore(1)
        )


# --- RISE ---


@pytest.mark.parametrize("windows", [None, 8])
@pytest.mark.parametrize("visible", [0.3, 0.7])
def test_rise_is_the_mean_over_its_masks(make, volume, region, windows, visible):
    info = ModelInfo(spacing=SPACING)
    net, x = make("gated", 2), volume(1, 2, 12, 10, 8)
    model = TorchModel(net, info=info) if windows is None else WindowedModel(net, windows, overlap=0.25, info=info)
    method = RISE(samples=9, cell=6.0, visible=visible, baseline=0.2, seed=3)
    masks = list(method.masks(x, SPACING))
    assert len(masks) == 9
    target = RegionScore(1, region((12, 10, 8), (2, 9), (0, 8), (1, 6)))
    scores = [float(model.scores(m * x + (1 - m) * 0.2, target)) for m in masks]
    slow = torch.zeros(12, 10, 8, dtype=torch.float64)
    for voxel in itertools.product(range(12), range(10), range(8)):
        seen = [float(m[voxel]) for m in masks]
        slow[voxel] = sum(t * s for t, s in zip(scores, seen, strict=True)) / sum(seen) - sum(scores) / 9
    found = method(model, x, target)
    close(found.values, slow.expand(1, 2, 12, 10, 8) if found.values.shape[1] == 2 else slow[None, None])


def test_divided_by_the_expected_visibility_a_score_that_nothing_moves_has_a_map(volume):
    """The paper's eq. 6, and its authors' code, divide by what is visible on average: a map of the masks alone."""

    class Indifferent(nn.Module):
        def forward(self, x):
            return 5 + 0 * x.flatten(1).sum(1, keepdim=True)

    x = volume(1, 1, 12, 10, 8)
    method = RISE(samples=20, cell=4.0)
    found = method(TorchModel(Indifferent()), x, ClassScore(1)).values
    theirs = sum(5 * m for m in method.masks(x, (1.0, 1.0, 1.0))) / (20 * 0.5)
    assert found.abs().max() < 1e-12
    assert theirs.max() - theirs.min() > 1


@pytest.mark.parametrize("visible", [0.2, 0.5])
def test_masks_show_every_voxel_as_often_as_asked(volume, visible):
    """Also at the borders; 600 masks, each voxel's mean to five standard errors."""
    x = volume(1, 1, 9, 8, 10)
    masks = torch.stack(list(RISE(samples=600, cell=4.0, visible=visible).masks(x, (1.0, 1.0, 1.0))))
    assert 0 <= masks.min() < masks.max() <= 1
    error = (visible * (1 - visible) / 600) ** 0.5
    torch.testing.assert_close(masks.mean(0), torch.full((9, 8, 10), visible).to(x), rtol=0, atol=5 * error)


def test_masks_are_linear_between_the_centres_of_cells_at_a_shift_of_their_own(volume):
    x = volume(1, 1, 16, 12, 12)
    kinks = set()
    for m in RISE(samples=40, cell=6.0, seed=1).masks(x, (1.0, 1.0, 1.0)):
        bend = (m[2:] - 2 * m[1:-1] + m[:-2]).abs().amax((1, 2))
        places = (bend > 1e-9).nonzero()[:, 0].tolist()
        assert len({place % 6 for place in places}) <= 2  # a centre between two voxels bends both
        kinks |= {place % 6 for place in places}
    assert kinks == set(range(6))


# --- LIME, KernelSHAP, Shapley sampling: what coalitions of features are worth ---


class Coalitional(nn.Module):
    """Sums over six pieces, products of them, and a sine: interactions of every order."""

    def __init__(self, labels, count):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.masks = torch.stack([labels == n + 1 for n in range(count)]).double()
        self.single = nn.Parameter(torch.randn(count, generator=generator, dtype=torch.float64))
        self.pairs = torch.randn(count, count, generator=generator, dtype=torch.float64)

    def forward(self, x):
        pieces = (x[:, :1] * self.masks).mean((2, 3, 4)) * 10
        found = pieces @ self.single + ((pieces @ self.pairs) * pieces).sum(1) + torch.sin(3 * pieces.sum(1))
        return torch.stack([-found, found], 1)


def pieces(shape, count):
    """So many slabs along the axes' sum: every voxel belongs to one."""
    i, j, k = (torch.arange(n) for n in shape)
    return (i[:, None, None] + j[:, None] + k) % count + 1


def worth(net, x, labels, row, fill):
    """The score with the features whose number is in the row, the others at a value."""
    gone = [n + 1 for n, there in enumerate(row) if not there]
    hole = torch.isin(labels, torch.tensor(gone, dtype=labels.dtype))
    return float(net(torch.where(hole, torch.as_tensor(fill).to(x), x))[0, 1])


def shapley(value, count):
    """Every order's gains, weighted: n! orders as sums over all 2^n coalitions."""
    found = [0.0] * count
    for f in range(count):
        others = [g for g in range(count) if g != f]
        for size in range(count):
            weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for members in itertools.combinations(others, size):
                row = [g in members for g in range(count)]
                joined = [g in members or g == f for g in range(count)]
                found[f] += weight * (value[tuple(joined)] - value[tuple(row)])
    return found


def game(volume, count, shape=(8, 6, 5), fill=-0.5):
    labels, x = pieces(shape, count), volume(1, 1, *shape)
    net = Coalitional(labels, count)
    value = {row: worth(net, x, labels, row, fill) for row in itertools.product([False, True], repeat=count)}
    return net, x, labels, value


def per_feature(found, labels, count):
    """What the map says of each feature; it has to say the same in all its voxels."""
    said = []
    for n in range(1, count + 1):
        values = found.values[0, :, labels == n]
        assert torch.equal(values, values[:, :1].expand_as(values))
        said.append(float(values.sum()) if found.extensive else float(values[0, 0]))
    return torch.tensor(said, dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_kernel_shap_of_all_selections_is_shapleys_value(volume, count):
    net, x, labels, value = game(volume, count)
    found = KernelSHAP(features=labels, samples=64, fill=-0.5)(TorchModel(net), x, ClassScore(1))
    slow = torch.tensor(shapley(value, count), dtype=torch.float64)
    assert slow.abs().min() > 1e-3
    torch.testing.assert_close(per_feature(found, labels, count), slow, **SUMS)
    assert abs(float(found.values.sum()) - (value[(True,) * count] - value[(False,) * count])) < 1e-10
    assert found.extensive


@pytest.mark.parametrize("cls", [KernelSHAP, ShapleySampling])
def test_one_feature_alone_has_the_whole_change(volume, cls):
    net, x, labels, value = game(volume, 1)
    found = cls(features=labels, fill=-0.5)(TorchModel(net), x, ClassScore(1))
    assert float(found.values.sum()) == pytest.approx(value[(True,)] - value[(False,)], abs=1e-10)


def test_shares_are_even_over_channels_too(make, volume):
    """A feature's value over its voxels of every channel: the whole map adds up to the change in score."""
    net, x, labels = make("plain", 2), volume(1, 2, 8, 8, 8), pieces((8, 8, 8), 3)
    found = KernelSHAP(features=labels, fill=0.1)(TorchModel(net), x, ClassScore(1))
    change = net(x)[0, 1] - net(torch.full_like(x, 0.1))[0, 1]
    assert change.abs() > 1e-3
    torch.testing.assert_close(found.values.sum(), change.detach(), **SUMS)
    assert torch.equal(found.values[:, 0], found.values[:, 1])


def test_the_channels_of_an_examination_have_shapley_values_as_well(make, volume):
    net, x = make("plain", 3), volume(1, 3, 8, 8, 8)
    value = {}
    for row in itertools.product([False, True], repeat=3):
        there = torch.tensor(row)[None, :, None, None, None]
        value[row] = float(net(torch.where(there, x, torch.full_like(x, 0.3)))[0, 1])
    found = KernelSHAP(features="channels", fill=0.3)(TorchModel(net), x, ClassScore(1)).values.sum((2, 3, 4))[0]
    slow = torch.tensor(shapley(value, 3), dtype=torch.float64)
    assert slow.abs().max() > 1e-3
    torch.testing.assert_close(found, slow, **SUMS)


def constrained(rows, weights, scores, base, score):
    """argmin sum k (T - base - w z)^2 with sum w = T(all) - base, by its Lagrangian's system."""
    z, k, t = np.asarray(rows, float), np.asarray(weights), np.asarray(scores) - base
    n = z.shape[1]
    system, right = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
    system[:n, :n], right[:n] = 2 * z.T * k @ z, 2 * z.T @ (k * t)
    system[:n, n] = system[n, :n] = 1
    right[n] = score - base
    return torch.tensor(np.linalg.solve(system, right)[:n])


def test_sampled_kernel_shap_solves_the_regression_of_its_selections(volume):
    count = 6
    net, x, labels, value = game(volume, count)
    method = KernelSHAP(features=labels, samples=30, fill=-0.5, seed=2)
    rows = method.coalitions(count)
    assert rows.shape == (30, count)
    assert torch.equal(rows[1::2], 1 - rows[::2])  # each with its complement
    scores = [value[tuple(bool(z) for z in row)] for row in rows]
    slow = constrained(rows, [1.0] * 30, scores, value[(False,) * count], value[(True,) * count])
    found = per_feature(method(TorchModel(net), x, ClassScore(1)), labels, count)
    torch.testing.assert_close(found, slow, **SUMS)
    # Selections are drawn by the Shapley kernel: to weigh them by it as well is another regression.
    kernel = [(count - 1) / (math.comb(count, s := int(row.sum())) * s * (count - s)) for row in rows]
    twice = constrained(rows, kernel, scores, value[(False,) * count], value[(True,) * count])
    assert (twice - slow).abs().max() > 1e-4


def test_selections_have_the_sizes_of_the_shapley_kernel():
    count = 16
    rows = KernelSHAP(samples=20000).coalitions(count)
    chance = torch.tensor([(count - 1) / (s * (count - s)) for s in range(1, count)], dtype=torch.float64)
    chance /= chance.sum()
    seen = torch.bincount(rows.sum(1).long(), minlength=count)[1:] / len(rows)
    # Pairs are half as many draws as rows: five standard errors.
    error = 5 * (chance * (1 - chance) / 10000).sqrt()
    assert bool(((seen - chance).abs() < error).all())
    members = rows.mean(0)
    torch.testing.assert_close(members, torch.full((count,), 0.5), rtol=0, atol=1e-6)  # complements even them out


def test_more_selections_come_closer_to_shapleys_values(volume):
    count = 8
    net, x, labels, value = game(volume, count, shape=(8, 8, 4))
    slow = torch.tensor(shapley(value, count), dtype=torch.float64)
    errors = []
    for samples in (24, 96, 254):
        runs = [
            KernelSHAP(features=labels, samples=samples, fill=-0.5, seed=s)(TorchModel(net), x, ClassScore(1))
            for s in range(1 if samples == 254 else 4)
        ]
        errors.append(np.mean([float((per_feature(r, labels, count) - slow).norm()) for r in runs]))
    assert errors[0] > 1.5 * errors[1] > 1e-6
    assert errors[2] < 1e-9


class LeastSquares(Model):
    """What Captum would ask scikit-learn for: weights and an intercept, or none, with a ridge."""

    def __init__(self, ridge=0.0, intercept=True):
        self.ridge, self.intercept = ridge, intercept

    def fit(self, train_data, **kwargs):
        [(z, y, k)] = list(train_data)
        self.weights = torch.tensor(ridge(z, k, y, self.ridge, self.intercept))

    def representation(self):
        return self.weights[None]

    def __call__(self, x):
        raise NotImplementedError


def ridge(rows, weights, scores, penalty, intercept=True):
    """argmin sum k (T - w z - w0)^2 + penalty |w|^2, by the normal equations; w0 goes free."""
    z, k, t = np.asarray(rows, float), np.asarray(weights, float), np.asarray(scores, float)
    n = z.shape[1]
    if intercept:
        z = np.concatenate([z, np.ones((len(z), 1))], 1)
    free = np.diag([penalty] * n + [0.0] * (z.shape[1] - n))
    return np.linalg.solve(z.T * k @ z + free, z.T @ (k * t))[:n]


def test_kernel_shap_is_captums_for_the_same_selections(volume):
    """Captum 0.9 asks for the sum by a weight of a million on none and all, and collects in float32."""
    count = 6
    net, x, labels, _ = game(volume, count)
    method = KernelSHAP(features=labels, samples=40, fill=-0.5)
    theirs = CaptumKernelShap(net)
    theirs.interpretable_model = LeastSquares()
    drawn = [torch.ones(1, count), torch.zeros(1, count), *method.coalitions(count)[:, None]]

    def perturbed(inputs, **given):
        yield from (row.long() for row in drawn)

    theirs.perturb_func = perturbed
    weights = theirs.attribute(
        x, baselines=-0.5, target=1, feature_mask=labels[None, None] - 1, n_samples=len(drawn), return_input_shape=False
    )
    found = per_feature(method(TorchModel(net), x, ClassScore(1)), labels, count)
    torch.testing.assert_close(found, weights[0].double(), rtol=0, atol=1e-4 * found.abs().max().item())


def test_captums_own_selections_come_to_the_same_values(volume):
    """To a twentieth, with 3000 draws of its own."""
    count = 4
    net, x, labels, _ = game(volume, count)
    theirs = CaptumKernelShap(net)
    theirs.interpretable_model = LeastSquares()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = theirs.attribute(
            x, baselines=-0.5, target=1, feature_mask=labels[None, None] - 1, n_samples=3000, return_input_shape=False
        )
    found = per_feature(KernelSHAP(features=labels, fill=-0.5)(TorchModel(net), x, ClassScore(1)), labels, count)
    torch.testing.assert_close(found, weights[0].double(), rtol=0, atol=0.05 * found.abs().max().item())


def lime_kernel(row, width):
    """exp(-D^2 / width^2), D the cosine distance from the row of ones."""
    n, there = len(row), float(sum(row))
    distance = 1 - (there / (math.sqrt(there) * math.sqrt(n)) if there else 0.0)
    return math.exp(-(distance**2) / width**2)


@pytest.mark.parametrize(("width", "penalty"), [(0.25, 1.0), (1.0, 0.01), (0.1, 10.0), (0.3, 0.0)])
def test_lime_is_a_weighted_ridge_regression(volume, width, penalty):
    count = 6
    net, x, labels, value = game(volume, count)
    method = LIME(features=labels, samples=50, width=width, ridge=penalty, fill=-0.5, seed=4)
    rows = method.coalitions(count)
    assert rows.shape == (50, count)
    assert (rows[0] == 1).all()
    assert 0.4 < rows[1:].mean() < 0.6
    scores = [value[tuple(bool(z) for z in row)] for row in rows]
    weights = [lime_kernel(row.tolist(), width) for row in rows]
    slow = torch.tensor(ridge(rows, weights, scores, penalty))
    assert slow.abs().max() > 1e-3
    found = method(TorchModel(net), x, ClassScore(1))
    assert not found.extensive
    torch.testing.assert_close(per_feature(found, labels, count), slow, **SUMS)
    # The lime package takes the kernel's square root; Captum halves the exponent: another width.
    other = torch.tensor(ridge(rows, np.sqrt(weights), scores, penalty))
    assert (other - slow).abs().max() > 1e-4


def test_lime_is_captums_for_the_same_selections_and_kernel(volume):
    """Captum 0.9 collects in float32; its own kernel would compare intensities, not selections."""
    count, width = 6, 0.4
    net, x, labels, _ = game(volume, count)
    method = LIME(features=labels, samples=40, width=width, ridge=0.5, fill=-0.5)
    drawn = iter(method.coalitions(count)[:, None].long())
    theirs = CaptumLime(
        net,
        interpretable_model=LeastSquares(0.5),
        similarity_func=lambda inputs, edited, row, **given: torch.tensor([lime_kernel(row[0].tolist(), width)]),
        perturb_func=lambda inputs, **given: next(drawn),
    )
    weights = theirs.attribute(
        x, baselines=-0.5, target=1, feature_mask=labels[None, None] - 1, n_samples=40, return_input_shape=False
    )
    found = per_feature(method(TorchModel(net), x, ClassScore(1)), labels, count)
    torch.testing.assert_close(found, weights[0].double(), rtol=0, atol=1e-5 * found.abs().max().item())


def orders_of(rows, count):
    """The orders whose prefixes the rows are, none and all left out."""
    found = []
    for start in range(0, len(rows), count - 1):
        before = torch.zeros(count)
        order = []
        for row in [*rows[start : start + count - 1], torch.ones(count)]:
            [[joined]] = (row - before).nonzero().tolist()
            order.append(joined)
            before = row
        found.append(order)
    return found


@pytest.mark.parametrize("orders", [1, 2, 5])
def test_shapley_sampling_is_the_mean_gain_over_its_orders(volume, orders):
    count = 5
    net, x, labels, value = game(volume, count)
    method = ShapleySampling(features=labels, orders=orders, fill=-0.5, seed=1)
    drawn = orders_of(method.coalitions(count), count)
    assert len(drawn) == orders
    for a, b in zip(drawn[::2], drawn[1::2], strict=False):
        assert a == b[::-1]
    slow = torch.zeros(count, dtype=torch.float64)
    for order in drawn:
        there = [False] * count
        for f in order:
            before = value[tuple(there)]
            there[f] = True
            slow[f] += (value[tuple(there)] - before) / orders
    found = method(TorchModel(net), x, ClassScore(1))
    torch.testing.assert_close(per_feature(found, labels, count), slow, **SUMS)
    assert abs(float(found.values.sum()) - (value[(True,) * count] - value[(False,) * count])) < 1e-10
    assert found.gap.abs().max() < 1e-10
    exact = torch.tensor(shapley(value, count), dtype=torch.float64)
    assert (slow - exact).abs().max() > 1e-4  # a few orders are not all


def test_shapley_sampling_is_captums_for_the_same_orders(volume):
    """Captum 0.9: a feature's value in every voxel, where ours shares it; it collects its sums in float32."""
    count = 5
    net, x, labels, _ = game(volume, count)
    method = ShapleySampling(features=labels, orders=4, fill=-0.5)
    theirs = CaptumShapleyValueSampling(net)
    theirs.permutation_generator = lambda features, samples: iter(orders_of(method.coalitions(count), count))
    values = theirs.attribute(x, baselines=-0.5, target=1, feature_mask=labels[None, None] - 1, n_samples=4)
    found = method(TorchModel(net), x, ClassScore(1))
    for n in range(1, count + 1):
        here = values[0, 0][labels == n].double()
        assert here.abs().min() > 1e-3
        torch.testing.assert_close(found.values[0, 0][labels == n] * len(here), here, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(per_feature(found, labels, count).sum(), net(x)[0, 1] - net(x * 0 - 0.5)[0, 1], **SUMS)


def test_more_orders_come_closer_to_shapleys_values(volume):
    count = 6
    net, x, labels, value = game(volume, count)
    slow = torch.tensor(shapley(value, count), dtype=torch.float64)
    errors = []
    for orders in (2, 32):
        methods = [ShapleySampling(features=labels, orders=orders, fill=-0.5, seed=s) for s in range(4)]
        runs = [per_feature(m(TorchModel(net), x, ClassScore(1)), labels, count) for m in methods]
        errors.append(np.mean([float((run - slow).norm()) for run in runs]))
    assert errors[0] > 2 * errors[1] > 1e-6


# --- Sobol indices and HSIC ---


def faded(x, labels, amounts, fill):
    """Each feature present by its amount, the rest of it the filling."""
    share = torch.cat([torch.ones(1), amounts.float()]).double()[labels]
    return share * x + (1 - share) * fill


@pytest.mark.parametrize("samples", [7, 16])
def test_sobol_indices_are_jansens(volume, samples):
    count = 5
    net, x, labels, _ = game(volume, count)
    method = Sobol(features=labels, samples=samples, fill=-0.5, seed=3)
    a, b = method.designs(count)
    assert a.shape == b.shape == (samples, count)
    assert 0 <= min(a.min(), b.min()) < max(a.max(), b.max()) <= 1

    def scored(rows):
        return np.array([float(net(faded(x, labels, row, -0.5))[0, 1]) for row in rows])

    at_a, at_b = scored(a), scored(b)
    slow = []
    for f in range(count):
        swapped = a.clone()
        swapped[:, f] = b[:, f]
        slow.append(np.mean((at_a - scored(swapped)) ** 2) / 2 / np.concatenate([at_a, at_b]).var(ddof=1))
    slow = torch.tensor(slow, dtype=torch.float64)
    assert slow.min() > 1e-3
    found = per_feature(method(TorchModel(net), x, ClassScore(1)), labels, count)
    torch.testing.assert_close(found, slow, **SUMS)


def test_sobol_indices_of_a_sum_are_shares_of_its_variance(volume):
    """T = sum a_f z_f with z even on [0, 1]: a_f^2 / sum a^2; the more amounts, the closer."""
    count, x, labels = 4, volume(1, 1, 8, 6, 5), pieces((8, 6, 5), 4)
    weight = volume(8, 6, 5, seed=6)
    net = nn.Sequential(nn.Flatten(), nn.Linear(240, 2, bias=False)).double()
    with torch.no_grad():
        net[1].weight[1] = weight.flatten()
    a = torch.stack([(weight * (x[0, 0] + 0.5))[labels == n].sum() for n in range(1, count + 1)])
    exact = a**2 / (a**2).sum()
    errors = []
    for samples in (8, 64, 512):
        method = Sobol(features=labels, samples=samples, fill=-0.5)
        found = per_feature(method(TorchModel(net), x, ClassScore(1)), labels, count)
        errors.append(float((found - exact).abs().max()))
    assert errors[2] < 0.02
    assert errors[2] < errors[0]


@pytest.mark.parametrize("samples", [11, 60])
def test_hsic_is_the_trace_of_kernels_written_out(volume, samples):
    """The median is over pairs that differ, and one of the values (the lower of two in the middle)."""
    count = 8
    net, x, labels, value = game(volume, count, shape=(8, 8, 4))
    method = HSIC(features=labels, samples=samples, fill=-0.5, seed=2)
    rows = method.selections(count)
    assert rows.shape == (samples, count)
    assert set(rows.unique().tolist()) == {0.0, 1.0}
    scores = np.array([value[tuple(bool(z) for z in row)] for row in rows])
    apart = np.abs(scores[:, None] - scores[None, :])
    pairs = sorted(d for p, q in itertools.combinations(range(samples), 2) if (d := apart[p, q]) > 1e-9)
    assert (len(pairs) < math.comb(samples, 2)) == (samples == 60)  # some selections come twice
    width = pairs[(len(pairs) - 1) // 2]
    of_scores = np.exp(-(apart**2) / (2 * width**2))
    h = np.eye(samples) - 1 / samples
    slow = []
    for f in range(count):
        z = rows[:, f].double().numpy()
        of_masks = 0.5 - (z[:, None] - z[None, :]) ** 2
        slow.append(np.trace(of_masks @ h @ of_scores @ h) / (samples - 1) ** 2)
    slow = torch.tensor(slow, dtype=torch.float64)
    assert slow.min() > 1e-5
    found = per_feature(method(TorchModel(net), x, ClassScore(1)), labels, count)
    torch.testing.assert_close(found, slow, **SUMS)


class Logic(nn.Module):
    """A function of whether two pieces are there."""

    def __init__(self, labels, of):
        super().__init__()
        self.labels, self.of = labels, of

    def forward(self, x):
        a, b = ((x[:, 0][:, self.labels == n].mean(1) > 0.5).to(x) for n in (1, 2))
        return self.of(a, b)[:, None]


@pytest.mark.parametrize(("of", "seen"), [(lambda a, b: a * b, True), (lambda a, b: (a - b).abs(), False)])
def test_hsic_sees_what_a_feature_does_by_itself_and_sobol_what_it_does_with_others(of, seen):
    """Of an exclusive or each feature alone says nothing of the score."""
    x, labels = torch.ones(1, 1, 4, 4, 4, dtype=torch.float64), pieces((4, 4, 4), 4)
    x[..., 0] = 0.999
    model = TorchModel(Logic(labels, of))
    alone, together = (
        per_feature(method(model, x, ClassScore(1)), labels, 4)
        for method in (HSIC(features=labels, samples=400, fill=0.0), Sobol(features=labels, samples=64, fill=0.0))
    )
    assert (alone[:2].min() > 10 * alone[2:].max()) == seen
    assert together[:2].min() > 0.4
    assert together[2:].max() == 0


# --- all of them ---


@pytest.mark.parametrize(
    "method",
    [
        LIME(features="grid(6)", samples=12, fill=0.2),
        KernelSHAP(features="grid(6)", samples=12, fill=0.2),
        ShapleySampling(features="grid(6)", orders=2, fill=0.2),
        Sobol(features="grid(6)", samples=3, fill=0.2),
        HSIC(features="grid(6)", samples=9, fill=0.2),
        RISE(cell=4.0, samples=5, baseline=0.2),
        Ablation(features="grid(6)", fill=0.2),
    ],
    ids=lambda method: method.name,
)
def test_in_windows_the_stitched_prediction_is_explained(make, volume, region, method):
    """The same map as of a dense network that stitches its windows itself, and sample by sample as in a batch."""
    net, x = make("gated"), volume(2, 1, 12, 10, 8)
    model = WindowedModel(net, 8, overlap=0.5)

    class Stitched(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return torch.cat([WindowedModel(net, 8, overlap=0.5).output(one[None]) for one in x])

    target = RegionScore(1, region((12, 10, 8), (1, 5), (2, 9), (3, 8)))
    found = method(model, x, target).values
    assert found.flatten(1).abs().amax(1).min() > 0
    for n in (0, 1):
        slow = method(TorchModel(Stitched()), x[n : n + 1], target).values
        torch.testing.assert_close(found[n : n + 1], slow, rtol=1e-7, atol=1e-10 * found.abs().max().item())


# --- extremal perturbation ---


class Planted(nn.Module):
    """The sum over a box of the scan."""

    def __init__(self, box):
        super().__init__()
        self.box = nn.Parameter(box.double())

    def forward(self, x):
        total = (x * self.box).flatten(1).sum(1, keepdim=True)
        return torch.cat([-total, total], 1)


def planted(volume, region):
    box = region((16, 16, 16), (4, 8), (8, 12), (6, 10))
    return Planted(box), volume(1, 1, 16, 16, 16).abs() + 1, box


@pytest.mark.parametrize("area", [0.1, 0.3])
def test_an_extremal_mask_has_the_size_asked_for_and_says_what_it_keeps(volume, region, area):
    net, x, _ = planted(volume, region)
    method = ExtremalPerturbation(area=area, cell=2.0, baseline=0.0)
    found = method(TorchModel(net), x, ClassScore(1))
    mask = found.values
    assert 0 <= mask.min() < 0.1
    assert 0.5 < mask.max() <= 1
    torch.testing.assert_close(mask.mean().item(), area, rtol=0.1, atol=0)  # cells at the border weigh otherwise
    kept = net(mask * x)[0, 1]
    assert found.provenance.parameters["score of what is kept"] == pytest.approx(float(kept), rel=1e-5)
    assert torch.equal(found.values, method(TorchModel(net), x, ClassScore(1)).values)


def test_the_size_is_a_share_of_the_tissue(volume, region):
    net, x, _ = planted(volume, region)
    x[:, :, :, :8] = 0
    found = ExtremalPerturbation(area=0.2, cell=2.0, baseline=0.0)(TorchModel(net), x, ClassScore(1))
    torch.testing.assert_close(found.values.mean().item(), 0.1, rtol=0.1, atol=0)


def best_kept(net, x, box):
    """What the same kind of mask keeps with its cells just where the box is."""
    cells = F.max_pool3d(box[None, None].double(), 2)
    mask = F.interpolate(cells, size=(16, 16, 16), mode="trilinear", align_corners=False)
    mask = torch.tensor(gaussian_filter(mask.numpy(), (0, 0, 1, 1, 1), mode="nearest"))
    return float(net(mask * x)[0, 1])


def test_an_extremal_mask_finds_what_the_score_is_made_of(volume, region):
    net, x, box = planted(volume, region)
    found = ExtremalPerturbation(area=64 / 4096, cell=2.0, baseline=0.0)(TorchModel(net), x, ClassScore(1))
    assert box.flatten()[found.values.argmax()]
    assert found.provenance.parameters["score of what is kept"] > 0.9 * best_kept(net, x, box)


def test_the_smallest_extremal_mask_is_one_cell(volume, region):
    net, x, _ = planted(volume, region)
    found = ExtremalPerturbation(area=0.02, cell=8.0, baseline=0.0)(TorchModel(net), x, ClassScore(1))
    assert found.values.max() > 0.1
