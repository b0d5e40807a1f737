import errno
import json

import numpy as np
import pytest

from xai_io import ExportError, Volume, write_json, write_montage, write_nifti
from xai_io._files import written_aside

SCAN = Volume(np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5), np.eye(4))


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    with written_aside(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_nothing_is_left_after_an_exception_in_the_middle(tmp_path, error):
    with pytest.raises(type(error)), written_aside(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EACCES, "read-only"), (errno.EIO, "check")],
)
def test_what_the_system_refuses_is_typed(tmp_path, code, words):
    with pytest.raises(ExportError, match=words), written_aside(tmp_path / "a.bin"):
        raise OSError(code, "refused")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.nii.gz", lambda path, **kw: write_nifti(path, SCAN, **kw)),
        ("a.nii", lambda path, **kw: write_nifti(path, SCAN, **kw)),
        ("a.png", lambda path, **kw: write_montage(path, SCAN, SCAN, **kw)),
        ("a.json", lambda path, **kw: write_json(path, {"a": 1}, **kw)),
    ],
)
class TestEveryWriter:
    def test_overwrites_only_on_request(self, tmp_path, name, write):
        path = tmp_path / name
        path.write_bytes(b"old")
        with pytest.raises(ExportError, match="overwrite=True"):
            write(path)
        assert path.read_bytes() == b"old"
        write(path, overwrite=True)
        assert path.read_bytes() != b"old" and list(tmp_path.iterdir()) == [path]

    def test_names_a_missing_folder(self, tmp_path, name, write):
        with pytest.raises(ExportError, match="does not exist"):
            write(tmp_path / "missing" / name)
        (tmp_path / name).mkdir()
        with pytest.raises(ExportError, match="is a folder"):
            write(tmp_path / name, overwrite=True)

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_leaves_nothing_half_written(self, tmp_path, name, write, error, monkeypatch):
        import os

        def full(descriptor):
            raise error

        monkeypatch.setattr(os, "fsync", full)
        (tmp_path / name).write_bytes(b"old")
        with pytest.raises((ExportError, KeyboardInterrupt)):
            write(tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_in_the_middle_of_a_nifti(tmp_path, monkeypatch):
    import nibabel

    def full(self, stream):
        stream.write(b"n+1 half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", full)
    with pytest.raises(ExportError, match="disk is full"):
        write_nifti(tmp_path / "a.nii.gz", SCAN)
    assert list(tmp_path.iterdir()) == []


def test_json_is_read_back_and_refuses_what_json_is_not(tmp_path):
    record = {"name": "Größe", "gap": None, "values": [1, 2.5]}
    write_json(tmp_path / "a.json", record)
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == record
    for bad in (float("nan"), np.zeros(2), object()):
        with pytest.raises(ExportError, match="not JSON"):
            write_json(tmp_path / "b.json", {"bad": bad})
    assert not (tmp_path / "b.json").exists()
