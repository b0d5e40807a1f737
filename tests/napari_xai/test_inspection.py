"""The plan that is shown before anything is done."""

import json

import pytest
import torch
from monai.networks.nets import UNet

from napari_xai.inspection import inspected
from xai_io import remember

METADATA = {
    "name": "Tumours",
    "task": "segmentation",
    "network_data_format": {
        "inputs": {"image": {"modality": "MR", "num_channels": 2, "channel_def": {"0": "T1c", "1": "FLAIR"}}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "tumour"}}},
    },
}
CONFIG = {
    "network_def": {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 2, "out_channels": 2, "channels": [2, 4], "strides": [2],
    },
    "preprocessing": [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Resized", "keys": "image", "spatial_size": [16, 16, 16], "mode": "nearest"},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
    ],
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
    "postprocessing": [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
        {"_target_": "SaveImaged", "keys": "pred"},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_XAI_CONFIG", str(tmp_path / "config"))


def made(root, net=None, **changes):
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "configs/inference.json").write_text(json.dumps({**CONFIG, **changes}))
    (root / "configs/metadata.json").write_text(json.dumps(METADATA))
    torch.save((net or UNet(3, 2, 2, (2, 4), (2,))).state_dict(), root / "models/model.pt")
    return root


def test_a_bundles_plan(tmp_path):
    plan = inspected(made(tmp_path / "b"))
    assert json.loads(json.dumps(plan)) == plan
    assert plan["input channels"] == 2 and plan["channel names"] == ["0: T1c", "1: FLAIR"]
    assert plan["classes"] == ["0: background", "1: tumour"] and plan["labels by"] == "softmax"
    assert plan["runs over"] == "windows of (16, 16, 16), overlap 0.5, constant blending"
    orientation, resize, normalise = plan["preprocessing"]
    assert orientation == "Orientationd: moves voxels; maps come back through the world by the affine that it leaves"
    assert resize.startswith("Resized: moves voxels, and is refused: ") and "mode='nearest'" in resize
    assert normalise == "NormalizeIntensityd: changes values, not places"
    assert plan["left aside"] == ["LoadImaged", "Invertd", "SaveImaged"]
    assert plan["needs trust"] == ["nothing: all of it is data"] and plan["trust"] == "not needed"
    (refused,) = plan["refused methods"]
    assert refused.startswith("cam: ") and "without windows" in refused
    assert any(layer.startswith("model.0") for layer in plan["layers"])
    assert plan["parameters"] == sum(p.numel() for p in UNet(3, 2, 2, (2, 4), (2,)).parameters())


def test_what_needs_trust_is_listed_whole_before_and_after(tmp_path):
    code = {
        "network_def": CONFIG["network_def"] | {"channels": "$[2 * n for n in (1, 2)]"},
        "preprocessing": [{"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"}],
    }
    path = made(tmp_path / "b", **code)
    untrusted = inspected(path)
    entries = ["network_def::channels", "preprocessing::0", "preprocessing::0::func"]
    assert [line.partition(": ")[0] for line in untrusted["needs trust"]] == entries
    assert untrusted["trust"].startswith("not given") and "layers" not in untrusted
    once = inspected(path, trust=True)
    assert once["needs trust"] == untrusted["needs trust"] and once["trust"] == "given for this time"
    assert once["sha256"] == untrusted["sha256"] and once["preprocessing"] == [
        "Lambdad: not known; the way back follows the affine that it leaves"
    ]
    remember(once["sha256"])
    assert inspected(path)["trust"] == "remembered"


def test_torchscript_is_refused_by_what_looks_inside(tmp_path):
    torch.jit.trace(UNet(3, 1, 2, (2, 4), (2,)).eval(), torch.rand(1, 1, 8, 8, 8)).save(tmp_path / "net.ts")
    plan = inspected(tmp_path / "net.ts")
    refused = {name for line in plan["refused methods"] for name in line.partition(":")[0].split(", ")}
    assert {"lrp", "deeplift", "guided-backprop", "cam", "grad-cam", "layer-attribution", "fullgrad"} <= refused
    assert not refused & {
        "saliency",
        "integrated-gradients",
        "smoothgrad",
        "occlusion",
        "rise",
        "extremal-perturbation",
    }
    assert all("TorchScript" in line for line in plan["refused methods"])


def test_exported_programs_and_networks_without_coarse_layers(tmp_path):
    flat = torch.nn.Sequential(torch.nn.Conv3d(1, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(3, 2, 1)).eval()
    torch.export.save(torch.export.export(flat, (torch.rand(1, 1, 8, 8, 8),)), tmp_path / "net.pt2")
    plan = inspected(tmp_path / "net.pt2")
    assert plan["form"] == "exported" and plan["input shape"] == "8 x 8 x 8"
    assert plan["layers"] == ["conv3d: 3 x 8 x 8 x 8", "relu: 3 x 8 x 8 x 8", "conv3d_1: 2 x 8 x 8 x 8"]
    (refused,) = plan["refused methods"]
    assert "grad-cam" in refused and "name one with layer=" in refused and "lrp" not in refused.split(", ")


def test_weights_with_a_network_file(tmp_path):
    torch.save(UNet(3, 2, 2, (2, 4), (2,)).state_dict(), tmp_path / "net.pt")
    (tmp_path / "mine.json").write_text(json.dumps(CONFIG))
    plan = inspected(tmp_path / "net.pt", network=tmp_path / "mine.json")
    assert plan["form"] == "weights" and plan["name"] == "net" and plan["channel names"] == ["not named"]
