import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from xai_io import ModelError, UntrustedModel, WindowSettings, load_model


def tiny() -> UNet:
    return UNet(3, 1, 3, (2, 4), (2,))


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("config_name", ["inference.json", "inference.yaml", "inference.yml"])
def test_a_bundle_says_everything(tmp_path, bundle, config_name):
    model = load_model(bundle(tmp_path / "b", config_name=config_name))
    assert isinstance(model.network, UNet) and not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert (model.name, model.task, model.modality, model.form) == (
        "Spleen CT segmentation", "segmentation", "CT", "bundle",
    )  # fmt: skip
    assert model.classes == {0: "background", 1: "liver", 2: "spleen"}
    assert (model.in_channels, model.channel_names) == (1, ("image",))
    assert (model.activation, model.threshold) == ("softmax", None)
    assert model.spacing == (1.5, 1.5, 2.0) and model.patch_shape == (96, 96, 96)
    assert model.windows == WindowSettings(roi_size=(16, 16, 16), sw_batch_size=4, overlap=0.5, mode="gaussian")
    assert [type(t).__name__ for t in model.preprocessing] == [
        "Orientationd", "Spacingd", "ScaleIntensityRanged", "EnsureTyped",
    ]  # fmt: skip
    expected = torch.load(tmp_path / "b/models/model.pt", weights_only=True)
    assert all(torch.equal(value, expected[key]) for key, value in model.network.state_dict().items())


