import contextlib

import numpy as np
import pytest
import torch

from xai_io import ModelError, UntrustedModel
from xai_io.models.allowed import network, nothing, transform
from xai_io.models.resolver import Resolver

CONFIG = {
    "root": "/data",
    "names": {"background": 0, "liver": 1},
    "two": 2,
    "list": [10, {"deep": "@two"}],
    "alias": "@list::1::deep",
    "old_style": "@list#0",
    "e-mail": "me@example.org",
}


def value(node, **more):
    return Resolver({**CONFIG, **more, "x": node}).value("x", nothing)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (3, 3),
        (None, None),
        ("words", "words"),
        ("@alias", 2),
        ("@old_style", 10),
        ("@::two", 2),  # from the entry that it stands in
        ("@#two", 2),
        ("%two", 2),
        ("%list::0", 10),
        ([{"a": 5, "b": "@::a", "c": "$@##0::a + 1", "d": "%#b"}], [{"a": 5, "b": 5, "c": 6, "d": 5}]),
        ("@e-mail", "@e-mail"),  # no identifier, hence no reference, as in MONAI
        ("me@two", "me@two"),
        (["@two", {"a": "@alias"}], [2, {"a": 2}]),
        ("$len(@names)", 2),
        ("$@root + '/eval'", "/data/eval"),
        ("$@root + '/' + str(@two)", "/data/2"),
        ("$@two * 8 - 1", 15),
        ("$-@two / 4", -0.5),
        ("$(@two, 2 + 1)", (2, 3)),
        ("$[1] + [@two]", [1, 2]),
        ("$1.0 - float(@two) / 4", 0.5),
        ("$[1.5, 1.5] if @two else [3.0, 3.0]", [1.5, 1.5]),
        ("$None", None),
        ("$not @two", False),
        ("$torch.float32", torch.float32),
        ("$np.uint8", np.uint8),
        ("$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')", "cpu"),
        ("$monai.utils.CommonKeys.IMAGE", "image"),
    ],
)
def test_data_is_worked_out(node, expected):
    assert value(node) == expected


@pytest.mark.parametrize(
    "node",
    [
        "$__import__('os').system('true')",
        "$import os",
        "$from os import path",
        "$open('/tmp/x', 'w')",
        "$().__class__.__base__.__subclasses__()",
        "$@names.items()",
        "$[i for i in @list]",
        "$lambda x: x > 0",
        "$@names['liver']",
        "$len(@names, key=1)",
        "$2 ** 999999999",
        "$torch.load('model.pt')",
        "$torch.hub",
        "$os.environ",
        "$f'{@two}'",
        "$'/@two'",
        "$print",
        "$",
        "$)",
        "$" + "(" * 500,
        {"_target_": "os.system", "command": "true"},
        {"_target_": "UNet"},
        {"_target_": ["UNet"]},
    ],
)
def test_code_is_refused_by_name(node):
    with pytest.raises(UntrustedModel, match=r"needs code at 'x'.*trust=True"):
        value(node)


@pytest.mark.parametrize(
    "node",
    [
        "%other.json::net",
        "%/etc/passwd",
        "%",
        "@##two",
        "@####two",
        "@missing",
        "@two::deeper",
        "@list::7",
        "$1 / 0",
        "$int('a')",
        "$10e30 * 10e30",
    ],
)
def test_broken_config_is_no_matter_of_trust(node):
    with pytest.raises(ModelError) as refused:
        value(node)
    assert not isinstance(refused.value, UntrustedModel)


def test_circles_and_bombs_end():
    for config in ({"x": "@y", "y": "@x"}, {"x": "$@x + 1"}, {"x": {"a": "@x::b", "b": "@x"}}):
        with pytest.raises(ModelError, match="circle"):
            Resolver(config).value("x", nothing)
    bomb = {"x0": ["boom"] * 10, **{f"x{n}": f"$@x{n - 1} + @x{n - 1}" for n in range(1, 60)}}
    with pytest.raises(ModelError, match="without end"):
        Resolver(bomb).value("x59", nothing)
    copies = {"long": [0] * 10_000, "x": [f"$@long + [{n}]" for n in range(1000)]}
    with pytest.raises(ModelError, match="without end"):
        Resolver(copies).value("x", nothing)
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]  # as YAML's aliases make them
    with pytest.raises(ModelError, match="without end"):
        Resolver({"x": laughs}).value("x", nothing)


