import nibabel as nib
import numpy as np
import pytest

from xai_io import GeometryError, NonFiniteScan, ScanError, read_volume, sniff
from xai_io.dicom import Choices


def save(path, data):
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), np.eye(4)), path)
    return path


def test_nothing_and_no_scan(tmp_path):
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.nii").touch()
    for name, words in [
        ("missing.nii", "does not exist"),
        ("notes.txt", "is not a scan"),
        ("zero.nii", "is not a scan"),
        ("empty", "folder without DICOM"),
    ]:
        with pytest.raises(ScanError, match=words):
            read_volume(tmp_path / name)
        assert not sniff(tmp_path / name)


def test_sniff_never_raises():
    for path in ("\0", "", "/" * 5000, "a" * 5000, None, 3):
        assert not sniff(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_counted_and_refused(tmp_path, bad):
    data = np.arange(24.0).reshape(2, 3, 4)
    data[0, 0, :3] = bad
    with pytest.raises(ScanError, match="3 voxels of 24"):
        read_volume(save(tmp_path / "a.nii", data))


def test_nan_counts_as_zero_where_that_is_chosen_and_is_noted(tmp_path):
    data = np.arange(24.0).reshape(2, 3, 4)
    data[0, 0, :3] = np.nan
    path = save(tmp_path / "a.nii", data)
    with pytest.raises(NonFiniteScan, match="on_nan='zero'") as refused:
        read_volume(path)
    assert refused.value.background
    volume = read_volume(path, choices=Choices(on_nan="zero"))
    assert np.array_equal(volume.data[0], np.nan_to_num(data))
    assert volume.source.notes == ("3 voxels of 24 were NaN and were read as 0.",)
    data[1, 1, 1] = np.inf
    for bad in (data, np.full((2, 3, 4), np.nan)):
        with pytest.raises(NonFiniteScan, match="replace them first") as refused:
            read_volume(save(path, bad), choices=Choices(on_nan="zero"))
        assert not refused.value.background


def test_a_place_where_no_patient_is(tmp_path):
    for far in (np.diag([1, 1, 2000.0, 1]), np.eye(4) + np.eye(4, k=3) * 1e6):
        nib.save(nib.Nifti1Image(np.arange(24.0).reshape(2, 3, 4), far), tmp_path / "a.nii")
        with pytest.raises(GeometryError, match="no patient is"):
            read_volume(tmp_path / "a.nii")


def test_a_constant_volume_is_refused(tmp_path):
    with pytest.raises(ScanError, match="value 7 in every voxel"):
        read_volume(save(tmp_path / "a.nii", np.full((2, 3, 4), 7.0)))


def test_one_dicom_file_stands_for_its_series(tmp_path, series):
    series(tmp_path / "s", np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4), series="1.2.3")
    series(tmp_path / "s", np.arange(12, dtype=np.int16).reshape(2, 3, 2), np.eye(4), series="1.2.4")
    file = next(file for file in (tmp_path / "s").iterdir() if file.name.startswith(".2.3"))
    assert sniff(tmp_path) and sniff(file)
    assert read_volume(file).shape == (2, 3, 4)
