"""LRP's account closes on any network: relevance plus what was absorbed, by cause, is the score."""

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from methods3d import (
    LRP,
    ClassMargin,
    ClassScore,
    InputXGradient,
    LayerAttribution,
    ModelInfo,
    PredictedRegion,
    RegionScore,
    Regression,
    TorchModel,
    UnsupportedModelError,
    VolumeError,
    WindowedModel,
)
from methods3d.lrp.propagate import leaks
from methods3d.rules import COMPOSITES, Propagation, composite

CLASSIFIERS = ("densenet", "tokens", "plain", "smooth_classifier")
VOXELWISE = ("unet", "segresnet", "basicunet", "gated")
OPTIONS = [
    LRP(),
    LRP(composite="epsilon", bias="absorb"),
    LRP(composite="epsilon(0.1)"),
    LRP(composite="gamma(1, 1e-3)", bias="absorb"),
    LRP(composite="gamma(10, 0)"),
]


def question(name: str) -> Any:
    return ClassScore(1) if name in CLASSIFIERS else PredictedRegion(1)


def size_for(name: str) -> int:
    return 32 if name == "basicunet" else 16


def account(found: Any) -> Any:
    return found.values.flatten(1).sum(1) + sum(found.absorbed.values())


@pytest.mark.parametrize("method", OPTIONS, ids=str)
@pytest.mark.parametrize("name", [*CLASSIFIERS, *VOXELWISE])
def test_relevance_and_what_was_absorbed_is_the_score(make, volume, name, method):
    n = size_for(name)
    x = volume(1 if name == "basicunet" else 2, 1, n, n, n)
    model = TorchModel(make(name))
    found = method(model, x, question(name))
    size = found.scores.abs() + sum(kept.abs() for kept in found.absorbed.values())
    # float64; the tolerance is relative to the largest entry of the account, since entries may cancel.
    assert bool(((account(found) - found.scores).abs() <= 1e-9 * size).all())
    torch.testing.assert_close(found.gap, found.scores - account(found), rtol=0, atol=1e-8 * size.max().item())
    assert not [w for w in found.warnings if "rule" in w or "gap" in w]


@pytest.mark.parametrize("method", OPTIONS[:4], ids=str)
@pytest.mark.parametrize("name", ["unet", "segresnet", "gated"])
@pytest.mark.parametrize("cval", [0.0, 0.7])
def test_the_account_closes_in_windows_too(make, volume, targets, name, method, cval):
    x = volume(2, 1, 20, 12, 16)  # smaller than the window along j: what the padding holds is booked
    model = WindowedModel(make(name), 16, overlap=0.5, cval=cval)
    for target in (PredictedRegion(1), targets.SoftRegion(torch.ones(20, 12, 16))):
        found = method(model, x, target)
        size = found.scores.abs() + sum(kept.abs() for kept in found.absorbed.values())
        assert bool(((account(found) - found.scores).abs() <= 1e-9 * size).all())
        assert bool((found.absorbed["padding"].abs() > 1e-9).all()) == (cval != 0)
        # Linear targets hand on all of the score, a squared probability does not.
        assert bool((found.absorbed["target"].abs() > 1e-6).all()) == (not target.linear)


