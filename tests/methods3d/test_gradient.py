"""Gradient methods against their integrals, and against Captum 0.9 where the formula is the same."""

import pytest
import torch
from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import Saliency as CaptumSaliency
from monai.visualize import VanillaGrad
from torch import nn

from methods3d import (
    ClassScore,
    InputXGradient,
    IntegratedGradients,
    ModelInfo,
    PredictedRegion,
    RegionScore,
    Saliency,
    TorchModel,
    WindowedModel,
)
from methods3d.baselines import Tissue


@pytest.mark.parametrize("name", ["densenet", "plain", "smooth_classifier"])
def test_saliency_and_input_x_gradient_are_captums(make, volume, name):
    net, x = make(name, 2, 3), volume(2, 2, 16, 16, 16)
    model = TorchModel(net)
    signed, strength, product = (
        m(model, x, ClassScore(2)).values for m in (Saliency(absolute=False), Saliency(), InputXGradient())
    )
    # The same backward pass: equal but for the order of sums.
    close = {"rtol": 1e-10, "atol": 1e-14}
    torch.testing.assert_close(signed, CaptumSaliency(net).attribute(x.clone(), target=2, abs=False), **close)
    torch.testing.assert_close(strength, CaptumSaliency(net).attribute(x.clone(), target=2), **close)
    torch.testing.assert_close(
        product, CaptumInputXGradient(net).attribute(x.clone().requires_grad_(), target=2).detach(), **close
    )


@pytest.mark.parametrize("baseline", [0.0, -0.5])
def test_integrated_gradients_are_captums(make, volume, baseline):
    net, x = make("plain", 2, 3), volume(2, 2, 16, 16, 16)
    found = IntegratedGradients(steps=7, tolerance=0, baseline=baseline)(TorchModel(net), x, ClassScore(1))
    theirs, gap = CaptumIntegratedGradients(net).attribute(
        x, baselines=baseline, target=1, n_steps=7, method="gausslegendre", return_convergence_delta=True
    )
    # Captum rounds the quadrature's weights to float32; its delta is sum - (T(x) - T(x0)).
    torch.testing.assert_close(found.values, theirs, rtol=0, atol=1e-6 * theirs.abs().max().item())
    torch.testing.assert_close(found.gap, -gap, rtol=0, atol=1e-6 * found.scores.abs().max().item())


