"""Configs of the forms that the model zoo's bundles have: each loads as data, or is refused by the entry's name."""

import json

import pytest
import torch
import yaml
from monai.networks.nets import DenseNet121, DynUNet, SegResNet, SwinUNETR, UNet

from xai_io import ModelError, UntrustedModel, load_model

UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [2, 4],
    "strides": [2],
}
STATE = UNet(3, 1, 2, (2, 4), (2,)).state_dict()
PRE = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "NormalizeIntensityd", "keys": "image"}]


def networks():
    """network_def -> the network that it means; sizes as small as they allow."""
    yield (
        "spleen",
        UNET | {"norm": "batch", "num_res_units": 2},
        UNet(3, 1, 2, (2, 4), (2,), num_res_units=2, norm="batch"),
    )
    yield (
        "brats",
        {"_target_": "SegResNet", "blocks_down": [1, 2], "blocks_up": [1], "init_filters": 8, "in_channels": 4,
         "out_channels": "$len(@labels)", "dropout_prob": 0.2},
        SegResNet(3, 8, 4, 2, 0.2, blocks_down=(1, 2), blocks_up=(1,)),
    )  # fmt: skip
    yield (
        "btcv",
        {"_target_": "monai.networks.nets.SwinUNETR", "spatial_dims": 3, "img_size": 96, "in_channels": 1,
         "out_channels": 14, "feature_size": 12, "use_checkpoint": True},
        SwinUNETR(1, 14, feature_size=12, use_checkpoint=True),
    )  # fmt: skip
    yield (
        "prostate",
        {"_target_": "monai.networks.nets.dynunet.DynUNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
         "kernel_size": "@kernels", "strides": [1, "@steps::0::two", 2], "upsample_kernel_size": "$@up + [2]",
         "filters": [2, 4, 8], "deep_supervision": False, "_desc_": "as nnU-Net plans it"},
        DynUNet(3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 8]),
    )  # fmt: skip
    yield (
        "classifier",
        {"_target_": "DenseNet121", "spatial_dims": 3, "in_channels": "$1 if @labels else 2",
         "out_channels": "@classes#n", "pretrained": False, "_disabled_": "@off"},
        DenseNet121(3, 1, 4),
    )  # fmt: skip
    yield "macro", "%nets::small", UNet(3, 1, 2, (2, 4), (2,))
    yield "another file", "%nets.yaml::inner::small", UNet(3, 1, 2, (2, 4), (2,))
    yield "another file of the folder", "%configs/nets.yaml#inner#small", UNet(3, 1, 2, (2, 4), (2,))


SHARED = {
    "imports": ["$import glob", "$from scripts import *"],
    "bundle_root": "/workspace/bundle",
    "ckpt": "$@bundle_root + '/models/model.pt'",
    "labels": {"background": 0, "tumour": 1},
    "classes": {"n": 4},
    "kernels": [3, 3, 3],
    "steps": [{"two": "$int(@up::0)"}],
    "up": [2],
    "off": False,
    "nets": {"small": UNET | {"out_channels": "$len(@labels)"}},
    "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in glob.glob(@bundle_root)]"},
    "evaluator": {"_target_": "SupervisedEvaluator", "val_handlers": "$[scripts.Handler()]"},
    "run": ["$@evaluator.run()"],
    "preprocessing": {"_target_": "Compose", "transforms": PRE},
}


