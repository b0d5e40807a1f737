"""DeepLIFT adds up to the difference in score on any network: every nonlinear function has multipliers that do."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift as CaptumDeepLift
from torch import Tensor, nn

from methods3d import (
    ClassMargin,
    ClassScore,
    DeepLIFT,
    ModelInfo,
    PredictedRegion,
    RegionScore,
    Regression,
    Saliency,
    Target,
    TorchModel,
    UnsupportedModelError,
    WindowedModel,
)
from methods3d.baselines import Tissue
from methods3d.rules.multipliers import log_mean
from methods3d.rules.rescale import Rescale

CLASSIFIERS = ("densenet", "tokens", "plain", "smooth_classifier")
VOXELWISE = ("unet", "segresnet", "basicunet", "gated", "smooth")


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    net.double().eval()
    with torch.no_grad():
        for p in net.parameters():
            fan = max(1, p[0].numel()) if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan**0.5)
    return net


class Through(nn.Module):
    """A convolution, any function, and a head that reads the mean of each channel."""

    def __init__(self, f: Callable[[Tensor], Tensor], channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.a = nn.Conv3d(1, channels, 3, padding=1)
        self.f = f
        self.head = nn.LazyLinear(classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.f(self.a(x)))
        return self.head(h.flatten(2).mean(2) if h.ndim > 2 else h)


def through(f: Callable[[Tensor], Tensor], **kwargs: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        net = Through(f, **kwargs).double()
        net(torch.zeros(2, 1, 8, 8, 8, dtype=torch.float64))
    return randomised(net)


def difference(model: Any, x: Tensor, x0: Tensor, target: Target) -> Tensor:
    bound, score = model.bind(x, target)
    return score - model.scores(x0, bound)


def multipliers(f: Callable[..., Tensor], x: list[Tensor], x0: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a function alone; its value is kept, and all that was kept for it is used."""
    mode = Rescale().rewriting(1)
    leaves = [t.clone().requires_grad_() for t in x]
    with torch.no_grad(), mode, mode.reference():
        f(*x0)
    with mode:
        y = f(*(t * 1 for t in leaves))
    assert torch.equal(y.detach(), f(*x))
    assert not mode.kept
    return torch.autograd.grad(y.sum(), leaves)


def assert_complete(found: Any, change: Tensor, tolerance: float = 1e-9) -> None:
    """The sum of the map is the difference in score, relative to that."""
    assert bool((change.abs() > 1e-12).all())
    assert bool(((found.values.flatten(1).sum(1) - change).abs() <= tolerance * change.abs()).all())
    assert bool((found.gap.abs() <= tolerance * change.abs()).all())
    assert not found.warnings


# --- complete, on every network ---


@pytest.mark.parametrize("baseline", ["tissue", -1.0])
@pytest.mark.parametrize("name", [*CLASSIFIERS, *VOXELWISE])
def test_it_adds_up_to_the_difference_in_score(make, volume, name, baseline):
    n = 32 if name == "basicunet" else 16
    x = volume(1 if name == "basicunet" else 2, 1, n, n, n)
    model = TorchModel(make(name), info=ModelInfo(air=-1.0))
    target = ClassMargin(1) if name in CLASSIFIERS else PredictedRegion(1)
    x0 = Tissue().volume(x, ModelInfo(air=-1.0)) if baseline == "tissue" else torch.full_like(x, baseline)
    assert_complete(DeepLIFT(baseline=baseline)(model, x, target), difference(model, x, x0, target))


def by_hand(h: Tensor) -> Tensor:
    """Attention, masked, as it is written by hand; channels are what is attended with."""
    q = h.flatten(2).mT[:, ::16]
    scores = (q @ q.mT / 2).masked_fill(torch.ones(32, 32).triu(1).bool(), -torch.inf)
    return (scores.softmax(-1) @ q).mT


