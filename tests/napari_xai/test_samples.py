"""The samples are found, fit each other, and the models do what their metadata say."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from methods3d import LRP, ClassScore, RegionScore
from napari_xai import Explainer, explain
from napari_xai.localisation import concentration, peak
from napari_xai.samples import BUNDLES, SCANS, sample
from napari_xai.scan_space import ModelSpace
from xai_io import Volume, read_volume


def test_every_sample_is_there_and_small():
    for name in (*SCANS.values(), *BUNDLES.values()):
        assert sample(name).exists()
    folder = sample("volumes").parent
    size = sum(
        path.stat().st_size for kind in ("volumes", "bundles") for path in (folder / kind).rglob("*") if path.is_file()
    )
    assert size < 12e6


def test_a_missing_sample_names_both_places():
    with pytest.raises(FileNotFoundError, match="reinstall"):
        sample("volumes/unicorn.nii.gz")


def test_the_dicom_series_is_the_nifti_file():
    nifti, dicom = (read_volume(sample(f"volumes/{name}")) for name in ("brain_lesion.nii.gz", "brain_lesion_dicom"))
    assert dicom.modality == "MR"
    where = np.linalg.inv(dicom.affine) @ nifti.affine  # from one grid's voxels to the other's
    corner = np.array([[0, 0, 0, 1], [*(n - 1 for n in nifti.shape), 1], [10, 20, 30, 1], [40, 50, 41, 1]])
    there = np.rint(corner @ where.T).astype(int)
    assert np.abs(corner @ where.T - there).max() < 1e-3
    for a, b in zip(corner, there, strict=True):
        assert nifti.data[(0, *a[:3])] == dicom.data[(0, *b[:3])]
    assert nifti.data.sum() == dicom.data.sum()


@pytest.mark.parametrize(
    ("bundle", "metric", "least"), [("lesion_classifier", "accuracy", 0.95), ("lesion_segmenter", "mean_dice", 0.75)]
)
def test_the_models_are_as_good_as_promised(bundle, metric, least):
    metadata = json.loads((sample(f"bundles/{bundle}") / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"][metric] >= least


@pytest.mark.parametrize("name", ["brain_lesion.nii.gz", "brain_lesion_dicom", "brain_lesion_oblique.nii.gz"])
def test_the_classifier_sees_the_lesion_in_every_form_of_the_scan(name):
    found = explain(sample(f"volumes/{name}"), sample("bundles/lesion_classifier"), method="lrp", target="lesion")
    assert found.prediction.classes["lesion"] > 0.9
    mask = "brain_lesion_oblique_mask.nii.gz" if "oblique" in name else "brain_lesion_mask.nii.gz"
    lesion = read_volume(sample(f"volumes/{mask}"))
    world = found.scan.affine @ [*peak(found.relevance), 1]
    voxel = np.rint(np.linalg.inv(lesion.affine) @ world).astype(int)[:3]
    assert lesion.data[(0, *voxel)] > 0


@pytest.mark.parametrize("bundle", ["lesion_classifier", "lesion_segmenter"])
def test_lrp_conserves_on_both_bundles(bundle):
    """Sum and absorbed are the score; without biases, norm shifts and running means the sum alone is."""
    explainer = Explainer.of(sample(f"bundles/{bundle}"))
    scan = explainer.read(sample("volumes/brain_lesion.nii.gz"))
    full = LRP()
    found = explainer.explain(scan, method=full, target="lesion")
    score, total = found.record["score"], found.record["sum_on_model_grid"]
    assert total + sum(found.record["absorbed"].values()) == pytest.approx(score, rel=1e-3)

    bare = copy.deepcopy(explainer.network)
    for module in bare.modules():
        for name in ("bias", "running_mean"):
            if isinstance(getattr(module, name, None), torch.Tensor):
                getattr(module, name).data.zero_()
    space = ModelSpace.of(scan, explainer.loaded.preprocessing)
    model = dataclasses.replace(explainer, network=bare).on(space)
    # Such a network predicts something else: the score is read where the lesion is.
    lesion = space.region(read_volume(sample("volumes/brain_lesion_mask.nii.gz")))
    target = ClassScore(1) if bundle == "lesion_classifier" else RegionScore(1, lesion)
    alone = full(model, space.x, target)
    assert float(alone.values.sum()) == pytest.approx(float(alone.scores[0]), rel=1e-3)


def test_the_clean_brain_is_clean():
    found = explain(sample("volumes/brain_clean.nii.gz"), sample("bundles/lesion_classifier"), method="saliency")
    assert found.prediction.classes["no lesion"] > 0.5


def test_concentration_and_peak_on_a_map_made_by_hand():
    lesion = np.zeros((20, 20, 20), bool)
    lesion[5:10, 5:10, 5:10] = True
    brain = np.ones_like(lesion)
    even = Volume(np.ones((1, 20, 20, 20), np.float32), np.eye(4))
    assert concentration(even, lesion, brain) == pytest.approx(1)
    inside = even.with_data((lesion[None] * 2.0).astype(np.float32))
    assert concentration(inside, lesion, brain) == pytest.approx(8000 / 125)
    assert concentration(even.with_data(-inside.data), lesion, brain) == 0
    assert peak(inside) == (7, 7, 7)
    speck = inside.data.copy()
    speck[0, 15, 15, 15] = 9  # one bright voxel is no peak once smoothed
    assert peak(even.with_data(speck)) == (7, 7, 7)


def test_the_wheel_would_carry_the_samples():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    carried = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {"sample_volumes/volumes", "sample_volumes/bundles"} <= set(carried)