@pytest.mark.parametrize("rule", ["epsilon", "gamma(0.25)"])
@pytest.mark.parametrize("name", ["densenet", "unet", "segresnet", "basicunet", "plain"])
def test_without_constants_the_sum_alone_conserves(make, volume, clean, name, rule):
    n = size_for(name)
    x = volume(1, 1, n, n, n)
    found = LRP(composite=rule, bias="absorb")(TorchModel(clean(make(name))), x, question(name))
    # What is left is the stabiliser: 1e-6 of a root mean square a layer.
    torch.testing.assert_close(found.values.flatten(1).sum(1), found.scores, rtol=2e-4, atol=0)
    assert set(found.absorbed) <= {"stabiliser", "norm", "bias", "target", "activation"}
    for cause, kept in found.absorbed.items():
        assert cause == "stabiliser" or bool((kept.abs() < 1e-12).all())
    exact = {"epsilon": "epsilon(0)", "gamma(0.25)": "gamma(0.25, 0)"}[rule]
    found = LRP(composite=exact, bias="absorb")(TorchModel(clean(make(name))), x, question(name))
    torch.testing.assert_close(found.values.flatten(1).sum(1), found.scores, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", ["gamma(0.25)", "z-plus", "absolute", "alpha-beta(2, 1)"])
@pytest.mark.parametrize("name", ["densenet", "unet", "segresnet", "basicunet", "plain"])
def test_spread_shifts_and_biases_reach_the_input(make, volume, name, rule):
    """Biases, norm shifts and running statistics as after training: what is not dead arrives."""
    n = size_for(name)
    found = LRP(composite=rule)(TorchModel(make(name)), volume(1, 1, n, n, n), question(name))
    dead = found.absorbed.get("dead", torch.zeros(1))
    size = float(found.values.abs().sum())  # what the stabiliser takes a millionth of, layer by layer
    torch.testing.assert_close(found.values.flatten(1).sum(1) + dead, found.scores, rtol=0, atol=1e-4 * size)


@pytest.mark.parametrize("name", [*CLASSIFIERS, *VOXELWISE])
def test_the_network_computes_the_same_inside_the_mode(make, volume, targets, name):
    n = size_for(name)
    x = volume(1, 1, n, n, n)
    model = TorchModel(make(name))
    y = model.output(x)
    inside = []

    class Seen(targets.Weighted):
        def __call__(self, output: Any) -> Any:
            inside.append(output.detach())
            return super().__call__(output)

    for method in OPTIONS:
        method(model, x, Seen(torch.ones_like(y)))
        # 1e-12 of the output's size: as many digits as float64 has after a few hundred terms.
        torch.testing.assert_close(inside.pop(), y, rtol=0, atol=1e-12 * y.abs().max().item())


def test_epsilon_zero_is_input_times_gradient_where_the_network_is_piecewise_linear(make, volume):
    """Ancona et al. 2018, prop. 1: with biases absorbed, LRP-epsilon at epsilon 0 is gradient times input."""
    x = volume(2, 1, 16, 16, 16)
    for name in ("plain", "densenet"):
        model = TorchModel(make(name))
        ours = LRP(composite="lrp-0", bias="absorb")(model, x, ClassScore(2))
        theirs = InputXGradient()(model, x, ClassScore(2))
        torch.testing.assert_close(ours.values, theirs.values, rtol=1e-9, atol=1e-12)


# --- by cause ---


def test_a_bias_whose_inputs_are_all_zero_is_booked_exactly(volume, targets):
    net = nn.Conv3d(1, 2, 3, padding=1).double()
    x = torch.zeros(1, 1, 6, 6, 6, dtype=torch.float64)
    x[..., 0, 0, 0] = 1.0  # reaches only the first corner
    weights = torch.ones(1, 2, 6, 6, 6, dtype=torch.float64)
    weights[..., :2, :2, :2] = 0
    for bias in ("spread", "absorb"):
        found = LRP(bias=bias)(TorchModel(net), x, targets.Weighted(weights))
        booked = (weights * net.bias.detach().view(1, 2, 1, 1, 1)).sum()
        # The stabiliser takes 1e-6 of a root mean square from each output.
        kept = found.absorbed["dead" if bias == "spread" else "bias"]
        torch.testing.assert_close(kept[0], booked, rtol=1e-5, atol=1e-9)
        assert found.values.abs().max() == 0
        assert any("zero everywhere" in w for w in found.warnings)


def test_a_norms_shift_is_booked_exactly(volume, targets):
    norm = nn.BatchNorm3d(2).double()
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([0.5, -2.0]))
        norm.running_var.copy_(torch.tensor([4.0, 0.25]))
        norm.bias.copy_(torch.tensor([1.0, 3.0]))
        norm.eps = 0.0
    x = volume(2, 2, 4, 4, 4)
    found = LRP(bias="absorb")(TorchModel(norm), x, targets.Weighted(torch.ones(2, 4, 4, 4)))
    shift = 64 * ((1.0 - 0.5 / 2) + (3.0 + 2.0 / 0.5))
    torch.testing.assert_close(found.absorbed["norm"], torch.full((2,), shift, dtype=torch.float64))
    torch.testing.assert_close(found.values[:, 1], x[:, 1] / 0.5)


