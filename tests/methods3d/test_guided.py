"""Guided backpropagation and the deconvnet: hand-derived gradients, however an activation is called."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods3d import ClassScore, PredictedRegion, TorchModel, WindowedModel
from methods3d.rules.guided import Deconvnet, GuidedBackprop

RULES = [GuidedBackprop(), Deconvnet()]


class Net(nn.Module):
    """One activation between two fixed linear layers: signs of both kinds everywhere."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.a = nn.Parameter(torch.randn(5, 27, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(2, 5, generator=generator, dtype=torch.float64))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.activation(F.linear(x.flatten(1), self.a)), self.b)


def on_a_clone(function: Any) -> Any:
    """The call's result is not used: only what it did to its argument."""

    def work(h: Tensor) -> Tensor:
        h = h.clone()
        function(h)
        return h

    return work


CALLS = {
    "F.relu": F.relu,
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "torch.relu": torch.relu,
    "method": lambda h: h.relu(),
    "relu_, result unused": on_a_clone(lambda h: h.relu_()),
    "F.relu in place, result unused": on_a_clone(lambda h: F.relu(h, inplace=True)),
    "aten": torch.ops.aten.relu.default,
    "aten relu_": on_a_clone(torch.ops.aten.relu_.default),
    "threshold": lambda h: F.threshold(h, 0.0, 0.0),
    "leaky": nn.LeakyReLU(0.2),
    "leaky in place": on_a_clone(lambda h: F.leaky_relu_(h, 0.2)),
    "nn.PReLU": nn.PReLU(init=0.3).double(),
    "prelu by channel": lambda h: F.prelu(h, h.new_tensor([0.1, 0.2, 0.3, 0.4, 0.5])),
    "nn.RReLU": nn.RReLU(),
    "nn.ELU": nn.ELU(0.7),
    "F.elu in place": on_a_clone(lambda h: F.elu(h, 1.0, True)),
    "nn.SELU": nn.SELU(),
    "nn.CELU in place": nn.CELU(inplace=True),
    "F.silu": F.silu,
    "nn.SiLU in place": nn.SiLU(inplace=True),
    "nn.GELU": nn.GELU(),
    "F.gelu tanh": lambda h: F.gelu(h, approximate="tanh"),
    "nn.Mish": nn.Mish(),
    "nn.Hardswish": nn.Hardswish(),
    "nn.Softplus": nn.Softplus(),
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6 in place": on_a_clone(lambda h: F.relu6(h, inplace=True)),
    "nn.Hardtanh": nn.Hardtanh(-0.5, 2.0),
}


def slope(activation: Any, h: Tensor) -> Tensor:
    h = h.detach().requires_grad_()
    return torch.autograd.grad(activation(h * 1).sum(), h)[0]


@pytest.mark.parametrize("name", CALLS)
def test_an_activation_is_ruled_however_it_is_called(volume, unchanged, name):
    net = Net(CALLS[name]).eval()
    x = volume(2, 1, 3, 3, 3)
    model = TorchModel(net)
    h = x.flatten(1) @ net.a.detach().T
    increase = net.b.detach()[1].clamp(min=0)
    expected = {GuidedBackprop: slope(net.activation, h) * increase, Deconvnet: increase.expand(2, 5)}
    with unchanged(net, x):
        for rules in RULES:
            found = model.gradient(x, ClassScore(1), rules=rules)
            torch.testing.assert_close(found.values.flatten(1), expected[type(rules)] @ net.a.detach())
            torch.testing.assert_close(found.scores, model.output(x)[:, 1], rtol=0, atol=1e-14)
            assert not found.uncovered
    assert not torch.allclose(expected[GuidedBackprop], expected[Deconvnet].double())


def test_relu_by_hand():
    """y = 2 relu(x0 - x1) - 3 relu(x1) at x = (3, 1, -2): two units on, one of them held against the class."""

    class Tiny(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b, c = x.flatten(1).unbind(1)
            return torch.stack([2 * F.relu(a - b) - 3 * F.relu(b) + F.relu(c), a], 1)

    x = torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64).view(1, 1, 3, 1, 1)
    model = TorchModel(Tiny())

    def found(rules: Any) -> list[float]:
        return model.gradient(x, ClassScore(0), rules=rules).values.flatten().tolist()

    assert found(None) == [2, -5, 0]
    assert found(GuidedBackprop()) == [2, -2, 0]  # nothing goes through relu(b), whose gradient is -3
    assert found(Deconvnet()) == [2, -2, 1]  # and c gets its one, although its unit is off


def test_a_module_that_is_reused_is_ruled_each_time(volume):
    """relu(a relu(b x)) with one nn.ReLU: each call cuts the gradient that arrives at it."""
    a, b = volume(4, 5, seed=5), volume(5, 8, seed=6)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.b = nn.ReLU(), nn.Parameter(b)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.relu(x.flatten(1) @ self.b.T) @ a.T) @ a[:, :2]

    x = volume(1, 1, 2, 2, 2)
    first = x.flatten(1) @ b.T
    second = first.clamp(min=0) @ a.T
    for rules, on in ((GuidedBackprop(), True), (Deconvnet(), False)):
        g = a[:, 1].clamp(min=0)[None]
        g = (g * (second > 0) if on else g) @ a
        g = g.clamp(min=0)
        g = (g * (first > 0) if on else g) @ b
        torch.testing.assert_close(TorchModel(Twice()).gradient(x, ClassScore(1), rules=rules).values.flatten(1), g)


