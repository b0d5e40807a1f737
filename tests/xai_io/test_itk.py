"""NRRD and MetaImage: headers written by hand, so that the truth is not ITK's own."""

import gzip
import itertools

import numpy as np
import pytest

from xai_io import GeometryError, ScanError, read_volume, sniff

VALUES = np.random.default_rng(0).integers(-500, 500, (4, 5, 6)).astype("<i2")
FLIPS = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1), "LAS": (-1, 1, 1)}
NAMES = {"RAS": "right-anterior-superior", "LPS": "left-posterior-superior", "LAS": "left-anterior-superior"}
AXES = {
    "straight": np.diag([2.0, 3.0, 4.5]),
    "turned": np.array([[0, -1.5, 0], [0, 0, 2.5], [0.75, 0, 0]]),
    "oblique": np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] * [0.7, 1.3, 3.1],
    "sheared": np.array([[2.0, 0.5, 0], [0, 3, 1], [0, 0, 4]]),
}
ORIGIN = np.array([10.25, -20.5, 30.125])


def vectors(matrix):
    return " ".join("(" + ",".join(repr(float(x)) for x in row) + ")" for row in matrix)


def nrrd(path, *, data=None, drop=(), **fields):
    """An NRRD of `VALUES` on the grid `straight` in RAS; fields replace those of the header."""
    header = {
        "type": "int16",
        "dimension": "3",
        "space": "right-anterior-superior",
        "sizes": "4 5 6",
        "space directions": vectors(AXES["straight"].T),
        "space origin": vectors([ORIGIN]),
        "endian": "little",
        "encoding": "raw",
        **{name.replace("_", " "): value for name, value in fields.items()},
    }
    text = "NRRD0005\n# a comment: with a colon\n" + "".join(
        f"{name}: {value}\n" for name, value in header.items() if name not in drop
    )
    path.write_bytes(f"{text}patient:=DOE^JANE\n\n".encode() + (VALUES.tobytes("F") if data is None else data))
    return path


def meta(path, *, data=None, drop=(), **fields):
    """A MetaImage of `VALUES` on the grid `straight`, in LPS as they all are."""
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10.25 -20.5 30.125",
        "ElementSpacing": "2 3 4.5",
        "DimSize": "4 5 6",
        "ElementType": "MET_SHORT",
        **fields,
    }
    header["ElementDataFile"] = header.pop("ElementDataFile", "LOCAL")
    text = "".join(f"{name} = {value}\n" for name, value in header.items() if name not in drop)
    path.write_bytes(text.encode() + (VALUES.tobytes("F") if data is None else data))
    return path


@pytest.mark.parametrize(("space", "axes"), itertools.product(FLIPS, AXES))
@pytest.mark.parametrize("short", [False, True])
def test_every_space_of_nrrd_becomes_ras(tmp_path, space, axes, short):
    path = nrrd(tmp_path / "a.nrrd", space=space if short else NAMES[space], space_directions=vectors(AXES[axes].T))
    volume = read_volume(path)
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = AXES[axes], ORIGIN
    truth = np.diag([*FLIPS[space], 1]) @ truth
    assert np.abs(volume.affine - truth).max() < 1e-12
    assert np.array_equal(volume.data[0], VALUES)
    assert volume.source.format == "nrrd" and "DOE" not in repr(volume)


@pytest.mark.parametrize("axes", AXES)
def test_meta_images_are_lps_with_a_direction_a_row(tmp_path, axes):
    spacing = np.linalg.norm(AXES[axes], axis=0)
    rows = " ".join(repr(float(x)) for x in (AXES[axes] / spacing).T.ravel())
    path = meta(tmp_path / "a.mha", TransformMatrix=rows, ElementSpacing=" ".join(map(repr, spacing.tolist())))
    volume = read_volume(path)
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = AXES[axes], ORIGIN
    assert np.abs(volume.affine - np.diag([-1, -1, 1, 1]) @ truth).max() < 1e-12
    assert np.array_equal(volume.data[0], VALUES) and volume.source.format == "metaimage"


