import contextlib
import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest

from xai_io import ExportError, GeometryError, ScanError, Source, Volume, read_labels, read_volume, sniff, write_nifti

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(4, 5, 6)).astype(np.float32)
ORDERS = [(axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


def signed_axes(axes, signs) -> np.ndarray:
    matrix = np.zeros((3, 3))
    matrix[list(axes), range(3)] = signs
    return matrix


def save(path, data, affine, *, sform=1, qform=0, **header):
    image = nib.Nifti1Image(data, None)
    image.header.set_zooms([*np.linalg.norm(affine[:3, :3], axis=0), 1, 1, 1, 1][: data.ndim])
    if sform:
        image.header.set_sform(affine, code=sform)
    if qform:
        image.header.set_qform(affine, code=qform)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_all_48_axis_orders_are_kept_and_come_back(tmp_path, placed, axes, signs):
    affine = placed(signed_axes(axes, signs), (1.5, 2, 3), (-10, 20, 7.5))
    volume = read_volume(save(tmp_path / "a.nii", VALUES, affine))
    assert np.array_equal(volume.data[0], VALUES) and np.array_equal(volume.affine, affine)
    write_nifti(tmp_path / "b.nii.gz", volume)
    again = read_volume(tmp_path / "b.nii.gz")
    assert np.array_equal(again.data, volume.data) and np.array_equal(again.affine, affine)
    header = nib.load(tmp_path / "b.nii.gz").header
    assert (header["sform_code"], header["qform_code"], header.get_xyzt_units()[0]) == (1, 1, "mm")
    assert np.allclose(header.get_qform(), affine, atol=1e-5)


def test_oblique_and_sheared_affines_are_kept(tmp_path, placed, rotate):
    oblique = placed(rotate(10, -20, 30), (0.7, 0.8, 3), (1, 2, 3)).astype(np.float32).astype(float)
    sheared = oblique.copy()
    sheared[1, 2] += 0.5
    for name, affine, qform in (("o", oblique, 1), ("s", sheared, 0)):
        write_nifti(tmp_path / f"{name}.nii", Volume(VALUES[None], affine))
        assert np.array_equal(read_volume(tmp_path / f"{name}.nii").affine, affine)
        header = nib.load(tmp_path / f"{name}.nii").header
        assert header["qform_code"] == qform
        assert np.allclose(header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0))


def test_sform_goes_over_qform_and_qform_over_nothing(tmp_path, placed):
    sform, qform = placed(np.eye(3), (1, 1, 1), (5, 0, 0)), placed(np.eye(3), (1, 1, 1), (0, 7, 0))
    image = nib.Nifti1Image(VALUES, None)
    image.header.set_qform(qform, code=1)
    image.header.set_sform(sform, code=2)
    nib.save(image, tmp_path / "both.nii")
    assert np.array_equal(read_volume(tmp_path / "both.nii").affine, sform)
    image.header["sform_code"] = 0
    nib.save(image, tmp_path / "q.nii")
    assert np.allclose(read_volume(tmp_path / "q.nii").affine, qform)


def test_a_qform_that_disagrees_is_noted_with_how_far(tmp_path, placed, rotate):
    sform = placed(np.eye(3), (2, 2, 2), (5, 0, 0))
    image = nib.Nifti1Image(VALUES, None)
    image.header.set_sform(sform, code=1)
    image.header.set_qform(sform, code=1)
    nib.save(image, tmp_path / "same.nii")
    assert read_volume(tmp_path / "same.nii").source.notes == ()
    turned = placed(rotate(0, 0, 10), (2, 2, 2), (5, 0, 0))
    image.header.set_qform(turned, code=1)
    nib.save(image, tmp_path / "other.nii")
    far = max(np.linalg.norm((sform - turned) @ (*corner, 1)) for corner in itertools.product((0, 3), (0, 4), (0, 5)))
    volume = read_volume(tmp_path / "other.nii")
    assert np.array_equal(volume.affine, sform)
    assert volume.source.notes == (
        f"The sform and the qform of the NIfTI header disagree by up to {far:.4g} mm at the volume's corners; "
        "the sform was used.",
    )


def test_voxel_sizes_and_qforms_that_are_damaged_are_noted_where_there_is_an_sform(tmp_path):
    path = save(tmp_path / "a.nii", VALUES, np.diag([2.0, 2, 2, 1]), qform=1)
    content = bytearray(path.read_bytes())
    content[80:92] = np.array([1, 0, np.nan], "<f4").tobytes()  # pixdim[1:4]
    path.write_bytes(bytes(content))
    volume = read_volume(path)
    assert volume.spacing == (2, 2, 2) and [note.split()[1] for note in volume.source.notes] == ["qform", "voxel"]
    content[254:256] = b"\0\0"  # sform_code: now the damaged qform is all there is
    path.write_bytes(bytes(content))
    with pytest.raises(GeometryError, match="damaged qform"):
        read_volume(path)


@pytest.mark.parametrize("garbage", [np.zeros((3, 4)), np.full((3, 4), np.nan), np.ones((3, 4)), np.eye(3, 4) * 1e30])
def test_an_sform_of_garbage_is_refused_even_if_there_is_a_qform(tmp_path, garbage):
    path = save(tmp_path / "a.nii", VALUES, np.eye(4), qform=1)
    content = bytearray(path.read_bytes())
    content[280:328] = garbage.astype("<f4").tobytes()
    path.write_bytes(bytes(content))
    with pytest.raises(GeometryError, match=r"places no voxel|no patient is"):
        read_volume(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pairs_are_read_by_either_name(tmp_path, kind, suffix):
    nib.save(kind(VALUES, np.diag([2.0, 3, 4, 1])), tmp_path / f"a.img{suffix}")
    for name in (f"a.img{suffix}", f"a.hdr{suffix}"):
        assert sniff(tmp_path / name)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.data[0], VALUES) and volume.spacing == (2, 3, 4)
    (tmp_path / f"a.img{suffix}").unlink()
    with pytest.raises(ScanError, match="damaged"):
        read_volume(tmp_path / f"a.hdr{suffix}")


def test_analyze_files_are_refused_because_left_and_right_are_unknown(tmp_path):
    nib.save(nib.AnalyzeImage(VALUES, np.eye(4)), tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        with pytest.raises(GeometryError, match=r"Analyze 7\.5"):
            read_volume(tmp_path / name)


def test_unknown_place_is_refused_not_invented(tmp_path):
    path = save(tmp_path / "a.nii", VALUES, np.eye(4), sform=0)
    with pytest.raises(GeometryError, match="codes are both 0"):
        read_volume(path)


@pytest.mark.parametrize(("slope", "inter"), [(0.25, -3.0), (2.0, -1024.0)])
def test_scaling_is_applied(tmp_path, slope, inter):
    stored = RNG.integers(-500, 500, size=(4, 5, 6)).astype(np.int16)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "a.nii.gz")
    raw = nib.load(tmp_path / "a.nii.gz")
    assert raw.dataobj.slope == slope
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data[0], (np.asarray(raw.dataobj.get_unscaled()) * slope + inter).astype(np.float32))


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("meter", 1000), ("micron", 1e-3), ("unknown", 1)])
def test_units_become_mm(tmp_path, unit, mm):
    affine = np.diag([2 / mm, 3 / mm, 4 / mm, 1])
    affine[:3, 3] = (-10 / mm, 20 / mm, 30 / mm)
    image = nib.Nifti1Image(VALUES, affine)
    image.header.set_qform(affine, code=1)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    read = read_volume(tmp_path / "a.nii")
    affine[:3] *= mm
    assert np.abs(read.affine - affine).max() < 1e-4 and read.source.notes == ()
    image.header["sform_code"] = 0
    nib.save(image, tmp_path / "q.nii")
    assert np.abs(read_volume(tmp_path / "q.nii").affine - affine).max() < 1e-4


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((4, 5, 6), 1), ((4, 5, 6, 3), 3), ((4, 5, 6, 1, 3), 3), ((4, 5, 6, 1), 1), ((4, 5, 6, 1, 1, 2, 1), 2)],
)
def test_fourth_axis_becomes_channels(tmp_path, shape, channels):
    data = RNG.normal(size=shape).astype(np.float32)
    volume = read_volume(save(tmp_path / "a.nii", data, np.eye(4)))
    assert volume.data.shape == (channels, 4, 5, 6)
    flat = data.reshape(4, 5, 6, channels)
    for channel in range(channels):
        assert np.array_equal(volume.data[channel], flat[..., channel])


