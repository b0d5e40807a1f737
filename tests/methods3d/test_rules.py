"""Each rule against its formula, written a second time, slowly, from the layer's dense matrix in float64."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods3d import LRP, LayerError, Methods3dError, RegionScore, RuleError, TorchModel
from methods3d.functions import HOMOGENEOUS, PRODUCTS, QUOTIENTS
from methods3d.rules import COMPOSITES, Propagation, composite
from methods3d.rules.composite import _rank
from methods3d.rules.linear import Gamma
from methods3d.rules.propagation import HANDLERS
from methods3d.rules.weighted import stabilised


class Reshaped(nn.Module):
    """One layer between volumes (b, c, i, j, k) and scores (b, n), so that any layer can be asked."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(len(x), *self.shape)).flatten(1)


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda b: nn.Linear(12, 7, bias=b), (12,)),
    "linear on tokens": (lambda b: nn.Linear(4, 5, bias=b), (3, 4)),
    "conv1d": (lambda b: nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2, bias=b), (2, 9)),
    "conv2d": (lambda b: nn.Conv2d(2, 3, 3, padding=2, dilation=2, bias=b), (2, 5, 6)),
    "conv3d": (lambda b: nn.Conv3d(2, 4, 3, stride=(1, 2, 2), padding=1, groups=2, bias=b), (2, 4, 5, 4)),
    "conv3d same": (lambda b: nn.Conv3d(2, 2, 3, padding="same", dilation=2, bias=b), (2, 4, 3, 4)),
    "conv_transpose3d": (
        lambda b: nn.ConvTranspose3d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2, bias=b),
        (2, 3, 2, 3),
    ),
    "conv_transpose3d dilated": (lambda b: nn.ConvTranspose3d(2, 3, 2, dilation=2, bias=b), (2, 3, 2, 3)),
    "conv_transpose1d": (lambda b: nn.ConvTranspose1d(4, 2, 3, stride=2, padding=1, groups=2, bias=b), (4, 5)),
    "conv_transpose2d": (lambda b: nn.ConvTranspose2d(2, 3, 3, stride=2, dilation=2, bias=b), (2, 3, 4)),
}
INPUTS = {
    "both signs": lambda x: x,
    "positive": torch.abs,
    "with zeros": torch.relu,
}


