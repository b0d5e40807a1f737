"""An exported program serves every method as the network it was made of."""

import pytest
import torch
from monai.networks.nets import DenseNet, UNet

from methods3d import ClassScore, RegionScore, TorchModel, WindowedModel, method
from xai_io import load_model


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Live and exported: a segmentation network and a classifier, both for one sample of a fixed size."""
    torch.manual_seed(0)
    folder, found = tmp_path_factory.mktemp("pt2"), {}
    x = torch.rand(1, 1, 16, 16, 16)
    for name, net in (
        ("segments", UNet(3, 1, 3, (4, 8, 8), (2, 2), act="RELU", norm="BATCH")),
        ("classifies", DenseNet(3, 1, 2, 4, 2, (2, 2))),
    ):
        torch.export.save(torch.export.export(net.eval(), (x,)), folder / f"{name}.pt2")
        found[name] = net, load_model(folder / f"{name}.pt2").network
    return found


def target(name):
    return ClassScore(1) if name == "classifies" else RegionScore(1, torch.rand(16, 16, 16) > 0.5)


@pytest.mark.parametrize("name", ["segments", "classifies"])
@pytest.mark.parametrize(
    "way", ["saliency", "lrp", "clrp", "guided-backprop", "deconvnet", "deeplift", "fullgrad", "occlusion"]
)
def test_every_family_gives_the_same_map(nets, name, way):
    torch.manual_seed(1)
    x, asked = torch.rand(1, 1, 16, 16, 16), target(name)
    settings = {"size": 8.0, "unit": "voxel"} if way == "occlusion" else {}
    live, exported = (method(way)(**settings)(TorchModel(net), x, asked) for net in nets[name])
    size = live.values.abs().max()
    assert size > 0 and (live.values - exported.values).abs().max() <= 1e-5 * size + 1e-7
    assert sum(float(kept.sum()) for kept in exported.absorbed.values()) == pytest.approx(
        sum(float(kept.sum()) for kept in live.absorbed.values()), abs=1e-5
    )


def test_its_operators_are_layers(nets):
    live, exported = nets["classifies"]
    x = torch.rand(1, 1, 16, 16, 16)
    theirs = {(layer.channels, layer.shape) for layer in TorchModel(live).layers(x)}
    mine = TorchModel(exported).layers(x)
    assert {(layer.channels, layer.shape) for layer in mine} == theirs
    last = [layer.name for layer in TorchModel(live).layers(x) if layer.shape == (2, 2, 2)][-1]
    same = [layer.name for layer in mine if layer.shape == (2, 2, 2)][-1]
    maps = [
        method("grad-cam")(layer=at)(TorchModel(net), x, ClassScore(1)).values
        for net, at in ((live, last), (exported, same))
    ]
    assert torch.allclose(*maps, atol=1e-6) and maps[0].abs().max() > 0


def test_batches_of_what_takes_one_sample_run_one_by_one_and_it_is_said(nets):
    live, exported = nets["segments"]
    batch, said = torch.rand(3, 1, 16, 16, 16), "one sample at a time"
    model = TorchModel(exported)
    assert torch.allclose(model.output(batch), TorchModel(live).output(batch), atol=1e-6)
    assert any(said in warning for warning in model.warnings)
    asked = target("segments")
    for way in ("saliency", "lrp"):
        found = method(way)()(TorchModel(exported), batch, asked)
        assert torch.allclose(found.values, method(way)()(TorchModel(live), batch, asked).values, atol=1e-6)
        assert any(said in warning for warning in found.warnings)
    scan = torch.rand(1, 1, 24, 16, 16)
    windows = [WindowedModel(TorchModel(net), 16, sw_batch_size=4, overlap=0.5) for net in (live, exported)]
    assert torch.allclose(*(model.output(scan) for model in windows), atol=1e-6)


def test_another_size_is_one_sentence(nets):
    from methods3d import VolumeError

    with pytest.raises(VolumeError, match=r"exported for 16 along axis 4, not 8.*the size that it was made for"):
        TorchModel(nets["segments"][1]).output(torch.rand(1, 1, 16, 16, 8))
