"""The layers of a model, and what they put out on the scan's own grid: without a window."""

import numpy as np
import pytest
import torch
from torch import nn

from methods3d.types import Layer
from napari_xai._inside import activations, channels_of, layers_of, tree
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.layers import activation_layers, volume_of
from xai_io import Volume


def test_layers_are_a_tree_by_their_paths():
    layers = [Layer(name, 2, (4, 4, 4), (1.0, 1.0, 1.0)) for name in ("a.0.conv", "a.0", "a.1.conv", "head.norm")]
    root = tree(layers)
    assert list(root.children) == ["a", "head"]
    assert root.children["a"].layer is None
    assert root.children["a"].children["0"].layer is layers[1]
    assert root.children["a"].children["0"].children["conv"].layer is layers[0]
    assert list(tree(layers, "CONV 1").children["a"].children) == ["1"]
    assert not tree(layers, "nothing").children


@pytest.mark.parametrize(
    ("text", "found"), [("mean", None), (" Mean", None), ("0", (0,)), ("3, 1-2,1", (3, 1, 2)), ("0-7", tuple(range(8)))]
)
def test_channels_are_read(text, found):
    assert channels_of(text, 16) == found


@pytest.mark.parametrize(
    ("text", "said"), [("", "write"), ("a", "write"), ("16", "choose 0 to 15"), ("2-1", "choose"), ("0-8", "up to 8")]
)
def test_channels_that_there_are_not(text, said):
    with pytest.raises(ExplainError, match=said):
        channels_of(text, 16)


@pytest.mark.parametrize("bundle", ["classifier", "segmenter"])
def test_layers_of_a_bundle(bundle, request, scan):
    explainer = Explainer.of(request.getfixturevalue(bundle), device="cpu")
    found = layers_of(explainer, scan)
    assert len(found) > 3
    heard = []
    one = activations(explainer, scan, found[0].name, (0, 2), lambda *done: heard.append(done))
    assert one.shape == scan.shape
    assert np.allclose(one.affine, scan.affine)
    assert one.channels == 2
    assert heard[-1][0] == heard[-1][1]
    assert np.ptp(one.data) > 0
    mean = activations(explainer, scan, found[0].name, None)
    every = activations(explainer, scan, found[0].name, range(found[0].channels))
    assert np.allclose(mean.data[0], every.data.mean(0), atol=1e-4)
    assert np.allclose(one.data, every.data[[0, 2]], atol=1e-5)


def test_an_activation_lies_where_it_was_found():
    """Strided by 2: the bright corner of an oblique scan stays there, in the file and in the viewer."""
    net = nn.Sequential(nn.Conv3d(1, 2, 2, stride=2, bias=False), nn.Flatten(), nn.Linear(2 * 6 * 5 * 4, 2))
    with torch.no_grad():
        net[0].weight.fill_(1)
    data = np.zeros((1, 12, 10, 8), np.float32)
    data[0, 8:10, 2:4, 4:6] = 1
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[-2 * c, 2 * s, 0, 5], [-2 * s, -2 * c, 0, 9], [0, 0, 3, -4], [0, 0, 0, 1.0]])
    found = activations(Explainer.of(net, device="cpu"), Volume(data, affine), "0", (1,))
    assert found.data.max() == pytest.approx(8 * 0.75**3, rel=0.3)
    weights = np.clip(found.data[0], 0, None)
    centre = [np.average(axis, weights=weights) for axis in np.indices(weights.shape)]
    assert centre == pytest.approx([8.5, 2.5, 4.5], abs=0.1)
    ((shown, options, kind),) = activation_layers(found, ["0: channel 1"], scan="key")
    assert (kind, options["visible"]) == ("image", True)
    assert options["metadata"]["napari_xai"]["role"] == "activation"
    assert np.array_equal(volume_of(shown, options["metadata"]).data[0], found.data[0])
