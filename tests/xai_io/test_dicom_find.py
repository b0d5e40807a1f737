"""Where series are found: nested folders, zips, media, single files; quickly, and without anybody's name."""

import subprocess
import sys
import time
import zipfile

import numpy as np
import pydicom
import pytest
from dicom_maker import make_multiframe, make_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from xai_io import ScanError, read_volume, sniff
from xai_io.dicom import find_series, read_series

RNG = np.random.default_rng(3)
AXIAL = np.diag([-0.7, -0.8, 2.5, 1.0])
STORED = RNG.integers(0, 4000, size=(8, 9, 12)).astype(np.uint16)


def scattered(folder):
    """A series over nested folders, with strays among it."""
    make_series(folder / "all", STORED, AXIAL, modality="CT")
    for n, file in enumerate(sorted((folder / "all").iterdir())):
        place = folder / f"DIR{n % 3}" / "deeper"
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / f"IM{n}")
    (folder / "DIR0" / "README.txt").write_text("not an image")
    (folder / "DIR1" / "empty").touch()
    (folder / "DIR1" / ".DS_Store").write_bytes(b"\0" * 5000)
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = BasicTextSRStorage, "1.2.3.4"
    report.SeriesInstanceUID, report.Modality = "1.2.3", "SR"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(folder / "DIR2" / "SR1", report, enforce_file_format=True)


def test_nested_folders_with_strays(tmp_path):
    scattered(tmp_path)
    seen = []
    (series,) = find_series(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n + 1, 13) for n in range(13)]
    assert (series.modality, series.images, series.shape) == ("CT", 12, (8, 9, 12))
    assert series.spacing == pytest.approx((0.7, 0.8, 2.5)) and series.verdict.kind == "regular"
    seen.clear()
    assert np.array_equal(read_series(series, progress=lambda *at: seen.append(at)).data[0], STORED)
    assert seen[-1] == (12, 12) and len(seen) == 12
    assert sniff(tmp_path)


def test_listings_name_nobody(tmp_path):
    def edit(k, ds):
        ds.SeriesDescription = "Secret head"

    make_series(tmp_path, STORED, AXIAL, edit=edit)
    (series,) = find_series(tmp_path)
    assert series.description == "Secret head"
    assert "ecret" not in repr(series) + series.summary + str(series) and "SECRET" not in repr(series.stacks)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_where_it_is(tmp_path, compression):
    scattered(tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "s.zip", "w", compression) as archive:
        for file in (tmp_path / "s").rglob("*"):
            archive.write(file, "../../" + str(file.relative_to(tmp_path)))  # leads out of any folder it is unpacked in
    before = {*tmp_path.rglob("*")}
    volume = read_volume(tmp_path / "s.zip")
    assert np.array_equal(volume.data[0], STORED)
    assert volume.source.files == (None,) * 12 and all(volume.source.instance_uids)
    assert {*tmp_path.rglob("*")} == before and sniff(tmp_path / "s.zip")


def test_a_zip_bomb_and_a_damaged_zip_are_refused(tmp_path):
    make_series(tmp_path / "s", STORED[..., :3], AXIAL)
    content = next((tmp_path / "s").iterdir()).read_bytes()
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content + bytes(80 << 20))
    with pytest.raises(ScanError, match="would unpack from"):
        read_volume(tmp_path / "bomb.zip")
    whole = (tmp_path / "bomb.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="damaged zip"):
        read_volume(tmp_path / "cut.zip")
    assert not sniff(tmp_path / "cut.zip")


def test_an_encrypted_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"secret")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[6] |= 1  # the flag of the member, and of its entry in the directory
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ScanError, match="is encrypted"):
        read_volume(tmp_path / "a.zip")


def directory(folder, files):
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.DirectoryRecordSequence = []
    for parts in files:
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", list(parts)
        index.DirectoryRecordSequence.append(record)
    pydicom.dcmwrite(folder / "DICOMDIR", index, enforce_file_format=True)


