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


def test_parts_that_stand_in_the_evaluator_are_used(tmp_path, bundle):
    usual = load_model(bundle(tmp_path / "a"))

    def edit(config):
        config["dataset"] = {"_target_": "Dataset", "transform": config.pop("preprocessing")}
        config["evaluator"] = {
            "_target_": "SupervisedEvaluator",
            "inferer": config.pop("inferer"),
            "postprocessing": config.pop("postprocessing"),
        }

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
    path = edited(bundle(tmp_path / "b"), loader(as_closest_canonical=True))
    assert names(path)[0] == "Orientationd"
    for n, arguments in enumerate(({"reverse_indexing": True}, {"affine_lps_to_ras": False})):
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