def as_matrix(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The layer's W (outputs, inputs) and b (outputs,)."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    bias = layer(zero).flatten().detach()
    n = zero.numel()
    columns = [layer(torch.eye(n, dtype=torch.float64)[i].view(1, *shape)).flatten().detach() - bias for i in range(n)]
    return torch.stack(columns, 1), bias


class Slow(NamedTuple):
    """Relevance of each input, and what was kept by a bias, and by outputs without anything to hand it to."""

    given: Tensor
    bias: float
    dead: float


def slow_rule(
    name: str, w: Tensor, reads: Tensor, b: Tensor, x: Tensor, relevance: Tensor, spread: bool, **of: float
) -> Slow:
    """R_i = sum_j share_ij R_j, output by output, from the matrix w (outputs, inputs); `reads` says what j sees."""
    given, kept, dead = torch.zeros_like(x), 0.0, 0.0
    epsilon = of.get("epsilon", 1e-6 if name in ("epsilon", "gamma", "z-box") else 0.0)
    terms: list[list[tuple[Tensor, float, float, float]]] = []  # of each output: contributions, bias, weight, lost
    for j in range(len(w)):
        z = w[j] * x
        y, reach = float(z.sum() + b[j]), z.abs().sum()
        share = z.abs() / (reach + 1e-6 * slow_rms((w * x).abs().sum(1))) if reach > 0 else torch.zeros_like(z)
        whole = (z + share * b[j], 0.0, 1.0, float(b[j] * (1 - share.sum()))) if spread else (z, float(b[j]), 1.0, 0.0)
        positive = (z.clamp(min=0), 0.0 if spread else max(0.0, float(b[j])), 1.0, 0.0)
        negative = (z.clamp(max=0), 0.0 if spread else min(0.0, float(b[j])), 1.0, 0.0)
        if name in ("lrp-0", "epsilon"):
            terms.append([whole])
        elif name == "gamma":
            favoured = z.clamp(min=0) if y >= 0 else z.clamp(max=0)
            terms.append([(whole[0] + of["gamma"] * favoured, *whole[1:])])
        elif name == "z-plus":
            terms.append([positive])
        elif name == "alpha-beta":
            alpha, beta = of["alpha"], of["beta"]
            terms.append([(*positive[:2], alpha, 0.0), (*negative[:2], -beta, 0.0)])
        elif name == "absolute":
            terms.append([(z.abs(), 0.0 if spread else abs(float(b[j])), 1.0, 0.0)])
        elif name == "w-square":
            terms.append([(w[j] ** 2, 0.0, 1.0, 0.0)])
        elif name == "flat":
            terms.append([(reads[j], 0.0, 1.0, 0.0)])
        elif name == "z-box":
            box = z - of["low"] * w[j].clamp(min=0) - of["high"] * w[j].clamp(max=0)
            terms.append([(box, 0.0, 1.0, 0.0)])
    for part in range(len(terms[0])):
        totals = [float(t[part][0].sum()) + t[part][1] + t[part][3] for t in terms]
        size = slow_rms(torch.tensor(totals, dtype=torch.float64))
        for j, term in enumerate(terms):
            z, constant, weight, lost = term[part]
            total = float(z.sum()) + constant + lost
            if total == 0:
                dead += weight * float(relevance[j])
                continue
            steady = total + epsilon * size * (1 if total >= 0 else -1)
            given += weight * z / steady * relevance[j]
            kept += weight * constant / steady * float(relevance[j])
            dead += weight * lost / steady * float(relevance[j])
    return Slow(given, kept, dead)


def slow_rms(z: Tensor) -> float:
    return float((z**2).mean() ** 0.5)


RULES: dict[str, tuple[str, dict[str, float]]] = {
    "lrp-0": ("lrp-0", {}),
    "epsilon": ("epsilon", {}),
    "epsilon(0.1)": ("epsilon", {"epsilon": 0.1}),
    "gamma(0.25)": ("gamma", {"gamma": 0.25}),
    "gamma(4, 0)": ("gamma", {"gamma": 4.0, "epsilon": 0.0}),
    "gamma(0.25, 0.1)": ("gamma", {"gamma": 0.25, "epsilon": 0.1}),
    "z-plus": ("z-plus", {}),
    "alpha-beta(2, 1)": ("alpha-beta", {"alpha": 2.0, "beta": 1.0}),
    "alpha-beta(1.5, 0.5)": ("alpha-beta", {"alpha": 1.5, "beta": 0.5}),
    "absolute": ("absolute", {}),
    "first: w-square": ("w-square", {}),
    "first: flat": ("flat", {}),
    "first: z-box(-4, 5)": ("z-box", {"low": -4.0, "high": 5.0}),
}


def made(layer: str, bias: bool) -> Reshaped:
    maker, shape = LAYERS[layer]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Reshaped(maker(bias).double(), shape)


def connections(net: Reshaped) -> Tensor:
    """Which inputs each output of the layer reads: its matrix with all weights one."""
    ones = copy.deepcopy(net.layer)
    with torch.no_grad():
        ones.weight.fill_(1.0)
    return as_matrix(ones, net.shape)[0]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("sign", INPUTS)
@pytest.mark.parametrize("bias", ["spread", "absorb", None])
@pytest.mark.parametrize("rule", RULES)
def test_the_rewrite_is_the_formula(volume, targets, layer, sign, rule, bias):
    net = made(layer, bias is not None)
    x = INPUTS[sign](volume(1, 1, 1, 1, int(torch.tensor(net.shape).prod())))
    matrix, b = as_matrix(net.layer, net.shape)
    y = matrix @ x.flatten() + b
    weights = volume(1, len(y), seed=7)  # signed: relevance of both signs arrives

    rules = Propagation(composite(rule), bias or "spread")
    found = TorchModel(net).gradient(x, targets.Weighted(weights), rules=rules)
    values = x * found.values + (0.0 if found.voxels is None else found.voxels)
    name, settings = RULES[rule]
    slow = slow_rule(name, matrix, connections(net), b, x.flatten(), weights[0] * y, bias == "spread", **settings)
    # float64, a few hundred terms in another order.
    torch.testing.assert_close(values.flatten(), slow.given, rtol=1e-9, atol=1e-9)
    for cause, kept in (("bias", slow.bias), ("dead", slow.dead)):
        booked = found.absorbed.get(cause, torch.zeros(1))
        assert float(booked) == pytest.approx(kept, rel=1e-8, abs=1e-9), cause
    total = slow.given.sum() + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.scores, rtol=1e-9, atol=1e-9)