def test_preprocessing_runs_as_monai_would_run_it(tmp_path, bundle):
    from monai.data import MetaTensor
    from monai.transforms import Compose, EnsureTyped, Orientationd, ScaleIntensityRanged, Spacingd

    values = torch.rand(1, 6, 7, 8) * 300 - 100
    affine = torch.diag(torch.tensor([-1.0, 1.2, 1.5, 1]))
    reference = Compose(
        [
            Orientationd("image", axcodes="RAS"),
            Spacingd(["image"], pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
            ScaleIntensityRanged("image", -57, 164, 0, 1, clip=True),
            EnsureTyped("image"),
        ]
    )
    model = load_model(bundle(tmp_path / "b"))
    mine, theirs = {"image": MetaTensor(values, affine)}, {"image": MetaTensor(values, affine)}
    for transform in model.preprocessing:
        mine = transform(mine)
    theirs = reference(theirs)
    assert torch.equal(mine["image"], theirs["image"]) and torch.equal(mine["image"].affine, theirs["image"].affine)


def test_loading_warns_of_nothing(tmp_path, bundle, recwarn):
    load_model(bundle(tmp_path / "b"))
    assert [str(warning.message) for warning in recwarn if "monai" in str(warning.filename)] == []


def test_loading_does_not_touch_the_random_state(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(path)
    assert torch.equal(torch.rand(3), expected)


def test_the_hash_follows_every_file_and_not_the_folder(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    first = load_model(path).hash
    assert load_model(shutil.copytree(path, tmp_path / "c")).hash == first
    (path / "docs").mkdir()
    (path / "docs" / "README.md").write_text("words")  # which code that was trusted could read
    assert load_model(path).hash != first
    shutil.rmtree(path / "docs")
    assert load_model(path).hash == first
    with (path / "configs" / "metadata.json").open("a") as file:
        file.write("\n")
    assert load_model(path).hash != first


def test_nested_and_parallel_checkpoints(tmp_path, bundle):
    state = tiny().state_dict()
    for name, weights in [
        ("state_dict", {"state_dict": state, "epoch": 3}),
        ("model", {"model": state, "optimizer": {}}),
        ("two", {"network": {"state_dict": state}}),
        ("parallel", {f"module.{key}": value for key, value in state.items()}),
    ]:
        loaded = load_model(bundle(tmp_path / name, weights=weights)).network.state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_weights_that_do_not_fit(tmp_path, bundle):
    state = tiny().state_dict()
    key = next(iter(state))
    for name, weights, words in [
        ("missing", {k: v for k, v in state.items() if k != key}, f"1 missing, first '{key}'"),
        ("spare", {**state, "spare": torch.zeros(1)}, "1 not in the network, first 'spare'"),
        ("shape", {**state, key: torch.zeros(1, 2)}, r"1 of another shape.*\(1, 2\) for"),
        ("other", {"a": torch.zeros(1)}, "missing"),
    ]:
        with pytest.raises(ModelError, match=words):
            load_model(bundle(tmp_path / name, weights=weights))


def test_damaged_weights(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    file = path / "models/model.pt"
    content = file.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"not weights", content[:100]):
        file.write_bytes(broken)
        with pytest.raises(ModelError, match="damaged") as refused:
            load_model(path)
        assert not isinstance(refused.value, UntrustedModel)


def test_a_pickle_that_runs_code_does_not_run(tmp_path, bundle):
    mark = tmp_path / "written"
    for name, weights in (("plain", Evil(mark)), ("inside", {**tiny().state_dict(), "evil": Evil(mark)})):
        with pytest.raises(UntrustedModel, match="unpickling"):
            load_model(bundle(tmp_path / name, weights=weights))
        assert not mark.exists()


@pytest.mark.parametrize(
    ("entry", "node"),
    [
        ("network_def", {"_target_": "scripts.net.Net"}),
        ("network_def", "$__import__('pathlib').Path('{mark}').touch()"),
        ("network_def", {"_target_": "pathlib.Path.touch", "self": "{mark}"}),
        ("preprocessing", "$[open('{mark}', 'w')]"),
        ("preprocessing", [{"_target_": "Lambdad", "keys": "image", "func": "$lambda x: open('{mark}', 'w')"}]),
        ("preprocessing", [{"_target_": "SaveImaged", "keys": "image", "output_dir": "{mark}"}]),
        (
            "preprocessing",
            [
                {
                    "_target_": "CropForegroundd",
                    "keys": "image",
                    "source_key": "image",
                    "select_fn": "$open('{mark}', 'w')",
                }
            ],
        ),
        ("inferer", {"_target_": "SlidingWindowInferer", "roi_size": "$open('{mark}', 'w')"}),
        ("postprocessing", [{"_target_": "Activationsd", "keys": "pred", "softmax": "$open('{mark}', 'w')"}]),
    ],
)
def test_a_config_that_runs_code_does_not_run(tmp_path, bundle, entry, node):
    mark = tmp_path / "written"
    node = json.loads(json.dumps(node).replace("{mark}", str(mark)))
    path = bundle(tmp_path / "b", **{entry: node, "imports": [f"$open('{mark}', 'w')"], "initialize": "$import os"})
    (path / "scripts").mkdir()
    (path / "scripts" / "__init__.py").write_text(f"open({str(mark)!r}, 'w')")
    (path / "scripts" / "net.py").touch()
    with pytest.raises(UntrustedModel, match=entry):
        load_model(path)
    assert not mark.exists() and "scripts" not in sys.modules


def test_entries_that_are_not_needed_may_hold_any_code(tmp_path, bundle):
    load_model(
        bundle(tmp_path / "b", evaluator={"_target_": "scripts.Run"}, initialize=["$monai.utils.set_determinism()"])
    )


SCRIPT = """
import torch
from monai.transforms import MapTransform

class Net(torch.nn.Conv3d):
    def __init__(self, width): super().__init__(1, width, 1)

class Doubled(MapTransform):
    def __call__(self, data):
        return {**data, "image": data["image"] * %d}
"""


def scripted(bundle, path, factor=2):
    path = bundle(
        path,
        imports=["$import scripts", "$import scripts.parts"],
        width="$sum([1, 1])",
        network_def={"_target_": "scripts.parts.Net", "width": "@width"},
        preprocessing=[
            {"_target_": "scripts.parts.Doubled", "keys": "image"},
            {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "select_fn": "$lambda x: x > 0"},
        ],
        weights=torch.nn.Conv3d(1, 2, 1).state_dict(),
    )
    (path / "scripts").mkdir()
    (path / "scripts" / "__init__.py").touch()
    (path / "scripts" / "parts.py").write_text(SCRIPT % factor)
    return path


def test_trust_runs_each_bundles_own_code(tmp_path, bundle):
    paths = [scripted(bundle, tmp_path / f"b{factor}", factor) for factor in (2, 3)]
    with pytest.raises(UntrustedModel, match=r"'network_def' \('scripts.parts.Net'\)"):
        load_model(paths[0])
    for factor, path in zip((2, 3), paths, strict=True):
        before = list(sys.path)
        model = load_model(path, trust=True)
        assert type(model.network).__name__ == "Net"
        assert model.preprocessing[0]({"image": 5})["image"] == 5 * factor
        assert type(model.preprocessing[1]).__name__ == "CropForegroundd"
        assert sys.path == before and "scripts" not in sys.modules


def test_trust_changes_nothing_for_a_bundle_that_is_data(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    plain, trusted = load_model(path), load_model(path, trust=True)
    assert (plain.hash, plain.windows, plain.classes) == (trusted.hash, trusted.windows, trusted.classes)
    with pytest.raises(ModelError, match="failed at 'network_def'"):
        load_model(bundle(tmp_path / "c", network_def={"_target_": "scripts.no.Such"}), trust=True)


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        (
            [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.3},
            ],
            ("sigmoid", 0.3),
        ),
        ([{"_target_": "ActivationsD", "keys": ["pred"], "softmax": [True]}], ("softmax", None)),
        ([{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}], (None, None)),
        ([{"_target_": "scripts.Unknown"}], (None, None)),
        (None, (None, None)),
    ],
)
def test_what_becomes_of_the_output(tmp_path, bundle, post, expected):
    model = load_model(bundle(tmp_path / "b", postprocessing=post))
    assert (model.activation, model.threshold) == expected


def test_inferers(tmp_path, bundle):
    assert load_model(bundle(tmp_path / "a", inferer={"_target_": "SimpleInferer"})).windows is None
    full = {
        "_target_": "monai.inferers.SlidingWindowInferer",
        "roi_size": [8, 8, -1],
        "overlap": [0.5, 0.5, 0],
        "padding_mode": "replicate",
        "cval": -1024,
    }
    windows = load_model(bundle(tmp_path / "b", inferer=full)).windows
    assert windows == WindowSettings(roi_size=(8, 8, -1), overlap=(0.5, 0.5, 0), padding_mode="replicate", cval=-1024)
    for name, inferer in (
        ("c", {"_target_": "SliceInferer", "roi_size": [8, 8]}),
        ("d", {"_target_": "SlidingWindowInferer"}),
    ):
        with pytest.raises(ModelError, match=r"roi_size|SliceInferer"):
            load_model(bundle(tmp_path / name, inferer=inferer))


@pytest.mark.parametrize(
    "setting",
    [
        {"roi_size": "large"}, {"roi_size": None}, {"roi_size": [10**9] * 3}, {"roi_size": 1.5}, {"roi_size": []},
        {"overlap": 1}, {"overlap": -0.1}, {"overlap": "half"}, {"overlap": float("nan")}, {"sw_batch_size": 0},
        {"mode": "Gauss"}, {"mode": 1}, {"padding_mode": 0}, {"cval": "air"}, {"sigma_scale": -1}, {"cval": True},
    ],
)  # fmt: skip
def test_windows_that_no_inferer_has(tmp_path, bundle, setting):
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], **setting}
    (name,) = setting
    with pytest.raises(ModelError, match=f"SlidingWindowInferer has the {name}"):
        load_model(bundle(tmp_path / "b", inferer=inferer))


