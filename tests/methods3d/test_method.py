"""What every method shares: validation, the record, and the search for silent failures."""

import json
import math
from dataclasses import FrozenInstanceError, dataclass, fields
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from methods3d import (
    LRP,
    RISE,
    Ablation,
    ClassScore,
    Cost,
    ExpectedGradients,
    ExtremalPerturbation,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    KernelSHAP,
    LayerAttribution,
    MethodError,
    ModelInfo,
    Occlusion,
    ParameterError,
    RegionScore,
    Saliency,
    SmoothGrad,
    TorchModel,
    VolumeError,
    WindowedModel,
    method,
    methods,
)
from methods3d.method import Method, Relevance, setting


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x.index_fill(2, torch.tensor([3]), math.nan), "has 256 voxels that are NaN or infinite: replace"),
        (lambda x: x.index_fill(2, torch.tensor([3]), -math.inf), "has 256 voxels that are NaN or infinite"),
        (lambda x: x * 0 + 2.5, r"is constant \(2.5 everywhere\)"),
        (lambda x: torch.cat([x, x * 0 - 1]), r"is constant \(-1 everywhere\)"),
        (lambda x: x[0], r"a torch.float64 tensor of shape \(1, 16, 16, 16\): give a floating-point \(b, c, i, j, k\)"),
        (lambda x: x[..., None], r"of shape \(1, 1, 16, 16, 16, 1\)"),
        (lambda x: (x * 100).long(), "a torch.int64 tensor"),
        (lambda x: x > 0, "a torch.bool tensor"),
        (lambda x: x[:0], r"of shape \(0, 1, 16, 16, 16\)"),
        (lambda x: x.expand(1, 4, 16, 16, 16), r"cannot run on an input of shape \(1, 4, 16, 16, 16\)"),
    ],
)
def test_what_is_not_a_volume_is_refused(make, volume, smallest, name, spoil, said):
    with pytest.raises(VolumeError, match=said) as caught:
        smallest(name)(TorchModel(make("densenet")), spoil(volume(1, 1, 16, 16, 16)), ClassScore(0))
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("cls", "settings", "said"),
    [
        (IntegratedGradients, {"steps": 0}, "integrated-gradients: steps is 0, but has to be at least 1."),
        (IntegratedGradients, {"steps": 2.5}, "steps is 2.5, but has to be a whole number."),
        (IntegratedGradients, {"steps": True}, "has to be a whole number"),
        (IntegratedGradients, {"tolerance": -1}, "tolerance is -1, but has to be at least 0."),
        (IntegratedGradients, {"baseline": math.nan}, "baseline is nan, but has to be finite."),
        (IntegratedGradients, {"baseline": "blur(x)"}, "The baseline 'blur(x)' is not known: give a number, 'tissue'"),
        (IntegratedGradients, {"baseline": "inpaint"}, "'inpaint' fills a part of a scan from what surrounds it"),
        (IntegratedGradients, {"baseline": "blur(0)"}, "blur: sigma is 0 mm, but has to be above 0."),
        (SmoothGrad, {"noise": 0.0}, "smoothgrad: noise is 0.0, but has to be above 0."),
        (SmoothGrad, {"of": "saliency"}, "smoothgrad: of is 'saliency', but has to be Method."),
        (LayerAttribution, {"of": GradCAM()}, "of is made of 'grad-cam', which reads a layer by itself: use it alone."),
        (RISE, {"visible": 1.0}, "rise: visible is 1.0, but has to be at most 0.99."),
        (ExtremalPerturbation, {"area": 0}, "area is 0, but has to be above 0."),
        (KernelSHAP, {"features": "supervoxels(0)"}, "The features 'supervoxels(0)' are not known: give"),
        (Ablation, {"features": "labels:"}, "The features 'labels:' are not known: give"),
        (ExpectedGradients, {"baselines": ";"}, "The set of baselines is empty: name at least one"),
        (Occlusion, {"size": 0}, "occlusion: size is 0, but has to be above 0."),
        (Occlusion, {"stride": -2.0}, "stride is -2.0, but has to be above 0."),
        (Occlusion, {"size": math.inf}, "has to be finite"),
        (Occlusion, {"unit": "cm"}, "unit is 'cm', but has to be 'mm' or 'voxel'."),
        (Occlusion, {"fill": "mean"}, "The baseline 'mean' is not known: give a number, 'tissue', 'air', "),
        (LRP, {"composite": "gamma(-0.1)"}, "gamma is -0.1, but has to be at least 0."),
        (LRP, {"composite": "epsilon(-1)"}, "epsilon is -1, but has to be at least 0."),
        (LRP, {"bias": "keep"}, "bias is 'keep', but has to be 'spread' or 'absorb'."),
        (Saliency, {"absolute": 1}, "absolute is 1, but has to be True or False."),
        (GradCAM, {"layer": 3}, "grad-cam: layer is 3, but has to be text."),
    ],
)
def test_settings_out_of_range_are_refused_before_any_work(cls, settings, said):
    with pytest.raises(ParameterError) as caught:
        cls(**settings)
    assert said in str(caught.value)


def test_whole_numbers_serve_as_numbers():
    assert Occlusion(levels=1, size=4, stride=2, fill=0).size == 4