def test_the_slow_formulas_can_disagree(volume, targets):
    """The comparison above has teeth: another gamma is seen, and no two rules are the same."""
    net = made("linear", True)
    x = volume(1, 1, 1, 1, 12)
    matrix, b = as_matrix(net.layer, (12,))
    y = matrix @ x.flatten() + b
    found = TorchModel(net).gradient(
        x, targets.Weighted(torch.ones(1, 7, dtype=torch.float64)), rules=Propagation(composite("gamma(0.25)"))
    )
    other = slow_rule("gamma", matrix, connections(net), b, x.flatten(), y, True, gamma=0.3)
    assert not torch.allclose((x * found.values).flatten(), other.given, rtol=1e-3)
    maps = [
        slow_rule(name, matrix, connections(net), b, x.flatten(), y, True, **settings).given
        for name, settings in (RULES[r] for r in RULES if r not in ("epsilon", "gamma(0.25, 0.1)"))
    ]
    for i, one in enumerate(maps):
        assert not any(torch.allclose(one, two, rtol=1e-3) for two in maps[:i])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_stabiliser_keeps_sign_and_moves_away_from_zero(dtype):
    z = torch.tensor([[0.0, -0.0, 1e-3, -1e-3, 300.0, -600.0]], dtype=dtype)  # 600 ** 2 overflows float16
    moved = stabilised(z, 0.01)
    assert bool(torch.isfinite(moved).all())
    assert bool((moved != 0).all())
    assert bool((moved.abs() >= z.abs()).all())
    assert bool((moved[z < 0] < 0).all())


# --- every other function: the value is kept, and the account closes ---

RULE = Propagation(composite("gamma(0.25)"))
ABSORBED = Propagation(composite("gamma(0.25)"), bias="absorb")