def test_a_medium_is_what_its_directory_lists(tmp_path):
    make_series(tmp_path / "IMAGES", STORED, AXIAL, series="1.2.3.1111")
    make_series(tmp_path / "other", STORED, AXIAL, series="1.2.3.2222")
    files = [file.relative_to(tmp_path).parts for file in (tmp_path / "IMAGES").iterdir()]
    directory(tmp_path, files)
    (series,) = find_series(tmp_path / "DICOMDIR")
    assert series.series_uid == "1.2.3.1111" and np.array_equal(read_volume(tmp_path / "DICOMDIR").data[0], STORED)
    assert len(find_series(tmp_path)) == 2
    directory(tmp_path, [*files, ("IMAGES", "LOST")])
    with pytest.raises(ScanError, match="lists 13 files of which 12 are there"):
        find_series(tmp_path / "DICOMDIR")
    directory(tmp_path, [("..", "outside")])
    with pytest.raises(ScanError, match="outside its folder"):
        find_series(tmp_path / "DICOMDIR")


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble(tmp_path, implicit):
    make_series(tmp_path, STORED, AXIAL)
    for file in tmp_path.iterdir():
        image = pydicom.dcmread(file)
        del image.file_meta, image.preamble
        pydicom.dcmwrite(file, image, implicit_vr=implicit, little_endian=True)
        assert file.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(read_volume(tmp_path).data[0], STORED)


def test_a_multi_frame_file_stands_for_itself(tmp_path):
    make_series(tmp_path, STORED, AXIAL)
    make_multiframe(tmp_path / "m", STORED[None], AXIAL)
    assert np.array_equal(read_volume(tmp_path / "m").data[0], STORED - 10.0)


def test_what_is_no_volume_does_not_ask(tmp_path):
    def dose(k, ds):
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.PixelData = ds.PixelData * 3
        return k == 0

    def scout(k, ds):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        return k < 2

    make_series(tmp_path / "scan", STORED, AXIAL)
    make_series(tmp_path / "dose", STORED, AXIAL, edit=dose)
    make_series(tmp_path / "scout", STORED, AXIAL, edit=scout)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.data[0], STORED)
    assert volume.source.notes[-1].startswith("Other images were left out because they are no volumes: ")
    assert sorted(series.verdict.kind for series in find_series(tmp_path)) == ["colour", "localiser", "regular"]


def test_a_damaged_file_may_belong_to_any_series(tmp_path):
    make_series(tmp_path / "a", STORED, AXIAL, series="1.2.3.1111")
    file = next((tmp_path / "a").iterdir())
    (tmp_path / "a" / "copy").write_bytes(file.read_bytes()[:300])
    with pytest.raises(ScanError, match=r"1 DICOM file cut short or damaged \(copy\), which may belong"):
        read_volume(tmp_path)
    assert np.array_equal(read_volume(tmp_path, series=1).data[0], STORED)


def test_five_thousand_headers_within_fifteen_seconds(tmp_path):
    """A tenth of them, within a tenth of the time, and three times that for a machine that is busy."""
    make_series(tmp_path, np.zeros((64, 64, 500), np.uint16), AXIAL)
    start = time.perf_counter()
    (series,) = find_series(tmp_path)
    assert time.perf_counter() - start < 4.5 and series.shape == (64, 64, 500)


_MEASURED = """
import resource, sys
from xai_io.dicom import find_series, read_series
import pydicom.pixels.decoders, numpy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
volume = read_series(find_series(sys.argv[1])[0])
assert volume.shape == (512, 512, 100) and volume.data[0, 5, 6, 7] == 7.0 * 2 - 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / volume.data.nbytes)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="measured with getrusage")
def test_memory_is_little_more_than_the_volume(tmp_path):
    stored = np.broadcast_to(np.arange(100, dtype=np.int16), (512, 512, 100))
    make_series(tmp_path, stored, AXIAL, modality="CT", slope=2, intercept=-1024)
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert float(run.stdout) < 1.5  # copies, where 2.5 are allowed
