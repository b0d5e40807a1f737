"""Odd calls: threads, gradient modes, layers that run twice, budgets that do not suffice, scores that are none."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from methods3d import (
    RISE,
    XRAI,
    Ablation,
    Cancelled,
    ClassScore,
    EigenCAM,
    FullGrad,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    LayerError,
    Occlusion,
    ParameterError,
    RegionScore,
    Saliency,
    ShapleySampling,
    SmoothGrad,
    Sobol,
    TargetError,
    TorchModel,
    VolumeError,
    WindowedModel,
)
from methods3d.baselines import Scan
from methods3d.checkpoint import Answers, remembering
from methods3d.faithfulness import faithfulness
from methods3d.layers import LayerUnit
from methods3d.targets import Weighted
from methods3d.types import Edit


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.act(self.b(self.act(self.a(x)))).mean((2, 3, 4))


class Skip(nn.Module):
    """What is led past the layer joins in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, x):
        past = self.a(x)
        past += self.b(past).relu()
        return past.mean((2, 3, 4))


def cheap(**more):
    return Occlusion(levels=1, size=4, stride=4, unit="voxel", **more)


def test_threads_share_a_network_and_leave_it_as_it_was(make, volume):
    net, x = make("plain", 2).train(), volume(1, 2, 8, 8, 8)
    expected, found = Saliency()(TorchModel(net), x, ClassScore(1)).values, []

    def work():
        found.append(Saliency()(TorchModel(net), x, ClassScore(1)).values)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(values, expected) for values in found)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_gradients_work_in_inference_mode(make, volume):
    net, x = make("plain", 2), volume(1, 2, 8, 8, 8)
    expected = Saliency()(TorchModel(net), x, ClassScore(1)).values
    with torch.inference_mode():
        found = Saliency()(TorchModel(net), x.clone(), ClassScore(1)).values
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, x: Saliency()(model, x, LayerUnit("act", 0)),
        lambda model, x: EigenCAM(layer="act")(model, x, ClassScore(0)),
    ],
)
def test_a_layer_that_runs_twice_is_refused_where_the_pass_ends_at_it(ask, volume):
    with pytest.raises(LayerError, match="more than once"):
        ask(TorchModel(Twice().double()), volume(1, 1, 6, 6, 6).double())


@pytest.mark.parametrize("of", [cheap(), IntegratedGradients(steps=6, tolerance=0)])
def test_what_joins_in_place_past_a_layer_is_right_in_batches(of, volume):
    net, x = Skip().double(), volume(1, 1, 6, 6, 6).double()
    found = LayerAttribution(of=of, layer="b")(TorchModel(net), x, ClassScore(1))
    one = LayerAttribution(of=of, layer="b")(TorchModel(net, memory=1), x, ClassScore(1))
    torch.testing.assert_close(found.values, one.values, rtol=1e-9, atol=1e-12)
    assert found.values.abs().max() > 0


def test_a_budget_that_one_volume_exceeds_is_said(make, volume):
    net, x = make("plain", 2), volume(2, 2, 8, 8, 8)
    roomy, tight = TorchModel(net, memory="1GiB"), TorchModel(net, memory=1000)
    both = [Saliency()(model, x, ClassScore(1)) for model in (roomy, tight)]
    assert torch.equal(both[0].values, both[1].values)
    assert not any("budget" in warning for warning in both[0].warnings)
    assert any("more than the" in warning and "budget" in warning for warning in both[1].warnings)


def test_arguments_that_would_be_dropped_are_refused(make):
    with pytest.raises(ParameterError, match="give them there"):
        WindowedModel(TorchModel(make("gated")), 6, memory="1MB")


@pytest.mark.parametrize("wrong", [{"roi_size": 6.5}, {"roi_size": 6, "sw_batch_size": 2.5}])
def test_windows_are_whole_numbers(wrong, make):
    with pytest.raises(ParameterError, match=r"6\.5|2\.5"):
        WindowedModel(make("gated"), **wrong)