def test_a_constant_that_is_added_or_concatenated_is_booked_exactly(volume, targets):
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(1))  # says which precision to run in

        def forward(self, x: Any) -> Any:
            return torch.cat([x + 2, torch.full_like(x, 3.0)], 1)

    x = volume(2, 1, 4, 4, 4)
    found = LRP()(TorchModel(Constants().double()), x, targets.Weighted(torch.ones(2, 4, 4, 4)))
    torch.testing.assert_close(found.absorbed["constant"], torch.full((2,), 64 * 5.0, dtype=torch.float64))
    torch.testing.assert_close(found.values, x)


def test_what_the_target_kept_is_booked(make, volume):
    model, x = TorchModel(make("plain")), volume(2, 1, 16, 16, 16)
    found = LRP()(model, x, Regression(1, reference=3.0))
    torch.testing.assert_close(found.absorbed["target"], torch.full((2,), -3.0, dtype=torch.float64))


# --- laws ---


def test_lrp_is_linear_in_the_target(make, volume, targets):
    """Relevance is propagated by a linear map, whatever the network."""
    model, x = TorchModel(make("unet")), volume(1, 1, 16, 16, 16)
    a, b = volume(1, 2, 16, 16, 16, seed=3), volume(1, 2, 16, 16, 16, seed=4)
    of = {key: LRP()(model, x, targets.Weighted(w)).values for key, w in {"a": a, "b": b, "c": 2 * a - b}.items()}
    # The networks' relevance is a sum of terms far larger than itself.
    torch.testing.assert_close(of["c"], 2 * of["a"] - of["b"], rtol=0, atol=1e-9 * of["a"].abs().max().item())


def test_a_margin_is_the_difference_of_its_scores(make, volume):
    model, x = TorchModel(make("densenet")), volume(1, 1, 16, 16, 16)
    margin, one, other = (LRP()(model, x, t).values for t in (ClassMargin(0, 2), ClassScore(0), ClassScore(2)))
    torch.testing.assert_close(margin, one - other, rtol=0, atol=1e-10 * one.abs().max().item())


def test_gamma_keeps_relevance_within_bounds(make, volume, clean):
    """Why it was made: with a strong gamma the sum of |R| stays near the score, where the gradient's explodes."""
    model, x = TorchModel(clean(make("plain"))), volume(1, 1, 16, 16, 16).abs()
    size = {
        rule: float(LRP(composite=rule)(model, x, ClassScore(0)).values.abs().sum()) for rule in ("lrp-0", "gamma(100)")
    }
    assert size["gamma(100)"] < size["lrp-0"]


# --- what it says when it cannot ---