@pytest.mark.parametrize(("definition", "network"), [pytest.param(d, n, id=name) for name, d, n in networks()])
@pytest.mark.parametrize("end", ["json", "yaml"])
def test_networks_load_as_data(tmp_path, bundle, definition, network, end):
    path = bundle(
        tmp_path / "b",
        config={**SHARED, "network_def": definition},
        weights=network.state_dict(),
        config_name=f"inference.{end}",
    )
    (path / "configs/nets.yaml").write_text(yaml.safe_dump({"inner": {"small": UNET}}))
    model = load_model(path)
    assert type(model.network) is type(network) and model.ran == ()
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.network.state_dict().values(), network.state_dict().values(), strict=True)
    )
    assert [type(t).__name__ for t in model.preprocessing] == ["NormalizeIntensityd"]
    assert model.left_out == ("LoadImaged",)


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"network_def": {"_target_": "scripts.net.UNesT", "in_channels": 1}}, "network_def"),
        ({"network_def": UNET | {"channels": "$[2 ** n for n in (1, 2)]"}}, "network_def::channels"),
        ({"network_def": UNET | {"norm": "@norm"}, "norm": "$monai.networks.layers.Norm.BATCH"}, "norm"),
        ({"network_def": "$@net", "net": "$monai.networks.nets.UNet(**@nets['small'])"}, "net"),
        ({"network_def": UNET | {"_requires_": "@init"}, "init": "$import os"}, "network_def"),
        ({"network_def": UNET | {"_mode_": "callable"}}, "network_def"),
        ({"network_def": UNET | {"_target_": "monai.networks.nets.hovernet.HoVerNet"}}, "network_def"),
        ({"network_def": UNET | {"_target_": "TorchVisionFCModel"}}, "network_def"),
        ({"network_def": {"_target_": "os.system", "command": "touch {mark}"}}, "network_def"),
        ({"network_def": {"_target_": "builtins.exec", "source": "open('{mark}', 'w')"}}, "network_def"),
        ({"network_def": "$__import__('os').system('touch {mark}')"}, "network_def"),
        ({"network_def": UNET | {"channels": {"_target_": "builtins.eval", "source": "1"}}}, "network_def::channels"),
        ({"network_def": {"_target_": "monai.utils.optional_import", "module": "os"}}, "network_def"),
        ({"network_def": {"_target_": "monai.utils.module.instantiate", "__path": "os.system"}}, "network_def"),
        ({"network_def": {"_target_": "monai.networks.nets.os.system"}}, "network_def"),
        ({"network_def": {"_target_": "monai.networks.nets.torch.hub.load"}}, "network_def"),
        ({"network_def": {"_target_": "monai.bundle.run", "config_file": "{mark}"}}, "network_def"),
        ({"preprocessing": [{"_target_": "scripts.Crop", "keys": "image"}]}, "preprocessing::0"),
        ({"preprocessing": "$[scripts.Crop()]"}, "preprocessing"),
        (
            {"preprocessing": {"_target_": "Compose", "transforms": "$@pre * 2"}, "pre": PRE},
            "preprocessing::transforms",
        ),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": "$@f(3)"}}, "inferer::roi_size"),
        ({"inferer": "$scripts.Inferer()"}, "inferer"),
    ],
)
def test_what_needs_code_is_refused_by_name_and_does_nothing(tmp_path, bundle, change, entry):
    mark = tmp_path / "written"
    change = json.loads(json.dumps(change).replace("{mark}", str(mark)))
    path = bundle(
        tmp_path / "b",
        config={**SHARED, "network_def": UNET, **change},
        weights=UNet(3, 1, 2, (2, 4), (2,)).state_dict(),
    )
    with pytest.raises(UntrustedModel, match=rf"needs code at '{entry}'") as refused:
        load_model(path)
    assert refused.value.entry == entry and "trust=True" in str(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network_def": "@nowhere"}, "'nowhere', which it does not define"),
        ({"network_def": "@b", "b": "%c", "c": "@network_def"}, "in a circle"),
        ({"network_def": "%../../etc/passwd.json::x"}, r"'network_def' reads from .*inside the bundle"),
        ({"network_def": "%/etc/hosts.yaml"}, r"'network_def' reads from"),
        ({"network_def": "%stolen.json"}, r"'network_def' reads from"),
        ({"network_def": UNET | {"channels": [10**9, 10**9]}}, r"cannot be built \(a network with 1e\+09"),
        ({"network_def": UNET | {"channels": [10**5, 10**5]}}, "far larger than its weights"),
        ({"network_def": UNET | {"num_res_units": 10**5}}, "far larger than its weights"),
        ({"network_def": UNET | {"spatial_dims": 10**12}}, "cannot be built"),
        ({"network_def": UNET | {"out_channels": "$10 ** 9"}}, "needs code"),
        ({"network_def": UNET | {"out_channels": "$100000 * 100000"}}, "cannot be built"),
        ({"network_def": {"_target_": "SwinUNETR", "in_channels": 1, "out_channels": 2, "window_size": 200}}, "larger"),
        ({"network_def": [UNET]}, "is not a network"),
        ({"network_def": 3}, "is not a network"),
    ],
)
def test_broken_and_boundless_configs_are_one_sentence(tmp_path, bundle, change, says):
    path = bundle(tmp_path / "b", config={**SHARED, **change}, weights=STATE)
    (tmp_path / "stolen.json").write_text(json.dumps({"network_def": UNET}))
    (path / "configs/stolen.json").symlink_to(tmp_path / "stolen.json")
    with pytest.raises(ModelError, match=says):
        load_model(path)


def test_yaml_cannot_grow(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    (path / "configs/inference.json").unlink()
    doubled = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    merged = "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
    bombs = {
        "aliases": f"a0: &a0 [x, x]\n{doubled}network_def: *a59\n",
        "merges": f"a0: &a0 {{x: 1}}\n{merged}",
        "python": "network_def: !!python/object/apply:os.system ['true']\n",
        "deep": "network_def: " + "[" * 5000,
        "large": "network_def: " + "x" * 2**21,
    }  # fmt: skip
    for name, text in bombs.items():
        (path / "configs/inference.yaml").write_text(text)
        with pytest.raises(ModelError):
            load_model(path)
            pytest.fail(name)
