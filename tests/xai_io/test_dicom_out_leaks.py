"""The last look finds what identifies a patient in every format, and nothing else."""

import base64
import dataclasses
import html
import io
import json
import re
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_maker import make_series
from identified import identified
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset

from xai_io import (
    ExportError,
    Report,
    Volume,
    display_for,
    read_volume,
    write_json,
    write_montage,
    write_nifti,
    write_omezarr,
    write_report_html,
    write_report_pdf,
)
from xai_io.dicom_out import (
    Identity,
    checked,
    leaks,
    write_measurement_report,
    write_parametric_map,
    write_segmentation,
    write_source,
)
from xai_io.dicom_out.texts import texts as texts_of
from xai_io.dicom_out.vocabulary import OURS
from xai_io.regions import clusters, write_regions

KEY = Identity(secret=b"a key of tests, 0123456789")
AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.9, 0, 20.5], [0, 0, 2.5, -30], [0, 0, 0, 1.0]])
STORED = np.random.default_rng(0).integers(0, 2000, (9, 8, 5)).astype(np.uint16)
FOLDER = "Mueller_CT_2201"


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in") / FOLDER
    make_series(folder, STORED, AFFINE, modality="CT", edit=identified)
    return read_volume(folder)


def as_json(path, text):
    path.with_suffix(".json").write_text(json.dumps({"record": [{"note": f"of {text} today"}]}))


def as_html(path, text):
    path.with_suffix(".html").write_text(f"<html><p>It is of {html.escape(text)}, it seems</p></html>", "utf-8")


def as_csv(path, text):
    path.with_suffix(".csv").write_text(f"number,name\n1,{text}\n", "utf-8")


def as_png(path, text):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", f"of {text}", zip=True)
    Image.new("L", (4, 4)).save(path.with_suffix(".png"), pnginfo=info)


def as_picture_in_html(path, text):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", f"of {text}")
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, format="png", pnginfo=info)
    inside = base64.b64encode(stream.getvalue()).decode()
    path.with_suffix(".html").write_text(f'<img src="data:image/png;base64,{inside}">')


def as_nifti_extension(path, text):
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"of {text}".encode()))
    nib.save(image, path.with_suffix(".nii.gz"))


def as_nifti_header(path, text):
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4))
    image.header["descrip"] = text.encode()[:79]
    nib.save(image, path.with_suffix(".nii.gz"))


def as_nifti_2(path, text):
    image = nib.Nifti2Image(np.zeros((3, 3, 3), np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"of {text}".encode()))
    nib.save(image, path.with_suffix(".nii"))


def as_pdf(path, text):
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.text(0.1, 0.5, f"it is of {text} as is seen", parse_math=False)
    figure.savefig(path.with_suffix(".pdf"), format="pdf")


def as_pdf_title(path, text):
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.savefig(path.with_suffix(".pdf"), format="pdf", metadata={"Title": text})


def as_zarr(path, text):
    (path / "0").mkdir(parents=True)
    (path / "zarr.json").write_text(json.dumps({"attributes": {"ome": {"name": text}}}))


def as_name(path, text):
    (path.parent / f"relevance of {text.replace('/', '-')}.bin").write_bytes(b"")


def as_dicom(path, text, put="SeriesDescription"):
    image = Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.9"
    image.SpecificCharacterSet = "ISO_IR 192"
    setattr(image, put, f"of {text}"[:64])
    pydicom.dcmwrite(path.with_suffix(".dcm"), image, enforce_file_format=True)


def as_nested_dicom(path, text):
    inner = Dataset()
    inner.private_block(0x11, "SOMEBODY", create=True).add_new(1, "UN", f"of {text}".encode())
    outer = Dataset()
    outer.RequestAttributesSequence = [inner]
    outer.file_meta = pydicom.dataset.FileMetaDataset()
    outer.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    outer.SOPClassUID, outer.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.9"
    pydicom.dcmwrite(path.with_suffix(".dcm"), outer, enforce_file_format=True)


def as_bytes(path, text):
    path.with_suffix(".blob").write_bytes(bytes(100) + text.encode() + bytes(100))