@pytest.mark.parametrize(
    ("drop", "fields"),
    [
        (("space",), {}),
        (("space origin",), {}),
        (("space directions",), {"spacings": "2 3 4"}),
        (("space",), {"space_dimension": "3"}),
        ((), {"space": "scanner-xyz"}),
        ((), {"space": "3D-right-handed"}),
        ((), {"space": "right-anterior-superior-time"}),
        ((), {"space_units": '"um" "um" "um"'}),
        ((), {"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}),
        ((), {"space_directions": "(1,0,0) (0,nan,0) (0,0,1)"}),
        ((), {"space_directions": "(1,0,0) (0,0,0) (0,0,1)"}),
        ((), {"space_origin": "(1,2)"}),
    ],
)
def test_an_nrrd_that_does_not_say_where_it_lies_is_refused(tmp_path, drop, fields):
    with pytest.raises(GeometryError):
        read_volume(nrrd(tmp_path / "a.nrrd", drop=drop, **fields))


@pytest.mark.parametrize(
    ("drop", "fields"),
    [
        (("Offset",), {}),
        (("TransformMatrix",), {}),
        (("ElementSpacing",), {"ElementSize": "2 3 4.5"}),
        ((), {"DistanceUnits": "um"}),
        ((), {"ElementSpacing": "2 0 4.5"}),
        ((), {"TransformMatrix": "1 0 0 1 0 0 0 0 1"}),
        ((), {"TransformMatrix": "1 0 0"}),
        ((), {"Offset": "1 2 inf"}),
        ((), {"Position": "1 2 3"}),
    ],
)
def test_a_meta_image_that_does_not_say_where_it_lies_is_refused(tmp_path, drop, fields):
    with pytest.raises(GeometryError):
        read_volume(meta(tmp_path / "a.mha", drop=drop, **fields))


def test_an_axis_of_channels_may_come_first_or_last(tmp_path):
    both = np.stack([VALUES, VALUES + 7])
    space = vectors(AXES["straight"].T)
    first = nrrd(
        tmp_path / "first.nrrd", data=both.tobytes("F"), dimension="4", sizes="2 4 5 6",
        kinds="vector domain domain domain", space_directions=f"none {space}",
    )  # fmt: skip
    last = nrrd(
        tmp_path / "last.nrrd", data=np.moveaxis(both, 0, -1).tobytes("F"), dimension="4", sizes="4 5 6 2",
        kinds="domain domain domain list", space_directions=f"{space} none",
    )  # fmt: skip
    vector = meta(tmp_path / "a.mha", data=both.tobytes("F"), ElementNumberOfChannels="2")
    for path in (first, last, vector):
        volume = read_volume(path)
        assert np.array_equal(volume.data, both) and volume.spacing == (2, 3, 4.5)


def test_packed_detached_big_endian_and_written_out_values(tmp_path):
    plain = VALUES.tobytes("F")
    (tmp_path / "values.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "values.raw").write_bytes(plain)
    text = (" ".join(map(str, VALUES.ravel("F"))) + "\n").encode()
    for path in (
        nrrd(tmp_path / "a.nhdr", data=b"", encoding="gzip", data_file="values.gz"),
        nrrd(tmp_path / "b.nhdr", data=b"", data_file="./values.raw"),
        nrrd(tmp_path / "c.nrrd", data=gzip.compress(plain), encoding="gz"),
        nrrd(tmp_path / "d.nrrd", data=text, encoding="ascii"),
        nrrd(tmp_path / "e.nrrd", data=VALUES.astype(">i2").tobytes("F"), endian="big"),
        meta(tmp_path / "f.mhd", data=b"", ElementDataFile="values.raw"),
        meta(tmp_path / "g.mha", data=VALUES.astype(">i2").tobytes("F"), BinaryDataByteOrderMSB="True"),
        meta(tmp_path / "h.mha", data=text, BinaryData="False"),
        nrrd(tmp_path / "no_suffix"),
        meta(tmp_path / "nothing.dat"),
    ):
        assert sniff(path)
        assert np.array_equal(read_volume(path).data[0], VALUES)


def test_what_itks_own_writer_makes_is_read(tmp_path, rotate):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(VALUES.T)
    image.SetSpacing((0.7, 1.3, 3.1))
    image.SetOrigin(ORIGIN.tolist())
    image.SetDirection(rotate(10, 20, 30).ravel().tolist())
    truth = np.array([image.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (3, 4, 5))]) * (-1, -1, 1)
    for name, packed in itertools.product(("a.nrrd", "a.nhdr", "a.mha", "a.mhd"), (False, True)):
        sitk.WriteImage(image, tmp_path / name, useCompression=packed)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.data[0], VALUES)
        assert np.abs(volume.world_of([(0, 0, 0), (3, 4, 5)]) - truth).max() < 1e-9


def test_an_anatomical_orientation_that_contradicts_the_matrix_is_noted(tmp_path):
    assert read_volume(meta(tmp_path / "a.mha", AnatomicalOrientation="RAI")).source.notes == ()
    assert read_volume(meta(tmp_path / "a.mha", AnatomicalOrientation="???")).source.notes == ()
    (note,) = read_volume(meta(tmp_path / "a.mha", AnatomicalOrientation="LPI")).source.notes
    assert "(LPI) is not that of its matrix (RAI)" in note


PACKED = gzip.compress(VALUES.tobytes("F"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": VALUES.tobytes()[:-2]}, "cut short"),
        ({"data": PACKED[:-9], "encoding": "gzip"}, "cut short"),
        ({"data": PACKED[:-6] + b"\0" + PACKED[-5:], "encoding": "gzip"}, "damaged packed values"),
        ({"data": gzip.compress(bytes(2**20)), "encoding": "gzip"}, "packs more"),
        ({"sizes": "99999 99999 99999"}, "cut short"),
        ({"sizes": "99999 99999 99999", "data": PACKED, "encoding": "gzip"}, "cut short"),
        ({"sizes": "4 5 -6"}, "positive whole numbers"),
        ({"sizes": "4 30", "dimension": "2", "space_directions": "(1,0,0) (0,1,0)"}, "only three in space"),
        ({"type": "block"}, "only real numbers"),
        ({"encoding": "bzip2"}, "raw, gzip or text"),
        ({"byte_skip": "10"}, "skips"),
        ({"drop": ("endian",)}, "endian"),
        ({"data_file": "LIST"}, "several files"),
        ({"data_file": "slice%03d.raw 1 6 1"}, "several files"),
        ({"data_file": "../outside.raw"}, "no file beside it"),
        ({"data_file": "/etc/hostname"}, "no file beside it"),
        ({"space directions": vectors(AXES["straight"].T) + "\nsizes: 4 5 6"}, "twice"),
    ],
)
def test_what_an_nrrd_may_not_be(tmp_path, fields, words):
    (tmp_path / "outside.raw").write_bytes(VALUES.tobytes())
    (tmp_path / "in").mkdir()
    with pytest.raises(ScanError, match=words):
        read_volume(nrrd(tmp_path / "in" / "a.nrrd", **fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": VALUES.tobytes()[:-2]}, "cut short"),
        ({"ElementToIntensityFunctionSlope": "2"}, "scales its values"),
        ({"ElementToIntensityFunctionOffset": "x"}, "damaged"),
        ({"ElementType": "MET_CHAR_ARRAY"}, "real numbers"),
        ({"NDims": "2", "DimSize": "4 30"}, "three axes"),
        ({"HeaderSize": "-1"}, "HeaderSize"),
        ({"CompressedData": "True", "data": VALUES.tobytes()}, "damaged packed values"),
        ({"ElementDataFile": "nowhere.raw"}, "no file beside it"),
        ({"DimSize": "4 5 999999999"}, "cut short"),
        ({"drop": ("ElementDataFile",), "data": b""}, "no end"),
    ],
)
def test_what_a_meta_image_may_not_be(tmp_path, fields, words):
    with pytest.raises(ScanError, match=words):
        read_volume(meta(tmp_path / "a.mha", **fields))
