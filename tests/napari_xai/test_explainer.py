"""The whole path, from files to files: geometry, record, refusals, and everything left as it was."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from methods3d import (
    LRP,
    Cancelled,
    IntegratedGradients,
    LayerError,
    ModelOutputError,
    Occlusion,
    TargetError,
    VolumeError,
    methods,
)
from napari_xai import Explainer, explain
from napari_xai.demo import quick_method
from napari_xai.errors import USER_ERRORS, ExplainError
from napari_xai.scan_space import ModelSpace
from xai_io import ExportError, Volume, WindowSettings, read_volume, write_nifti


@pytest.mark.parametrize("name", list(methods()))
@pytest.mark.parametrize("bundle", ["classifier", "segmenter"])
def test_every_method_comes_back_on_the_scans_own_grid(bundle, name, request, scan, tmp_path):
    model = request.getfixturevalue(bundle)
    if (name, bundle) == ("cam", "segmenter"):
        with pytest.raises(LayerError, match="is no weighted mean over"):
            explain(scan, model, method=quick_method(name), target="lesion")
        return
    found = explain(scan, model, method=quick_method(name), target="lesion")
    files = found.save(tmp_path / "out")
    image = nib.load(files["relevance"])
    assert image.shape == scan.shape
    assert np.allclose(image.affine, scan.affine, atol=1e-5)  # float32 in the file
    assert np.isfinite(found.relevance.data).all()
    silent = "the map is zero everywhere: the target may not depend on the input here"
    assert np.abs(found.relevance.data).max() > 0 or silent in found.attribution.warnings
    record = json.loads(files["provenance"].read_text())
    assert record["method"] == name
    assert record["scan"]["shape"] == list(scan.shape)
    assert len(record["model"]["sha256"]) == 64
    assert ("prediction" in files) == (bundle == "segmenter")
    assert files["montage"].stat().st_size > 10_000


def test_lrp_record_closes_its_account(segmenter, scan):
    record = explain(scan, segmenter, method=LRP(), target="lesion").record
    assert record["score"] == pytest.approx(record["sum_on_model_grid"] + sum(record["absorbed"].values()), abs=1e-4)


def test_the_sum_preserving_return_keeps_the_sum(segmenter, scan):
    record = explain(scan, segmenter, method="lrp", target="lesion", way_back="sum-preserving").record
    # What the model saw beyond the scan's own edges (its grid is a little larger) cannot come back.
    assert record["sum_on_scan"] == pytest.approx(record["sum_on_model_grid"], rel=0.05)


def test_the_prediction_is_what_monai_predicts(segmenter, scan):
    explainer = Explainer.of(segmenter)
    space = ModelSpace.of(scan, explainer.loaded.preprocessing)
    reference = SlidingWindowInferer((16, 16, 16), 2, mode="gaussian")(space.x, explainer.network)
    assert torch.allclose(explainer.on(space).output(space.x), reference, atol=1e-6)


def test_a_mask_painted_on_the_scan_reaches_the_target(segmenter, scan):
    mask = np.zeros((1, *scan.shape), np.uint8)
    mask[0, 10:16, 8:14, 5:9] = 1
    found = explain(scan, segmenter, method="saliency", target="lesion", region=scan.with_data(mask))
    voxels = int(found.question.split("region of ")[1].split()[0])
    assert voxels == pytest.approx(mask.sum() * 1.8 * 1.8 * 3 / 8, rel=0.15)  # the same mm3 in 2 mm voxels
    where = np.abs(found.relevance.data[0])
    assert where[10:16, 8:14, 5:9].mean() > 2.5 * where.mean()


def test_a_mask_on_another_grid_is_refused(segmenter, scan):
    other = Volume(np.ones((1, 5, 5, 5), np.uint8), np.eye(4))
    with pytest.raises(ExplainError, match="another grid"):
        explain(scan, segmenter, region=other)


def test_a_live_network_is_left_as_it_was(scan):
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)]
    net = nn.Sequential(nn.Conv3d(1, 4, 3, stride=2), nn.BatchNorm3d(4), nn.ReLU(), *head)
    net.train()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    data = scan.data.copy()
    found = explain(scan, net, method="integrated-gradients", target=2)
    assert net.training
    assert all(m.training and not m._forward_hooks for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert np.array_equal(scan.data, data)
    assert found.record["model"]["sha256"] == explain(scan, net, method="saliency").record["model"]["sha256"]


def test_torchscript_serves_gradients_and_says_so_of_the_rest(scan, tmp_path):
    net = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    torch.jit.script(net).save(tmp_path / "net.ts")
    found = explain(scan, tmp_path / "net.ts", method="saliency")
    assert found.model.form == "torchscript"
    for name in ("lrp", "grad-cam"):
        with pytest.raises(USER_ERRORS, match="TorchScript"):
            explain(scan, tmp_path / "net.ts", method=name)


class Heads(nn.Module):
    """Two outputs, as deep supervision and multi-task networks have them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3)

    def forward(self, x):
        y = self.conv(x).mean((2, 3, 4))
        return {"logits": y, "volume": 2 * y}