WRITERS = [value for name, value in list(globals().items()) if name.startswith("as_")]
PLANTED = {
    "PatientName": ["Erika", "MULLER, LUDENSCHEID", "Müller", "Cäcilia", "erika müller"],
    "PatientID": ["PID-778812", "pid_778812"],
    "PatientBirthDate": ["19510304", "1951-03-04", "04.03.1951"],
    "Date": ["20260114", "14.01.2026"],
    "AccessionNumber": ["ACC4711"],
    "ReferringPhysicianName": ["Holmes"],
    "InstitutionName": ["Klinikum Musterstadt"],
    "StationName": ["CTAWP1234"],
    "DeviceSerialNumber": ["SN-55512"],
    "RequestedProcedure|ScheduledProcedure": ["SPS-55221"],
    "private": ["Erika privat-4242"],
    "UID": ["1.2.276.0.7230010.3.1.2.4242"],
    "file or folder": [FOLDER],
}


@pytest.mark.parametrize("write", WRITERS, ids=lambda writer: writer.__name__[3:])
def test_what_identifies_is_found_wherever_it_stands(tmp_path, scan, write):
    for kind, texts in PLANTED.items():
        for text in texts:
            folder = tmp_path / "out"
            folder.mkdir()
            write(folder / "file", text)
            found = leaks(folder, scan)
            assert any(part in one for one in found for part in kind.split("|")), (text, found)
            assert not any(text in one for one in found)
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()


def test_the_source_path_and_drawn_text_are_searched(tmp_path, scan):
    as_json(tmp_path / "x", str(scan.source.files[0]))
    assert any("path" in one for one in leaks(tmp_path / "x.json", scan))
    (tmp_path / "clean.json").write_text("{}")
    assert leaks(tmp_path / "clean.json", scan) == ()
    assert leaks(tmp_path / "clean.json", scan, drawn=["slice 3", "ERIKA M."]) == (
        "PatientName in text drawn on the picture",
    )


def test_scans_that_lie_on_no_file_are_searched_for_all_the_same(tmp_path, scan):
    as_json(tmp_path / "x", "Erika")
    assert leaks(tmp_path / "x.json", scan.reoriented("RAS")) == ("PatientName in JSON",)
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "of others")
        for path in scan.source.files:
            file.write(path, f"a/{path.name}")
    zipped = read_volume(archive)
    assert leaks(tmp_path / "x.json", zipped) == ("PatientName in JSON",)
    archive.unlink()
    (tmp_path / "other").mkdir()
    moved = dataclasses.replace(zipped, source=dataclasses.replace(zipped.source, path=tmp_path / "other"))
    with pytest.raises(ExportError, match="no longer holds its series"):
        leaks(tmp_path / "x.json", moved)


def test_checked_removes_what_leaks_and_names_no_value(tmp_path, scan):
    as_json(tmp_path / "x", "Erika")
    checked(tmp_path / "x.json", scan, Identity(keep=True, secret=KEY.secret))
    with pytest.raises(ExportError, match=r"x\.json .*PatientName in JSON") as caught:
        checked(tmp_path / "x.json", scan, KEY)
    assert "Erika" not in str(caught.value) and not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "Müller^Erika",
        "English^Parent",
        "Case^Report",
        "Brown^Rose^May",
        "Little^Grant",
        "Input^Gradient",
        "Sans^Dejavu",
        "Monai^Python",
        "Lps^Way",
        "Tiny^Lesion",
    ],
)
def test_our_own_outputs_are_no_leaks(tmp_path, name):
    def edit(k, image):
        identified(k, image)
        image.PatientName, image.PatientID, image.AccessionNumber = name, "12", "100"
        image.StationName, image.InstitutionName, image.StudyDescription = "CT", "Radiology", "CT abdomen"

    make_series(tmp_path / "in", STORED, AFFINE, modality="CT", edit=edit)
    scan, out = read_volume(tmp_path / "in"), tmp_path / "out"
    relevance = scan.with_data(np.random.default_rng(1).normal(size=(1, *scan.shape)).astype(np.float32))
    labels, regions = clusters(relevance, 1.5)
    record = {
        "question": "CT abdomen: which voxels raise “liver”?",
        "method": "Input × gradient",
        "parameters": {"layer": "encoder.3"},
        "model": {"name": "tiny_segmenter", "sha256": "0123456789abcdef" * 4},
        "prediction": {"lesion": 1200.5, "spleen": 100.0},
        "prediction_unit": "mm3",
        "versions": {"monai": "1.5", "python": "3.11", "torch": "2.10"},
        "seconds": 1.25,
    }
    report = Report(
        scan=scan, relevance=relevance, record=record, display=display_for(scan, relevance), regions=regions
    )
    out.mkdir()
    drawn = [*write_report_html(out / "r.html", report), *write_report_pdf(out / "r.pdf", report)]
    write_nifti(out / "relevance.nii.gz", relevance)
    write_omezarr(out / "relevance.ome.zarr", relevance)
    write_montage(out / "montage.png", scan, relevance, caption={"method": "GradCAM", "question": "liver?"})
    write_regions(out / "regions.csv", regions)
    write_json(out / "record.json", record | {"affine": scan.affine.tolist(), "modality": "CT"})
    write_segmentation(out / "regions.dcm", scan, labels, regions, record=record, identity=KEY)
    write_measurement_report(
        out / "sr.dcm", scan, regions, segmentation=out / "regions.dcm", record=record, identity=KEY
    )
    write_parametric_map(out / "map.dcm", scan, relevance, record=record, identity=KEY)
    write_source(out / "source", scan, identity=KEY)
    assert leaks(out, scan, drawn=drawn) == ()
    said = {  # in a text, not among bytes, where letters come up by chance
        token
        for file in out.rglob("*")
        if file.is_file()
        for _, text, least in texts_of(file)
        if least < 5
        for token in re.findall(r"[^\W_]+", text.lower())
        if token.isalpha() and token.isascii() and len(token) > 2
    }
    digits = {token for token in said if set(token) <= set("abcdef")}  # of hashes and colours
    assert sorted(said - digits - OURS - {"abdomen", "encoder"}) == []


