"""Every format at once, from a DICOM series full of identifiers: whole, consistent, and nobody's."""

import dataclasses
import gzip
import json

import numpy as np
import pydicom
import pytest
import torch
from dicom_maker import make_series
from identified import SECRETS, identified
from torch import nn

from napari_xai import explain
from napari_xai.errors import ExplainError
from napari_xai.exports import ALWAYS, EXPORTS, GROUPS, check_display, wanted
from xai_io import Display, ExportError, Identity, Volume, read_volume

KEY = Identity(secret=b"a key of tests, 0123456789")
EVERYTHING = ("report", "dicom", "zarr", "source")


@pytest.fixture(scope="module")
def found(segmenter, tmp_path_factory):
    """A DICOM series explained."""
    folder = tmp_path_factory.mktemp("scans") / "Erika Mueller 1951"
    stored = np.random.default_rng(0).integers(0, 300, (26, 24, 14)).astype(np.uint16)
    stored[10:16, 8:14, 5:9] += 1000
    make_series(folder, stored, np.diag([-1.8, -1.8, 3.0, 1]), edit=identified)
    return explain(folder, segmenter, method="input-x-gradient", target="lesion")


def test_every_format_is_written_and_none_knows_the_patient(found, tmp_path):
    paths = found.save(tmp_path / "out", EVERYTHING, identity=KEY)
    assert set(paths) == (set(EXPORTS) - {"curves"}) | {"provenance"}
    for file in (file for file in (tmp_path / "out").rglob("*") if file.is_file()):
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("latin-1")
        assert not [secret for secret in SECRETS if secret in text], file.name
        assert found.scan.source.series_uid not in text


def test_results_refer_to_the_series_that_is_written_beside_them(found, tmp_path):
    found.save(tmp_path, ("pm", "sc", "seg", "sr", "source"), identity=KEY)
    source = [pydicom.dcmread(file) for file in sorted((tmp_path / "source").iterdir())]
    held = {image.SOPInstanceUID for image in source}
    study = {image.StudyInstanceUID for image in source}
    for name in ("pm", "seg", "sr"):
        made = pydicom.dcmread(tmp_path / EXPORTS[name].file)
        assert {made.StudyInstanceUID} == study
        assert made.SeriesInstanceUID not in {image.SeriesInstanceUID for image in source}
    referred = {
        item.ReferencedSOPInstanceUID
        for series in pydicom.dcmread(tmp_path / EXPORTS["pm"].file).ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    assert referred == held
    assert len(list((tmp_path / "secondary_capture").iterdir())) == found.scan.shape[2]


def test_identity_is_kept_on_purpose_only(found, tmp_path):
    kept = Identity(keep=True, secret=KEY.secret)
    found.save(tmp_path, ("pm", "html"), identity=kept)
    assert pydicom.dcmread(tmp_path / "parametric_map.dcm").PatientID == "PID-778812"
    assert "PID-778812" in (tmp_path / "report.html").read_text()


def test_regions_are_what_the_display_shows(found, tmp_path):
    display = Display(window=(0, 1000), limit=found.display.limit, threshold=0.6 * found.display.limit)
    found.save(tmp_path, display=display)
    lines = (tmp_path / "regions.csv").read_text().splitlines()
    many = found.save(tmp_path / "low", display=Display(window=(0, 1000), limit=1.0, threshold=1e-6))
    assert len(many["regions"].read_text().splitlines()) != len(lines)
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert Display.of(record["display"]) == display


def test_what_a_map_without_regions_cannot_have_is_said_and_the_rest_is_written(found, tmp_path):
    high = Display(window=(0, 1000), limit=1e9, threshold=1e8)
    paths = found.save(tmp_path, ("dicom",), display=high, identity=KEY)
    assert "pm" in paths and "seg" not in paths
    record = json.loads(paths["provenance"].read_text())
    assert record["not_written"] == dict.fromkeys(("seg", "sr"), "no region of the map passes the threshold")


def test_no_picture_is_made_of_a_scan_with_text_in_its_pixels(segmenter, tmp_path):
    def edit(k, image):
        identified(k, image)
        image.BurnedInAnnotation = "YES"

    stored = np.random.default_rng(0).integers(0, 300, (18, 18, 18)).astype(np.uint16)
    make_series(tmp_path / "s", stored, np.diag([-2.0, -2, 2, 1]), edit=edit)
    found = explain(tmp_path / "s", segmenter, method="saliency", target="lesion")
    paths = found.save(tmp_path / "out", ("report", "sc", "source", "pm"), identity=KEY)
    assert not {"montage", "html", "pdf", "sc", "source"} & paths.keys() and "pm" in paths
    assert len(json.loads(paths["provenance"].read_text())["not_written"]) == 5
    kept = Identity(keep=True, secret=KEY.secret)
    assert "montage" in found.save(tmp_path / "kept", identity=kept)


def test_formats_that_are_no_longer_asked_for_do_not_stay_beside_another_map(found, tmp_path):
    found.save(tmp_path, ("html", "zarr"))
    found.save(tmp_path, overwrite=True)
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "relevance.ome.zarr").exists()