def test_window_defaults_are_monais():
    import inspect

    from monai.inferers import SlidingWindowInferer

    theirs = inspect.signature(SlidingWindowInferer).parameters
    mine = WindowSettings(roi_size=1)
    for name in ("sw_batch_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval"):
        assert getattr(mine, name) == theirs[name].default


def test_other_keys_than_the_image_and_lazy_pipelines_are_refused(tmp_path, bundle):
    spacing = {"_target_": "Spacingd", "keys": ["image", "label"], "pixdim": [1, 1, 1], "mode": ["bilinear", "nearest"]}
    assert load_model(bundle(tmp_path / "a", preprocessing=[spacing])).spacing == (1, 1, 1)
    resize = {"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8]}
    assert load_model(bundle(tmp_path / "d", preprocessing=[spacing, resize])).spacing is None
    with pytest.raises(ModelError, match="only the key 'image'"):
        load_model(bundle(tmp_path / "b", preprocessing=[{**spacing, "keys": ["ct", "label"]}]))
    with pytest.raises(ModelError, match="lazily"):
        load_model(bundle(tmp_path / "c", preprocessing={"_target_": "Compose", "lazy": True, "transforms": [spacing]}))


def test_metadata_of_other_shapes(tmp_path, bundle):
    for n, data in enumerate([None, [], {"outputs": {"mask": {"channel_def": {"zero": "a"}}}, "inputs": {"image": 3}}]):
        model = load_model(bundle(tmp_path / str(n), metadata={"network_data_format": data}))
        assert (model.classes, model.patch_shape, model.name, model.task) == ({}, None, str(n), "")
    output = {"type": "probabilities", "format": "classes", "channel_def": {"0": "healthy", "1": "lesion"}}
    image = {"modality": "MRI", "spatial_shape": ["8*n", "8*n", "8*n"], "channel_def": {"0": "T1", "1": "T2"}}
    data = {"inputs": {"image": image}, "outputs": {"pred": output}}
    model = load_model(bundle(tmp_path / "c", metadata={"network_data_format": data}))
    assert (model.task, model.modality, model.patch_shape) == ("classification", "MR", None)
    assert (model.classes, model.channel_names) == ({0: "healthy", 1: "lesion"}, ("T1", "T2"))


def test_not_a_model(tmp_path, bundle):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.txt").write_text("no")
    torch.save(tiny().state_dict(), tmp_path / "state.pt")
    for name in ("missing", "empty", "model.txt", "state.pt"):
        with pytest.raises(ModelError, match="MONAI bundle folder"):
            load_model(tmp_path / name)
    path = bundle(tmp_path / "b")
    for content in ("{", "[1]", "\xff", "[" * 100_000):
        (path / "configs/inference.json").write_text(content, "latin-1")
        with pytest.raises(ModelError, match=r"inference\.json"):
            load_model(path)
    (path / "configs/inference.json").unlink()
    with pytest.raises(ModelError, match=r"no configs/inference\.json"):
        load_model(path)
    path = bundle(tmp_path / "c")
    (path / "models/model.pt").unlink()
    with pytest.raises(ModelError, match=r"no models/model\.pt"):
        load_model(path)


class Writes(torch.nn.Module):
    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x):
        return x + torch.from_file(self.path, shared=True, size=4).sum()