@pytest.mark.parametrize(
    "name", ["White^Max", "Page^Mark", "Target^Ray", "Li^Bo", "Peak^Mean^Min", "Anonymous", "Test^Patient"]
)
def test_names_that_are_ordinary_words_raise_no_alarm_and_are_found_together(tmp_path, name):
    def edit(k, image):
        identified(k, image)
        image.PatientName, image.PatientID, image.StudyID, image.AccessionNumber = name, "1", "2", "100"
        image.StationName, image.InstitutionName = "CT", "Radiology"

    make_series(tmp_path / "in", STORED, AFFINE, modality="CT", edit=edit)
    scan = read_volume(tmp_path / "in")
    (tmp_path / "out").mkdir()
    relevance = scan.with_data(np.random.default_rng(1).normal(size=(1, *scan.shape)).astype(np.float32))
    write_montage(tmp_path / "out" / "montage.png", scan, relevance, caption={"method": "max min 1 12"})
    write_json(
        tmp_path / "out" / "a.json", {"min": 1, "max": 12, "page": "white", "target": "mean 2", "of": ["1", "2"]}
    )
    (tmp_path / "out" / "a.html").write_text(
        "<p style='color: white; max-width: 12px'>Page 1: peak, mean. Test bold Li.</p>"
    )
    assert leaks(tmp_path / "out", scan) == ()
    if "^" in name:
        for text in (
            name.replace("^", " "),
            ", ".join(name.split("^")),
            "_".join(name.split("^")[::-1]),
            name.replace("^", ""),
        ):
            as_json(tmp_path / "x", text)
            assert leaks(tmp_path / "x.json", scan), text


def test_names_in_scripts_without_spaces_are_found_inside_text(tmp_path):
    def edit(k, image):
        identified(k, image)
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    make_series(tmp_path / "in", STORED, AFFINE, modality="CT", edit=edit)
    scan = read_volume(tmp_path / "in")
    for text in ("この患者は山田さんです", "太郎", "tarou", "やまだ"):
        for write in (as_json, as_dicom, as_bytes if len(text.encode()) > 5 else as_json):
            write(tmp_path / "x", text)
            found = [leaks(path, scan) for path in tmp_path.glob("x.*")]
            assert any("PatientName" in one for all_ in found for one in all_), (text, write)
            for path in tmp_path.glob("x.*"):
                path.unlink()


