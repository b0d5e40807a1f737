"""What a model takes of the scans that are open: one of them, or one for each of its channels."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

pytest.importorskip("napari", reason="needs the gui extra")
from napari.layers import Layer

from napari_xai._channels import input_missing, model_input
from napari_xai._choices import scans
from napari_xai._inside import layers_of
from napari_xai._session import Session
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.layers import scan_layers


@pytest.fixture
def ready(tmp_path):
    """A session with a model of two channels that is loaded."""
    net = nn.Sequential(nn.Conv3d(2, 3, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    explainer = Explainer.of(net, device="cpu")
    loaded = replace(explainer.loaded, in_channels=2, channel_names=("T1", "FLAIR"))
    session = Session(model=tmp_path)
    session.keep(tmp_path, replace(explainer, loaded=loaded))
    return session


def test_open_scans_go_into_the_model_as_its_channels(ready, scan):
    layers = [Layer.create(*scan_layers(scan.with_data(scan.data + n), f"scan {n}")[0]) for n in range(2)]
    there = scans(layers)
    first, second = (layer.metadata["napari_xai"]["scan"] for layer in layers)
    assert "Open a scan first" in input_missing(ready, there)
    ready.channels, ready.scans = 1, (first,)
    assert "takes 2 (T1, FLAIR): choose another scan or model" in input_missing(ready, there)
    ready.channels, ready.scans, ready.unassigned = 2, (second,), ("FLAIR",)
    with pytest.raises(ExplainError, match="Choose a scan for FLAIR"):
        model_input(ready, there)
    ready.scans, ready.unassigned = (second, first), ()
    both = model_input(ready, there)
    assert np.array_equal(both.data, np.concatenate([scan.data + 1, scan.data]))
    assert [layer.channels for layer in layers_of(ready.explainer, both)] == [3, 3]
    with pytest.raises(ExplainError, match="was closed"):
        model_input(ready, scans(layers[:1]))


def test_a_scan_with_all_channels_is_the_input_alone(ready, scan):
    whole = scan.with_data(np.concatenate([scan.data, -scan.data]))
    layers = [Layer.create(*layer) for layer in scan_layers(whole)]
    there = scans(layers)
    ready.channels, ready.scans = 2, tuple(there)
    assert np.array_equal(model_input(ready, there).data, whole.data)