def test_one_of_several_outputs_has_to_be_chosen(scan):
    with pytest.raises(ModelOutputError, match="a dict with the keys 'logits', 'volume'"):
        explain(scan, Heads(), method="saliency")
    once = explain(scan, Heads().eval(), method="saliency", output="logits")
    assert once.record["score"] != 0


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"target": "glioma"},
            TargetError,
            "There is no class 'glioma': this model has 0 \\(no lesion\\), 1 \\(lesion\\)",
        ),
        ({"target": 5}, TargetError, r"There is no class 5: this model has 0 \(no lesion\), 1 \(lesion\)"),
        ({"method": "gradcam"}, USER_ERRORS, "There is no method 'gradcam': choose one of saliency"),
        ({"device": "cuda:99"}, ExplainError, "cannot be used"),
        ({"device": "toaster"}, ExplainError, "give 'auto'.* which this computer has"),
        ({"windows": WindowSettings(roi_size=16)}, ModelOutputError, "classifier cannot run in windows"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(classifier, scan, change, error, sentence):
    with pytest.raises(error, match=sentence):
        explain(scan, classifier, **({"method": "saliency"} | change))


def test_a_layer_that_does_not_exist(classifier, scan):
    with pytest.raises(LayerError, match="no layer 'conv99'"):
        explain(scan, classifier, method=methods()["grad-cam"](layer="conv99"))


def test_the_wrong_number_of_channels_is_said_before_any_work(classifier, scan):
    two = scan.with_data(np.concatenate([scan.data, scan.data]))
    with pytest.raises(ExplainError, match=r"2 channel.s., but the model takes 1 .T1."):
        explain(two, classifier)


def test_nan_is_refused(scan):
    data = scan.data.copy()
    data[0, 3, 3, 3] = np.nan
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    with pytest.raises(VolumeError, match="1 voxels that are NaN"):
        explain(scan.with_data(data), net, method="saliency")


def test_cancelling_keeps_nothing_and_breaks_nothing(classifier, scan):
    def cancel(done, total, partial=None):
        raise Cancelled("by the test")

    explainer = Explainer.of(classifier)
    with pytest.raises(Cancelled):
        explainer.explain(scan, method=Occlusion(levels=1, size=16, stride=16), progress=cancel)
    assert not any(m._forward_hooks for m in explainer.network.modules())
    explainer.explain(scan, method="saliency")


def test_earlier_results_are_not_overwritten_unasked(classifier, scan, tmp_path):
    found = explain(scan, classifier, method="saliency")
    found.save(tmp_path)
    with pytest.raises(ExportError, match="already"):
        found.save(tmp_path)
    found.save(tmp_path, overwrite=True)
    assert not list(tmp_path.glob(".*"))


def test_a_second_run_gives_the_same_bits(segmenter, scan):
    first, second = (explain(scan, segmenter, method=IntegratedGradients(steps=3), target=1) for _ in range(2))
    assert np.array_equal(first.relevance.data, second.relevance.data)


def test_one_relevance_volume_for_each_channel():
    rng = np.random.default_rng(0)
    scan = Volume(rng.random((3, 12, 12, 12), dtype=np.float32), np.eye(4))
    net = nn.Sequential(nn.Conv3d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    for name in ("saliency", "lrp", "integrated-gradients"):
        assert explain(scan, net, method=name).relevance.channels == 3


def test_nothing_about_the_patient_is_written(classifier, scan_file, tmp_path):
    found = explain(read_volume(scan_file), classifier, method="saliency")
    for path in found.save(tmp_path / "out").values():
        assert b"JaneDoe" not in path.read_bytes()
        if path.suffix == ".gz":
            assert "JaneDoe" not in str(nib.load(path).header)


def test_many_scans_need_a_folder(classifier, scan):
    with pytest.raises(ExplainError, match="folder="):
        explain([scan, scan], classifier)


def test_the_way_of_a_scan_smaller_than_the_window(segmenter, tmp_path):
    rng = np.random.default_rng(1)
    small = Volume(rng.random((1, 9, 30, 10), dtype=np.float32), np.diag([2, 2, 2, 1.0]))
    write_nifti(tmp_path / "small.nii.gz", small)
    found = explain(tmp_path / "small.nii.gz", segmenter, target="lesion", method="input-x-gradient")
    assert found.relevance.shape == (9, 30, 10)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (lambda: Occlusion(size=500.0, stride=4.0), "give a smaller size"),
        (lambda: IntegratedGradients(baseline=torch.zeros(1, 1, 3, 3, 3)), "shape"),
        (lambda: methods()["ablation"](features=torch.ones(3, 3, 3)), "same grid"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_model_is_run(method, sentence, scan):
    class Counted(nn.Module):
        runs = 0

        def forward(self, x):
            Counted.runs += 1
            return x.flatten(1).sum(1, keepdim=True)

    with pytest.raises(USER_ERRORS, match=sentence):
        explain(scan, Counted(), method=method(), target=0)
    assert Counted.runs == 0