def by_exp(h: Tensor) -> Tensor:
    q = h.flatten(2).mT[:, ::16]
    e = torch.exp((torch.einsum("bic,bjc->bij", q, q) / 9).masked_fill(torch.eye(32).bool(), -torch.inf))
    return torch.einsum("bij,bjc->bci", e / e.sum(-1, keepdim=True), q)


def sdpa(**kwargs: Any) -> Callable[[Tensor], Tensor]:
    def attend(h: Tensor) -> Tensor:
        q = h.flatten(2).mT[:, None, ::16]
        return F.scaled_dot_product_attention(q, 2 * q, q + 1, **kwargs)[:, 0].mT

    return attend


def gated_heads(h: Tensor) -> Tensor:
    q = h.flatten(2).mT[:, ::16].unflatten(-1, (2, 2)).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q[:, :1], q[:, 1:], enable_gqa=True).transpose(1, 2).flatten(2).mT


def excited(h: Tensor) -> Tensor:
    h *= torch.sigmoid(h.mean((2, 3, 4), keepdim=True))
    return h.mul_(F.hardsigmoid(h.amax((2, 3, 4), keepdim=True)))


def in_place(h: Tensor) -> Tensor:
    kept = h
    F.relu_(h)
    h += 0.5
    F.elu(h, inplace=True)
    torch.sigmoid_(h)
    h /= 1 + kept.mean((2, 3, 4), keepdim=True) ** 2
    h.clamp_(0.1, 0.6)
    return kept  # a network may go on with the tensor rather than with what was returned


class MultiHead(nn.Module):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.kwargs = kwargs

    def forward(self, h: Tensor) -> Tensor:
        q = h.flatten(2).mT[:, ::16]
        return self.attend(q, q, q, **self.kwargs)[0].mT


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.layer(h.flatten(2).mT[:, ::16]).mT


