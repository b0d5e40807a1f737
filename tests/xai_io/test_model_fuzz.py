"""Thousands of ways to be damaged: a model loads, or says in one sentence why not; quickly, and in little memory."""

import contextlib
import json
import os
import shutil
import time
import zipfile

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from safetensors.torch import save_file

from xai_io import XaiIOError, load_model, needs_trust

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "60"))  # for each of nine files
SEED = int(os.environ.get("FUZZ_SEED", "0"))
HUGE = [10**9, -1, 0, 2**63, 1e308, float("nan"), None, True, [], {}, [[]]]
HUGE += ["", "x" * 1000, "$" * 50, "@a", "%b", {"_target_": "UNet"}, 100_000, "$100000", [100_000] * 3]


def damaged_bytes(content, rng):
    """Some bytes changed, a piece cut out, repeated, or the end missing."""
    broken = bytearray(content)
    kind = rng.integers(4)
    start, length = int(rng.integers(len(broken))), int(rng.integers(1, 200))
    if kind == 0:
        for place in rng.integers(0, len(broken), size=rng.integers(1, 8)):
            broken[place] = rng.integers(256)
    elif kind == 1:
        del broken[start:]
    elif kind == 2:
        del broken[start : start + length]
    else:
        broken[start:start] = broken[start : start + length] * int(rng.integers(1, 50))
    return bytes(broken)


def damaged_entry(content, rng):
    """An entry of a JSON file, anywhere, gone or of another value."""
    found = json.loads(content)
    places = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(found)
    node, key = places[rng.integers(len(places))]
    if rng.integers(3) == 0:
        del node[key]
    else:
        node[key] = HUGE[rng.integers(len(HUGE))]
    return json.dumps(found).encode()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each form: what to load, and the file to damage."""

    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    net = UNet(3, 1, 3, (2, 4), (2,)).eval()
    x = torch.rand(1, 1, 8, 8, 8)
    torch.jit.trace(net, x).save(folder / "net.ts")
    torch.export.save(torch.export.export(net, (x,)), folder / "net.pt2")
    save_file(net.state_dict(), folder / "net.safetensors")
    torch.save(net.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    network = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    network |= {"channels": [2, 4], "strides": [2]}
    (folder / "network.json").write_text(json.dumps(network))
    return folder


def attempt(path, seconds=5):
    """Load, and refuse anything but a typed error in time."""
    started = time.perf_counter()
    for what in (needs_trust, load_model):
        loaded = False
        try:
            what(path)
            loaded = True
        except XaiIOError as error:
            assert str(error).count("\n") == 0 and len(str(error)) > 20
    assert time.perf_counter() - started < seconds
    return loaded


@pytest.mark.parametrize("file", ["net.ts", "net.pt2", "net.safetensors", "legacy.pt", "network.json"])
def test_single_files(models, tmp_path, file):
    rng = np.random.default_rng(SEED)
    content = (models / file).read_bytes()
    folder = shutil.copytree(models, tmp_path / "m")
    target = folder / ("net.safetensors" if file == "network.json" else file)
    assert attempt(target)
    for n in range(ROUNDS):
        damage = damaged_entry if file == "network.json" and n % 2 else damaged_bytes
        (folder / file).write_bytes(damage(content, rng))
        attempt(target)


@pytest.mark.parametrize("file", ["configs/inference.json", "configs/metadata.json", "models/model.pt"])
def test_bundles(bundle, tmp_path, file):
    rng = np.random.default_rng(SEED)
    path = bundle(tmp_path / "b")
    content = (path / file).read_bytes()
    assert attempt(path)
    for n in range(ROUNDS):
        damage = damaged_entry if file.endswith("json") and n % 3 else damaged_bytes
        (path / file).write_bytes(damage(content, rng))
        attempt(path)


def test_entries_of_an_exported_graph(models, tmp_path):
    rng = np.random.default_rng(SEED)
    with zipfile.ZipFile(models / "net.pt2") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    names = [name for name in records if name.endswith(".json")]
    for n in range(ROUNDS):
        name = names[n % len(names)]
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
            for other, content in records.items():
                archive.writestr(other, damaged_entry(content, rng) if other == name and len(content) > 20 else content)
        if attempt(tmp_path / "net.pt2"):
            # What the network then says, methods3d makes one sentence of.
            with contextlib.suppress(RuntimeError, ValueError, KeyError, TypeError, IndexError):
                load_model(tmp_path / "net.pt2").network(torch.rand(1, 1, 8, 8, 8))
