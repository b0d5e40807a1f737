"""Small random networks in float64, targets of our own, and what 'exactly as before' means."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, DenseNet, SegResNet, UNet
from torch import Tensor, nn

from methods3d import Method, Saliency, Target, method


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny convolutions on many threads wait for each other, twenty times as long where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Networks that a test makes itself are the same each time; the state of before is given back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic at random, as after training; float64, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    net.double().eval()
    with torch.no_grad():
        for p in net.parameters():
            fan = max(1, p[0].numel()) if p.ndim > 1 else 4
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / fan**0.5)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) / 2)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return net


def without_constants(net: nn.Module) -> nn.Module:
    """Biases, norm shifts and running means at zero: nothing is left that could absorb relevance."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                p.zero_()
        for name, b in net.named_buffers():
            if name.endswith("running_mean"):
                b.zero_()
    return net


class GatedNet(nn.Module):
    """Squeeze-and-excitation, SiLU, functional and in-place ReLUs, an ELU, a Softplus: a voxel-wise output."""

    def __init__(self, channels: int = 1, classes: int = 2) -> None:
        super().__init__()
        self.a = nn.Conv3d(channels, 4, 3, padding=1)
        self.gate = nn.Linear(4, 4)
        self.b = nn.Conv3d(4, 4, 3, padding=1, padding_mode="replicate")
        self.head = nn.Conv3d(4, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.a(x))
        h = h * torch.sigmoid(self.gate(h.mean((2, 3, 4))))[:, :, None, None, None]
        s = self.b(h)
        s += h
        s = F.relu_(s + 0.1) - F.elu(self.b(h) - 0.2, inplace=True)
        return self.head(s + F.softplus(s))