class Twice(nn.Module):
    """One activation module, used twice, and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.PReLU(4)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.act(self.act(h) - 0.3)


def layer_norm(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[2:])


NETWORKS: dict[str, Any] = {
    "instance norm": nn.InstanceNorm3d(4, affine=True),
    "group norm": nn.GroupNorm(2, 4),
    "layer norm": layer_norm,
    "rms norm": lambda h: F.rms_norm(h, h.shape[1:], eps=1e-3),
    "batch norm without running statistics": nn.BatchNorm3d(4, track_running_stats=False),
    "norm by hand": lambda h: (h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True) + 1e-3).sqrt(),
    "standard deviation": lambda h: h / h.std((2, 3, 4), keepdim=True),
    "unit length": lambda h: F.normalize(h, dim=1),
    "local response norm": lambda h: F.local_response_norm(h, 3, alpha=1.0),
    "silu": nn.SiLU(inplace=True),
    "prelu": nn.PReLU(4),
    "elu": nn.ELU(),
    "attention by hand": by_hand,
    "attention by exp": by_exp,
    "attention": sdpa(),
    "causal attention": sdpa(is_causal=True, scale=3.0),
    "masked attention": sdpa(attn_mask=torch.eye(32, dtype=torch.float64)),
    "barred attention": sdpa(attn_mask=torch.eye(32) == 0),
    "grouped heads": gated_heads,
    "multi-head": MultiHead(),
    "multi-head without weights": MultiHead(need_weights=False),
    "transformer": Encoder(),
    "squeeze and excitation": excited,
    "in place": in_place,
    "reused": Twice(),
    "glu": lambda h: F.glu(h, 1),
    "log-softmax": lambda h: h.log_softmax(1) + F.softmin(h, dim=1) - h.logsumexp(1, keepdim=True),
    "max pooling": lambda h: F.max_pool3d(h, 3, 2, 1, ceil_mode=True),
    "dilated max pooling": nn.MaxPool3d(2, stride=1, dilation=2),
    "flat max pooling": lambda h: F.max_pool2d(h.flatten(3), 2) + F.max_pool1d(h.flatten(2), 4).view(len(h), 4, 4, 32),
    "adaptive max pooling": nn.AdaptiveMaxPool3d((3, 2, 1)),
    "max pooling with places": lambda h: F.max_pool3d(h, 2, return_indices=True)[0],
    "largest and smallest": lambda h: h.max(2)[0] + h.amin((2, 3))[:, :, None] - h.min(dim=-1).values,
    "larger and smaller": lambda h: torch.maximum(h, h.roll(1, 2)) + torch.min(h, h.flip(1)) + h.maximum(h.new_ones(1)),
    "quotients": lambda h: h / (1.5 + h.flip(1).abs()) + 1 / (2 + h.square()) - torch.div(2 - h, torch.exp(h)),
    "products of constants": lambda h: torch.full((2, 1, 1, 1, 1), 0.5).double()[: len(h)] * h * h.new_ones(1),
    "own square": lambda h: h * h + torch.addcmul(h, h, h.flip(2)),
    "batched products": lambda h: torch.baddbmm(h[:, 0, 0], h[:, 1, 1], h[:, 2, 2]).flatten(1)[:, :4],
    "weights from the scan": lambda h: F.conv3d(h, h[:1, :2, None, :3, :3, :3].mean(1).expand(5, 4, 3, 3, 3)),
    "steps": lambda h: torch.round(3 * h) + torch.sign(h) * h,
    "powers": lambda h: h**2 + h.abs() ** 1.5 + torch.pow(2 + h.tanh(), -0.5) + 2**h,
    "choice": lambda h: torch.where(torch.ones(8, 8).bool().tril(), h.relu(), 0.0).masked_fill(
        torch.eye(8).bool(), 1.0
    ),
    "soft thresholds": lambda h: F.hardshrink(h) + F.softshrink(h) + F.threshold(h, 0.2, 0.1) + F.tanhshrink(h),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_function_adds_up(volume, name, unchanged):
    alone = name in ("batch norm without running statistics", "weights from the scan")  # which mix samples
    x = 3 * volume(1 if alone else 2, 1, 8, 8, 8)
    x[:, :, 0] = 0.5
    net = through(NETWORKS[name])
    model = TorchModel(net)
    with unchanged(net, x):
        found = DeepLIFT(baseline=0.5)(model, x, ClassScore(1))
    assert_complete(found, difference(model, x, torch.full_like(x, 0.5), ClassScore(1)))
    # What is rewritten keeps its value.
    rewritten = model.gradient(x, ClassScore(1), rules=Rescale(), reference=torch.full_like(x, 0.5))
    torch.testing.assert_close(rewritten.scores, model.scores(x, ClassScore(1)), rtol=1e-14, atol=0)


FUNCTIONS = {
    f.__name__: f
    for f in (
        *(F.relu, F.leaky_relu, F.elu, F.selu, F.celu, F.silu, F.gelu, F.mish, F.hardswish, F.softplus, F.relu6),
        *(torch.tanh, torch.sigmoid, F.hardsigmoid, F.hardtanh, F.softsign, F.logsigmoid, torch.erf, torch.sin),
        *(torch.exp, torch.expm1, torch.square, torch.abs, torch.atan, torch.cos, torch.asinh),
    )
} | {
    "sqrt": lambda h: torch.sqrt(h.abs()),
    "rsqrt": lambda h: torch.rsqrt(h.abs() + 0.1),
    "reciprocal": lambda h: torch.reciprocal(3 + h),
    "log": lambda h: torch.log(3 + h),
    "clamp": lambda h: h.clamp(-0.5, 0.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_multipliers_of_one_number_are_the_quotient_of_differences(name):
    f = FUNCTIONS[name]
    x0 = torch.tensor([-2.0, -1e-6, 0.3, 0.3, 0.3, 0.3, 1.0, 7.0, -2.9, 2.0], dtype=torch.float64)
    step = torch.tensor([3.0, 3e-6, 0.0, 1e-15, 1e-9, 1e-4, -2.0, 1e-11, 2.0, -2.0], dtype=torch.float64)
    x = x0 + step
    y, y0 = f(x), f(x0)
    (m,) = multipliers(f, [x], [x0])
    assert bool(((m * (x - x0) - (y - y0)).abs() <= 1e-14 * (1 + y.abs() + y0.abs())).all())
    # As good as the derivative where x hardly differs.
    x.requires_grad_()
    (slope,) = torch.autograd.grad(f(x).sum(), x)
    torch.testing.assert_close(m[2:5], slope[2:5], rtol=1e-5, atol=1e-8)


# --- what the multipliers are ---


def test_it_is_what_is_derived_by_hand(volume):
    """Two convolutions and two kinds of ReLU, as matrices: M = W3 diag(dh2 / dz2) W2 diag(dh1 / dz1) W1."""
    first, second = nn.Conv3d(1, 2, 3), nn.Conv3d(2, 2, 2, stride=2)
    net = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 2))
    net, x = randomised(net), volume(1, 1, 6, 6, 6)
    x0 = torch.full_like(x, 0.2)

    def matrix(layer: nn.Module, like: Tensor) -> Tensor:
        with torch.no_grad():
            units = torch.eye(like.numel(), dtype=torch.float64).view(-1, *like.shape[1:])
            return (layer(units) - layer(torch.zeros_like(units[:1]))).flatten(1).T

    def relu(z: Tensor, slope: float) -> Tensor:
        return torch.tensor([value if value > 0 else slope * value for value in z.flatten().tolist()], dtype=z.dtype)

    with torch.no_grad():
        z, z0 = first(x), first(x0)
        h, h0 = relu(z, 0.0), relu(z0, 0.0)
        m1 = (h - h0) / (z - z0).flatten()
        k, k0 = second(h.view_as(z)), second(h0.view_as(z))
        m2 = (relu(k, 0.2) - relu(k0, 0.2)) / (k - k0).flatten()
        whole = net[5].weight @ torch.diag(m2) @ matrix(second, z) @ torch.diag(m1) @ matrix(first, x)
    expected = whole[1].view_as(x) * (x - x0)
    found = DeepLIFT(baseline=0.2)(TorchModel(net), x, ClassScore(1))
    torch.testing.assert_close(found.values, expected, rtol=1e-10, atol=1e-14)


def test_a_product_shares_its_cross_terms_evenly():
    a, b, a0, b0 = (torch.tensor([v]) for v in (3.0, 5.0, 2.0, 1.0))
    found = multipliers(torch.mul, [a, b], [a0, b0])
    # Shapley's: the mean over both orders in which a0 and b0 are left.
    assert [float(m) for m in found] == [(5 + 1) / 2, (3 + 2) / 2]


def test_max_pooling_gives_the_difference_to_one_winner():
    x = torch.tensor([[[1.0, 4.0, 2.0, 0.0, 3.0, 3.0]]], dtype=torch.float64)
    x0 = torch.tensor([[[3.0, 1.0, 5.0, 1.0, 3.0, 3.0]]], dtype=torch.float64)
    (m,) = multipliers(lambda t: F.max_pool1d(t, 2), [x], [x0])
    # 4 - 3 to the 4, that was 1; 2 - 5 to the 2, that was 5; no difference at all: the derivative.
    assert m.tolist() == [[[0.0, 1 / 3, 1.0, 0.0, 1.0, 0.0]]]


def test_softmax_has_bounded_multipliers_however_far_apart():
    x = torch.tensor([[900.0, -800.0, 3.0, -torch.inf]], dtype=torch.float64)
    x0 = torch.tensor([[-5.0, 2.0, 4.0, -torch.inf]], dtype=torch.float64)
    for i in range(3):
        (m,) = multipliers(lambda t, i=i: t.softmax(1)[0, i], [x], [x0])
        assert float(m.abs().sum()) <= 2
        change = x.softmax(1)[0, i] - x0.softmax(1)[0, i]
        torch.testing.assert_close((m * (x - x0))[:, :3].sum(), change, rtol=1e-11, atol=0)
    u, v = (torch.tensor([0.0, 1.0, w, -torch.inf], dtype=torch.float64) for w in (1.0, 3.0))
    expected = [1.0, math.e, (math.exp(3) - math.e) / 2, 0.0]
    torch.testing.assert_close(log_mean(u, v).exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


# --- Captum's ---


def captums(norm: nn.Module) -> nn.Module:
    body = (nn.Conv3d(1, 4, 3), norm, nn.ReLU(), nn.Conv3d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
    return randomised(nn.Sequential(*body, nn.Linear(4 * 2**3, 3)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_captums_with_batch_norm(volume):
    net, x = captums(nn.BatchNorm3d(4)), volume(2, 1, 8, 8, 8)
    net[1].running_mean.copy_(torch.tensor([0.1, -0.3, 0.2, 0.0]))
    net[1].running_var.copy_(torch.tensor([0.5, 2.0, 1.0, 0.3]))
    theirs = CaptumDeepLift(net).attribute(x.clone(), torch.full_like(x, 0.3), target=1).detach()
    ours = DeepLIFT(baseline=0.3)(TorchModel(net), x, ClassScore(1)).values
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(4), nn.GroupNorm(2, 4)], ids=["instance", "group"])
def test_captums_does_not_add_up_with_other_norms(volume, norm):
    net, x = captums(norm), volume(2, 1, 8, 8, 8)
    x0 = Tissue().volume(x, ModelInfo(air=0.0))
    model = TorchModel(net)
    change = difference(model, x, x0, ClassScore(1))
    theirs = CaptumDeepLift(net).attribute(x.clone(), x0, target=1).detach().flatten(1).sum(1)
    assert bool(((theirs - change).abs() > 0.1 * change.abs()).any())
    assert_complete(DeepLIFT()(model, x, ClassScore(1)), change)


# --- targets ---


@dataclass(frozen=True, eq=False)
class Squares(Target):
    """The sum of the squares of a classifier's probabilities: its multipliers are not its derivative."""

    linear = False

    def bind(self, output: Tensor) -> Target:
        return self

    def support(self, shape: Any) -> Tensor | None:
        return None

    def __call__(self, output: Tensor) -> Tensor:
        return (torch.softmax(output, 1) ** 2).sum(1) + output[:, 0] * output[:, 1]


