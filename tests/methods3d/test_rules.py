"""Each rule against its formula, written a second time, slowly, from the layer's dense matrix in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods3d import TorchModel
from methods3d.rewriting import HOMOGENEOUS
from methods3d.rules import GATES, NORMS, WEIGHTED, GammaEpsilon, stabilised


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


def slow_rms(z: Tensor) -> float:
    return float((z**2).mean() ** 0.5)


def slow_gamma_epsilon(
    w: Tensor, b: Tensor, x: Tensor, relevance: Tensor, gamma: float, epsilon: float, spread: bool
) -> tuple[Tensor, float]:
    """Relevance of each input, and what the bias kept: Montavon et al. 2019 eq. 10.5.2, output by output."""
    given = torch.zeros_like(x)
    kept = 0.0
    contributions = w * x
    y = contributions.sum(1) + b
    reach = contributions.abs().sum(1)
    z = torch.empty_like(y)
    shares = torch.empty_like(w)
    rest = torch.empty_like(b)
    for j in range(len(y)):
        parts = contributions[j]
        part = parts.abs() / (reach[j] + epsilon * slow_rms(reach)) if reach[j] > 0 else torch.zeros_like(parts)
        biased = parts + part * b[j] if spread else parts
        rest[j] = b[j] - part.sum() * b[j] if spread else b[j]
        favoured = parts.clamp(min=0) if y[j] >= 0 else parts.clamp(max=0)
        shares[j] = biased + gamma * favoured
        z[j] = shares[j].sum() + rest[j]
    size = slow_rms(z)
    for j in range(len(y)):
        if y[j] == 0:
            continue
        steady = z[j] + epsilon * size * (1 if z[j] >= 0 else -1)
        given += shares[j] / steady * relevance[j]
        kept += float(rest[j] / steady * relevance[j])
    return given, kept


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("sign", INPUTS)
@pytest.mark.parametrize(
    ("gamma", "epsilon", "bias"),
    [
        (0.0, 1e-6, "absorb"),
        (0.0, 0.1, "spread"),
        (0.25, 1e-6, "spread"),
        (0.25, 0.1, "absorb"),
        (4.0, 0.0, "spread"),
        (0.25, 1e-6, None),
    ],
)
def test_the_rewrite_is_the_formula(volume, targets, layer, sign, gamma, epsilon, bias):
    maker, shape = LAYERS[layer]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = Reshaped(maker(bias is not None).double(), shape)
    size = int(torch.tensor(shape).prod())
    x = INPUTS[sign](volume(1, 1, 1, 1, size))
    matrix, b = as_matrix(net.layer, shape)
    y = matrix @ x.flatten() + b
    weights = volume(1, len(y), seed=7)  # signed: relevance of both signs arrives

    rules = GammaEpsilon(gamma=gamma, epsilon=epsilon, bias=bias or "spread")
    found = TorchModel(net).gradient(x, targets.Weighted(weights), rules=rules)
    # float64, a few hundred terms in another order.
    slow, kept = slow_gamma_epsilon(matrix, b, x.flatten(), weights[0] * y, gamma, epsilon, bias == "spread")
    torch.testing.assert_close((x * found.values).flatten(), slow, rtol=1e-9, atol=1e-10)
    assert float(found.absorbed.get("bias", torch.zeros(1))) == pytest.approx(kept, rel=1e-9, abs=1e-10)
    total = slow.sum() + sum(found.absorbed.values())
    torch.testing.assert_close(total, found.scores, rtol=1e-9, atol=1e-10)


def test_the_slow_formula_can_disagree(volume, targets):
    """The comparison above has teeth: another gamma is seen."""
    net = Reshaped(nn.Linear(12, 7).double(), (12,))
    x = volume(1, 1, 1, 1, 12)
    matrix, b = as_matrix(net.layer, (12,))
    weights = torch.ones(1, 7, dtype=torch.float64)
    found = TorchModel(net).gradient(x, targets.Weighted(weights), rules=GammaEpsilon(gamma=0.25))
    slow, _ = slow_gamma_epsilon(matrix, b, x.flatten(), (matrix @ x.flatten() + b), 0.3, 1e-6, True)
    assert not torch.allclose((x * found.values).flatten(), slow, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_stabiliser_keeps_sign_and_moves_away_from_zero(dtype):
    z = torch.tensor([[0.0, -0.0, 1e-3, -1e-3, 300.0, -600.0]], dtype=dtype)  # 600 ** 2 overflows float16
    moved = stabilised(z, 0.01)
    assert bool(torch.isfinite(moved).all())
    assert bool((moved != 0).all())
    assert bool((moved.abs() >= z.abs()).all())
    assert bool((moved[z < 0] < 0).all())


# --- every other function: the value is kept, and the account closes ---


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
    "concatenated": (lambda h: torch.cat(tensors=[h[:, :2], torch.ones_like(h[:, :2])], dim=1), set()),
    "concatenated constants": (lambda h: torch.cat([h[:, :2], torch.ones_like(h[:, :2])], 1), {"constant"}),
    "padded with a value": (lambda h: F.pad(h, (1, 1, 0, 0, 2, 0), value=-1.5), {"constant"}),
    "padded with zeros": (lambda h: F.pad(h, (1, 1)), set()),
    "max pooling": (lambda h: F.max_pool3d(h, 2), set()),
    "interpolation": (lambda h: F.interpolate(h, scale_factor=2, mode="trilinear"), set()),
    "attention": (
        lambda h: F.scaled_dot_product_attention(h.flatten(2), h.flatten(2) * 0.1, h.flatten(2)).view(h.shape),
        set(),
    ),
    "attention by hand": (
        lambda h: ((h.flatten(2) @ h.flatten(2).mT).softmax(-1) @ h.flatten(2)).view(h.shape),
        set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "concatenated"])
def test_a_function_keeps_its_value_and_closes_the_account(volume, targets, name):
    function, causes = FUNCTIONS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = One(function).double()
    x = volume(2, 2, 4, 4, 4)
    model = TorchModel(net)
    y = model.output(x)
    target = targets.Weighted(torch.linspace(-1, 2, y[0].numel(), dtype=y.dtype).view(y[0].shape))
    found = model.gradient(x, target, rules=GammaEpsilon())
    # The rewrite's arithmetic differs from the function's in the last digits only.
    torch.testing.assert_close(found.scores, model.scores(x, target), rtol=1e-11, atol=1e-11)
    total = (x * found.values).flatten(1).sum(1) + sum(found.absorbed.values())
    scores = found.scores
    if name == "batch norm of the batch":  # it mixes the samples: only their sum is kept
        total, scores = total.sum(), scores.sum()
    torch.testing.assert_close(total, scores, rtol=1e-9, atol=1e-9)
    assert found.uncovered == frozenset()
    booked = {cause for cause, kept in found.absorbed.items() if bool((kept.abs() > 1e-7).any())}
    assert booked - {"stabiliser"} <= causes, "what is booked under another name"
    if causes & {"norm", "constant"}:
        assert booked & causes == causes


def test_concatenation_by_keyword_is_not_lost(volume, targets):
    function, _ = FUNCTIONS["concatenated"]
    x = volume(1, 2, 4, 4, 4)
    net = One(function).double()
    y = TorchModel(net).output(x)
    found = TorchModel(net).gradient(x, targets.Weighted(torch.ones_like(y)), rules=GammaEpsilon())
    assert torch.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("exp", torch.exp),
        ("pow", lambda h: h**2),
        ("mul", lambda h: h * torch.tanh(h)),
        ("matmul", lambda h: h @ h),
        ("div", lambda h: h / (1 + h.abs())),
        ("rdiv", lambda h: 1 / (2 + h.abs())),
        ("var_mean", lambda h: h + torch.var_mean(h, 1, keepdim=True)[0]),
        ("log_softmax", lambda h: F.log_softmax(h, 1)),
        ("cumprod", lambda h: h.cumprod(1)),
    ],
)
def test_a_function_without_a_rule_is_named(volume, targets, name, function):
    net = One(function).double()
    x = volume(1, 2, 4, 4, 4)
    found = TorchModel(net).gradient(x, targets.Weighted(torch.ones(1)), rules=GammaEpsilon())
    assert found.uncovered == {name}


def test_what_no_relevance_reaches_is_not_named(volume, targets):
    net = One(lambda h: h * torch.sigmoid(torch.exp(h))).double()
    x = volume(1, 2, 4, 4, 4)
    assert not TorchModel(net).gradient(x, targets.Weighted(torch.ones(1)), rules=GammaEpsilon()).uncovered


def test_no_function_has_two_rules():
    assert not HOMOGENEOUS & {*WEIGHTED, *NORMS, *GATES}
