import nibabel as nib
import numpy as np
import pytest

from xai_io import ScanError, read_volume, sniff


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


def test_a_constant_volume_is_refused(tmp_path):
    with pytest.raises(ScanError, match="value 7 in every voxel"):
        read_volume(save(tmp_path / "a.nii", np.full((2, 3, 4), 7.0)))


def test_one_dicom_file_stands_for_its_series(tmp_path, series):
    series(tmp_path / "s", np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4), series="1.2.3")
    series(tmp_path / "s", np.arange(12, dtype=np.int16).reshape(2, 3, 2), np.eye(4), series="1.2.4")
    file = next(file for file in (tmp_path / "s").iterdir() if file.name.startswith(".2.3"))
    assert sniff(tmp_path) and sniff(file)
    assert read_volume(file).shape == (2, 3, 4)