def test_a_nonlinear_target_is_seeded_by_its_difference(make, volume, targets):
    x = volume(2, 1, 16, 16, 16)
    for name, target in (("smooth", targets.SoftRegion(torch.ones(16, 16, 16))), ("plain", Squares())):
        model = TorchModel(make(name))
        change = difference(model, x, torch.full_like(x, -1.0), target)
        assert_complete(DeepLIFT(baseline=-1.0)(model, x, target), change)
        # With the derivative for a seed it does not.
        wrong = model.gradient(x, Linearised(target, model), rules=Rescale(), reference=torch.full_like(x, -1.0))
        parts = ((x + 1) * wrong.values).flatten(1).sum(1)
        assert bool(((parts - change).abs() > 1e-3 * change.abs()).all())


@dataclass(frozen=True, eq=False)
class Linearised(Target):
    """Another target's derivative on a model's prediction."""

    target: Target
    model: Any
    weights: Tensor | None = None
    linear = True

    def bind(self, output: Tensor) -> Target:
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            (weights,) = torch.autograd.grad(self.target(leaf).sum(), leaf)
        return Linearised(self.target, self.model, weights)

    def support(self, shape: Any) -> Tensor | None:
        return None

    def __call__(self, output: Tensor) -> Tensor:
        return (output * self.weights).flatten(1).sum(1)