class TokenNet(nn.Module):
    """A class token and positions (constants that are concatenated and added) before a layer norm."""

    def __init__(self, channels: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv3d(channels, 6, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.positions = nn.Parameter(torch.randn(1, 9, 6))
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Linear(9, 9)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.positions
        tokens = tokens + F.gelu(self.mix(self.norm(tokens).transpose(1, 2))).transpose(1, 2)
        return self.head(tokens[:, 0])


class SmoothNet(nn.Module):
    """Smooth everywhere, so that quadrature converges fast; voxel-wise."""

    def __init__(self, channels: int = 1, classes: int = 2) -> None:
        super().__init__()
        self.a = nn.Conv3d(channels, 4, 3, padding=1)
        self.b = nn.Conv3d(4, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def smooth_classifier(channels: int = 1, classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(channels, 4, 3, stride=2),
        nn.Softplus(),
        nn.Conv3d(4, 4, 3),
        nn.SiLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def plain_classifier(channels: int = 1, classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(channels, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool3d(2),
        nn.Conv3d(4, 6, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    )


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "unet": lambda c=1, k=2: UNet(3, c, k, channels=(4, 8, 8), strides=(2, 2), num_res_units=1),
    "segresnet": lambda c=1, k=2: SegResNet(3, 8, c, k, blocks_down=(1, 1), blocks_up=(1,), num_groups=4),
    "basicunet": lambda c=1, k=2: BasicUNet(3, c, k, features=(4, 4, 4, 4, 4, 4)),
    "densenet": lambda c=1, k=3: DenseNet(3, c, k, init_features=4, growth_rate=4, block_config=(2, 2), bn_size=2),
    "gated": GatedNet,
    "tokens": TokenNet,
    "smooth": SmoothNet,
    "smooth_classifier": smooth_classifier,
    "plain": plain_classifier,
}


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    """make(name, channels, classes): a randomised network of this kind, the same each time; global RNG untouched."""

    def maker(name: str, channels: int = 1, classes: int | None = None, seed: int = 0) -> Any:
        with torch.random.fork_rng(devices=[]):
            net = MAKERS[name](channels) if classes is None else MAKERS[name](channels, classes)
        return randomised(net, seed)

    return maker


@pytest.fixture
def clean() -> Callable[[nn.Module], nn.Module]:
    return without_constants


@pytest.fixture
def volume() -> Callable[..., Tensor]:
    """volume(b, c, i, j, k): standard normal float64, the same each time."""

    def draw(*shape: int, seed: int = 1) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw


@dataclass(frozen=True, eq=False)
class Weighted(Target):
    """<weights, output>: linear, and reads everything."""

    weights: Tensor
    linear = True

    def bind(self, output: Tensor) -> Target:
        return self

    def support(self, shape: Any) -> Tensor | None:
        return None

    def __call__(self, output: Tensor) -> Tensor:
        return (output * self.weights.to(output)).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class SoftRegion(Target):
    """The mean squared probability of the last class over a region: nonlinear, with a support if asked."""

    mask: Tensor
    narrow: bool = False
    voxels: float | None = None
    linear = False

    def bind(self, output: Tensor) -> Target:
        return self

    def support(self, shape: Any) -> Tensor | None:
        return self.mask if self.narrow else None

    def within(self, box: Any) -> Target:
        return SoftRegion(self.mask[box], self.narrow, self.voxels or float(self.mask.sum()))

    def __call__(self, output: Tensor) -> Tensor:
        total = self.voxels or self.mask.sum()
        return (torch.softmax(output, 1)[:, -1] ** 2 * self.mask).flatten(1).sum(1) / total


@dataclass(frozen=True, eq=False)
class Largest(Target):
    """The log-sum-exp of a class over the whole scan: nonlinear, and no sum over voxels."""

    k: int
    linear = False

    def bind(self, output: Tensor) -> Target:
        return self

    def support(self, shape: Any) -> Tensor | None:
        return None

    def __call__(self, output: Tensor) -> Tensor:
        return output[:, self.k].flatten(1).logsumexp(1)


@pytest.fixture
def targets() -> SimpleNamespace:
    return SimpleNamespace(Weighted=Weighted, SoftRegion=SoftRegion, Largest=Largest)


def box_mask(shape: Sequence[int], *spans: tuple[int, int]) -> Tensor:
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    mask[tuple(slice(a, b) for a, b in spans)] = True
    return mask


@pytest.fixture
def region() -> Callable[..., Tensor]:
    """region(shape, (a, b), (a, b), (a, b)): a box as a mask."""
    return box_mask


class Counter:
    """How many samples (windows) have gone through a network's forward pass."""

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.samples += 0 if args[0].is_meta else len(args[0])  # following shapes computes nothing


@pytest.fixture
def counted() -> Callable[[nn.Module], Any]:
    """With counted(net) as count: count.samples is how many windows have run."""

    @contextmanager
    def counting(net: nn.Module) -> Iterator[Counter]:
        counter = Counter()
        handle = net.register_forward_pre_hook(counter)
        try:
            yield counter
        finally:
            handle.remove()

    return counting


def everything(net: nn.Module, *tensors: Tensor) -> dict[str, Any]:
    """All that a caller could notice had been changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "state": {k: v.clone() for k, v in net.state_dict().items()},
        "modules": [(name, type(m), id(m)) for name, m in net.named_modules()],
        "training": [m.training for m in net.modules()],
        "hooks": [[list(getattr(m, h, {})) for h in hooks] for m in net.modules()],
        "wanted": [p.requires_grad for p in net.parameters()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in net.parameters()],
        "tensors": [(t.clone(), t.requires_grad, t.grad is None, t.is_leaf, t._version) for t in tensors],
        "modes": (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()),
        "random": (torch.get_rng_state(), str(np.random.get_state()), random.getstate()),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def unchanged() -> Callable[..., Any]:
    """With unchanged(net, x): on leaving, also by an exception, everything is exactly as before."""

    @contextmanager
    def watching(net: nn.Module, *tensors: Tensor) -> Iterator[None]:
        before = everything(net, *tensors)
        try:
            yield
        finally:
            after = everything(net, *tensors)
            assert not [key for key in before if not same(before[key], after[key])]

    return watching


SMALLEST: dict[str, Any] = {
    "steps": 3,
    "samples": 4,
    "orders": 2,
    "count": 8,
    "cell": 6.0,
    "sigma": 4.0,
    "size": 8.0,
    "stride": 8.0,
    "unit": "voxel",
    "levels": 1,
    "features": "grid(8)",
    "tolerance": 0.0,
}


@pytest.fixture
def smallest() -> Callable[..., Method]:
    """smallest(name, **settings): a method with the smallest budgets, for volumes of 16 voxels an axis."""

    def make_small(name: str, **settings: Any) -> Method:
        cls = method(name)
        names = {f.name for f in fields(cls)}
        small = {key: value for key, value in SMALLEST.items() if key in names}
        if "of" in names and name != "layer-attribution":
            small["of"] = Saliency(absolute=False)
        return cls(**small | settings)

    return make_small