def test_the_largest_value_allowed_can_be_declared():
    @dataclass(frozen=True, kw_only=True)
    class Half(InputXGradient):
        share: float = setting(0.5, "of it", at_most=1)

    with pytest.raises(ParameterError, match=r"share is 1\.5, but has to be at most 1"):
        Half(share=1.5)


def test_methods_are_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        LRP().bias = "absorb"
    with pytest.raises(TypeError):
        LRP("gamma")


@pytest.mark.parametrize("name", methods())
def test_the_record_says_how_it_came_about(make, volume, smallest, name):
    info = ModelInfo(spacing=(1.0, 1.0, 1.0), model_hash="abc")
    asked = smallest(name)
    net = make("densenet").float()
    found = asked(TorchModel(net, info=info), volume(1, 1, 16, 16, 16), ClassScore(1))
    record = found.provenance
    assert record.method == name == asked.name
    assert record.parameters.keys() >= {f.name for f in fields(asked)}
    assert (record.network, record.model_hash, record.target) == ("DenseNet", "abc", "ClassScore(k=1)")
    assert record.versions["torch"] == torch.__version__
    assert record.device == "cpu"
    assert record.seconds > 0 < record.peak_memory
    assert json.loads(json.dumps(dict(record.parameters))) == record.parameters
    assert found.values.shape[0] == len(found.scores) == 1
    assert found.values.shape[2:] == (16, 16, 16)
    assert (found.at != "input") == (name in ("layer-attribution", "conductance"))
    adds_up = "input-x-gradient integrated-gradients guided-ig blur-ig expected-gradients gradient-shap deeplift "
    adds_up += "deeplift-shap fullgrad lrp clrp kernel-shap shapley-sampling layer-attribution conductance"
    assert found.extensive == (name in adds_up.split())
    if found.gap is not None:
        assert found.gap.shape == found.scores.shape


@pytest.mark.parametrize("name", methods())
def test_progress_ends_where_it_said_it_would(make, volume, smallest, name):
    heard = []
    smallest(name)(
        TorchModel(make("densenet")), volume(2, 1, 16, 16, 16), ClassScore(1),
        progress=lambda done, total, partial=None: heard.append((done, total)),
    )  # fmt: skip
    assert heard[-1][0] == heard[-1][1]
    assert all(a[0] <= b[0] for a, b in pairwise(heard))
    assert all(done <= total for done, total in heard)


@pytest.mark.parametrize("name", ["saliency", "input-x-gradient", "grad-cam"])
@pytest.mark.parametrize("windows", [None, 8])
def test_the_cost_is_what_is_run(make, volume, counted, name, windows):
    net, x = make("unet"), volume(1, 1, 16, 16, 16)
    model = TorchModel(net) if windows is None else WindowedModel(net, windows, overlap=0.0)
    asked = GradCAM(layer="model.0") if name == "grad-cam" else method(name)()
    model.output(volume(2, 1, 16, 16, 16))  # whether samples mix is found out once, by one pass more
    with counted(net) as count:
        asked(model, x, RegionScore(1, torch.ones(16, 16, 16)))
    # A region's target is linear: nothing is stitched beforehand, and the clean score comes with the gradient.
    assert count.samples == asked.cost(model, (16, 16, 16)).forward


# --- silent failures ---


class Says(Method):
    """A method that puts out what it is given."""

    name: ClassVar[str] = "says"
    source: ClassVar[str] = "nowhere"
    found: ClassVar[Relevance]

    def attribute(self, model, x, target, progress):
        return self.found

    def cost(self, model, shape):
        return Cost(1, 0)


@pytest.mark.parametrize(
    ("values", "gap", "said"),
    [
        (torch.zeros(1, 1, 2, 2, 2), None, ["the map is zero everywhere: the target may not depend on the input here"]),
        (torch.ones(1, 1, 2, 2, 2), None, ["the map is constant"]),
        (torch.full((1, 1, 2, 2, 2), math.nan), None, ["the map has NaN or infinite values"]),
        (torch.rand(1, 1, 2, 2, 2), torch.tensor([0.5]), ["the completeness gap is"]),
        (torch.cat([torch.rand(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)]), None, ["the map is zero everywhere"]),
        (torch.rand(1, 1, 2, 2, 2), torch.tensor([0.001]), []),
    ],
)
def test_silent_failures_are_said(volume, values, gap, said):
    Says.found = Relevance(values, torch.ones(len(values)), extensive=True, gap=gap)
    found = Says()(TorchModel(nn.Identity()), volume(len(values), 1, 2, 2, 2), ClassScore(0))
    assert len(found.warnings) == len(said)
    assert all(w.startswith(s) for w, s in zip(found.warnings, said, strict=True))


# --- the registry ---


def test_the_registry_names_every_method_once():
    assert set(methods()) >= {"saliency", "integrated-gradients", "deeplift", "grad-cam", "occlusion", "lrp", "clrp"}
    for name, cls in methods().items():
        assert method(name) is cls
        assert cls.source
        assert cls.__doc__
        for f in fields(cls):
            assert f.metadata["help"]


def test_a_name_that_does_not_exist_lists_those_that_do():
    with pytest.raises(MethodError, match=r"There is no method 'gradcam': choose one of saliency, .*lrp.*\."):
        method("gradcam")