def test_a_regressed_value_may_be_measured_from_anywhere(make, volume):
    x, model = volume(1, 1, 16, 16, 16), TorchModel(make("plain"))
    one, other = (DeepLIFT()(model, x, Regression(1, reference=r)) for r in (0.0, 3.0))
    assert torch.equal(one.values, other.values)
    assert_complete(other, difference(model, x, Tissue().volume(x, ModelInfo(air=0.0)), Regression(1)))


# --- windows ---


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
@pytest.mark.parametrize("name", ["unet", "segresnet", "gated"])
def test_it_adds_up_in_windows(make, volume, targets, name, padding_mode):
    x = volume(2, 1, 20, 12, 16)  # smaller than the window along j
    model = WindowedModel(
        make(name), 16, overlap=0.5, padding_mode=padding_mode, cval=0.7 * (padding_mode == "constant")
    )
    region = torch.zeros(20, 12, 16, dtype=torch.bool)
    region[14:18, 3:9, 2:6] = True
    for target in (PredictedRegion(1), RegionScore(1, region), targets.SoftRegion(region.double())):
        found = DeepLIFT(baseline=-1.0)(model, x, target)
        assert_complete(found, difference(model, x, torch.full_like(x, -1.0), target))


@pytest.mark.parametrize("name", ["unet", "smooth"])
def test_a_window_that_holds_the_scan_is_no_window(make, volume, targets, name):
    x, net = volume(2, 1, 16, 16, 16), make(name)
    for target in (PredictedRegion(1), targets.SoftRegion(torch.ones(16, 16, 16))):
        dense = DeepLIFT()(TorchModel(net), x, target)
        windowed = DeepLIFT()(WindowedModel(net, 16), x, target)
        torch.testing.assert_close(windowed.values, dense.values, rtol=1e-9, atol=1e-14)


