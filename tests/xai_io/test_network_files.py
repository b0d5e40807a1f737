"""Weights with a network file: a state dict or safetensors, and a config of which only network_def is needed."""

import json

import pytest
import torch
import yaml
from monai.networks.nets import UNet
from safetensors.torch import save_file

from xai_io import ModelError, UntrustedModel, WindowSettings, load_model, model_hash

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [2, 4],
    "strides": [2],
}


@pytest.fixture
def state():
    torch.manual_seed(0)
    return UNet(3, 1, 3, (2, 4), (2,)).state_dict()


def same(network, state):
    mine = network.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[key], state[key]) for key in state)


@pytest.mark.parametrize("end", ["json", "yaml", "yml"])
@pytest.mark.parametrize("weights", ["net.pt", "net.pth", "net.safetensors"])
def test_beside_the_weights_or_named(tmp_path, state, end, weights):
    (save_file if weights.endswith("safetensors") else torch.save)(state, tmp_path / weights)
    with pytest.raises(ModelError, match=r"holds weights but not their network; give a network file"):
        load_model(tmp_path / weights)
    text = json.dumps({"network_def": NETWORK}) if end == "json" else yaml.safe_dump({"network_def": NETWORK})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"mine.{end}").write_text(text)
    named = load_model(tmp_path / weights, network=tmp_path / "elsewhere" / f"mine.{end}")
    (tmp_path / f"network.{end}").write_text(text)
    beside = load_model(tmp_path / weights)
    for model in (named, beside):
        assert same(model.network, state) and not model.network.training
        assert (model.form, model.name, model.in_channels, model.windows) == ("weights", "net", 1, None)
    assert beside.hash == model_hash(tmp_path / weights)
    (tmp_path / f"network.{end}").write_text(text + "\n")
    assert load_model(tmp_path / weights).hash != beside.hash


def test_all_that_a_bundle_says_can_stand_in_the_file(tmp_path, state):
    torch.save({"model": state}, tmp_path / "net.pt")
    config = {
        "name": "Mine",
        "network_def": NETWORK,
        "preprocessing": [{"_target_": "Spacingd", "keys": "image", "pixdim": [2, 2, 2]}],
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
        "postprocessing": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
        "network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background"}}}},
    }
    (tmp_path / "network.json").write_text(json.dumps(config))
    model = load_model(tmp_path / "net.pt")
    assert (model.name, model.spacing, model.activation) == ("Mine", (2, 2, 2), "softmax")
    assert model.windows == WindowSettings(roi_size=(16, 16, 16)) and model.classes == {0: "background"}
    (tmp_path / "network.json").write_text(json.dumps(NETWORK))  # the network_def alone
    assert same(load_model(tmp_path / "net.pt").network, state)


def test_safetensors_serve_a_bundle(tmp_path, bundle, state):
    path = bundle(tmp_path / "b")
    (path / "models/model.pt").unlink()
    save_file(state, path / "models/model.safetensors")
    assert same(load_model(path).network, state)
    (path / "models/model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="no safetensors file, or a damaged one"):
        load_model(path)


def test_an_exported_program_serves_a_bundle_whose_network_needs_code(tmp_path, bundle):
    path = bundle(tmp_path / "b", network_def={"_target_": "scripts.net.Net"})
    net = UNet(3, 1, 3, (2, 4), (2,)).eval()
    torch.export.save(torch.export.export(net, (torch.rand(1, 1, 16, 16, 16),)), path / "models/model.pt2")
    model = load_model(path)
    assert (model.form, model.patch_shape, model.classes[2]) == ("exported", (16, 16, 16), "spleen")


def test_one_module_around_the_network_when_it_was_trained(tmp_path, state):
    (tmp_path / "network.json").write_text(json.dumps(NETWORK))
    for prefix in ("module", "net", "model", "_orig_mod"):
        torch.save({f"{prefix}.{key}": value for key, value in state.items()}, tmp_path / "net.pt")
        assert same(load_model(tmp_path / "net.pt").network, state)
    torch.save({f"a.{key}" if n else f"b.{key}": v for n, (key, v) in enumerate(state.items())}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="do not fit"):
        load_model(tmp_path / "net.pt")


def test_refusals(tmp_path, bundle, state):
    torch.save(state, tmp_path / "net.pt")
    for content, kind, says in [
        ({"a": 1}, ModelError, r"network\.json has no network_def"),
        ({"network_def": {"_target_": "nets.Mine"}}, UntrustedModel, r"'network_def' \('nets.Mine'\)"),
        ({"network_def": {**NETWORK, "channels": [4, 4]}}, ModelError, "do not fit"),
        ({"network_def": "%../secret.json::net"}, ModelError, "no JSON or YAML file inside the bundle"),
    ]:
        (tmp_path / "network.json").write_text(json.dumps(content))
        with pytest.raises(kind, match=says):
            load_model(tmp_path / "net.pt")
    with pytest.raises(ModelError, match="brings its own network"):
        load_model(bundle(tmp_path / "b"), network=tmp_path / "network.json")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "net.pt", network=tmp_path / "none.json")