def test_two_further_axes_and_two_dimensions_are_refused(tmp_path):
    for shape in ((4, 5, 6, 2, 2), (4, 5)):
        with pytest.raises(ScanError, match="split it first"):
            read_volume(save(tmp_path / "a.nii", np.ones(shape, np.float32), np.eye(4)))


def test_whole_numbers_keep_every_bit(tmp_path):
    labels = np.array([1, 2**24 + 1, 2**30 + 1, -5] * 6, np.int32).reshape(2, 3, 4)
    image = nib.Nifti1Image(labels, np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    for read in (read_volume, read_labels):
        assert np.array_equal(read(tmp_path / "a.nii").data[0], labels)


def test_channels_come_back(tmp_path):
    volume = Volume(RNG.normal(size=(3, 4, 5, 6)).astype(np.float32), np.eye(4))
    write_nifti(tmp_path / "a.nii", volume)
    assert np.array_equal(read_volume(tmp_path / "a.nii").data, volume.data)


def test_the_content_decides_not_the_name(tmp_path):
    (tmp_path / "zipped").write_bytes(gzip.compress(save(tmp_path / "a.nii", VALUES, np.eye(4)).read_bytes()))
    nib.save(nib.Nifti2Image(VALUES, np.diag([2.0, 2, 2, 1])), tmp_path / "two.nii")
    for name in ("zipped", "two.nii"):
        assert sniff(tmp_path / name)
        assert np.array_equal(read_volume(tmp_path / name).data[0], VALUES)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_truncated(tmp_path, zipped, share):
    path = save(tmp_path / ("a.nii.gz" if zipped else "a.nii"), VALUES, np.eye(4))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ScanError, match="copy"):
        read_volume(path)