class Odd(nn.Module):
    """An exponential, and a sine."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 2, 1), nn.Conv3d(1, 2, 1)

    def forward(self, x: Any) -> Any:
        return torch.exp(self.a(x)) + torch.sin(self.b(x))


def test_functions_without_a_rule_are_named_in_the_warnings(volume):
    found = LRP()(TorchModel(Odd().double()), volume(1, 1, 8, 8, 8), PredictedRegion(0, by=0.1))
    assert "no rule covers exp, sin: plain gradients were used there" in found.warnings
    above = LayerAttribution(of=LRP(), layer="a")(
        TorchModel(Odd().double()), volume(1, 1, 8, 8, 8), PredictedRegion(0, by=0.1)
    )
    assert "no rule covers exp: plain gradients were used there" in above.warnings, "what lies above the layer"
    windowed = LRP()(WindowedModel(Odd().double(), 4), volume(1, 1, 8, 8, 8), PredictedRegion(0, by=0.1))
    assert any("exp, sin" in w for w in windowed.warnings)


def test_torchscript_is_refused_in_one_sentence(make, volume):
    script = torch.jit.script(make("plain"))
    with pytest.raises(UnsupportedModelError, match=r"^A TorchScript model does not allow .*itself\.$"):
        LRP()(TorchModel(script), volume(1, 1, 16, 16, 16), ClassScore(0))


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64])
def test_a_complex_or_whole_number_input_is_refused(make, kind):
    with pytest.raises(VolumeError, match="give a floating-point"):
        LRP()(TorchModel(make("plain")), torch.ones(1, 1, 16, 16, 16).to(kind), ClassScore(0))


def test_settings_are_data():
    assert len({LRP(composite=c, bias=b) for c, b in itertools.product(COMPOSITES, ("spread", "absorb"))}) == 24


# --- rules that share among voxels: the scan's zeros get relevance, too ---

READING = ["first: flat; gamma(0.25)", "first: w-square; z-plus", "deep-taylor", "first: z-box(-3, 3); epsilon"]


@pytest.mark.parametrize("rule", READING)
@pytest.mark.parametrize("name", ["plain", "unet", "gated", "tokens"])
def test_the_account_closes_where_voxels_share(make, volume, name, rule):
    x = volume(2, 1, 16, 16, 16)
    x[:, :, :8] = 0
    found = LRP(composite=rule)(TorchModel(make(name)), x, question(name))
    size = found.values.flatten(1).abs().sum(1)
    assert bool(((account(found) - found.scores).abs() <= 1e-9 * size).all())
    assert bool((found.values[:, :, :8] != 0).any())
    alone = LRP(composite=rule)(TorchModel(make(name)), x[1:], question(name))
    torch.testing.assert_close(found.values[1:], alone.values, rtol=0, atol=1e-10 * float(size.max()))


@pytest.mark.parametrize("rule", READING)
@pytest.mark.parametrize("cval", [0.0, 0.7])
def test_the_account_closes_where_voxels_share_in_windows(make, volume, targets, rule, cval):
    x = volume(2, 1, 20, 14, 11)
    model = WindowedModel(make("unet"), (16, 16, 16), overlap=0.5, cval=cval, sw_batch_size=3)
    found = LRP(composite=rule)(model, x, targets.Weighted(volume(1, 2, 20, 14, 11, seed=2)[0]))
    size = found.values.flatten(1).abs().sum(1)
    assert bool(((account(found) - found.scores).abs() <= 1e-9 * size).all())


def test_one_window_that_holds_the_scan_is_the_dense_model(make, volume, targets):
    x, target = volume(1, 1, 16, 16, 16), targets.Weighted(volume(1, 2, 16, 16, 16, seed=2)[0])
    for rule in (*READING, "z-plus", "attnlrp"):
        dense, windowed = (
            LRP(composite=rule)(model, x, target)
            for model in (TorchModel(make("unet")), WindowedModel(make("unet"), 16))
        )
        torch.testing.assert_close(dense.values, windowed.values)


def test_the_box_comes_from_the_model_where_it_has_one(volume):
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(54, 2)).double()
    x = volume(2, 1, 5, 5, 5)
    known, given, own = (
        LRP(composite=rule)(TorchModel(net, info=ModelInfo(bounds=bounds)), x, ClassScore(0)).values
        for rule, bounds in (("first: z-box", (-9.0, 7.0)), ("first: z-box(-9, 7)", None), ("first: z-box", None))
    )
    torch.testing.assert_close(known, given)
    assert not torch.allclose(own, given)
    for n in range(2):
        part = x[n : n + 1]
        box = f"first: z-box({float(part.min())!r}, {float(part.max())!r})"
        torch.testing.assert_close(own[n : n + 1], LRP(composite=box)(TorchModel(net), part, ClassScore(0)).values)


# --- at a layer, and site by site ---


def test_relevance_at_a_layer_that_everything_passes_is_all_of_it(make, volume, clean):
    x = volume(2, 1, 16, 16, 16)
    model = TorchModel(clean(make("plain")))
    for layer, shape in (("3", (8, 8, 8)), ("0", (16, 16, 16))):
        found = LayerAttribution(of=LRP(composite="gamma(0.25, 0)"), layer=layer)(model, x, ClassScore(1))
        assert found.at == layer
        assert found.values.shape == x.shape
        # The rounding of the default precision of the sum's terms.
        torch.testing.assert_close(found.values.flatten(1).sum(1), found.scores, rtol=1e-6, atol=0)
        cells = found.values.unfold(2, 16 // shape[0], 16 // shape[0])
        assert bool((cells == cells[..., :1]).all()), "a cell's voxels share evenly"


def test_relevance_at_a_layer_in_windows_adds_up(make, volume, targets, clean):
    x, net = volume(1, 1, 24, 16, 16), clean(make("segresnet"))
    model = WindowedModel(net, 16, overlap=0.5)
    target = targets.Weighted(volume(1, 2, 24, 16, 16, seed=2)[0])
    found = LayerAttribution(of=LRP(composite="gamma(0.25, 0)"), layer="convInit")(model, x, target)
    torch.testing.assert_close(found.values.flatten(1).sum(1), found.scores, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", ["gamma", "first: flat; z-plus", "attnlrp", "epsilon-alpha2-beta1"])
@pytest.mark.parametrize("bias", ["spread", "absorb"])
@pytest.mark.parametrize("name", [*CLASSIFIERS, *VOXELWISE])
def test_the_leak_report_balances_at_every_site(make, volume, name, rule, bias):
    """What arrives at a function is what it hands on and what it keeps, each measured by itself."""
    n = size_for(name)
    x = volume(1, 1, n, n, n)
    sites, found = leaks(TorchModel(make(name)), x, question(name), Propagation(composite(rule), bias))
    size = float(found.values.abs().sum()) + sum(abs(float(kept)) for kept in found.absorbed.values())
    for leak in sites:
        assert leak.received - leak.handed - sum(leak.absorbed.values()) == pytest.approx(0, abs=1e-9 * size), leak
    for cause, kept in found.absorbed.items():
        assert sum(leak.absorbed.get(cause, 0.0) for leak in sites) == pytest.approx(float(kept), abs=1e-9 * size)
    linear = [leak for leak in sites if leak.site.function in ("conv3d", "linear")]
    assert linear
    assert all(leak.rule and leak.site.layer for leak in linear if name not in ("gated",))


def test_the_leak_report_through_windows(make, volume, targets):
    x, model = volume(1, 1, 20, 16, 16), WindowedModel(make("unet"), 16, overlap=0.5)
    target = targets.Weighted(volume(1, 2, 20, 16, 16, seed=2)[0])
    sites, found = leaks(model, x, target, Propagation(composite("gamma")))
    for leak in sites:
        size = abs(leak.received) + float(found.scores.abs())
        assert leak.received - leak.handed - sum(leak.absorbed.values()) == pytest.approx(0, abs=1e-8 * size), leak


# --- exported programs and checkpoints ---


def test_an_exported_program_is_explained_as_the_network_itself(make, volume):
    for name in ("plain", "unet", "densenet", "segresnet"):
        net, x = make(name).eval(), volume(1, 1, 16, 16, 16)
        program = torch.export.export(net, (x,)).module()
        for rule in ("gamma", "first: flat; z-plus; norm: pass"):
            one, two = (LRP(composite=rule)(TorchModel(n), x, question(name)) for n in (net, program))
            assert not [w for w in two.warnings if "rule" in w]
            torch.testing.assert_close(two.values, one.values, rtol=1e-7, atol=1e-9 * float(one.values.abs().max()))


class Checkpointed(nn.Module):
    """A block that is not kept for the backward pass but run again."""

    def __init__(self) -> None:
        super().__init__()
        self.use_checkpoint = True
        self.block, self.head = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 4, 1)), nn.Conv3d(4, 2, 1)

    def forward(self, x: Any) -> Any:
        run = partial(checkpoint, use_reentrant=False) if self.use_checkpoint else lambda f, h: f(h)
        return self.head(run(self.block, x))


def test_checkpointing_is_left_out_under_rules_and_left_as_it_was(volume):
    net, x = Checkpointed().double(), volume(1, 1, 8, 8, 8)
    target = RegionScore(1, torch.ones(6, 6, 6))
    found = LRP()(TorchModel(net), x, target)
    assert net.use_checkpoint
    net.use_checkpoint = False
    assert torch.equal(found.values, LRP()(TorchModel(net), x, target).values)


def test_checkpointing_that_cannot_be_left_out_is_refused(volume):
    class Always(nn.Sequential):
        def forward(self, x: Any) -> Any:
            return self[1](checkpoint(self[0], x, use_reentrant=False))

    net = Always(nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU()), nn.Conv3d(4, 2, 1)).double()
    with pytest.raises(UnsupportedModelError, match="activation checkpointing"):
        LRP()(TorchModel(net), volume(1, 1, 8, 8, 8), RegionScore(1, torch.ones(6, 6, 6)))


def test_half_precision_survives_large_activations(volume):
    """The variance of activations in the hundreds overflows float16."""
    net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, affine=True), nn.ReLU(), nn.Conv3d(4, 2, 1))
    with torch.no_grad():
        net[0].weight.mul_(1000)
    model = TorchModel(net, autocast=torch.float16)
    found = LRP()(model, volume(1, 1, 8, 8, 8).float(), RegionScore(1, torch.ones(6, 6, 6)))
    size = float(found.values.abs().sum())
    assert size > 0
    assert abs(float(found.gap)) < 0.02 * size


def test_a_norm_keeps_the_layout_that_it_was_given(volume):
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4), nn.Linear(216, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.conv(x).transpose(2, 4)).view(len(x), 4, -1).mean(1))

    net = Turned().double()
    found = LRP()(TorchModel(net), volume(1, 1, 8, 8, 8), ClassScore(1))
    torch.testing.assert_close(account(found), found.scores, rtol=1e-9, atol=1e-9)


def test_a_scripted_part_is_refused_and_nothing_stays(volume):
    net = nn.Sequential(nn.Conv3d(1, 2, 3), torch.jit.script(nn.ReLU()), nn.Conv3d(2, 2, 1))
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        LRP()(TorchModel(net), volume(1, 1, 8, 8, 8).float(), RegionScore(1, torch.ones(6, 6, 6)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_lrp_through_autocast(make, volume):
    x = volume(1, 1, 16, 16, 16).float()
    net = make("unet").float()
    exact = LRP()(TorchModel(net), x, PredictedRegion(1))
    half = LRP()(TorchModel(net, autocast=torch.bfloat16), x, PredictedRegion(1))
    # bfloat16 has eight bits: a few hundredths after a dozen layers.
    assert float((half.values - exact.values).norm() / exact.values.norm()) < 0.2
    torch.testing.assert_close(account(half), half.scores, rtol=0.02, atol=0.02 * float(half.values.abs().sum()))


def test_rules_that_meet_nothing_are_said(volume):
    class Scaled(nn.Module):
        def forward(self, x):
            return (2 * x).flatten(1).sum(1, keepdim=True)

    found = LRP()(TorchModel(Scaled()), volume(1, 1, 6, 6, 6), ClassScore(0))
    assert any("no rule met any function" in w for w in found.warnings)
    linear = TorchModel(nn.Sequential(nn.Flatten(), nn.Linear(216, 1)))
    assert not LRP()(linear, volume(1, 1, 6, 6, 6).float(), ClassScore(0)).warnings