def test_numbers_are_no_identifiers(tmp_path, scan):
    numbers = np.random.default_rng(2).normal(size=20_000).astype(np.float32)
    write_json(tmp_path / "a.json", {"values": [float(x) for x in numbers[:2000]], "n": 778812})
    (tmp_path / "b.bin").write_bytes(numbers.tobytes())
    (tmp_path / "c.bin").write_bytes(zlib.compress(numbers.tobytes()))
    voxels = np.frombuffer(b"of Erika" * 1000, np.uint8).reshape(20, 20, 20)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "d.nii.gz")
    nib.save(nib.Nifti2Image(voxels, np.eye(4)), tmp_path / "e.nii")
    (tmp_path / "f.zarr" / "0" / "c").mkdir(parents=True)
    (tmp_path / "f.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "f.zarr" / "0" / "c" / "0").write_bytes(voxels.tobytes())
    assert leaks(tmp_path, scan) == ()


def test_comments_inside_compressed_pixels_are_found(tmp_path, scan):
    image = Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.9"
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, format="jpeg", comment=b"of Klinikum Musterstadt")
    image.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    image["PixelData"].VR = "OB"
    pydicom.dcmwrite(tmp_path / "x.dcm", image, enforce_file_format=True)
    assert "InstitutionName in its compressed pixels" in leaks(tmp_path / "x.dcm", scan)


@pytest.mark.parametrize(
    ("place", "text", "found"),
    [
        ("Mueller_Erika/t1.nii.gz", "asked by erika", True),
        ("Mueller_Erika/t1.nii.gz", "Mueller", True),
        ("tiny_segmenter/data/scan.nii.gz", "a model called tiny_segmenter", False),
        ("tiny_segmenter/case_00471/scan.nii.gz", "case_00471", True),
        ("Brain_Mask/Test_Scan/scan.nii.gz", "brain mask", False),
    ],
)
def test_what_names_of_folders_tell(tmp_path, place, text, found):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    values = np.random.default_rng(0).random((1, 4, 4, 4), dtype=np.float32)
    write_nifti(path, Volume(values, np.eye(4)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text(text)
    assert bool(leaks(tmp_path / "out", read_volume(path))) == found


def test_names_in_a_nifti_header_are_found(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((4, 4, 4)), np.eye(4))
    image.header["descrip"], image.header["aux_file"] = b"Erika Mustermann, 4.3.1951", b"Zeuge^Karl"
    image.header["db_name"] = b"Patient 778123"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"seen by Gregory Holmes on 2026-01-14"))
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz")
    for text in ("of Mustermann", "erika", "karl", "patient 778123", "dr_holmes", "on 14.01.2026"):
        as_json(tmp_path / "x", text)
        assert leaks(tmp_path / "x.json", scan), text
    write_nifti(tmp_path / "out.nii.gz", scan)
    assert leaks(tmp_path / "out.nii.gz", scan) == ()


def test_voxels_are_no_text(tmp_path, scan):
    letters = np.frombuffer(b"Erika Mueller, " * 64, np.uint8)[: 4 * 4 * 4].reshape(1, 4, 4, 4)
    write_nifti(tmp_path / "a.nii", Volume(letters, np.eye(4)))
    assert leaks(tmp_path / "a.nii", scan) == ()


def test_what_is_called_as_the_model_is_to_be_renamed(tmp_path):
    path = tmp_path / "CarotidNet_2" / "data" / "scan.nii.gz"
    path.parent.mkdir(parents=True)
    write_nifti(path, Volume(np.random.default_rng(0).random((1, 4, 4, 4), dtype=np.float32), np.eye(4)))
    as_json(tmp_path / "x", "CarotidNet_2")
    with pytest.raises(ExportError, match=r"folder above the source in JSON\) .* rename the scan's folder above it or"):
        checked(tmp_path / "x.json", read_volume(path), KEY)


def test_numbers_of_series_and_image_are_nobody(tmp_path):
    make_series(tmp_path / "in", STORED, AFFINE, modality="CT", edit=identified)
    for k, file in enumerate(sorted((tmp_path / "in").iterdir())):
        file.rename(file.with_name(f"1301_{k:04}.dcm"))
    scan = read_volume(tmp_path / "in")
    as_json(tmp_path / "x", "1301 0001")
    assert leaks(tmp_path / "x.json", scan) == ()


def test_the_numbers_of_an_oblique_header_are_nobodys_initials(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 6, 5, 4)).astype(np.float32)
    for n in range(40):
        turn, _ = np.linalg.qr(np.eye(3) + 0.3 * rng.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn * rng.uniform(0.7, 3, 3), rng.normal(0, 60, 3)
        write_nifti(tmp_path / f"{n}.nii.gz", Volume(values, affine))
        scan = read_volume(tmp_path / f"{n}.nii.gz")
        write_nifti(tmp_path / f"{n}_relevance.nii.gz", scan.with_data(values + 1))
        checked(tmp_path / f"{n}_relevance.nii.gz", scan, Identity())
