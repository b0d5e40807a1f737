"""What a bundle's config means is what is done: parts in other places, settings that turn, names and order."""

import json
import shutil

import pytest
import torch

from xai_io import ModelError, UntrustedModel, load_model


def edited(path, edit):
    config = json.loads((path / "configs/inference.json").read_text())
    edit(config)
    (path / "configs/inference.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("above", [{}, {"preprocessing": None, "inferer": None, "postprocessing": None}])
def test_parts_that_stand_in_the_evaluator_are_used(tmp_path, bundle, above):
    usual = load_model(bundle(tmp_path / "a"))

    def edit(config):
        config["dataset"] = {"_target_": "Dataset", "transform": config.pop("preprocessing")}
        config["evaluator"] = {
            "_target_": "SupervisedEvaluator",
            "inferer": config.pop("inferer"),
            "postprocessing": config.pop("postprocessing"),
        }
        config |= above

    found = load_model(edited(bundle(tmp_path / "b"), edit))
    assert [type(t) for t in found.preprocessing] == [type(t) for t in usual.preprocessing]
    assert (found.windows, found.activation, found.left_out) == (usual.windows, usual.activation, usual.left_out)


def test_the_checkpoint_is_the_one_that_the_config_names(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    state = torch.load(path / "models/model.pt", weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, path / "models/fold_3.pt")
    first = next(iter(state))
    assert torch.equal(load_model(path).network.state_dict()[first], state[first])
    edited(path, lambda config: config.update(ckpt_path="$@bundle_root + '/models/fold_3.pt'"))
    assert torch.equal(load_model(path).network.state_dict()[first], state[first] + 1)


def loader(**arguments):
    def edit(config):
        config["preprocessing"]["transforms"][0] = {"_target_": "LoadImaged", "keys": "image", **arguments}
        del config["preprocessing"]["transforms"][2]  # the bundle's own Orientationd

    return edit


def test_images_that_monais_reader_turns_are_turned(tmp_path, bundle):
    def names(path):
        return [type(t).__name__ for t in load_model(path).preprocessing]

    assert "Orientationd" not in names(edited(bundle(tmp_path / "a"), loader()))
    canonical = {"as_closest_canonical": True}
    for n, arguments in enumerate((canonical, {"reader": {"_target_": "NibabelReader", **canonical}})):
        assert names(edited(bundle(tmp_path / f"b{n}"), loader(**arguments)))[0] == "Orientationd"
    reverse = {"reader": {"_target_": "ITKReader", "reverse_indexing": True}}
    for n, arguments in enumerate(({"reverse_indexing": True}, {"affine_lps_to_ras": False}, reverse)):
        with pytest.raises(ModelError, match="turns them away from their affine"):
            load_model(edited(bundle(tmp_path / f"c{n}"), loader(**arguments)))


def post(*transforms):
    return lambda config: config.update(postprocessing={"_target_": "Compose", "transforms": list(transforms)})


SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
CUT = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}


@pytest.mark.parametrize(
    ("transforms", "threshold"),
    [
        ((SIGMOID, CUT, {"_target_": "AsDiscreted", "keys": "label", "threshold": 0.1}), 0.5),
        ((SIGMOID, {"_target_": "AsDiscreted", "keys": ["label", "pred"], "threshold": [0.1, 0.3]}), 0.3),
        ((SIGMOID, {"_target_": "AsDiscreted", "keys": "pred", "rounding": "torchrounding"}), 0.5),
        ((SIGMOID, {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.3, "rounding": "torchrounding"}), 0.3),
    ],
)
def test_the_threshold_is_the_predictions(tmp_path, bundle, transforms, threshold):
    found = load_model(edited(bundle(tmp_path / "b"), post(*transforms)))
    assert (found.activation, found.threshold) == ("sigmoid", threshold)


def test_an_activation_of_its_own_is_never_passed_over(tmp_path, bundle):
    own = {"_target_": "Activationsd", "keys": "pred", "other": "$torch.sigmoid"}
    path = edited(bundle(tmp_path / "b"), post(own, CUT))
    with pytest.raises(UntrustedModel, match="other"):
        load_model(path)
    with pytest.raises(ModelError, match="activation of its own"):
        load_model(path, trust=True)


@pytest.mark.parametrize("setting", [{"with_coord": True}, {"roi_weight_map": [1]}, {"overlp": 0.5}])
def test_a_setting_of_windows_that_is_not_understood_is_refused(tmp_path, bundle, setting):
    path = edited(bundle(tmp_path / "b"), lambda config: config["inferer"].update(setting))
    with pytest.raises(ModelError, match=next(iter(setting))):
        load_model(path)


@pytest.mark.parametrize("roi_size", ["$[16] * 3", "$list((16,) * 3)"])
def test_python_that_is_no_formula_of_numbers_runs_with_trust(tmp_path, bundle, roi_size):
    path = edited(bundle(tmp_path / "b"), lambda config: config["inferer"].update(roi_size=roi_size))
    with pytest.raises(UntrustedModel):
        load_model(path)
    assert tuple(load_model(path, trust=True).windows.roi_size) == (16, 16, 16)
    shutil.rmtree(path)


def test_a_checkpoint_is_told_by_its_whole_name_and_by_what_loads_it(tmp_path, bundle):
    path = bundle(tmp_path / "b")
    state = torch.load(path / "models/model.pt", weights_only=True)
    first = next(iter(state))
    for n, name in enumerate(("best_model", "fold_3"), 1):
        torch.save({key: value + n for key, value in state.items()}, path / f"models/{name}.pt")
    for named, n in (("best_model", 1), ("fold_3", 2)):
        load = {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/' + @best + '.pt'"}
        edited(path, lambda config, named=named, load=load: config.update(best=named, handlers=[load]))
        assert torch.equal(load_model(path).network.state_dict()[first], state[first] + n)
    edited(path, lambda config: config.update(handlers=[], ckpt="models/best_model.pt"))
    assert torch.equal(load_model(path).network.state_dict()[first], state[first] + 1)
    both = [{"load_path": "models/model.pt"}, "$'models/fold_3.pt'"]
    edited(path, lambda config: config.update(handlers=both, ckpt="models/best_model.pt"))
    assert torch.equal(load_model(path).network.state_dict()[first], state[first])


@pytest.mark.parametrize("trust", [False, True])
def test_a_config_may_refer_to_its_metadata(tmp_path, bundle, trust):
    path = bundle(tmp_path / "b")
    metadata = json.loads((path / "configs/metadata.json").read_text())
    (path / "configs/metadata.json").write_text(json.dumps({**metadata, "window": [16, 32, 16]}))
    edited(path, lambda config: config["inferer"].update(roi_size="@_meta_#window"))
    assert load_model(path, trust=trust).windows.roi_size == (16, 32, 16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(tmp_path, bundle, value):
    path = bundle(tmp_path / "b")
    state = torch.load(path / "models/model.pt", weights_only=True)
    next(iter(state.values()))[0] = value
    torch.save(state, path / "models/model.pt")
    with pytest.raises(ModelError, match="NaN or infinity"):
        load_model(path)


def test_a_mask_of_infinities_is_no_broken_weight(tmp_path):
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor(-torch.inf))

        def forward(self, x):
            return x + self.mask

    torch.jit.script(Masked()).save(str(tmp_path / "n.ts"))
    assert load_model(tmp_path / "n.ts").form == "torchscript"
