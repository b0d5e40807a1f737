"""Who results are of: the key, the mapping, and what a de-identified header and series hold."""

import re
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pydicom
import pytest
from dicom_maker import make_multiframe, make_series
from identified import SECRETS, identified

from xai_io import ExportError, Volume, read_volume
from xai_io.dicom_out import Identity, leaks, sources, user_secret, write_source
from xai_io.dicom_out.deidentified import deidentified

KEY = b"a key of tests, 0123456789"
STORED = np.random.default_rng(0).integers(0, 2000, (9, 8, 5)).astype(np.uint16)
AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.9, 0, 20.5], [0, 0, 2.5, -30], [0, 0, 0, 1.0]])


@pytest.fixture
def scan(tmp_path):
    make_series(tmp_path / "Erika Mueller CT", STORED, AFFINE, modality="CT", intercept=-1000, edit=identified)
    return read_volume(tmp_path / "Erika Mueller CT")


def everything(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_uids_are_one_keyed_mapping():
    ours, theirs = Identity(secret=KEY), Identity(secret=KEY[::-1])
    assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", ours.uid("1.2.3"))
    assert ours.uid("1.2.3") == Identity(secret=KEY).uid("1.2.3") != theirs.uid("1.2.3")
    assert len({ours.uid(f"1.2.{n}") for n in range(1000)}) == 1000
    assert ours.uid("1.2.3\0") == ours.uid("1.2.3")  # padded to an even length in some files
    assert Identity(keep=True, secret=KEY).uid("1.2.3") == "1.2.3"
    assert ours.new_uid("a", "bc") != ours.new_uid("ab", "c")
    assert ours.pseudonym("1.2.3") != theirs.pseudonym("1.2.3")
    assert str(KEY) not in repr(ours) and "secret" not in repr(ours)


def test_a_key_that_could_be_guessed_is_refused(monkeypatch):
    monkeypatch.setenv("NAPARI_XAI_SECRET", "short")
    with pytest.raises(ExportError, match=r"5 bytes .* at least 16"):
        Identity().uid("1.2.3")
    with pytest.raises(ExportError, match=r"3 bytes"):
        Identity(secret=b"key")


def test_the_users_key_is_made_once_and_is_the_users_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("NAPARI_XAI_SECRET", raising=False)
    monkeypatch.setenv("NAPARI_XAI_CONFIG", str(tmp_path / "config"))
    assert Identity() == Identity() and not (tmp_path / "config").exists()  # not before it is needed
    first = user_secret()
    assert len(first) == 64 and user_secret() == first
    (path,) = (tmp_path / "config").iterdir()
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setenv("NAPARI_XAI_SECRET", "of this site, all machines alike")
    assert user_secret() == b"of this site, all machines alike"
    monkeypatch.delenv("NAPARI_XAI_SECRET")
    path.write_text("cut")
    with pytest.raises(ExportError, match="cut short"):
        user_secret()


def test_processes_that_make_the_key_at_once_get_the_same(tmp_path):
    code = "from xai_io.dicom_out.identity import user_secret; print(user_secret().decode())"
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": ""}
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) for _ in range(4)]
    (made,) = {process.communicate()[0].strip() for process in running}
    assert len(made) == 64


def test_sources_hold_what_is_listed_and_nothing_else(scan):
    series = sources(scan, Identity(secret=KEY))
    text = "\n".join(str(header) for header in series.headers)
    assert not [secret for secret in SECRETS if secret in text]
    header = series.headers[2]
    original = pydicom.dcmread(scan.source.files[2])
    assert not [element for element in header.iterall() if element.tag.is_private]
    assert header.PatientIdentityRemoved == "YES" and header.PatientID.startswith("XAI-") and not header.PatientName
    assert header.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    for kept in (
        "Rows",
        "PixelSpacing",
        "ImagePositionPatient",
        "RescaleIntercept",
        "KVP",
        "Modality",
        "PatientPosition",
    ):
        assert header[kept].value == original[kept].value
    for dropped in ("StudyDescription", "PatientAge", "PatientWeight", "RequestAttributesSequence", "InstitutionName"):
        assert dropped not in header
    assert len({str(one.SOPInstanceUID) for one in series.headers}) == 5
    assert {str(one.StudyInstanceUID) for one in series.headers} == {
        Identity(secret=KEY).uid(original.StudyInstanceUID)
    }


