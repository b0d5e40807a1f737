"""OME-Zarr: what we write comes back exactly, what others write is read by its own words or refused."""

import itertools
import json

import numpy as np
import pytest
import zarr

from xai_io import ExportError, GeometryError, ScanError, Source, Volume, read_volume, sniff, write_omezarr
from xai_io.omezarr import read_omezarr

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(2, 70, 9, 8)).astype(np.float32)
TOWARDS = {
    "R": "left-to-right", "L": "right-to-left", "A": "posterior-to-anterior", "P": "anterior-to-posterior",
    "S": "inferior-to-superior", "I": "superior-to-inferior",
}  # fmt: skip
AXCODES = ["".join(c) for order in itertools.permutations(("LR", "PA", "IS")) for c in itertools.product(*order)]


@pytest.fixture
def oblique(rotate, placed):
    return placed(rotate(10, -20, 30), (0.7, 1.3, 3.1), (12.34, -56.7, 89.1))


def foreign(folder, values, axcodes="SPL", *, version="0.5", unit="millimeter", axes=None, steps=None, **array):
    """An image as another program would write it, axes z, y, x pointing to `axcodes`."""
    if axes is None:
        axes = [
            {"name": name, "type": "space", "unit": unit, "orientation": {"type": "anatomical", "value": TOWARDS[code]}}
            for name, code in zip("zyx", axcodes, strict=True)
        ]
        axes = [{"name": name, "type": kind} for name, kind in (("t", "time"), ("c", "channel"))][
            5 - values.ndim :
        ] + axes
    n = values.ndim - 3
    steps = steps or [
        {"type": "scale", "scale": [1.0] * n + [4.0, 3.0, 2.0]},
        {"type": "translation", "translation": [0.0] * n + [7.0, 8.0, 9.0]},
    ]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    attributes = {"ome": {"version": version, "multiscales": [image]}}
    if version == "0.4":
        attributes = {"multiscales": [{"version": "0.4", **image}]}
    group = zarr.create_group(folder, zarr_format=2 if version == "0.4" else 3, attributes=attributes, overwrite=True)
    made = group.create_array("0", shape=values.shape, dtype=values.dtype, chunks=(1,) * n + (4, 4, 4), **array)
    made[...] = values
    return folder


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "i2", "u1", "?", "i8"])
def test_what_is_written_comes_back_exactly(tmp_path, oblique, dtype):
    volume = Volume((VALUES * 50).astype(dtype), oblique, units="HU", modality="CT")
    write_omezarr(tmp_path / "a.zarr", volume)
    again = read_omezarr(tmp_path / "a.zarr")
    assert sniff(tmp_path / "a.zarr") and again.source.notes == ()
    assert np.array_equal(again.data, volume.data) and np.array_equal(again.affine, oblique)
    assert (again.units, again.modality, again.source.format) == ("HU", "CT", "ome-zarr")
    if dtype != "?":
        assert again.data.dtype == volume.data.dtype.newbyteorder("=")


@pytest.mark.parametrize("axcodes", AXCODES)
def test_straight_axes_need_no_words_of_ours(tmp_path, axcodes):
    volume = Volume(VALUES, np.array([[2.0, 0, 0, 7], [0, 3, 0, -8], [0, 0, 4, 9], [0, 0, 0, 1]])).reoriented(axcodes)
    write_omezarr(tmp_path / "a.zarr", volume)
    file = tmp_path / "a.zarr" / "zarr.json"
    metadata = json.loads(file.read_text())
    del metadata["attributes"]["xai_io"]
    file.write_text(json.dumps(metadata))
    again = read_volume(tmp_path / "a.zarr")
    assert np.array_equal(again.data, volume.data) and np.array_equal(again.affine, volume.affine)
    assert "exactly along" in again.source.notes[0]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("unit", "mm"), [("micrometer", 1e-3), ("centimeter", 10)])
def test_what_others_write_is_read_by_its_axes(tmp_path, version, unit, mm):
    values = RNG.normal(size=(5, 6, 7)).astype(np.float32)
    volume = read_volume(foreign(tmp_path / "a", values, version=version, unit=unit))
    assert np.array_equal(volume.data[0], values.transpose(2, 1, 0))
    truth = np.array([[-2, 0, 0, -9], [0, -3, 0, -8], [0, 0, 4, 7]]) * mm
    assert np.allclose(volume.affine[:3], truth, rtol=1e-12, atol=0)


def test_channels_and_time_become_channels(tmp_path):
    values = RNG.normal(size=(1, 3, 5, 6, 7)).astype(np.float32)
    volume = read_volume(foreign(tmp_path / "a", values))
    assert np.array_equal(volume.data, values[0].transpose(0, 3, 2, 1))
    with pytest.raises(ScanError, match="split it first"):
        read_volume(foreign(tmp_path / "a", np.ones((2, 3, 5, 6, 7), np.float32)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]}, "RFC-4"),
        ({"unit": "furlong"}, "unit of length"),
        ({"axcodes": "SSL"}, "RFC-4"),
        ({"steps": [{"type": "affine", "affine": [[1.0]]}]}, "affine that is not understood"),
        ({"steps": [{"type": "scale", "scale": [1.0, 1.0]}]}, "number for each axis"),
        ({"steps": [{"type": "scale", "scale": [1.0, 0.0, 1.0]}]}, "not invertible"),
    ],
)
def test_what_does_not_say_where_it_lies_is_refused(tmp_path, changes, words):
    with pytest.raises(GeometryError, match=words):
        read_volume(foreign(tmp_path / "a", RNG.normal(size=(5, 6, 7)), **changes))