class One(nn.Module):
    """A linear layer, the function in question, a mean: what is put in comes with both signs."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.a = nn.Conv3d(2, 4, 1, bias=False)
        self.b = nn.Conv3d(4, 2, 1, bias=False)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def with_inplace(function: Any) -> Any:
    """Calls the function for its effect, and goes on with the tensor that it worked on."""

    def call(h: Tensor) -> Tensor:
        h = h * 1
        function(h)
        return h

    return call


def shifted_norm(call: Any) -> Any:
    w, b = torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), torch.tensor([0.3, -1.0, 2.0, 0.0]).double()
    return lambda h: call(h, w, b)


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(1)
    ATTENTION = nn.MultiheadAttention(4, 2, batch_first=True).double().eval().requires_grad_(False)

FUNCTIONS: dict[str, tuple[Any, set[str]]] = {
    "relu": (torch.relu, set()),
    "in-place relu, result unused": (with_inplace(lambda h: F.relu(h, inplace=True)), set()),
    "relu_": (lambda h: (h * 1).relu_(), set()),
    "in-place leaky relu": (with_inplace(lambda h: F.leaky_relu(h, 0.2, inplace=True)), set()),
    "prelu": (lambda h: F.prelu(h, torch.full((4,), 0.1, dtype=h.dtype)), set()),
    "silu": (F.silu, {"activation"}),
    "in-place silu, result unused": (with_inplace(lambda h: F.silu(h, inplace=True)), {"activation"}),
    "in-place elu, result unused": (with_inplace(lambda h: F.elu(h, 1.0, True)), {"activation"}),
    "in-place elu_": (with_inplace(F.elu_), {"activation"}),
    "gelu": (lambda h: F.gelu(h, approximate="tanh"), {"activation"}),
    "mish": (F.mish, {"activation"}),
    "hardswish": (F.hardswish, {"activation"}),
    "selu": (F.selu, {"activation"}),
    "celu": (F.celu, {"activation"}),
    "tanh": (torch.tanh, {"activation"}),
    "softplus": (lambda h: F.softplus(h, beta=2.0), {"activation"}),
    "sigmoid gate": (lambda h: h * torch.sigmoid(h), set()),
    "softmax gate": (lambda h: h * torch.softmax(h, 1), set()),
    "in-place sigmoid gate": (lambda h: h * torch.sigmoid_(h * 1), set()),
    "batch norm": (
        shifted_norm(lambda h, w, b: F.batch_norm(h, b - 0.3, w.abs(), w, b)),
        {"norm"},
    ),
    "batch norm of the batch": (shifted_norm(lambda h, w, b: F.batch_norm(h, None, None, w, b, True)), {"norm"}),
    "instance norm": (shifted_norm(lambda h, w, b: F.instance_norm(h, weight=w, bias=b)), {"norm"}),
    "running instance norm": (
        shifted_norm(lambda h, w, b: F.instance_norm(h, b, w.abs(), w, b, use_input_stats=False)),
        {"norm"},
    ),
    "group norm": (shifted_norm(lambda h, w, b: F.group_norm(h, 2, w, b)), {"norm"}),
    "layer norm": (
        shifted_norm(lambda h, w, b: F.layer_norm(h.movedim(1, -1), (4,), w, b).movedim(-1, 1)),
        {"norm"},
    ),
    "added number": (lambda h: 2 - (3 + h), {"constant"}),
    "added in place": (with_inplace(lambda h: h.add_(0.7)), {"constant"}),
    "added positions": (lambda h: h + torch.linspace(0, 1, 64, dtype=h.dtype).view(4, 4, 4), {"constant"}),
    "added whole numbers": (lambda h: h + torch.arange(4).view(1, 4, 1, 1, 1), {"constant"}),
    "one number a sample": (lambda h: h + (h.mean((1, 2, 3, 4), keepdim=True) - torch.ones(1, 4, 1, 1, 1)),
                            {"constant"}),
    "concatenated by keyword": (
        lambda h: torch.cat(tensors=[h[:, :2], torch.ones_like(h[:, :2])], dim=1),
        {"constant"},
    ),
    "concatenated constants": (lambda h: torch.cat([h[:, :2], torch.ones_like(h[:, :2])], 1), {"constant"}),
    "padded with a value": (lambda h: F.pad(h, (1, 1, 0, 0, 2, 0), value=-1.5), {"constant"}),
    "padded with zeros": (lambda h: F.pad(h, (1, 1)), set()),
    "max pooling": (lambda h: F.max_pool3d(h, 2), set()),
    "interpolation": (lambda h: F.interpolate(h, scale_factor=2, mode="trilinear"), set()),
    "attention": (
        lambda h: F.scaled_dot_product_attention(h.flatten(2), h.flatten(2) * 0.1, h.flatten(2)).view(h.shape),
        set(),
    ),
    "attention with einsum": (
        lambda h: torch.einsum(
            "bxy,bcy->bcx", torch.einsum("bcx,bcy->bxy", h.flatten(2), h.flatten(2)).softmax(-1), h.flatten(2)
        ).view(h.shape),
        set(),
    ),
    "product": (lambda h: h * h.flip(1).tanh(), {"activation"}),
    "in-place product, result unused": (with_inplace(lambda h: h.mul_(h.mean((2, 3, 4), keepdim=True))), set()),
    "product of three": (lambda h: torch.einsum("bcijk,bcijk,bcijk->bcijk", h, h, h), set()),
    "square": (lambda h: h * h, set()),
    "matrix product": (lambda h: h @ h.flip(1), set()),
    "quotient": (lambda h: h / (1 + h.abs()), set()),
    "clamp": (lambda h: h.clamp(-0.1, 0.2), {"activation"}),
    "relu6": (F.relu6, {"activation"}),
    "pixel shuffle": (
        lambda h: F.pixel_shuffle(h[..., 0], 2)[..., :4, :4].unsqueeze(-1).expand(-1, 4, 4, 4, 4),
        set(),
    ),
    "multi-head attention": (
        lambda h: ATTENTION(*(h.flatten(2).mT,) * 3, need_weights=False)[0].mT.reshape(h.shape),
        {"bias", "stabiliser"},
    ),
    "norm called by torch's own name": (
        shifted_norm(lambda h, w, b: torch.batch_norm(h, w, b, b - 0.3, w.abs(), False, 0.1, 1e-5, False)),
        {"norm"},
    ),
    "arguments by keyword": (
        lambda h: F.group_norm(input=F.conv3d(input=h, weight=torch.ones(4, 4, 1, 1, 1).to(h)), num_groups=2),
        set(),
    ),
    "attention by hand": (
        lambda h: ((h.flatten(2) @ h.flatten(2).mT).softmax(-1) @ h.flatten(2)).view(h.shape),
        set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("rules", [RULE, ABSORBED], ids=["spread", "absorbed"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_keeps_its_value_and_closes_the_account(volume, targets, name, rules):
    function, causes = FUNCTIONS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = One(function).double()
    x = volume(2, 2, 4, 4, 4)
    model = TorchModel(net)
    y = model.output(x)
    target = targets.Weighted(torch.linspace(-1, 2, y[0].numel(), dtype=y.dtype).view(y[0].shape))
    found = model.gradient(x, target, rules=rules)
    # The rewrite's arithmetic differs from the function's in the last digits only.
    torch.testing.assert_close(found.scores, model.scores(x, target), rtol=1e-11, atol=1e-11)
    total = (x * found.values).flatten(1).sum(1) + sum(found.absorbed.values())
    scores = found.scores
    # One mixes the samples, the other has them second, where what is absorbed cannot be told apart: the sum is kept.
    if name in ("batch norm of the batch", "multi-head attention"):
        total, scores = total.sum(), scores.sum()
    torch.testing.assert_close(total, scores, rtol=1e-9, atol=1e-9)
    assert found.uncovered == frozenset()
    booked = {cause for cause, kept in found.absorbed.items() if bool((kept.abs() > 1e-7).any())}
    expected = causes - {"norm"} if rules is RULE else causes
    assert booked - {"stabiliser", "dead"} <= expected, "what is booked under another name"
    if causes & {"norm", "constant"}:
        assert booked & expected == expected
    if "dead" in found.absorbed:  # a few hundred inputs, none of them zero: what is spread arrives
        assert bool((found.absorbed["dead"].abs() < 1e-4 * found.scores.abs().max()).all())


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("exp", torch.exp),
        ("pow", lambda h: h**2),
        ("reciprocal", lambda h: 1 / (2 + h.abs())),
        ("sin", torch.sin),
        ("var_mean", lambda h: h + torch.var_mean(h, 1, keepdim=True)[0]),
        ("log_softmax", lambda h: F.log_softmax(h, 1)),
        ("cumprod", lambda h: h.cumprod(1)),
    ],
)
def test_a_function_without_a_rule_is_named(volume, targets, name, function):
    net = One(function).double()
    x = volume(1, 2, 4, 4, 4)
    found = TorchModel(net).gradient(x, targets.Weighted(torch.ones(1)), rules=RULE)
    assert found.uncovered == {name}


def test_what_no_relevance_reaches_is_not_named(volume, targets):
    net = One(lambda h: h * torch.sigmoid(torch.exp(h))).double()
    x = volume(1, 2, 4, 4, 4)
    assert not TorchModel(net).gradient(x, targets.Weighted(torch.ones(1)), rules=RULE).uncovered


class OwnFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3 * ctx.saved_tensors[0] ** 2


def test_a_function_that_no_mode_sees_is_named(volume, targets):
    """torch.autograd.Function is invisible to the mode: it is found in the graph."""
    net = One(OwnFunction.apply).double()
    x = volume(1, 2, 4, 4, 4)
    assert TorchModel(net).gradient(x, targets.Weighted(torch.ones(1)), rules=RULE).uncovered == {"OwnFunction"}
    fixed = One(lambda h: h * torch.sigmoid(OwnFunction.apply(h))).double()
    assert not TorchModel(fixed).gradient(x, targets.Weighted(torch.ones(1)), rules=RULE).uncovered


def test_an_operator_without_a_rule_is_named(volume, targets):
    with torch.library._scoped_library("napari_xai_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")
        net = One(torch.ops.napari_xai_test.twice).double()
        found = TorchModel(net).gradient(volume(1, 2, 4, 4, 4), targets.Weighted(torch.ones(1)), rules=RULE)
    assert found.uncovered == {"twice"}


def test_no_function_has_two_rules():
    """What autograd carries by itself needs a handler only where it may be of degree two, or is a matter of choice."""
    choices = {"pad", "constant_pad_nd", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool3d"}
    assert HOMOGENEOUS & HANDLERS.keys() <= PRODUCTS | QUOTIENTS | choices


# --- choices: norms, pooling, gates, attention ---


def relevance(net: nn.Module, x: Tensor, target: Any, rules: str, bias: Any = "spread") -> tuple[Tensor, Any]:
    found = TorchModel(net).gradient(x, target, rules=Propagation(composite(rules), bias))
    return x * found.values, found


def test_a_shift_goes_to_the_contributions_that_the_norm_comes_after(volume, targets):
    """As if batch norm had been folded into the convolution: its bias by |contribution|."""
    conv, norm = nn.Conv3d(2, 3, 3).double(), nn.BatchNorm3d(3).double().eval()
    with torch.no_grad():
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.bias.normal_(), norm.weight.normal_()
    k = (norm.weight * (norm.running_var + norm.eps).rsqrt()).detach()
    folded = nn.Conv3d(2, 3, 3).double()
    with torch.no_grad():
        folded.weight.copy_(conv.weight * k.view(-1, 1, 1, 1, 1))
        folded.bias.copy_((conv.bias - norm.running_mean) * k + norm.bias)
    x, target = volume(2, 2, 5, 5, 5), targets.Weighted(volume(1, 3, 3, 3, 3, seed=5)[0])
    for rule in ("epsilon", "z-plus"):
        one, _ = relevance(nn.Sequential(conv, norm), x, target, rule)
        two, _ = relevance(folded, x, target, rule)
        if rule == "epsilon":
            # Both stabilise, at other places, by 1e-6 of a root mean square.
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * two.abs().max().item())
        torch.testing.assert_close(one.sum(), two.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("join", ["sum", "cat", "pooled", "layout", "in place"])
def test_a_shift_finds_its_contributions_through_sums_and_layout(volume, targets, join):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv3d(1, 2, 3, bias=False), nn.Conv3d(1, 2, 3, bias=False)
            self.norm = nn.BatchNorm3d(4 if join == "cat" else 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x)
            if join == "in place":
                a += b
            joined = {"sum": lambda: a + b, "cat": lambda: torch.cat([a, b], 1), "in place": lambda: a}
            joined |= {"pooled": lambda: F.avg_pool3d(a, 2), "layout": lambda: a.flip(2).contiguous()}
            return self.norm(joined[join]())

    net = Net().double().eval()
    with torch.no_grad():
        net.norm.bias.fill_(1e6)  # all but nothing of the score is the shift
    x = volume(1, 1, 6, 6, 6)
    y = TorchModel(net).output(x)
    values, found = relevance(net, x, targets.Weighted(torch.ones_like(y)[0]), "gamma(0.25)")
    # By |contribution| everything is positive; had it gone to the sums themselves, their signs would show.
    assert float(values.min()) > -1e-6 * float(values.max())
    torch.testing.assert_close(values.sum(), found.scores[0], rtol=1e-5, atol=0)


def test_pass_hands_on_a_norms_relevance_element_by_element(volume, targets):
    norm = nn.InstanceNorm3d(2, affine=True).double()
    with torch.no_grad():
        norm.bias.fill_(0.7)
    x, weights = volume(2, 2, 4, 4, 4), volume(1, 2, 4, 4, 4, seed=3)[0]
    values, found = relevance(norm, x, targets.Weighted(weights), "norm: pass")
    torch.testing.assert_close(values, weights * norm(x).detach())
    assert not found.absorbed.get("norm")


POOLINGS = {
    "plain": lambda h: F.max_pool3d(h, 2),
    "overlapping": lambda h: F.max_pool3d(h, 3, stride=2, padding=1),
    "dilated": lambda h: F.max_pool3d(h, 2, stride=1, dilation=2),
    "ceiled": lambda h: F.max_pool3d(h, 2, ceil_mode=True),
    "adaptive": lambda h: F.adaptive_max_pool3d(h, (1, 1, 1)),
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_proportional_pooling_shares_by_magnitude(volume, targets, pooling):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return POOLINGS[pooling](x)

    x = volume(1, 2, 5, 5, 5)
    y = POOLINGS[pooling](x)
    weights = volume(1, *y.shape[1:], seed=3)[0]
    values, _ = relevance(Net(), x, targets.Weighted(weights), "pool: proportional")
    # Which voxels an output looks at: those that change it when they alone are made the largest.
    slow = torch.zeros_like(x).flatten()
    sees = torch.stack(
        [
            POOLINGS[pooling](x.flatten().scatter(0, torch.tensor([i]), 1e3).view(x.shape)).flatten() == 1e3
            for i in range(x.numel())
        ]
    )
    for j, r in enumerate((weights * y[0]).flatten()):
        share = x.flatten().abs() * sees[:, j]
        slow += share / share.sum() * r
    torch.testing.assert_close(values.flatten(), slow, rtol=1e-9, atol=1e-12)
    winner, _ = relevance(Net(), x, targets.Weighted(weights), "pool: winner")
    assert int((winner != 0).sum()) <= y.numel()
    torch.testing.assert_close(winner.sum(), values.sum())


def test_attnlrp_expands_softmax_to_first_order_and_shares_products(volume, targets):
    """Achtibat et al. 2024: softmax R_i = x_i (R_i - y_i sum R), products evenly; by hand on one attention row."""

    class Net(nn.Module):
        def __init__(self, whole: bool) -> None:
            super().__init__()
            self.none, self.whole = nn.Parameter(torch.zeros(1, dtype=torch.float64)), whole

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = x.view(1, 3, 4, 2).unbind(1)
            if self.whole:
                return F.scaled_dot_product_attention(q, k, v).flatten(1)
            return (torch.softmax(q @ k.mT / 2**0.5, -1) @ v).flatten(1)

    x = volume(1, 1, 2, 3, 4)
    q, k, v = x.view(3, 4, 2)
    s = q @ k.T / 2**0.5
    p = s.softmax(-1)
    y = p @ v
    weights = torch.linspace(-1, 2, 8, dtype=torch.float64).view(4, 2)
    r_pv = torch.einsum("ij,jd,id->ijd", p, v, weights)  # the relevance of each term of the second product
    r_v, r_p = r_pv.sum(0) / 2, r_pv.sum(2) / 2
    r_s = s * (r_p - p * r_p.sum(-1, keepdim=True))
    r_qk = torch.einsum("id,jd,ij->ijd", q, k, r_s / (q @ k.T))
    slow = torch.stack([r_qk.sum(1) / 2, r_qk.sum(0) / 2, r_v])
    for whole in (False, True):
        values, found = relevance(Net(whole), x, targets.Weighted(weights.flatten()), "attnlrp")
        torch.testing.assert_close(values.view(3, 4, 2), slow, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.absorbed["softmax"][0], (r_p.sum() - r_s.sum()), rtol=1e-9, atol=1e-12)
        fixed, _ = relevance(Net(whole), x, targets.Weighted(weights.flatten()), "softmax: fixed")
        torch.testing.assert_close(fixed.view(3, 4, 2), torch.stack([0 * r_v, 0 * r_v, 2 * r_v]))
        torch.testing.assert_close(found.scores[0], (weights * y).sum())


def test_attention_masks_do_not_spoil_attnlrp(volume, targets):
    def attend(h: Tensor) -> Tensor:
        tokens = h.flatten(2).mT
        return F.scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True).mT.view(h.shape)

    net, x = One(attend).double(), volume(1, 2, 3, 3, 3)
    values, found = relevance(net, x, targets.Weighted(torch.ones(1)), "attnlrp")
    assert bool(torch.isfinite(values).all())
    torch.testing.assert_close(values.sum() + sum(found.absorbed.values())[0], found.scores[0], rtol=1e-9, atol=1e-9)


# --- composites ---


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_is_printed_as_it_is_read(name):
    assert composite(str(COMPOSITES[name])).entries == tuple(sorted(COMPOSITES[name].entries, key=_rank))
    assert str(composite(str(COMPOSITES[name]))) == str(COMPOSITES[name])
    assert COMPOSITES[name].reason


def test_the_more_particular_entry_wins():
    rules = composite("gamma(0.1); a.*: z-plus; conv: epsilon; first: flat; a.b: gamma(2)")
    assert rules.rule("conv", ["", "a", "a.c"]).name == "z-plus"
    assert rules.rule("conv", ["", "c"]).name == "epsilon"
    assert rules.rule("conv", ["", "c"], first=True).name == "flat"
    assert rules.rule("linear", ["", "c"]) == Gamma(0.1)
    assert rules.rule("norm", ["", "c"]).name == "fixed"
    assert composite("a.b: gamma(2); a.*: z-plus").rule("conv", ["a", "a.b", "a.b.c"]) == Gamma(2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gama", "There is no rule 'gama': choose one of lrp-0, epsilon, gamma"),
        ("conv: gamma(a)", "'gamma(a)' is not understood: gamma takes gamma, epsilon as numbers."),
        ("conv: gamma(-1)", "gamma is -1, but has to be at least 0."),
        ("conv: z-plus(1)", "'z-plus(1)' is not understood: z-plus takes nothing as numbers."),
        ("alpha-beta(2, 2)", "alpha-beta(2, 2): give alpha - beta = 1 with beta at least 0."),
        ("first: z-box(1)", "z-box(1.0, None): give the lowest and the highest value of a voxel, or neither."),
        ("first: z-box(5, -5)", "give the lowest and the highest value of a voxel"),
        ("first: z-box(nan, 3)", "give the lowest and the highest value of a voxel"),
        ("pool: gamma", "The rule 'gamma' serves conv, linear, not pool."),
        ("first: winner", "The rule 'winner' cannot read the scan"),
        (" ; ", "The composite is empty"),
    ],
)
def test_a_composite_that_cannot_be_is_refused_in_one_sentence(text, says):
    with pytest.raises(Methods3dError) as error:
        composite(text)
    assert says in str(error.value)
    with pytest.raises(Methods3dError):
        LRP(composite=text)


def test_a_layer_that_does_not_exist_is_refused(volume):
    net = nn.Sequential(nn.Conv3d(1, 2, 3)).double()
    with pytest.raises(LayerError, match="names the layer 'encoder', which the network does not have"):
        LRP(composite="encoder: flat; gamma")(
            TorchModel(net), volume(1, 1, 5, 5, 5), RegionScore(1, torch.ones(3, 3, 3))
        )


def test_rules_for_voxels_need_a_function_that_reads_the_scan(volume):
    x = volume(1, 1, 5, 5, 5)
    normed = nn.Sequential(nn.InstanceNorm3d(1), nn.Conv3d(1, 2, 1)).double()
    with pytest.raises(RuleError, match="no linear function of the network reads the scan itself: take a composite"):
        LRP(composite="epsilon-plus-flat")(TorchModel(normed), x, RegionScore(1, torch.ones(5, 5, 5)))
    deep = nn.Sequential(nn.Conv3d(1, 2, 1), nn.ReLU(), nn.Conv3d(2, 2, 1)).double()
    with pytest.raises(RuleError, match=r"'w-square' shares .* but 2 \(conv3d\) does not read the scan: write 'first"):
        LRP(composite="conv: w-square")(TorchModel(deep), x, RegionScore(1, torch.ones(5, 5, 5)))