class Cubic(nn.Module):
    """sum w x^3 + v x y: a polynomial, whose integral two Gauss points take exactly."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.w = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

    def forward(self, x):
        mixed = self.w * x**3 + self.v * x * x.roll(1, -1)
        return mixed.flatten(1).sum(1, keepdim=True)


def test_integrated_gradients_are_the_exact_integral_of_a_polynomial(volume):
    shape = (2, 3, 4, 5)
    net, x, x0 = Cubic(shape), volume(2, *shape), 0.3
    d = x - x0
    w, v = net.w.detach(), net.v.detach()
    # d times the integral over t of 3 w p^2 + v p' + (v p)' with p = x0 + t d, term by term.
    square = x0**2 + x0 * d + d**2 / 3
    middle = x0 + d / 2
    exact = d * (3 * w * square + v * middle.roll(1, -1) + (v * middle).roll(-1, -1))
    for steps in (2, 3, 20):
        found = IntegratedGradients(steps=steps, tolerance=0, baseline=x0)(TorchModel(net), x, ClassScore(1))
        torch.testing.assert_close(found.values, exact, rtol=1e-11, atol=1e-12)
        assert float(found.gap.abs().max()) < 1e-11
    one = IntegratedGradients(steps=1, tolerance=0, baseline=x0)(TorchModel(net), x, ClassScore(1))
    assert not torch.allclose(one.values, exact, rtol=1e-3)  # one point is not enough: the test can fail


@pytest.mark.parametrize("windows", [None, 12])
@pytest.mark.parametrize("baseline", [0.0, 1.0])
def test_integrated_gradients_are_complete_on_smooth_networks(make, volume, targets, windows, baseline):
    x = volume(2, 1, 16, 16, 16)
    if windows is None:
        model, target = TorchModel(make("smooth_classifier")), ClassScore()
    else:
        model, target = WindowedModel(make("smooth"), windows), PredictedRegion(1)
    found = IntegratedGradients(steps=32, tolerance=0, baseline=baseline)(model, x, target)
    bound, _ = model.bind(x, target)
    change = found.scores - model.scores(torch.full_like(x, baseline), bound)
    # Gauss-Legendre converges geometrically on analytic functions; 32 points leave less than 1e-6 of the change.
    torch.testing.assert_close(found.values.flatten(1).sum(1) + found.gap, change, rtol=1e-10, atol=1e-10)
    assert bool((found.gap.abs() < 1e-6 * change.abs()).all())
    assert not found.warnings


@pytest.mark.parametrize("name", ["densenet", "smooth_classifier"])
def test_how_many_points_run_at_once_changes_nothing(make, volume, name, monkeypatch):
    x, runs = volume(2, 1, 16, 16, 16), []
    for n in (1, 2, 5, 100):
        monkeypatch.setattr("methods3d.model.AT_ONCE", n)
        model = TorchModel(make(name))
        runs.append(IntegratedGradients(steps=5, tolerance=0)(model, x, ClassScore()).values)
    for other in runs[1:]:
        torch.testing.assert_close(runs[0], other, rtol=1e-10, atol=1e-12)


def test_a_region_that_moved_along_the_path_would_break_the_sum(make, volume):
    """Why targets are bound once: a predicted region decided anew at every point does not add up."""
    model, x = TorchModel(make("unet")), volume(1, 1, 16, 16, 16)

    class Moving(PredictedRegion):
        def bind(self, output):
            super().bind(output)
            return self

        def __call__(self, output):
            return super().bind(output.detach())(output)

    steps = IntegratedGradients(steps=40, tolerance=0, baseline=2.0)
    fixed, moving = (steps(model, x, target) for target in (PredictedRegion(1), Moving(1)))
    assert float(fixed.gap.abs()) < 0.1 * float(moving.gap.abs())


def test_an_incomplete_map_says_so(volume):
    found = IntegratedGradients(steps=1, tolerance=0)(
        TorchModel(Cubic((1, 4, 4, 4))), volume(1, 1, 4, 4, 4), ClassScore(1)
    )
    assert any("completeness gap" in w for w in found.warnings)


def test_the_gradient_of_a_sum_is_the_sum_of_gradients(make, volume, targets):
    x = volume(1, 1, 16, 16, 16)
    a, b = volume(1, 2, 16, 16, 16, seed=3), volume(1, 2, 16, 16, 16, seed=4)
    for model in (TorchModel(make("unet")), WindowedModel(make("unet"), 12)):
        one, two, both = (model.gradient(x, targets.Weighted(w)).values for w in (a, b, 3 * a - b))
        torch.testing.assert_close(both, 3 * one - two, rtol=0, atol=1e-10 * one.abs().max().item())


def test_monais_vanilla_grad_doubles_on_a_second_call_and_ours_does_not(make, volume):
    """MONAI 1.6.1: x.requires_grad is set on the caller's tensor, and x.grad never cleared."""
    net, x = make("plain"), volume(1, 1, 16, 16, 16)
    theirs = VanillaGrad(net)
    mine = x.clone()
    once = theirs(mine, index=1).clone()
    twice = theirs(mine, index=1)
    torch.testing.assert_close(twice, 2 * once)
    ours = [Saliency(absolute=False)(TorchModel(net), x, ClassScore(1)).values for _ in range(2)]
    torch.testing.assert_close(ours[0], once, rtol=1e-10, atol=1e-14)
    assert torch.equal(ours[0], ours[1])


# --- the baseline of flat tissue ---


def test_flat_tissue_leaves_air_and_levels_the_rest():
    x = torch.zeros(1, 2, 8, 8, 8, dtype=torch.float64)
    x[0, 0, 2:6] = torch.linspace(1, 3, 4, dtype=torch.float64)[:, None, None]
    x[0, 1, 4:] = 5.0
    x[0, 0, 0, 0, 0] = 0.01  # noise in the air
    flat = Tissue().volume(x, ModelInfo(air=0.0))
    assert (flat[0, 0, 2:6] == 2.0).all()
    assert (flat[0, 1, 4:] == 5.0).all()
    assert flat[0, 0, 0, 0, 0] == 0.01
    assert (flat[0, :, :2].abs() <= 0.01).all()


def test_from_flat_tissue_an_instance_norm_is_no_singularity(make, volume):
    """From zero the whole change of the score lies at the path's first thousandth, which no quadrature sees."""
    net, x = make("unet"), volume(1, 1, 16, 16, 16) + 2
    x[..., :3] = 0
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    mask[4:9, 4:9, 4:9] = True
    info, target = ModelInfo(air=0.0), RegionScore(1, mask)
    flat = IntegratedGradients(steps=32, tolerance=0)(TorchModel(net, info=info), x, target)
    zero = IntegratedGradients(steps=32, tolerance=0, baseline=0.0)(TorchModel(net, info=info), x, target)
    size = (flat.values.sum() + flat.gap).abs()
    assert (flat.gap.abs() / size).item() < 0.05
    assert (zero.gap.abs() / (zero.values.sum() + zero.gap).abs()).item() > (flat.gap.abs() / size).item()
    assert (flat.values[..., :3] == 0).all()  # air cannot have caused what it did not change
