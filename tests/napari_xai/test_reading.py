"""A scan as a model takes it: one volume, a folder with one for each channel, or channels by name."""

import numpy as np
import pytest
import torch
from dicom_maker import make_series
from torch import nn

from napari_xai.errors import ExplainError
from napari_xai.reading import Reading
from xai_io import Choices, GeometryError, LoadedModel, ScanError, Volume, write_nifti

NAMES = ("FLAIR", "T1", "T1c", "T2")


@pytest.fixture
def four():
    """A model of four sequences."""
    return LoadedModel(network=nn.Identity(), name="four", in_channels=4, channel_names=NAMES, hash="", form="module")


@pytest.fixture
def patient(tmp_path):
    """A folder with four scans, each of a value of its own."""
    (tmp_path / "p").mkdir()
    for n, name in enumerate(("t1", "t1ce", "t2", "flair")):
        data = np.random.default_rng(n).random((1, 4, 5, 6), dtype=np.float32) + 10 * n
        write_nifti(tmp_path / "p" / f"case_7_{name}.nii.gz", Volume(data, np.eye(4)))
    return tmp_path / "p"


def test_a_folder_with_a_scan_for_each_channel_is_one_scan(four, patient):
    found = Reading()(patient, four)
    assert [round(float(channel.mean())) // 10 for channel in found.data] == [3, 0, 1, 2]  # FLAIR, T1, T1c, T2


def test_channels_by_name_are_the_same(four, patient):
    given = {
        "T1": patient / "case_7_t1.nii.gz",
        "FLAIR": patient / "case_7_flair.nii.gz",
        "t1c": patient / "case_7_t1ce.nii.gz",
        "T2": patient / "case_7_t2.nii.gz",
    }
    assert np.array_equal(Reading()(given, four).data, Reading()(patient, four).data)


def test_a_channel_that_is_missing_or_twice_is_said(four, patient):
    (patient / "case_7_t2.nii.gz").rename(patient / "other_t1.nii.gz")
    with pytest.raises(ScanError, match=r"two scans called T1.*--channel"):
        Reading()(patient, four)
    (patient / "other_t1.nii.gz").unlink()
    with pytest.raises(ScanError, match="No scan was given for T2"):
        Reading()(patient, four)


def test_another_grid_is_resampled_on_request_only(four, patient):
    data = np.random.default_rng(9).random((1, 8, 10, 12), dtype=np.float32)
    write_nifti(patient / "case_7_t2.nii.gz", Volume(data, np.diag([0.5, 0.5, 0.5, 1])), overwrite=True)
    with pytest.raises(GeometryError, match="another grid"):
        Reading()(patient, four)
    found = Reading(resample=True)(patient, four)
    assert found.shape == (4, 5, 6)
    assert any("resampled" in note for note in found.source.notes)


def test_a_number_of_channels_that_does_not_fit_is_said(four):
    with pytest.raises(ExplainError, match=r"1 channel\(s\), but the model takes 4 \(FLAIR, T1, T1c, T2\)"):
        Reading()(Volume(torch.rand(1, 4, 4, 4).numpy(), np.eye(4)), four)


def test_answers_reach_the_reader_and_are_noted(tmp_path):
    one = LoadedModel(network=nn.Identity(), name="one", in_channels=1, hash="", form="module")
    stored = np.random.default_rng(0).integers(0, 99, (5, 6, 8)).astype(np.uint16)
    make_series(tmp_path, stored, np.diag([-1.0, -1, 2, 1]), edit=lambda k, image: k != 4)
    with pytest.raises(GeometryError, match="--on-gap fill"):
        Reading()(tmp_path, one)
    found = Reading(choices=Choices(on_gap="fill"))(tmp_path, one)
    assert found.shape == (5, 6, 8) and found.source.notes


def test_folders_of_dicom_are_channels_too(tmp_path):
    two = LoadedModel(
        network=nn.Identity(), name="two", in_channels=2, channel_names=("FLAIR", "T1"), hash="", form="module"
    )
    for n, name in enumerate(("T1", "FLAIR")):
        stored = np.random.default_rng(n).integers(1000 * n, 1000 * n + 99, (5, 6, 4)).astype(np.uint16)
        make_series(tmp_path / "p" / name, stored, np.diag([-1.0, -1, 2, 1]), series=f"1.2.3.9{n}")
    found = Reading()(tmp_path / "p", two)
    assert found.data[0].min() >= 1000 > found.data[1].max()