# --- where little differs, or nothing ---


@pytest.mark.parametrize("name", ["plain", "unet", "tokens", "smooth"])
def test_one_voxel_that_differs_gets_all(make, volume, name):
    x0 = torch.full((1, 1, 16, 16, 16), 0.3, dtype=torch.float64)
    x = x0.clone()
    x[0, 0, 8, 7, 6] = 1.5
    model = TorchModel(make(name))
    target = ClassScore(0) if name in CLASSIFIERS else RegionScore(0, torch.ones(16, 16, 16, dtype=torch.bool))
    found = DeepLIFT(baseline=0.3)(model, x, target)
    assert int((found.values != 0).sum()) == 1
    assert_complete(found, difference(model, x, x0, target))


def test_units_without_a_difference_have_finite_multipliers(volume):
    net = through(nn.Sequential(nn.InstanceNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)))
    with torch.no_grad():
        net.a.weight[:2] = 0.0  # two channels that do not see the scan
    x = volume(1, 1, 8, 8, 8)
    model = TorchModel(net)
    found = DeepLIFT()(model, x, ClassScore(1))
    assert_complete(found, difference(model, x, Tissue().volume(x, ModelInfo(air=0.0)), ClassScore(1)))
    # From the scan itself nothing differs, and the multipliers are derivatives.
    same = model.gradient(x, ClassScore(1), rules=Rescale(), reference=x)
    torch.testing.assert_close(same.values, model.gradient(x, ClassScore(1)).values, rtol=1e-9, atol=1e-14)


# --- the rest of the contract ---


def test_the_model_is_left_as_found_and_two_runs_agree(make, volume, unchanged):
    net, x = make("segresnet").train(), volume(2, 1, 16, 16, 16)
    with unchanged(net, x):
        found = [DeepLIFT()(TorchModel(net), x, PredictedRegion(1)) for _ in range(2)]
    assert torch.equal(found[0].values, found[1].values)
    assert torch.equal(found[0].gap, found[1].gap)