def test_earlier_exports_are_not_overwritten_unasked(found, tmp_path):
    (tmp_path / "report.pdf").write_bytes(b"mine")
    with pytest.raises(ExportError, match=r"report\.pdf already"):
        found.save(tmp_path, ("html",))
    assert (tmp_path / "report.pdf").read_bytes() == b"mine"
    assert [file.name for file in tmp_path.iterdir()] == ["report.pdf"]


def test_dicom_of_a_scan_without_a_series_is_refused_before_anything_is_written(found, segmenter, scan, tmp_path):
    for names in (("dicom",), ("source",), ("sr",)):
        with pytest.raises(ExportError, match="not on the grid of a DICOM series"):
            wanted(names, scan, KEY)
    with pytest.raises(ExportError, match="not on the grid of a DICOM series"):
        explain(scan, segmenter, method="saliency").save(tmp_path / "out", ("dicom",))
    assert not (tmp_path / "out").exists()


def test_names_of_exports_are_checked():
    with pytest.raises(ExplainError, match="no export 'docx': choose from report, dicom, relevance"):
        wanted(("docx",))
    assert wanted(()) == ALWAYS
    assert set(wanted(("sr",))) == {*ALWAYS, "seg", "sr"}
    assert {one for group in GROUPS.values() for one in group} <= set(EXPORTS)


def test_the_written_map_is_the_map_in_every_format(found, tmp_path):
    paths = found.save(tmp_path, ("zarr", "pm"), identity=KEY)
    relevance = found.relevance
    for name in ("relevance", "zarr"):
        again = read_volume(paths[name])
        assert np.array_equal(again.data, relevance.data)
        assert np.allclose(again.affine, relevance.affine, atol=1e-4)
    frames = pydicom.dcmread(paths["pm"])
    heights = [
        item.PlanePositionSequence[0].ImagePositionPatient[2] for item in frames.PerFrameFunctionalGroupsSequence
    ]
    values = frames.pixel_array[np.argsort(heights)]
    assert np.array_equal(values.transpose(2, 1, 0), relevance.data[0])


def test_without_a_threshold_there_are_no_regions_and_that_is_said(found, tmp_path):
    paths = found.save(
        tmp_path, ("html", "seg"), display=dataclasses.replace(found.display, threshold=0.0), identity=KEY
    )
    assert "seg" not in paths
    assert "no threshold" in json.loads(paths["provenance"].read_text())["not_written"]["seg"]
    assert len(paths["regions"].read_text().splitlines()) == 1


def test_nothing_is_written_where_the_record_is_no_json(found, tmp_path, monkeypatch):
    broken = found.record | {"score": float("nan")}
    monkeypatch.setattr(type(found), "record", property(lambda self: broken))
    with pytest.raises(ExportError, match="not JSON"):
        found.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_format_alone_goes_where_it_is_wished(found, tmp_path):
    whole = found.save(tmp_path / "whole", ("pdf", "zarr", "pm", "seg", "sc"), identity=KEY)
    (tmp_path / "provenance.json").write_text("{}")  # somebody's
    (tmp_path / "mine.csv").write_text("old")
    for name, file in (("regions", "mine.csv"), ("seg", "s.dcm"), ("pm", "p.dcm"), ("zarr", "z.ome.zarr"), ("sc", "c")):
        assert found.save_as(tmp_path / file, name, identity=KEY) == tmp_path / file
    assert (tmp_path / "mine.csv").read_bytes() == whole["regions"].read_bytes()
    one, other = (pydicom.dcmread(path).pixel_array for path in (tmp_path / "s.dcm", whole["seg"]))
    assert np.array_equal(one, other)
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"whole", "provenance.json", "mine.csv", "s.dcm", "p.dcm", "z.ome.zarr", "c"}
    with pytest.raises(ExplainError, match="refer to a segmentation"):
        found.save_as(tmp_path / "x.dcm", "sr")
    with pytest.raises(ExportError, match="no threshold"):
        found.save_as(tmp_path / "s.dcm", "seg", display=Display(window=(0, 1000), limit=1.0, threshold=0))
    with pytest.raises(ExportError, match="holds more than"):
        found.save_as(tmp_path, "sc")
    assert {path.name for path in tmp_path.iterdir()} == there