def test_the_gradient_is_cut_once_all_paths_have_met(volume):
    """y = relu(x) - 3 relu(x): 1 and -3 arrive at the activation, -2 together, and nothing goes on."""

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))  # says that the network is float64

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(x)
            h2 = h.clone()
            h2 += h * -3 + 1
            return torch.stack([h2.mean((1, 2, 3, 4)), (h2 * -1).mean((1, 2, 3, 4))], 1)

    x = volume(1, 1, 3, 3, 3)
    model = TorchModel(Skip())
    for rules in RULES:
        assert model.gradient(x, ClassScore(0), rules=rules).values.abs().max() == 0
    torch.testing.assert_close(model.gradient(x, ClassScore(1), rules=GuidedBackprop()).values, 2 / 27 * (x > 0).to(x))


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_everything_else_has_its_plain_gradient(make, volume, rules):
    """Norms, constants, gates and products too; so without any activation it is the gradient."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, affine=True)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.norm(self.conv(x))) + 0.3
            h = torch.cat([h * torch.sigmoid(h), h.new_ones(h.shape) / h.exp()], 1)
            return F.max_pool3d(h, 2).mean((2, 3, 4)).softmax(1)

    x = volume(2, 1, 6, 6, 6)
    model = TorchModel(Other().double())
    found, plain = model.gradient(x, ClassScore(1), rules=rules), model.gradient(x, ClassScore(1))
    torch.testing.assert_close(found.values, plain.values)
    assert not found.uncovered and all(cause == "target" for cause in found.absorbed)


def test_it_is_known_whether_an_activation_was_met():
    for rules in RULES:
        mode = rules.rewriting(1)
        x = torch.randn(3, requires_grad=True)
        with mode:
            torch.tanh(x)
            assert not mode.met
            F.relu(x.detach())  # of nothing that is explained
            assert not mode.met
            F.silu(x)
        assert mode.met


@pytest.mark.parametrize("name", ["densenet", "tokens", "gated", "unet", "segresnet"])
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_networks_are_left_as_found_and_a_batch_equals_its_samples(make, volume, unchanged, name, rules):
    net, x = make(name), volume(2, 1, 16, 16, 16)
    model = TorchModel(net)
    target: Any = ClassScore(1) if name in ("densenet", "tokens") else PredictedRegion(1)
    with unchanged(net, x):
        found = model.gradient(x, target, rules=rules)
    assert not found.uncovered
    assert all(cause == "target" for _, cause in found.leaks)
    for n in range(2):
        one = model.gradient(x[n : n + 1], target, rules=rules)
        torch.testing.assert_close(found.values[n : n + 1], one.values)
    plain = model.gradient(x, target)
    torch.testing.assert_close(found.scores, plain.scores)
    assert not torch.allclose(found.values, plain.values)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_it_runs_in_windows(make, volume, rules):
    net, x = make("segresnet"), volume(1, 1, 16, 16, 16)
    whole = TorchModel(net).gradient(x, PredictedRegion(1), rules=rules)
    windowed = WindowedModel(net, 16).gradient(x, PredictedRegion(1), rules=rules)
    torch.testing.assert_close(windowed.values, whole.values)
    some = WindowedModel(net, 8, overlap=0.5).gradient(x, PredictedRegion(1), rules=rules)
    assert bool(torch.isfinite(some.values).all()) and bool((some.values != 0).any())


def test_exported_programs_too(make, volume):
    net, x = make("plain"), volume(1, 1, 8, 8, 8)
    exported = torch.export.export(net, (x,)).module()
    for rules in RULES:
        torch.testing.assert_close(
            TorchModel(exported).gradient(x, ClassScore(1), rules=rules).values,
            TorchModel(net).gradient(x, ClassScore(1), rules=rules).values,
        )


def test_a_custom_function_is_named_because_it_may_be_an_activation(volume):
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            return gradients[0] * 2

    net = Net(Swish.apply)
    assert TorchModel(net).gradient(volume(1, 1, 3, 3, 3), ClassScore(0), rules=GuidedBackprop()).uncovered == {"Swish"}


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_captum_agrees(volume, rules):
    """Captum's hooks see nn.ReLU modules alone, each run once and not in place: on such a network both agree."""
    captum = pytest.importorskip("captum.attr")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(4, 6, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3),
        ).double().eval()  # fmt: skip
    x = volume(2, 1, 8, 8, 8)
    theirs = captum.GuidedBackprop if isinstance(rules, GuidedBackprop) else captum.Deconvolution
    for k in range(3):
        ours = TorchModel(net).gradient(x, ClassScore(k), rules=rules)
        torch.testing.assert_close(ours.values, theirs(net).attribute(x.clone(), target=k))