def test_depth_ends():
    for node in ("$" + "-" * 900 + "1", "$" + "(" * 150 + "@two" + ")" * 150, "$" + "[" * 90 + "]" * 90):
        with contextlib.suppress(ModelError):
            value(node)
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ModelError, match="nested too deeply"):
        value(deep)


def test_components_need_the_allow_list():
    unet = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [2, 2],
        "strides": [2],
    }
    for target in ("UNet", "monai.networks.nets.UNet", "monai.networks.nets.unet.UNet"):
        assert type(Resolver({"x": {**unet, "_target_": target}}).value("x", network)).__name__ == "UNet"
    for target in (
        "scripts.net.UNet",
        "torch.nn.Linear",
        "monai.bundle.load",
        "monai.networks.netsmore.UNet",
        "TorchVisionFCModel",
        "get_pretrained_resnet_medicalnet",
        "monai.networks.nets.torch",
        "builtins.eval",
        "",
    ):
        with pytest.raises(UntrustedModel):
            Resolver({"x": {**unet, "_target_": target}}).value("x", network)
    for extra in ({"_requires_": "$import os"}, {"_mode_": "callable"}, {"_mode_": "debug"}):
        with pytest.raises(UntrustedModel):
            Resolver({"x": {**unet, **extra}}).value("x", network)
    assert Resolver({"x": {**unet, "_disabled_": "@off"}, "off": True}).value("x", network) is None
    with pytest.raises(ModelError, match="cannot be built"):
        Resolver({"x": {**unet, "strides": []}}).value("x", network)


@pytest.mark.parametrize(
    "target",
    [
        "Lambdad",
        "LoadImaged",
        "SaveImaged",
        "RandFlipd",
        "TorchVisiond",
        "Transposed",
        "monai.apps.x.Spacingd",
        "Compose",
    ],
)
def test_transforms_that_call_read_or_write_are_not_built(target):
    with pytest.raises(UntrustedModel):
        Resolver({"x": {"_target_": target, "keys": "image"}}).value("x", transform)


def test_arguments_that_monai_has_dropped_are_dropped():
    config = {"_target_": "SwinUNETR", "img_size": [32] * 3, "in_channels": 1, "out_channels": 2, "feature_size": 12}
    assert type(Resolver({"x": config}).value("x", network)).__name__ == "SwinUNETR"


def test_networks_never_fetch_weights():
    config = {"_target_": "resnet10", "spatial_dims": 3, "n_input_channels": 1, "num_classes": 2, "pretrained": True}
    assert type(Resolver({"x": config}).value("x", network)).__name__ == "ResNet"


@pytest.mark.parametrize(
    "pipeline",
    [
        {"_target_": "Compose", "transforms": [{"_target_": "A"}, {"_target_": "B"}]},
        {"_target_": "Compose", "transforms": "@parts"},
        "@parts",
        "$@first + @second",
        ["@first", "@second"],
        {"_target_": "Compose", "transforms": ["@first", {"_target_": "Compose", "transforms": "@second"}]},
        {"_target_": "Compose", "transforms": ["@first::0", {"_target_": "C", "_disabled_": "true"}, "@second"]},
    ],
)
def test_pipelines_are_flattened_in_order(pipeline):
    config = {"first": [{"_target_": "A"}], "second": [{"_target_": "B"}], "parts": "$@first + @second"}
    config["parts"] = [{"_target_": "A"}, {"_target_": "B"}]
    assert [step.target for step in Resolver({**config, "x": pipeline}).steps("x")] == ["A", "B"]
