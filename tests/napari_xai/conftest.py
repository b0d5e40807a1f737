"""Small bundles and scans, so that every test of the whole path takes a second."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet, UNet

from xai_io import Volume, write_nifti

CLASSIFIER = {
    "_target_": "DenseNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "init_features": 4,
    "growth_rate": 4,
    "block_config": [2, 2],
}
SEGMENTER = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
}
TRANSFORMS = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 2.0], "mode": "bilinear"},
    {"_target_": "ScaleIntensityd", "keys": "image"},
]


def write_bundle(folder, network, weights, names, inferer, post=None):
    """A MONAI bundle of untrained weights, as data."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    config = {
        "network_def": network,
        "preprocessing": {"_target_": "Compose", "transforms": TRANSFORMS},
        "inferer": inferer,
    }
    if post:
        config["postprocessing"] = {"_target_": "Compose", "transforms": post}
    metadata = {
        "name": folder.name,
        "task": "lesion segmentation" if "segmenter" in folder.name else "lesion classification",
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1, "modality": "MR", "channel_def": {"0": "T1"}}},
            "outputs": {"pred": {"channel_def": {str(k): name for k, name in enumerate(names)}}},
        },
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save(weights, folder / "models" / "model.pt")
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A bundle with an untrained DenseNet."""
    torch.manual_seed(0)
    net = DenseNet(3, 1, 2, init_features=4, growth_rate=4, block_config=(2, 2))
    folder = tmp_path_factory.mktemp("bundles") / "tiny_classifier"
    return write_bundle(folder, CLASSIFIER, net.state_dict(), ["no lesion", "lesion"], {"_target_": "SimpleInferer"})


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    """A bundle with an untrained UNet in windows of 16."""
    torch.manual_seed(0)
    net = UNet(3, 1, 2, channels=(4, 8), strides=(2,))
    folder = tmp_path_factory.mktemp("bundles") / "tiny_segmenter"
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "mode": "gaussian"}
    return write_bundle(folder, SEGMENTER, net.state_dict(), ["background", "lesion"], inferer)


@pytest.fixture(scope="session")
def scan():
    """An oblique, anisotropic scan of noise with a bright ball, in LPI order."""
    rng = np.random.default_rng(0)
    data = rng.uniform(0, 50, (1, 26, 24, 14)).astype(np.float32)
    data[0, 10:16, 8:14, 5:9] += 100
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.array([[-1.8 * c, 1.8 * s, 0, 20], [-1.8 * s, -1.8 * c, 0, 30], [0, 0, 3.0, -15], [0, 0, 0, 1]])
    return Volume(data, affine, modality="MR")


@pytest.fixture
def relevance(scan):
    """A red block with a peak, and a blue one, on the oblique scan."""
    values = np.random.default_rng(1).normal(0, 0.01, scan.data.shape).astype(np.float32)
    values[0, 10:14, 8:12, 5:8] = 1.0
    values[0, 11, 9, 6] = 3.0
    values[0, 2:5, 2:5, 2:5] = -1.5
    return scan.with_data(values)


@pytest.fixture
def scan_file(scan, tmp_path):
    """The scan on disk."""
    write_nifti(tmp_path / "JaneDoe_1970.nii.gz", scan)
    return tmp_path / "JaneDoe_1970.nii.gz"


@pytest.fixture(scope="session")
def display():
    """A display: the one there is, or a virtual one, which ends when the last window's application does."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.name == "nt":
        return
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no display and no Xvfb")
    read, write = os.pipe()
    screen = ["-screen", "0", "1600x1000x24", "-nolisten", "tcp", "-terminate"]
    subprocess.Popen(["Xvfb", "-displayfd", str(write), *screen], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.environ["DISPLAY"] = f":{os.read(read, 16).decode().strip()}"


@pytest.fixture
def viewer(display, make_napari_viewer, request):
    """A napari window, of the size that the test module says as WINDOW."""
    from napari.utils.notifications import notification_manager

    notification_manager.records.clear()
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(*getattr(request.module, "WINDOW", (1300, 900)))
    return viewer


@pytest.fixture
def panel(viewer, qtbot):
    """The panel of the dock Explain; nothing goes on in it when the test has ended."""
    from qtpy.compat import isalive

    _, widget = viewer.window.add_plugin_dock_widget("napari-xai", "Explain")
    qtbot.waitUntil(lambda: widget.panel is not None, timeout=30_000)
    yield widget.panel
    if isalive(widget.panel):
        widget.panel.cancel()
        qtbot.waitUntil(lambda: not widget.panel.runs.busy, timeout=20_000)