@pytest.mark.parametrize("masks", ["one", "each"])
def test_an_empty_region_is_the_same_error_in_windows(masks, make, volume, region):
    net, x = make("gated"), volume(2, 1, 12, 12, 12)
    mask = torch.zeros(12, 12, 12, dtype=torch.bool)
    if masks == "each":
        mask = torch.stack([region((12, 12, 12), (0, 4), (0, 4), (0, 4)), mask])
    for model in (TorchModel(net), WindowedModel(net, 8)):
        with pytest.raises(TargetError, match="The region is empty"):
            Saliency()(model, x, RegionScore(1, mask))


@pytest.mark.parametrize("padding_mode", ["constant", "reflect", "replicate", "circular"])
def test_edits_of_a_padded_slab_are_those_of_the_whole_scan(padding_mode, make, volume, region):
    net, x = make("gated"), volume(1, 1, 16, 14, 6)
    model = WindowedModel(net, 8, padding_mode=padding_mode)
    target = RegionScore(1, region((16, 14, 6), (2, 14), (2, 12), (1, 5)))
    boxes = [tuple(slice(p, p + 4) for p in place) for place in ((0, 0, 0), (8, 8, 0), (12, 10, 2))]
    edits = [Edit(box, slice(0, 1), torch.zeros(1, 4, 4, 4, dtype=x.dtype)) for box in boxes]
    found = torch.cat(list(model.edited(x, target, edits)))
    for box, score in zip(boxes, found, strict=True):
        edited = x.clone()
        edited[(slice(None), slice(None), *box)] = 0.0
        assert float(score) == pytest.approx(float(model.scores(edited, target)), rel=1e-9, abs=1e-12)


def test_in_reflecting_windows_only_what_an_edit_touches_is_run(make, volume, counted, region):
    net, x = make("gated"), volume(1, 1, 32, 8, 6)
    model = WindowedModel(net, 8, overlap=0.0, padding_mode="reflect")
    target = RegionScore(1, region((32, 8, 6), (0, 32), (0, 8), (0, 6)))
    model.output(x)
    with counted(net) as count:
        cheap()(model, x, target)
    assert count.samples == 4 + 4 + 8 * 2 * 2  # to bind, clean, and one window for each of the boxes


def test_a_given_scan_as_a_layers_baseline_is_laid_out_once(make, volume, region, monkeypatch):
    net, x = make("unet"), volume(1, 1, 16, 16, 16)
    made, plain = [], Scan.volume

    def counting(self, *args):
        made.append(self)
        return plain(self, *args)

    monkeypatch.setattr(Scan, "volume", counting)
    method = LayerAttribution(
        of=IntegratedGradients(steps=2, tolerance=0, baseline=torch.zeros_like(x)), layer="model.0"
    )
    method(WindowedModel(net, 8, overlap=0.0), x, RegionScore(1, region((16, 16, 16), (0, 16), (0, 16), (0, 16))))
    assert len(made) == 1


def test_a_label_map_is_not_of_a_layer(make, volume):
    with pytest.raises(ParameterError, match="has its own"):
        LayerAttribution(of=Ablation(features=torch.ones(8, 8, 8, dtype=torch.long)), layer="0")(
            TorchModel(make("plain", 2)), volume(1, 2, 8, 8, 8), ClassScore(1)
        )


def test_a_score_without_any_weight_is_a_zero_map_at_a_layer(make, volume):
    net, x = make("unet"), volume(1, 1, 16, 16, 16)
    nothing = Weighted(torch.zeros(1, 2, 16, 16, 16, dtype=x.dtype))
    found = LayerAttribution(layer="model.0")(WindowedModel(net, 8), x, nothing)
    assert not found.values.any()
    assert any("zero everywhere" in warning for warning in found.warnings)


def test_fullgrad_goes_through_numbers_without_a_shape(volume):
    class Scaled(nn.Module):
        def forward(self, x):
            return (x / (x.std() + 1e-5)).relu().mean((2, 3, 4))

    found = FullGrad()(TorchModel(Scaled()), volume(1, 1, 6, 6, 6).double(), ClassScore(1))
    assert torch.isfinite(found.values).all()


