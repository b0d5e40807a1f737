"""Contrastive LRP: seeds as in the papers, one pass for both halves, and maps that tell classes apart."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods3d import (
    ClassMargin,
    ClassScore,
    ParameterError,
    PredictedRegion,
    RegionScore,
    Regression,
    RuleError,
    TargetError,
    TorchModel,
    WindowedModel,
)
from methods3d.contrast import Contrast
from methods3d.lrp.contrastive import CLRP
from methods3d.lrp.propagate import relevance_of
from methods3d.rules import Propagation, composite

SEEDS = ("others", "softmax")


def weights_of(contrast: Contrast, y: Tensor) -> Tensor:
    """Each logit's weight; those outside of what is read have none."""
    bound = contrast.bind(y)
    if bound.box is None:
        return bound.weights
    everywhere = torch.zeros_like(y)
    everywhere[(slice(None), slice(None), *bound.box)] = bound.weights
    return everywhere


def seeds(contrast: Contrast, y: Tensor) -> Tensor:
    """Each logit's relevance."""
    return weights_of(contrast, y) * y


def slow_seeds(k: list[int], y: Tensor, by: str) -> Tensor:
    """The papers' formulas for a classifier, sample by sample and class by class; k is each sample's class."""
    r = torch.zeros_like(y)
    for b, (logits, one) in enumerate(zip(y, k, strict=True)):
        p = [float(v) for v in logits.exp() / logits.exp().sum()]
        for m in range(len(logits)):
            if by == "others":
                r[b, m] = logits[one] if m == one else -logits[one] / (len(logits) - 1)
            else:
                r[b, m] = p[one] * (1 - p[one]) if m == one else -p[one] * p[m]
    return r


def slow_region_seeds(k: int, mask: Tensor, y: Tensor, by: str) -> Tensor:
    """The same for the mean logit over each sample's region, whose voxels share by q |y|."""
    r = torch.zeros_like(y)
    n = y.shape[1]
    for b in range(len(y)):
        places = mask[b].nonzero().tolist()
        for m in range(n):
            q, total = {}, 0.0
            for place in places:
                logits = y[b][(slice(None), *place)]
                p = logits.softmax(0)
                if by == "others":
                    q[tuple(place)] = 1 / len(places)
                    total += float(logits[k]) / len(places) * (1 if m == k else -1 / (n - 1))
                else:
                    q[tuple(place)] = float(p[k] * ((1 - p[k]) if m == k else p[m])) / len(places)
                    total += q[tuple(place)] * (1 if m == k else -1)
            reach = sum(one * abs(float(y[b][(m, *place)])) for place, one in q.items())
            for place, one in q.items():
                value = float(y[b][(m, *place)])
                shared = total * one * abs(value) / reach
                r[b][(m, *place)] = value / len(places) if by == "others" and m == k else shared
    return r


@pytest.mark.parametrize("by", SEEDS)
def test_a_classifiers_seeds_are_the_papers(volume, by):
    y = volume(4, 5)
    for target, k in (
        (ClassScore(1), [1, 1, 1, 1]),
        (ClassScore(), y.argmax(1).tolist()),
        (ClassMargin(2), [2, 2, 2, 2]),
        (ClassMargin(3, 0), [3, 3, 3, 3]),  # whom the margin is over does not matter: all others are held against
    ):
        torch.testing.assert_close(seeds(Contrast(target, by), y), slow_seeds(k, y, by))
    two = volume(3, 2, seed=4)
    torch.testing.assert_close(seeds(Contrast(ClassScore(0), by), two), slow_seeds([0, 0, 0], two, by))


@pytest.mark.parametrize("by", SEEDS)
def test_a_regions_seeds_are_the_papers_shared_by_its_voxels(volume, region, by):
    y = volume(2, 3, 3, 2, 3)
    masks = torch.stack([region((3, 2, 3), (0, 2), (0, 2), (1, 3)), region((3, 2, 3), (2, 3), (1, 2), (0, 1))])
    found = seeds(Contrast(RegionScore(1, masks), by), y)
    torch.testing.assert_close(found, slow_region_seeds(1, masks, y, by))
    # The second region is a single voxel: there each class has just what the papers give it.
    one = y[1:, :, 2, 1, 0]
    torch.testing.assert_close(found[1:, :, 2, 1, 0], slow_seeds([1], one, by))
    predicted = seeds(Contrast(PredictedRegion(2), by), y)
    torch.testing.assert_close(predicted, slow_region_seeds(2, y.argmax(1) == 2, y, by))