def test_what_a_module_asks_for_stays_and_what_it_does_not_allow_goes():
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = pydicom.uid.EnhancedMRImageStorage, "1.2.3"
    header.StudyInstanceUID = header.SeriesInstanceUID = "1.2.4"
    header.Modality, header.BodyPartExamined, header.Laterality = "MR", "BRAIN", ""
    header.EchoPulseSequence, header.MultipleSpinEcho, header.NumberOfKSpaceTrajectories = "GRADIENT", "NO", 2
    header.PulseSequenceName = "epi of Erika"
    clean = deidentified(header, Identity(secret=KEY))
    assert "Laterality" not in clean and clean.PulseSequenceName == "REMOVED"
    assert (clean.EchoPulseSequence, clean.MultipleSpinEcho, clean.NumberOfKSpaceTrajectories) == ("GRADIENT", "NO", 2)


def test_kept_identity_changes_nothing(scan):
    header = sources(scan, Identity(keep=True, secret=KEY)).headers[2]
    original = pydicom.dcmread(scan.source.files[2], stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert header[keyword].value == original[keyword].value


def test_the_source_series_reads_back_as_the_same_scan(tmp_path, scan):
    write_source(tmp_path / "out", scan, Identity(secret=KEY))
    again = read_volume(tmp_path / "out")
    assert np.array_equal(again.data, scan.data) and np.allclose(again.affine, scan.affine, atol=1e-9)
    assert (again.units, again.modality) == ("HU", "CT")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [f"{n:04d}.dcm" for n in range(1, 6)]
    assert again.source.instance_uids == tuple(
        str(h.SOPInstanceUID) for h in sources(scan, Identity(secret=KEY)).headers
    )
    raw = everything(tmp_path / "out")
    assert not [secret for secret in SECRETS if secret.encode() in raw or secret.encode("latin-1") in raw]
    assert scan.source.series_uid.encode() not in raw
    with pytest.raises(ExportError, match="not empty"):
        write_source(tmp_path / "out", scan, Identity(secret=KEY))
    write_source(tmp_path / "out", scan, Identity(secret=KEY), overwrite=True)
    assert everything(tmp_path / "out") == raw  # the same again, to the last byte
    (tmp_path / "out" / "thesis.docx").touch()
    with pytest.raises(ExportError, match="1 other"):
        write_source(tmp_path / "out", scan, Identity(secret=KEY), overwrite=True)
    assert (tmp_path / "out" / "thesis.docx").exists()


def test_compressed_pixels_stay_the_bytes_they_are(tmp_path):
    def compress(k, image):
        identified(k, image)
        image.compress(pydicom.uid.RLELossless, generate_instance_uid=False)

    make_series(tmp_path / "in", STORED, AFFINE, modality="CT", edit=compress)
    scan = read_volume(tmp_path / "in")
    write_source(tmp_path / "out", scan, Identity(secret=KEY))
    for before, after in zip(scan.source.files, sorted((tmp_path / "out").iterdir()), strict=True):
        old, new = pydicom.dcmread(before), pydicom.dcmread(after)
        assert new.file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
        assert new.PixelData == old.PixelData


def test_an_enhanced_source_is_cleaned_in_its_frames(tmp_path):
    def edit(image):
        identified(0, image)
        image.StudyInstanceUID = "1.2.276.0.7230010.3.1.2.4243"
        for group in image.PerFrameFunctionalGroupsSequence:
            content = group.FrameContentSequence[0]
            content.FrameComments, content.StackID, content.InStackPositionNumber = "Erika", "1", 1
            content.FrameAcquisitionDateTime = "20260114101112"
            group.private_block(0x21, "ACME PRIVATE", create=True).add_new(1, "LO", "Erika privat-4242")

    make_multiframe(tmp_path / "e" / "one", STORED[None], AFFINE, modality="CT", slopes=[1, 2, 3, 4, 5], edit=edit)
    scan = read_volume(tmp_path / "e" / "one")
    write_source(tmp_path / "out", scan, Identity(secret=KEY))
    again = read_volume(tmp_path / "out")
    assert np.array_equal(again.data, scan.data) and np.allclose(again.affine, scan.affine)
    raw = everything(tmp_path / "out")
    assert not [secret for secret in SECRETS if secret.encode() in raw or secret.encode("latin-1") in raw]
    assert b"20260114" not in raw and pydicom.dcmread(tmp_path / "out" / "0001.dcm").ContentDate == "19000101"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda ds: setattr(ds, "BurnedInAnnotation", "YES"), "burned into its pixels"),
        (lambda ds: ds.add_new(0x60000102, "US", 12), "overlays in unused bits"),
    ],
)
def test_a_source_whose_pixels_may_hold_text_is_not_copied(tmp_path, spoil, reason):
    def edit(k, image):
        identified(k, image)
        spoil(image)

    make_series(tmp_path / "in", STORED, AFFINE, modality="CT", edit=edit)
    with pytest.raises(ExportError, match=reason):
        write_source(tmp_path / "out", read_volume(tmp_path / "in"), Identity(secret=KEY))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_scans_without_a_series_of_their_own_are_refused(scan):
    for other in (Volume(scan.data, scan.affine), scan.reoriented("RAS")):
        with pytest.raises(ExportError, match="NIfTI, OME-Zarr, PNG or the report"):
            sources(other, Identity(secret=KEY))
    archive = scan.source.path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in scan.source.files:
            file.write(path, path.name)
    with pytest.raises(ExportError, match="archive: unpack"):
        sources(read_volume(archive), Identity(secret=KEY))
    scan.source.files[0].unlink()
    with pytest.raises(ExportError, match="can no longer be read"):
        sources(scan, Identity(secret=KEY))
    with pytest.raises(ExportError, match="original series"):
        write_source("out", scan, Identity(keep=True, secret=KEY))