def test_what_goes_wrong_leaves_earlier_results_as_they_were(found, tmp_path, monkeypatch):
    found.save(tmp_path, ("html", "sc"), identity=KEY)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    monkeypatch.setattr("xai_io.write_regions", lambda *a, **k: (_ for _ in ()).throw(ExportError("the disk is full")))
    other = dataclasses.replace(found, question="another question")
    with pytest.raises(ExportError, match="disk is full"):
        other.save(tmp_path, ("pdf",), overwrite=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    with pytest.raises(ExportError, match="disk is full"):
        other.save(tmp_path / "new" / "folder")
    assert not (tmp_path / "new" / "folder").exists()


def test_the_scan_itself_is_never_written_over(segmenter, tmp_path):
    stored = np.random.default_rng(0).integers(0, 300, (18, 18, 18)).astype(np.uint16)
    make_series(tmp_path / "source", stored, np.diag([-2.0, -2, 2, 1]))
    found = explain(tmp_path / "source", segmenter, method="saliency", target="lesion")
    with pytest.raises(ExportError, match="source is what the scan was read from"):
        found.save(tmp_path, overwrite=True)
    assert len(list((tmp_path / "source").iterdir())) == 18
    paths = found.save(tmp_path / "out")
    again = explain(paths["relevance"], segmenter, method="saliency", target="lesion")
    with pytest.raises(ExportError, match=r"relevance\.nii\.gz is what the scan was read from"):
        again.save(tmp_path / "out", overwrite=True)


def test_a_folder_with_more_than_results_is_not_removed(found, tmp_path):
    found.save(tmp_path, ("sc",), identity=KEY)
    (tmp_path / "secondary_capture" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds more than earlier results"):
        found.save(tmp_path, overwrite=True)
    assert (tmp_path / "secondary_capture" / "notes.txt").read_text() == "mine"


def test_a_map_that_is_not_finite_is_not_written(found, tmp_path):
    values = found.relevance.data.copy()
    values[0, 0, 0, 0] = np.nan
    broken = dataclasses.replace(found, relevance=found.relevance.with_data(values))
    with pytest.raises(ExportError, match="NaN or infinite, and nothing was written"):
        broken.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_refused(found, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="is a file"):
        found.save(tmp_path / "file")
    with pytest.raises(ExportError, match="another folder"):
        found.save(tmp_path / "file" / "below")


def test_a_display_that_does_not_fit_the_scan_is_refused(found):
    with pytest.raises(ExportError, match="lies outside of the scan"):
        check_display(dataclasses.replace(found.display, centre=(0.0, 0.0, 1e4)), found.scan)
    with pytest.raises(ExportError, match="HU"):
        check_display("lung", found.scan)


def test_relevance_outside_the_scan_is_warned_of(found):
    assert isinstance(found.relevance, Volume)
    assert 0 <= found.record["field_of_view"]["relevance_outside"] <= 1
    lost = type(found.field_of_view)(relevance_outside=0.3, scan_unseen=0.0)
    assert "30% of the relevance lies outside the scan" in dataclasses.replace(found, field_of_view=lost).warnings[-1]


@pytest.mark.parametrize(
    ("name", "number", "institution"),
    [
        ("Ras^Was", "000000", "napari"),
        ("Input^Roi", "19000101", "Unet"),
        ("Predicted^Monai", "1", "Pos"),
    ],
)
def test_patients_called_as_our_own_words_get_their_exports(found, segmenter, tmp_path, name, number, institution):
    def edit(k, image):
        identified(k, image)
        image.PatientName, image.PatientID, image.InstitutionName = name, number, institution

    stored = np.random.default_rng(0).integers(0, 300, (18, 18, 18)).astype(np.uint16)
    stored[6:9, 6:9, 6:9] += 1000
    make_series(tmp_path / "s", stored, np.diag([-2.0, -2, 2, 1]), edit=edit)
    explained = explain(tmp_path / "s", segmenter, method="input-x-gradient", target="lesion")
    assert "pm" in explained.save(tmp_path / "out", EVERYTHING, identity=KEY)


def test_every_channels_patient_is_searched_for(tmp_path):
    class Erika(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0].mean((1, 2, 3)), (x[:, 1] * x[:, 0]).mean((1, 2, 3))], 1)

    rng = np.random.default_rng(0)
    for n, name in enumerate(("Someone^Else", "Erika^Other")):
        stored = rng.integers(0, 300, (8, 8, 8)).astype(np.uint16)
        edit = lambda k, image, name=name: setattr(image, "PatientName", name)  # noqa: E731
        make_series(tmp_path / f"{n}", stored, np.diag([-2.0, -2, 2, 1]), series=f"1.2.3.9{n}", edit=edit)
    found = explain({"0000": tmp_path / "0", "0001": tmp_path / "1"}, Erika(), method="saliency")
    with pytest.raises(ExportError, match="would have identified the patient"):
        found.save(tmp_path / "out")
