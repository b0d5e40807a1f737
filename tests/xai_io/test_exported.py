"""Exported programs: what they compute is what torch's own loader computes, and nothing of theirs is ever run."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet, SegResNet, UNet
from torch.export import Dim, export, save

from xai_io import ModelError, load_model

FREE = {0: Dim("b", min=1, max=8), 2: 4 * Dim("i", min=2, max=16), 3: Dim("j", min=8, max=64)}


class Heads(torch.nn.Module):
    """Several outputs, sizes worked out in the graph, constants, and names that every module has."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 4, 3, padding=1)
        self.register_buffer("scale", torch.tensor([1.0, 2, 3, 4]), persistent=False)

    def forward(self, x):
        y = self.conv(x).to(torch.float64) * self.scale.view(1, -1, 1, 1, 1)
        a, b = y.split(2, dim=1)
        flat = a.reshape(x.shape[0], -1, x.shape[2] * x.shape[3] * x.shape[4]).mean(-1)
        return {"seg": y.float(), "more": [flat + torch.tensor([1.0, 2.0]), (b.half().float(),)]}


def saved(net, path, *shape, dynamic=None):
    torch.manual_seed(0)
    x = torch.rand(shape)
    save(export(net.eval(), (x,), dynamic_shapes=None if dynamic is None else (dynamic,)), path)
    return path


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    net = UNet(3, 1, 3, (2, 4), (2,), act="RELU", norm="BATCH")
    return net, saved(net, tmp_path_factory.mktemp("pt2") / "unet.pt2", 1, 1, 8, 8, 8)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("make", "shape", "dynamic", "others"),
    [
        (lambda: UNet(3, 1, 3, (2, 4), (2,), num_res_units=1), (2, 1, 16, 16, 16), FREE, [(1, 1, 8, 12, 16)]),
        (lambda: DenseNet(3, 1, 2, 4, 2, (1, 1)), (1, 1, 16, 16, 16), None, []),
        (lambda: SegResNet(3, 8, 2, 2, blocks_down=(1, 1), blocks_up=(1,)), (1, 2, 8, 8, 8), None, []),
        (Heads, (1, 1, 8, 8, 8), {2: Dim("i"), 3: Dim("j"), 4: Dim("k")}, [(1, 1, 5, 6, 7)]),
    ],
)
def test_computes_what_torchs_own_loader_computes(tmp_path, make, shape, dynamic, others):
    path = saved(make(), tmp_path / "net.pt2", *shape, dynamic=dynamic)
    model = load_model(path)
    reference = torch.export.load(path).module()
    assert (model.form, model.name, model.in_channels, model.ran) == ("exported", "net", shape[1], ())
    for size in [shape, *others]:
        x = torch.rand(size)
        assert same(model.network(x), reference(x))


def test_is_a_network_like_any_other(unet):
    net, path = unet
    model = load_model(path)
    assert (model.in_channels, model.patch_shape) == (1, (8, 8, 8))
    assert not any(p.requires_grad for p in model.network.parameters()) and not model.network.training
    assert model.hash == load_model(path).hash and len(model.hash) == 64
    x = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(model.network.double()(x.double()).float(), net.double()(x.double()).float())
    net.float()


def test_other_sizes_than_it_was_made_for_are_refused(tmp_path, unet):
    network = load_model(unet[1]).network
    for shape, says in [((2, 1, 8, 8, 8), "1 along axis 0"), ((1, 1, 8, 8, 16), "8 along axis 4"), ((1, 8), "5 axes")]:
        with pytest.raises(ValueError, match=says):
            network(torch.rand(shape))
    cube = Dim("n", min=4, max=32)
    free = load_model(
        saved(torch.nn.Conv3d(1, 2, 1), tmp_path / "c.pt2", 2, 1, 8, 16, 16, dynamic={**FREE, 3: cube, 4: cube})
    ).network
    for shape, says in [
        ((9, 1, 8, 8, 8), "1 to 8 along axis 0"),
        ((1, 1, 10, 8, 8), "multiples of 4 along axis 2"),
        ((1, 1, 8, 8, 9), "equal size"),
    ]:
        with pytest.raises(ValueError, match=says):
            free(torch.rand(shape))


def test_what_is_no_network_of_one_volume_is_refused(tmp_path):
    class Two(torch.nn.Module):
        def forward(self, x, y):
            return x + y

    both = torch.rand(1, 1, 4, 4, 4)
    save(export(Two(), (both, both)), tmp_path / "two.pt2")
    saved(torch.nn.Conv2d(1, 1, 1), tmp_path / "flat.pt2", 1, 1, 4, 4)
    saved(torch.nn.Conv3d(1, 1, 1), tmp_path / "batch.pt2", 3, 1, 4, 4, 4)
    train = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.Dropout(0.5)).train()
    save(export(train, (both,)), tmp_path / "train.pt2")
    for name, says in [("two", "2 inputs"), ("flat", "4 axes"), ("batch", "batches of 3"), ("train", "training mode")]:
        with pytest.raises(ModelError, match=says):
            load_model(tmp_path / f"{name}.pt2")


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.mkdir, (Path(self.mark),))


