"""The network is left exactly as found, whatever happens; what it cannot do is said in one sentence."""

from contextlib import suppress
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from methods3d import (
    LRP,
    Cancelled,
    ClassScore,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    LayerError,
    ModelOutputError,
    Occlusion,
    PredictedRegion,
    Saliency,
    TargetError,
    TorchModel,
    UnsupportedModelError,
    VolumeError,
    WindowedModel,
)

METHODS = [
    Saliency(),
    InputXGradient(),
    IntegratedGradients(steps=3, tolerance=0),
    GradCAM(),
    Occlusion(levels=1, size=8, stride=8, unit="voxel"),
    LRP(),
]
by_name = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


@pytest.fixture(params=["training", "frozen in part", "with gradients"])
def used(request, make) -> nn.Module:
    """A network in the middle of somebody's work: flags, gradients and hooks that are not ours."""
    net = make("segresnet")
    if request.param == "training":
        net.train()
        list(net.modules())[5].eval()
    if request.param == "frozen in part":
        for p in list(net.parameters())[::2]:
            p.requires_grad_(False)
    if request.param == "with gradients":
        net.train()(torch.rand(1, 1, 16, 16, 16).double()).sum().backward()
        net.down_layers[0].register_forward_hook(lambda m, args, out: None)
        net.down_layers[0].register_forward_pre_hook(lambda m, args: None)
    return net


class BrokenError(RuntimeError):
    pass


@by_name
@pytest.mark.parametrize("windows", [None, 12])
def test_the_callers_things_are_exactly_as_before(used, volume, unchanged, method, windows):
    x = volume(1, 1, 16, 16, 16).requires_grad_()
    model = TorchModel(used) if windows is None else WindowedModel(used, windows)
    with unchanged(used, x):
        found = method(model, x, PredictedRegion(1))
    assert not found.values.requires_grad
    assert found.values.data_ptr() != x.data_ptr()

    with unchanged(used, x), pytest.raises(TargetError):
        method(model, x, PredictedRegion(7))

    def cancel(done: int, total: int, partial: Any = None) -> None:
        raise Cancelled("enough")

    with unchanged(used, x), pytest.raises(Cancelled):
        method(model, x, PredictedRegion(1), progress=cancel)

    with unchanged(used, x), pytest.raises(LayerError):
        GradCAM(layer="nowhere")(model, x, PredictedRegion(1))


@by_name
@pytest.mark.parametrize(
    "error", [BrokenError("the third module is broken\nat length"), KeyError("k"), KeyboardInterrupt()]
)
def test_also_after_a_module_that_raises(used, volume, unchanged, method, error):
    runs = 0

    def fail(module: nn.Module, args: Any) -> None:
        nonlocal runs
        runs += 1
        if runs > 1 or method.name in ("saliency", "input-x-gradient", "lrp"):
            raise error

    x = volume(1, 1, 16, 16, 16)
    used.up_layers[0].register_forward_pre_hook(fail)
    expected = VolumeError if isinstance(error, BrokenError) else type(error)
    with unchanged(used, x), pytest.raises(expected) as caught:
        method(TorchModel(used), x, PredictedRegion(1))
    if expected is VolumeError:
        assert "1, 16, 16, 16) (the third module is broken): give" in str(caught.value)
        assert caught.value.__cause__ is error


def test_the_watch_over_the_caller_can_bark(make, volume, unchanged):
    net, x = make("plain"), volume(1, 1, 16, 16, 16)
    for harm in (
        net.train,
        lambda: net[0].weight.requires_grad_(False),
        lambda: net[0].register_forward_hook(lambda *a: None),
        lambda: net(x).sum().backward(),
        lambda: x.add_(0),
        lambda: torch.rand(1),
        lambda: net[0].weight.data.mul_(2),
    ):
        with pytest.raises(AssertionError), unchanged(net, x):
            harm()