@pytest.mark.parametrize("name", ["densenet", "tokens", "gated"])
def test_a_batch_is_its_samples(make, volume, name):
    x, model = volume(3, 1, 16, 16, 16), TorchModel(make(name))
    target = ClassScore() if name in CLASSIFIERS else PredictedRegion(1)
    whole = DeepLIFT()(model, x, target)
    for n in range(3):
        single = DeepLIFT()(model, x[n : n + 1], target)
        torch.testing.assert_close(whole.values[n : n + 1], single.values, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(whole.scores[n : n + 1], single.scores)


def test_the_cost_is_what_is_run(make, volume, counted):
    net, x = make("unet"), volume(1, 1, 20, 16, 16)
    for model in (TorchModel(net), WindowedModel(net, 16, overlap=0.5)):
        model.output(x)
        with counted(net) as count:
            DeepLIFT()(model, x[:, :, :16] if isinstance(model, TorchModel) else x, PredictedRegion(1))
        shape = (16, 16, 16) if isinstance(model, TorchModel) else (20, 16, 16)
        assert count.samples <= DeepLIFT().cost(model, shape).forward <= count.samples + 4


def test_torchscript_is_refused(make, volume):
    x = volume(1, 1, 16, 16, 16)
    traced = torch.jit.trace(make("plain"), x)
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        DeepLIFT()(TorchModel(traced), x, ClassScore(1))


def test_an_exported_program_is_explained_as_the_network_itself(volume):
    body = nn.Sequential(nn.InstanceNorm3d(4, affine=True), nn.SiLU(), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool3d(2))
    net, x = through(body), volume(1, 1, 8, 8, 8)
    expected = DeepLIFT()(TorchModel(net), x, ClassScore(1))
    program = torch.export.export(net, (x,)).module()
    found = DeepLIFT()(TorchModel(program), x, ClassScore(1))
    torch.testing.assert_close(found.values, expected.values)
    assert not found.warnings


def forked(h: Tensor) -> Tensor:
    return h.relu() if h.mean() > 0 else h.sigmoid()


def looped(h: Tensor) -> Tensor:
    for _ in range(1 + int(h.detach().abs().max())):
        h = h.tanh()
    return h


def cut(h: Tensor) -> Tensor:
    return h[:, :, h.detach().mean((0, 1, 3, 4)) > 0].relu()


@pytest.mark.parametrize("f", [forked, looped, cut])
@pytest.mark.parametrize("turned", [False, True])
def test_a_network_that_takes_another_path_for_the_reference_is_refused(volume, f, turned, unchanged):
    x = volume(1, 1, 8, 8, 8) / 100 + 1.0
    x, baseline = (-x, 9.0) if turned else (x, -9.0)
    net = through(f)
    with torch.no_grad():
        net.a.weight.abs_()
        net.a.bias.zero_()
    with unchanged(net, x), pytest.raises(UnsupportedModelError, match="another path"):
        DeepLIFT(baseline=baseline)(TorchModel(net), x, ClassScore(1))


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("cumprod", lambda h: (1 + h / 9).cumprod(2)),
        ("sort", lambda h: h.sort(2).values),
        ("pow", lambda h: (h.abs() + 1) ** h),
        ("einsum", lambda h: torch.einsum("bcijk,bcijk,bcijk->bc", h, h, h)),
        ("mul", lambda h: h * (h.detach() > 0)),  # the other factor's difference is cut off
        ("mul", lambda h: h * h.detach()),
        ("where", lambda h: torch.where(h > 0, h, h / 3)),
        ("max_unpool3d", lambda h: F.max_unpool3d(*F.max_pool3d(h, 2, return_indices=True), 2)),
    ],
)
def test_what_no_rule_covers_is_named(volume, name, f):
    found = DeepLIFT(baseline=-1.0)(TorchModel(through(f)), volume(1, 1, 8, 8, 8), ClassScore(1))
    assert [w for w in found.warnings if w.startswith("no rule covers") and name in w]


@pytest.mark.parametrize("name", ["unet", "plain"])
def test_single_precision_is_as_good_as_its_digits(make, volume, name):
    x, model = volume(1, 1, 16, 16, 16).float(), TorchModel(make(name).float())
    target = ClassScore(1) if name == "plain" else RegionScore(1, torch.ones(16, 16, 16, dtype=torch.bool))
    found = DeepLIFT(baseline=-1.0)(model, x, target)
    assert_complete(found, difference(model, x, torch.full_like(x, -1.0), target), tolerance=1e-4)
    assert not torch.allclose(found.values, Saliency(absolute=False)(model, x, target).values * (x + 1), rtol=1e-2)