def test_a_flipped_bit_in_a_zipped_file_is_noticed(tmp_path):
    path = save(tmp_path / "a.nii.gz", VALUES, np.eye(4))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the checksum
    path.write_bytes(bytes(content))
    with pytest.raises(ScanError, match="damaged"):
        read_volume(path)


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path):
    path = save(tmp_path / "a.nii", VALUES, np.eye(4))
    content = bytearray(path.read_bytes())
    content[40:56] = np.array([3, 32000, 32000, 32000, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(bytes(content))
    with pytest.raises(ScanError, match="cut short"):
        read_volume(path)


def test_every_prefix_and_random_damage_is_typed(tmp_path):
    content = save(tmp_path / "a.nii", VALUES, np.eye(4)).read_bytes()
    target = tmp_path / "b.nii"
    for _ in range(150):
        broken = bytearray(content)
        for place in RNG.integers(0, 352, size=3):
            broken[place] = RNG.integers(0, 256)
        target.write_bytes(bytes(broken))
        with contextlib.suppress(ScanError, GeometryError):
            read_volume(target)
        sniff(target)


def test_colours_and_complex_numbers_are_refused(tmp_path):
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    nib.save(nib.Nifti1Image(VALUES.astype(np.complex64), np.eye(4)), tmp_path / "c.nii")
    for name in ("rgb.nii", "c.nii"):
        with pytest.raises(ScanError, match="one real number"):
            read_volume(tmp_path / name)


@pytest.mark.parametrize(("dtype", "stored"), [(bool, "u1"), (np.int64, "i4"), (np.float64, "f4"), (np.uint16, "u2")])
def test_types_that_nifti_writes(tmp_path, dtype, stored):
    data = (np.arange(24) % 2).reshape(1, 2, 3, 4).astype(dtype)
    write_nifti(tmp_path / "a.nii", Volume(data, np.eye(4)))
    image = nib.load(tmp_path / "a.nii")
    assert image.get_data_dtype() == np.dtype(stored) and np.array_equal(np.asarray(image.dataobj), data[0])


def test_what_nifti_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ExportError, match="32-bit"):
        write_nifti(tmp_path / "a.nii", Volume(np.full((1, 2, 2, 2), 2**40), np.eye(4)))
    with pytest.raises(ExportError, match=r"\.nii"):
        write_nifti(tmp_path / "a.nrrd", Volume(VALUES[None], np.eye(4)))
    assert list(tmp_path.iterdir()) == []


def test_written_bytes_are_repeatable_and_tell_nothing(tmp_path):
    source = Source(format="dicom", path=tmp_path / "DOE_JANE", series_uid="1.2.3.4")
    volume = Volume(VALUES[None], np.eye(4), source=source)
    for name in ("DOE.nii.gz", "other.nii.gz"):
        write_nifti(tmp_path / name, volume)
    first, second = ((tmp_path / name).read_bytes() for name in ("DOE.nii.gz", "other.nii.gz"))
    assert first == second
    header = gzip.decompress(first)[:352]
    assert b"DOE" not in first[:64] and b"DOE" not in header and b"1.2.3" not in header