class InPlace(nn.Module):
    """Works on its input in place, as inference code may."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, stride=2)

    def forward(self, x: Any) -> Any:
        x -= 0.5
        x.clamp_(min=0)
        return self.conv(x).mean((2, 3, 4))


@pytest.mark.parametrize("method", [*METHODS[:3], METHODS[4], GradCAM(layer="conv"), LRP()], ids=lambda m: m.name)
def test_a_network_that_works_on_its_input_in_place(volume, unchanged, method):
    net, x = InPlace().double(), volume(1, 1, 16, 16, 16)
    with unchanged(net, x):
        method(TorchModel(net), x, ClassScore(0))
    model = TorchModel(net)
    with unchanged(net, x):
        assert torch.equal(model.output(x), model.output(x))


# --- outputs to choose from ---


class Many(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv3d(1, 2, 3, padding=1), form

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        return {
            "tuple": (y * 0, y),
            "list": [y * 0, y],
            "dict": {"aux": y * 0, "out": y},
            "nested": {"heads": (y * 0, y)},
            "none": None,
            "flat": y.flatten(),
            "ranked": y.flatten(2),
            "labels": y.argmax(1, keepdim=True),
            "cut": (y > 0).double(),
        }[self.form]


@pytest.mark.parametrize(
    ("form", "output"),
    [
        ("tuple", 1), ("tuple", -1), ("list", 1), ("dict", "out"), ("dict", lambda y: y["out"]),
        ("nested", lambda y: y["heads"][1]), ("flat", lambda y: y.view(1, 2, 8, 8, 8)),
    ],
)  # fmt: skip
def test_an_output_is_chosen_by_index_key_or_callable(volume, form, output):
    net, x = Many(form).double(), volume(1, 1, 8, 8, 8)
    expected = net.conv(x).detach()
    torch.testing.assert_close(TorchModel(net, output=output).output(x), expected)
    for model in (TorchModel(net, output=output), WindowedModel(net, 8, output=output)):
        assert Saliency()(model, x, PredictedRegion(1)).values.abs().max() > 0


@pytest.mark.parametrize(
    ("form", "output", "said"),
    [
        ("tuple", None, "returns a tuple of 2: choose one with output=INDEX, KEY or a callable."),
        ("list", None, "returns a list of 2"),
        ("dict", None, "returns a dict with the keys 'aux', 'out': choose one with output="),
        ("none", None, "returns a NoneType"),
        ("tuple", 2, "has no 2: a tuple of 2."),
        ("dict", "logits", "has no 'logits': a dict with the keys 'aux', 'out'."),
        ("nested", "heads", "returns a tuple of 2"),
        ("flat", None, r"puts out \(1024,\) for 1 sample\(s\)"),
        ("ranked", None, r"puts out \(1, 2, 512\)"),
        ("labels", None, "torch.int64, which has no gradient: give its logits"),
        ("cut", None, "does not depend differentiably on its input"),
    ],
)
def test_outputs_that_no_score_can_be_read_from(volume, form, output, said):
    with pytest.raises(ModelOutputError, match=said) as caught:
        Saliency()(TorchModel(Many(form).double(), output=output), volume(1, 1, 8, 8, 8), PredictedRegion(1, by=0.0))
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 15)])
def test_a_volume_that_the_network_cannot_take(make, volume, channels, size):
    with pytest.raises(VolumeError, match=r"cannot run on an input of shape .* give the channels and the size"):
        Saliency()(TorchModel(make("segresnet")), volume(1, channels, size, size, size), PredictedRegion(1))


def test_an_error_without_a_word(volume):
    class Silent(nn.Module):
        def forward(self, x: Any) -> Any:
            raise RuntimeError

    with pytest.raises(VolumeError, match="RuntimeError"):
        TorchModel(Silent()).output(volume(1, 1, 4, 4, 4))


# --- TorchScript, exported programs, other tensors, half precision ---


@pytest.mark.parametrize("kind", ["scripted", "traced", "frozen"])
@pytest.mark.parametrize("method", [METHODS[0], METHODS[1], METHODS[2], METHODS[4]], ids=lambda m: m.name)
def test_torchscript_serves_gradients_and_occlusion(make, volume, method, kind):
    net, x = make("plain"), volume(2, 1, 16, 16, 16)
    script = torch.jit.trace(net, x) if kind == "traced" else torch.jit.script(net)
    script = torch.jit.freeze(script.eval()) if kind == "frozen" else script.train()
    expected = method(TorchModel(net), x, ClassScore())
    for _ in range(3):  # the profiling executor changes the graph on its second run
        # TorchScript keeps the slope 0.1 in float32. A frozen module has no parameters left that say its
        # precision, so it is asked in float32.
        digits = 1e-7 if kind != "frozen" else 1e-4
        close = {"rtol": 0, "atol": digits * expected.values.abs().max().item()}
        if kind == "frozen":
            script = torch.jit.freeze(torch.jit.script(make("plain").float().eval()))
        found = method(TorchModel(script), x, ClassScore())
        torch.testing.assert_close(found.values, expected.values, check_dtype=False, **close)
    if kind != "frozen":
        assert script.training
    for other in (LRP(), GradCAM()):
        with pytest.raises(UnsupportedModelError, match=r"gradient or perturbation method"):
            other(TorchModel(script), x, ClassScore())


def test_exported_programs_run(make, volume):
    net, x = make("plain"), volume(1, 1, 16, 16, 16)
    exported = torch.export.export(net, (x,)).module()
    expected = Saliency()(TorchModel(net), x, ClassScore(1))
    torch.testing.assert_close(Saliency()(TorchModel(exported), x, ClassScore(1)).values, expected.values)


@by_name
def test_monais_tensors_go_in_and_plain_ones_come_out(make, volume, method):
    net, x = make("unet"), volume(1, 1, 16, 16, 16)
    found = method(TorchModel(net), MetaTensor(x), PredictedRegion(1))
    assert type(found.values) is type(found.scores) is torch.Tensor
    assert torch.equal(found.values, method(TorchModel(net), x, PredictedRegion(1)).values)


@by_name
@pytest.mark.parametrize("windows", [None, 12])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_close_to_full_precision(make, volume, clean, method, windows, dtype):
    net, x = make("segresnet", 2).float(), volume(1, 2, 16, 16, 16).float()
    # The layer that it would choose lies below a norm, where channel weights are rounding errors (test_cam.py).
    method = GradCAM(layer="up_layers.0.0.norm1") if method.name == "grad-cam" else method
    full, less = (
        method(m, x, PredictedRegion(1))
        for m in (
            TorchModel(net, autocast=a) if windows is None else WindowedModel(net, windows, autocast=a)
            for a in (None, dtype)
        )
    )
    assert less.values.dtype == torch.float32
    assert less.values.shape == full.values.shape
    both = torch.stack([full.values.flatten(), less.values.flatten()])
    # bfloat16 has 8 bits and float16 has 11: ten layers leave one and two digits of a map, in the mean.
    assert torch.corrcoef(both)[0, 1] > (0.97 if dtype == torch.bfloat16 else 0.995)
    torch.testing.assert_close(less.scores, full.scores, rtol=0.05, atol=0.02)
    assert not torch.is_autocast_enabled("cpu")


def test_half_precision_does_not_flush_a_large_regions_gradient(volume):
    """A mean over 10^6 voxels has a cotangent of 10^-6 each: zero or two bits in float16 unless it is scaled."""
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.linspace(0.05, 0.2, p.numel()).view_as(p))
    x = volume(1, 1, 100, 100, 100).float()
    for model in (TorchModel(net), TorchModel(net, autocast=torch.float16)):
        g = Saliency()(model, x, PredictedRegion(1, by=0.0)).values
        exact = float((net[1].weight[1].flatten() * net[0].weight.flatten()).sum().detach() / 1e6)
        torch.testing.assert_close(g, torch.full_like(g, exact), rtol=2e-3, atol=0)
    half = TorchModel(net.half())
    g = Saliency()(half, x, PredictedRegion(1, by=0.0)).values
    torch.testing.assert_close(g, torch.full_like(g, exact), rtol=5e-3, atol=0)


def test_a_half_precision_volume_is_summed_in_float32(make, volume):
    net, x = make("smooth_classifier").float(), volume(1, 1, 12, 12, 12).half()
    found = IntegratedGradients(steps=16)(TorchModel(net), x, ClassScore(1))
    assert found.values.dtype == torch.float32
    assert float(found.gap.abs()) < 1e-4 * float(found.scores.abs()) + 1e-5


def test_random_state_is_nobodys_business(make, volume, unchanged):
    net, x = make("gated"), volume(1, 1, 16, 16, 16)
    torch.manual_seed(123)
    for method in METHODS:
        with unchanged(net, x), suppress(LayerError):
            method(WindowedModel(net, 12), x, PredictedRegion(1))