def rewritten(source, path, edit):
    """The archive with its records changed: edit(name without top folder, content) -> content."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = edit(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in (edit("", b"") or {}).items():
            new.writestr(f"archive/{name}", content)
    return path


def edited_json(record, change):
    def edit(name, content):
        if name != record:
            return content or {}
        found = json.loads(content)
        change(found)
        return json.dumps(found)

    return edit


def attacks(mark):
    """Everything by which torch's loader can be made to run code, each as an edit of an archive."""
    code = f"__import__('os').mkdir({mark!r})"
    model, weights = "models/model.json", "data/weights/model_weights_config.json"

    def target(words):
        return edited_json(model, lambda m: m["graph_module"]["graph"]["nodes"][0].update(target=words))

    def replaced(record):
        return lambda name, content: pickle.dumps(Evil(mark)) if name == record else content or {}

    def pickled(m):
        next(iter(m["config"].values())).update(use_pickle=True)

    def named(m):
        m["graph_module"]["graph"]["nodes"][0].update(name=f"x = {code}; y")

    def sized(m):
        graph = m["graph_module"]["graph"]
        given = m["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"]
        graph["tensor_values"][given]["sizes"][2] = {"as_expr": {"expr_str": code, "hint": {"as_int": 8}}}

    def enum(m):
        spec = m["graph_module"]["module_call_graph"][0]["signature"]
        spec["out_spec"] = json.dumps([1, {"type": "evil.Thing", "context": '{"__enum__": 1}', "children_spec": []}])

    yield "os.system", target("torch.os.system")
    yield "hub", target("torch.hub.load")
    yield "eval", target("_operator.methodcaller")
    yield "from_file", target("torch.ops.aten.from_file.default")
    yield "set_", target("torch.ops.aten.set_.source_Storage_storage_offset")
    yield "inside", target("torch.ops.aten._cuda_getCurrentRawStream.default")
    yield "library", target("torch.ops.prims.device_put.default")
    yield "higher order", target("torch.ops.higher_order.cond")
    yield "weights", edited_json(weights, pickled)
    yield "weights file", replaced("data/weights/weight_0")
    yield "sample inputs", replaced("data/sample_inputs/model.pt")
    yield "guards", edited_json(model, lambda m: m.update(guards_code=[code]))
    yield "sizes", edited_json(model, sized)
    yield "names", edited_json(model, named)
    yield "outputs", edited_json(model, enum)
    yield "compiled", lambda name, content: content or {"data/aotinductor/model/a.so": b"\x7fELF"}
    yield "legacy", lambda name, content: content or {"data/weights/model.pt": pickle.dumps(Evil(mark))}
    yield "several", lambda name, content: content or {"models/other.json": b"{}"}


def test_nothing_that_a_program_brings_is_run(tmp_path, unet):
    """Each is refused, or not looked at (names and guards are words, sample inputs are never read)."""
    mark = tmp_path / "written"
    refused = []
    for n, (name, edit) in enumerate(attacks(str(mark))):
        path = rewritten(unet[1], tmp_path / f"{n}.pt2", edit)
        for trust in (False, True):
            try:
                load_model(path, trust=trust).network(torch.rand(1, 1, 8, 8, 8))
            except ModelError as error:
                assert str(path) in str(error)
                refused.append(name)
            except Exception as error:
                pytest.fail(f"{name}: {error!r}")
            assert not mark.exists(), name
    assert {n for n, _ in attacks("")} - set(refused) <= {"sample inputs", "guards", "names", "legacy", "weights file"}


def test_the_attacks_would_work_on_torchs_own_loader(tmp_path, unet):
    """Else the test above could not fail."""
    mark = tmp_path / "written"
    edits = dict(attacks(str(mark)))
    path = rewritten(unet[1], tmp_path / "evil.pt2", edits["sizes"])
    with pytest.raises(Exception):  # noqa: B017 - it fails after the deed
        torch.export.load(path)
    assert mark.exists()


def test_larger_tensors_than_are_stored_are_not_made(tmp_path, unet):
    def huge(m):
        meta = next(iter(m["config"].values()))["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 10**12}], [{"as_int": 0}]

    path = rewritten(unet[1], tmp_path / "h.pt2", edited_json("data/weights/model_weights_config.json", huge))
    with pytest.raises(ModelError, match="larger than what is stored"):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"target": "torch.ops.aten.resize.default"},
        {"target": "_operator.add"},
        {"inputs": []},
        {"inputs": [{"name": "input", "arg": {"as_tensor": {"name": "lost"}}, "kind": 1}]},
    ],
)
def test_a_graph_that_could_not_run_is_not_loaded(tmp_path, change):
    path = saved(torch.nn.ReLU(), tmp_path / "r.pt2", 1, 1, 8, 8, 8)
    edit = edited_json("models/model.json", lambda m: m["graph_module"]["graph"]["nodes"][-1].update(change))
    with pytest.raises(ModelError, match="is a damaged exported program"):
        load_model(rewritten(path, tmp_path / "damaged.pt2", edit))