def test_an_infinite_score_is_said(volume):
    class Infinite(nn.Module):
        def forward(self, x):
            return x.mean((2, 3, 4)) + torch.inf

    found = InputXGradient()(TorchModel(Infinite()), volume(1, 1, 6, 6, 6), ClassScore(1))
    assert any("score is NaN or infinite" in warning for warning in found.warnings)


def test_assertions_of_the_network_become_one_sentence(volume):
    class Asserting(nn.Module):
        def forward(self, x):
            assert x.shape[2] == 7, "seven is needed"
            return x

    with pytest.raises(VolumeError, match="seven is needed"):
        TorchModel(Asserting()).output(volume(1, 1, 6, 6, 6))


def test_a_neurons_run_is_remembered(make, volume):
    net, x, answers = make("plain", 2), volume(1, 2, 8, 8, 8), Answers()
    unit = LayerUnit("0", 0)
    first = cheap()(remembering(TorchModel(net), answers), x, unit).values
    count = len(answers.given)
    assert count
    again = cheap()(remembering(TorchModel(net), answers), x, unit).values
    assert len(answers.given) == count
    assert torch.equal(first, again)


def test_curves_of_a_neuron_and_what_they_refuse_before_any_pass(make, volume, counted):
    net, x = make("plain", 2), volume(1, 2, 8, 8, 8)
    unit = LayerUnit("0", 0)
    values = InputXGradient()(TorchModel(net), x, unit).values
    assert faithfulness(TorchModel(net), x, unit, values, points=3, controls=0).deletion.scores[0] == 1.0
    with counted(net) as count:
        for wrong in ({"blank": "bogus"}, {"values": torch.cat([values, values[:, :1]], 1)}, {"values": values / 0}):
            given = {"values": values} | wrong
            with pytest.raises(ParameterError):
                faithfulness(TorchModel(net), x, ClassScore(1), **given)
    assert not count.samples


def test_voxels_that_no_box_and_no_mask_has_are_zero(make, volume):
    net, x = make("plain", 1), volume(1, 1, 12, 12, 12)
    apart = Occlusion(levels=1, size=2, stride=6, unit="voxel")(TorchModel(net), x, ClassScore(1)).values
    assert torch.isfinite(apart).all()
    assert not apart[0, 0, 3:6].any()
    said = Occlusion(levels=1, size=2, stride=6, unit="voxel")(TorchModel(net), x, ClassScore(1)).warnings
    assert any("cover 12% of the scan" in warning for warning in said)
    found = RISE(samples=2, visible=0.05, cell=2.0)(TorchModel(net), x, ClassScore(1)).values
    assert torch.isfinite(found).all()


def test_a_layer_of_a_layer_is_refused_at_any_depth():
    with pytest.raises(ParameterError, match="reads a layer by itself"):
        LayerAttribution(of=SmoothGrad(of=GradCAM()))


def test_regions_can_be_cancelled_while_they_are_ranked(make, volume):
    heard = []

    def stop(done, total, partial=None):
        heard.append(done / total)
        if done > 0.7 * total:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        model, x = TorchModel(make("plain", 1)), volume(1, 1, 12, 12, 12)
        XRAI(of=Saliency(), count=40)(model, x, ClassScore(1), progress=stop)
    assert heard == sorted(heard)


@pytest.mark.parametrize("features", ["supervoxels(6)", "grid(6)", "channels", "labels"])
@pytest.mark.parametrize("method", [Ablation(), ShapleySampling(orders=2), Sobol(samples=4)])
def test_features_are_counted_before_the_run(method, features, make, volume, counted):
    net, x = make("plain", 1), volume(1, 1, 12, 12, 12)
    labels = torch.arange(12)[:, None, None].expand(12, 12, 12) // 4
    model, method = TorchModel(net), replace(method, features=labels if features == "labels" else features)
    model.output(torch.cat([x, -x]))  # whether samples mix is found out once
    with counted(net) as count:
        found = method(model, x, ClassScore(1))
    assert count.samples <= method.cost(model, (12, 12, 12)).forward
    if features != "supervoxels(6)":  # of these there may be fewer
        assert found.provenance.parameters["count"] == {"grid(6)": 8, "channels": 1, "labels": 2}[features]