class Saves(Writes):
    def forward(self, x):
        torch.save(x, self.path)
        return x


class TestTorchScript:
    @pytest.fixture
    def script(self, tmp_path):
        path = tmp_path / "net.pt"  # the content decides, not the name
        torch.jit.trace(tiny().eval(), torch.rand(1, 1, 8, 8, 8)).save(path)
        return path

    def test_loads(self, script):
        model = load_model(script)
        assert (model.form, model.name, model.preprocessing, model.windows) == ("torchscript", "net", (), None)
        assert not model.network.training
        assert model.network(torch.rand(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)

    def test_carries_its_config_if_monai_exported_it(self, tmp_path, bundle):
        from monai.data import save_net_with_metadata

        path = bundle(tmp_path / "b")
        scripted = torch.jit.script(torch.nn.Conv3d(1, 3, 1))
        metadata = json.loads((path / "configs/metadata.json").read_text())
        extra = {"inference.json": (path / "configs/inference.json").read_bytes()}
        save_net_with_metadata(scripted, str(tmp_path / "net"), meta_values=metadata, more_extra_files=extra)
        model = load_model(tmp_path / "net.ts")
        assert (model.form, model.classes[2], model.spacing) == ("torchscript", "spleen", (1.5, 1.5, 2.0))

    def test_serves_a_bundle_whose_network_needs_code(self, tmp_path, bundle, script):
        path = bundle(tmp_path / "b", network_def={"_target_": "scripts.net.Net"})
        shutil.copy(script, path / "models/model.ts")
        model = load_model(path)
        assert model.form == "torchscript" and model.windows is not None

    def test_damaged(self, script):
        content = script.read_bytes()
        for broken in (content[: len(content) // 2], content[1000:]):
            script.write_bytes(broken)
            with pytest.raises(ModelError):
                load_model(script)

    def test_script_that_writes_files_is_refused_before_it_is_loaded(self, tmp_path):
        mark = str(tmp_path / "written")

        for kind, module in (("from_file", Writes(mark)), ("save", Saves(mark))):
            torch.jit.script(module).save(str(tmp_path / f"{kind}.ts"))
            with pytest.raises(UntrustedModel, match=kind):
                load_model(tmp_path / f"{kind}.ts")
            assert not Path(mark).exists()
            assert load_model(tmp_path / f"{kind}.ts", trust=True).form == "torchscript"

    @pytest.mark.parametrize(("name", "forged"), [(b"/code/", b"/CODE/"), (b"__torch__.py", b"__torch__.PY")])
    def test_torch_finds_records_whatever_their_case_and_so_does_the_check(self, tmp_path, name, forged):
        mark = tmp_path / "written"
        torch.jit.script(Writes(str(mark))).save(str(tmp_path / "n.ts"))
        (tmp_path / "n.ts").write_bytes((tmp_path / "n.ts").read_bytes().replace(name, forged))
        with pytest.raises(ModelError):
            load_model(tmp_path / "n.ts").network(torch.zeros(4))
        assert not mark.exists()


def test_random_damage_is_typed(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    rng = np.random.default_rng(0)
    for name in ("configs/inference.json", "configs/metadata.json", "models/model.pt"):
        content = (path / name).read_bytes()
        for _ in range(25):
            broken = bytearray(content)
            for place in rng.integers(0, len(content), size=4):
                broken[place] = rng.integers(0, 256)
            (path / name).write_bytes(bytes(broken))
            with contextlib.suppress(ModelError):
                load_model(path)
        (path / name).write_bytes(content)