@pytest.mark.parametrize("by", SEEDS)
def test_the_seeds_add_up_to_nothing(volume, region, targets, by):
    y = volume(2, 4, 5, 5, 5)
    mask = region((5, 5, 5), (1, 4), (0, 3), (2, 5))
    several = torch.rand(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    for target in (RegionScore(0, mask), PredictedRegion(3), targets.Weighted(several), targets.SoftRegion(mask)):
        contrast = Contrast(target, by)
        r = seeds(contrast, y)
        assert bool((r.flatten(1).sum(1).abs() < 1e-12 * r.flatten(1).abs().sum(1)).all())
        bound = contrast.bind(y)
        torch.testing.assert_close(bound(y), r.flatten(1).sum(1), rtol=0, atol=1e-12)
        torch.testing.assert_close(contrast(y), bound(y), rtol=0, atol=1e-12)
        torch.testing.assert_close(bound.explained, target.bind(y)(y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sure_classifier_has_seeds_that_add_up_too(dtype):
    """Where p is one but for rounding, 1 - p still is the others' probability."""
    y = torch.tensor([[30.0, 1.0, -2.0], [-3.0, 20.0, 60.0]], dtype=dtype)
    r = seeds(Contrast(ClassScore(), "softmax"), y)
    assert bool((r.sum(1).abs() < 1e-5 * r.abs().sum(1)).all())
    torch.testing.assert_close(r[0, 0].item(), (torch.tensor([-29.0, -32.0]).exp().sum()).item(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("by", SEEDS)
def test_logits_of_exactly_zero_are_finite_and_hand_on_nothing(by):
    for y in (torch.tensor([[2.0, 0.0, 1.0]]), torch.zeros(1, 3), torch.zeros(1, 3, 2, 2, 2)):
        target: Any = ClassScore(0) if y.ndim == 2 else RegionScore(0, torch.ones(2, 2, 2))
        bound = Contrast(target, by).bind(y)
        assert bool(torch.isfinite(bound.weights).all()) and bool(torch.isfinite(bound(y)).all())
    found = seeds(Contrast(ClassScore(0)), torch.tensor([[2.0, 0.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.0, -1.0]]))


def test_what_cannot_be_contrasted_is_refused(make, volume, targets):
    x = volume(1, 1, 16, 16, 16)
    one_logit = TorchModel(make("plain", 1, 1))
    for k in (0, 1):
        with pytest.raises(TargetError, match="at least two logits, but the model has one: explain the score itself"):
            CLRP(composite="gamma")(one_logit, x, ClassScore(k))
    for model in (TorchModel(make("segresnet", 1, 1)), WindowedModel(make("segresnet", 1, 1), 8)):
        with pytest.raises(TargetError, match="at least two logits"):
            CLRP()(model, x, RegionScore(1, torch.ones(16, 16, 16)))
    with pytest.raises(TargetError, match="explain the value itself"):
        CLRP()(TorchModel(make("plain")), x, Regression(0))
    with pytest.raises(TargetError, match="rises with no logit"):
        Contrast(targets.Weighted(-torch.ones(1, 3))).bind(volume(1, 3))
    with pytest.raises(TargetError, match="Class 7 does not exist"):
        CLRP()(TorchModel(make("plain")), x, ClassScore(7))
    with pytest.raises(TargetError, match="region is empty"):
        CLRP()(WindowedModel(make("segresnet"), 8), x, RegionScore(1, torch.zeros(16, 16, 16)))
    with pytest.raises(ParameterError, match="seeds is 'all', but has to be 'others' or 'softmax'"):
        CLRP(seeds="all")
    with pytest.raises(RuleError, match="no rule 'nonsense'"):
        CLRP(composite="nonsense")


# --- the maps ---


@pytest.mark.parametrize("rules", ["deep-taylor", "gamma", "epsilon-plus"])
@pytest.mark.parametrize("by", SEEDS)
def test_one_pass_is_both_halves(make, volume, targets, rules, by):
    """LRP is linear in its seeds: R from the explained class, R_dual from all others, by two passes of LRP."""
    x = volume(2, 1, 16, 16, 16)
    for name, target in (("densenet", ClassScore(2)), ("unet", PredictedRegion(1))):
        model = TorchModel(make(name))
        propagation = Propagation(composite(rules))
        weights = weights_of(Contrast(target, by), model.output(x))

        def lrp(some: Tensor, model: Any = model, propagation: Propagation = propagation) -> Tensor:
            # The samples differ in their weights, and some rules take them one by one.
            parts = [relevance_of(model, x[n : n + 1], targets.Weighted(some[n]), propagation) for n in range(2)]
            return torch.cat([part.values for part in parts])

        r, dual = lrp(weights.clamp(min=0)), lrp(-weights.clamp(max=0))
        found = CLRP(composite=rules, seeds=by, positive=False)(model, x, target)
        torch.testing.assert_close(found.values, r - dual, rtol=1e-6, atol=1e-9 * float(r.abs().max()))
        positive = CLRP(composite=rules, seeds=by)(model, x, target)
        torch.testing.assert_close(positive.values, found.values.clamp(min=0))


def likeness(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


class TwoKinds(nn.Module):
    """Class 0 is for bright voxels on the left, class 1 for those on the right, and both like the middle best."""

    def __init__(self, *, voxelwise: bool) -> None:
        super().__init__()
        self.voxelwise = voxelwise
        self.see = nn.Conv3d(1, 3, 3, padding=1, bias=False).double()
        self.head = nn.Conv3d(3, 3, 1, bias=False).double()
        places = torch.zeros(3, 12, 1, 1, dtype=torch.float64)
        places[0, :4], places[1, 4:8], places[2, 8:] = 1, 1, 1
        self.register_buffer("places", places)
        with torch.no_grad():
            self.see.weight.fill_(1 / 27)
            self.head.weight.copy_(torch.tensor([[1, 3, 0.1], [0.1, 3, 1], [0.2, 2.5, 0.2]]).view(3, 3, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.see(x)) * self.places
        if self.voxelwise:  # each voxel sees the whole line that it is on
            return self.head(h.mean(2, keepdim=True).expand(h.shape))
        return self.head(h.mean((2, 3, 4), keepdim=True)).flatten(1)


@pytest.mark.parametrize("by", SEEDS)
@pytest.mark.parametrize("kind", ["classifier", "segmentation", "windows"])
def test_the_maps_of_two_classes_differ(volume, region, kind, by):
    """LRP's z+ maps of both classes show the middle; the contrast shows each class's own side."""
    x = volume(1, 1, 12, 8, 8).abs()
    net = TwoKinds(voxelwise=kind != "classifier")
    model: Any = WindowedModel(net, (12, 4, 4), overlap=0.5) if kind == "windows" else TorchModel(net)
    mask = region((12, 8, 8), (0, 12), (2, 6), (2, 6))
    question = ClassScore if kind == "classifier" else (lambda k: RegionScore(k, mask))
    plain = [relevance_of(model, x, question(k), Propagation(composite("deep-taylor"))).values for k in (0, 1)]
    found = [CLRP(seeds=by)(model, x, question(k)).values for k in (0, 1)]
    assert likeness(*plain) > 0.8
    assert likeness(*found) < 0.1
    assert found[0][:, :, :3].sum() > 10 * found[0][:, :, 9:].sum()
    assert found[1][:, :, 9:].sum() > 10 * found[1][:, :, :3].sum()


@pytest.mark.parametrize("by", SEEDS)
@pytest.mark.parametrize("name", ["densenet", "plain", "unet", "segresnet"])
def test_the_account_closes_at_nothing_and_the_score_is_the_targets_own(make, volume, unchanged, counted, name, by):
    x = volume(2, 1, 16, 16, 16)
    net = make(name)
    target: Any = ClassMargin(1) if name in ("densenet", "plain") else PredictedRegion(1)
    for bias in ("spread", "absorb"):
        method = CLRP(composite="gamma", seeds=by, bias=bias, positive=False)
        with unchanged(net, x), counted(net) as count:
            found = method(TorchModel(net), x, target)
        # The target's own score takes no pass of its own; one alone shows that samples do not mix.
        assert count.samples == 2 + 1
        torch.testing.assert_close(found.scores, TorchModel(net).scores(x, target))
        total = found.values.flatten(1).sum(1) + sum(found.absorbed.values())
        size = found.values.abs().flatten(1).sum(1) + sum(kept.abs() for kept in found.absorbed.values())
        assert bool((total.abs() <= 1e-9 * size).all()) and bool((found.gap.abs() <= 1e-9 * size).all())
        assert not [w for w in found.warnings if "gap" in w]
    positive = CLRP(seeds=by)(TorchModel(net), x, target)
    assert positive.gap is None and not positive.absorbed and positive.extensive
    assert bool((positive.values >= 0).all()) and bool((positive.values > 0).any())
    assert positive.provenance.parameters["composite"] == "first: z-box; pool: proportional; *: z-plus"


@pytest.mark.parametrize("by", SEEDS)
@pytest.mark.parametrize("name", ["densenet", "segresnet"])
def test_a_batch_equals_its_samples(make, volume, region, name, by):
    x = volume(3, 1, 16, 16, 16)
    masks = torch.stack([region((16, 16, 16), (n, n + 6), (2, 9), (4, 12)) for n in range(3)])
    model = TorchModel(make(name))
    for rules in ("deep-taylor", "gamma"):
        method = CLRP(composite=rules, seeds=by, positive=False)
        target: Any = ClassScore() if name == "densenet" else RegionScore(1, masks)
        found = method(model, x, target)
        for n in range(3):
            one = method(model, x[n : n + 1], target.sample(n, 3))
            torch.testing.assert_close(found.values[n : n + 1], one.values, rtol=1e-6, atol=1e-12)
            torch.testing.assert_close(found.scores[n : n + 1], one.scores)
        bound = Contrast(target, by).bind(model.output(x))
        for n in range(3):
            alone = bound.sample(n, 3)
            torch.testing.assert_close(alone(model.output(x)[n : n + 1]), bound(model.output(x))[n : n + 1])


class Voxelwise(nn.Module):
    """Every voxel for itself: a window predicts what the whole scan does."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a, self.b = (nn.Parameter(torch.randn(4, n, generator=generator).double()) for n in (2, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(F.conv3d(x, self.a.view(4, 2, 1, 1, 1)))
        return F.conv3d(h, self.b[:3].view(3, 4, 1, 1, 1))


@pytest.mark.parametrize("by", SEEDS)
@pytest.mark.parametrize("rules", ["deep-taylor", "gamma"])
def test_windows_give_what_the_whole_gives(make, volume, region, rules, by):
    x = volume(2, 2, 14, 10, 12)
    mask = region((14, 10, 12), (2, 9), (3, 8), (1, 7))
    method = CLRP(composite=rules, seeds=by, positive=False)
    net = Voxelwise()
    for target in (RegionScore(1, mask), PredictedRegion(2)):
        whole = method(TorchModel(net), x, target)
        windowed = method(WindowedModel(net, 6, overlap=0.5), x, target)
        # The stabiliser is 1e-6 of a root mean square: of the whole scan, or of a window.
        torch.testing.assert_close(
            windowed.values, whole.values, rtol=1e-4, atol=1e-4 * float(whole.values.abs().max())
        )
        assert whole.values.abs().max() > 1e-4
        torch.testing.assert_close(windowed.scores, whole.scores)
        assert bool((windowed.gap.abs() < 1e-12).all())
    large = make("segresnet")
    x = volume(1, 1, 16, 16, 16)
    one = method(WindowedModel(large, 16), x, PredictedRegion(1))
    torch.testing.assert_close(one.values, method(TorchModel(large), x, PredictedRegion(1)).values)


def test_only_windows_that_the_region_reads_are_run(make, volume, region, counted):
    net, x = make("segresnet"), volume(1, 1, 24, 8, 8)
    model = WindowedModel(net, 8, overlap=0.0)
    target = RegionScore(1, region((24, 8, 8), (2, 5), (2, 5), (2, 5)))
    with counted(net) as count:
        found = CLRP(composite="gamma")(model, x, target)
    assert count.samples == 2  # stitched, and then explained
    assert found.values[:, :, 8:].abs().max() == 0
    bound = Contrast(target).bind(model.output(x))
    assert torch.equal(bound.support((24, 8, 8)), target.mask)
    torch.testing.assert_close(model.gradient(x, bound).scores, bound(model.output(x)), rtol=0, atol=1e-12)


def test_its_cost_is_lrps():
    from methods3d import LRP

    class Model:
        def passes(self, shape: Any, target: Any = None) -> int:
            return 5

    for rules in ("epsilon", "gamma"):
        expected = LRP(composite=rules, bias="absorb").cost(Model(), (8, 8, 8))  # type: ignore[arg-type]
        assert CLRP(composite=rules, bias="absorb").cost(Model(), (8, 8, 8)) == expected  # type: ignore[arg-type]