def test_an_image_that_another_program_moved_is_refused(tmp_path, oblique):
    write_omezarr(tmp_path / "a.zarr", Volume(VALUES, oblique))
    file = tmp_path / "a.zarr" / "zarr.json"
    metadata = json.loads(file.read_text())
    steps = metadata["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    steps[1]["translation"][1] += 3.1  # a slice was cut off
    file.write_text(json.dumps(metadata))
    with pytest.raises(GeometryError, match="was changed"):
        read_volume(tmp_path / "a.zarr")


def test_chunks_that_are_absent_are_noted_and_damaged_ones_refused(tmp_path):
    write_omezarr(tmp_path / "a.zarr", Volume(VALUES, np.eye(4)))
    chunks = sorted(file for file in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if file.is_file())
    chunks[0].unlink()
    assert read_volume(tmp_path / "a.zarr").source.notes == ("1 of 4 chunks are absent and were read as 0.0.",)
    content = bytearray(chunks[1].read_bytes())
    content[len(content) // 2] ^= 1
    chunks[1].write_bytes(bytes(content))
    with pytest.raises(ScanError, match="damaged"):
        read_volume(tmp_path / "a.zarr")
    for chunk in chunks[1:]:
        chunk.unlink()
    with pytest.raises(ScanError, match="none of its 4 chunks"):
        read_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("where", ["filters", "compressor"])
def test_a_codec_that_would_unpickle_never_runs(tmp_path, where):
    folder = foreign(tmp_path / "a", RNG.normal(size=(5, 6, 7)), version="0.4")
    file = folder / "0" / ".zarray"
    metadata = json.loads(file.read_text())
    codec = {"id": "pickle", "protocol": 5}
    codecs = {"filters": [codec], "compressor": None} if where == "filters" else {"filters": None, "compressor": codec}
    file.write_text(json.dumps({**metadata, **codecs}))
    ran = tmp_path / "ran"
    for chunk in (folder / "0").iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(b"cposix\nsystem\n(S'touch %s'\ntR." % str(ran).encode())
    with pytest.raises(ScanError):
        read_volume(folder)
    assert not ran.exists()


def test_codecs_that_do_more_than_unpack_are_refused_by_name(tmp_path):
    folder = foreign(tmp_path / "a", RNG.normal(size=(5, 6, 7)), version="0.4")
    file = folder / "0" / ".zarray"
    metadata = json.loads(file.read_text())
    file.write_text(json.dumps({**metadata, "filters": [{"id": "delta", "dtype": "<f8"}]}))
    with pytest.raises(ScanError, match="delta"):
        read_volume(folder)


def test_arrays_outside_the_folder_and_empty_promises_are_refused(tmp_path):
    folder = foreign(tmp_path / "a", RNG.normal(size=(5, 6, 7)))
    file = folder / "zarr.json"
    text = file.read_text()
    for name in ("../a/0", "/etc", "", "..", "0/../0"):
        file.write_text(text.replace('"path": "0"', f'"path": "{name}"'))
        with pytest.raises(ScanError, match="outside itself"):
            read_volume(folder)
    file.write_text(text)
    array = folder / "0" / "zarr.json"
    metadata = json.loads(array.read_text())
    array.write_text(json.dumps({**metadata, "shape": [10**5] * 3}))
    with pytest.raises(ScanError, match="promises"):
        read_volume(folder)
    file.write_text(text.replace('"0.5"', '"0.6"'))
    with pytest.raises(ScanError, match=r"only 0\.4 and"):
        read_volume(folder)


def test_nothing_is_overwritten_unasked_and_nothing_half_written_stays(tmp_path, monkeypatch):
    volume = Volume(VALUES, np.eye(4), source=Source("dicom", path=tmp_path / "DOE", series_uid="1.2.3"))
    write_omezarr(tmp_path / "a.zarr", volume)
    with pytest.raises(ExportError, match="exists already"):
        write_omezarr(tmp_path / "a.zarr", volume)
    write_omezarr(tmp_path / "a.zarr", volume.with_data(VALUES + 1), overwrite=True)
    assert np.array_equal(read_volume(tmp_path / "a.zarr").data, VALUES + 1)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()
    with pytest.raises(ExportError, match="no OME-Zarr"):
        write_omezarr(tmp_path / "precious", volume, overwrite=True)
    with pytest.raises(ExportError, match="is a file"):
        write_omezarr(tmp_path / "precious" / "thesis.txt", volume, overwrite=True)
    with pytest.raises(ExportError, match="does not exist"):
        write_omezarr(tmp_path / "nowhere" / "a.zarr", volume)
    monkeypatch.setattr(zarr.Group, "create_array", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ExportError, match="disk is full"):
        write_omezarr(tmp_path / "a.zarr", volume, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "precious"]
    assert np.array_equal(read_volume(tmp_path / "a.zarr").data, VALUES + 1)
    assert all(b"DOE" not in file.read_bytes() for file in tmp_path.rglob("zarr.json"))