def test_values_that_make_no_sense_neither_stop_an_export_nor_are_said(tmp_path, caplog, recwarn):
    folder = tmp_path / "in"
    make_series(folder, STORED, AFFINE, modality="CT", edit=identified)
    for path in folder.iterdir():
        raw = path.read_bytes().replace(b"19510304", b"Mueller?").replace(b"101112", b"zeugen")
        at = raw.index(b"IS\x02\x003 ")  # the series number
        path.write_bytes(raw[:at] + b"IS\x02\x00Z?" + raw[at + 6 :])
    scan = read_volume(folder)
    caplog.clear()
    recwarn.clear()
    for identity in (Identity(secret=KEY), Identity(keep=True, secret=KEY)):
        assert "SeriesNumber" not in sources(scan, identity).first
    write_source(tmp_path / "out", scan, Identity(secret=KEY))
    said = caplog.text + "".join(str(one.message) for one in recwarn)
    assert not [value for value in ("Mueller", "zeugen", "Z?", "Erika") if value in said]


def test_files_without_identifiers_of_their_own_are_refused(tmp_path, scan):
    for path in scan.source.files:
        image = pydicom.dcmread(path)
        del image.StudyInstanceUID
        image.save_as(path)
    with pytest.raises(ExportError, match="lack identifiers"):
        sources(scan, Identity(secret=KEY))


def test_a_series_written_by_mistake_is_found_out(tmp_path, scan):
    assert leaks(scan.source.path, scan)  # the original itself
