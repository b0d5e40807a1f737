"""What a PACS gets: read back by highdicom and judged by dciodvfy, on the places and values that made it."""

import dataclasses
import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_maker import make_mosaic, make_multiframe, make_series
from identified import SECRETS, identified
from PIL import Image

from xai_io import Display, ExportError, Volume, read_volume
from xai_io.dicom import Choices
from xai_io.dicom_out import (
    Identity,
    sources,
    write_measurement_report,
    write_parametric_map,
    write_secondary_capture,
    write_segmentation,
    write_source,
)
from xai_io.regions import clusters

KEY = Identity(secret=b"a key of tests, 0123456789")
KEPT = Identity(keep=True, secret=b"a key of tests, 0123456789")
RNG = np.random.default_rng(0)
LPS = np.diag([-1.0, -1, 1, 1])
STORED = RNG.integers(0, 2000, (12, 10, 6)).astype(np.uint16)
UPRIGHT = np.array([[-0.8, 0, 0, 10], [0, -0.9, 0, 20.5], [0, 0, 2.5, -30], [0, 0, 0, 1.0]])
RECORD = {
    "question": "Which voxels raise the logit of “liver”?",
    "method": "LayerwiseRelevancePropagation",
    "parameters": {"rule": "epsilon", "epsilon": 1e-6},
    "target": "RegionScore(k=1)",
    "model": {"name": "a small U-Net", "sha256": "0123456789abcdef" * 4},
}
DISPLAY = Display(window=(-160, 240), limit=2.0, threshold=0.2)


def oblique(rotate, placed):
    return placed(rotate(12, -8, 30) @ np.diag([-1.0, -1, 1]), (0.8, 0.9, 2.5), (10, 20.5, -30))


def read(folder, affine=UPRIGHT, modality="CT", edit=identified, choices=None, **keywords):
    make_series(folder, STORED, affine, modality=modality, edit=edit, **keywords)
    return read_volume(folder, choices=choices) if choices else read_volume(folder)


@pytest.fixture
def scan(tmp_path):
    return read(tmp_path / "Erika Mueller CT", intercept=-1000)


def relevance_on(scan, channels=1):
    values = np.random.default_rng(1).normal(size=(channels, *scan.shape)).astype(np.float32)
    values[:, 3:6, 3:6, 1:4] += 4
    values[:, 8:11, 6:8, 2:5] -= 4
    return scan.with_data(values)


def frames_of(path, scan):
    """Slice along K, where it lies in LPS mm, the values and the header of each frame of a map, by its position."""
    image = hd.pm.ParametricMap.from_file(path)
    for frame, group in zip(image.pixel_array, image.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient)
        yield round(np.linalg.solve(scan.affine, LPS @ [*position, 1])[2]), position, frame, group


def errors(path):
    """What dciodvfy objects to, warnings left out."""
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    assert "not found" not in done.stderr and done.stderr.strip()  # it names the IOD that it took the file for
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def test_maps_of_small_values_conform(scan, tmp_path):
    small = relevance_on(scan)
    small = small.with_data(small.data * np.float32(1e-6))
    write_parametric_map(tmp_path / "small.dcm", scan, small, record=RECORD, identity=KEY)
    assert errors(tmp_path / "small.dcm") == []
    frames = pydicom.dcmread(tmp_path / "small.dcm")
    assert frames.BurnedInAnnotation == "NO"


def written(scan, folder, identity=KEY, **keywords):
    """Everything, of one explanation."""
    folder.mkdir()
    relevance = relevance_on(scan)
    labels, regions = clusters(relevance, 2.0)
    together = {"record": RECORD, "identity": identity, **keywords}
    write_parametric_map(folder / "map.dcm", scan, relevance, **together)
    write_secondary_capture(folder / "overlay", scan, relevance, DISPLAY, **together)
    write_segmentation(folder / "regions.dcm", scan, labels, regions, **together)
    write_measurement_report(folder / "numbers.dcm", scan, regions, segmentation=folder / "regions.dcm", **together)
    return relevance, labels, regions


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("identity", [KEY, KEPT], ids=["nobody's", "kept"])
def test_dciodvfy_finds_no_error(tmp_path, modality, identity):
    scan = read(tmp_path / "in", modality=modality)
    assert errors(scan.source.files[0]) == []  # else it would say nothing of ours
    written(scan, tmp_path / "out", identity)
    if identity is KEY:
        write_source(tmp_path / "out" / "source", scan, identity)
    for path in sorted(p for p in (tmp_path / "out").rglob("*.dcm")):
        assert errors(path) == [], path.name


def test_a_parametric_map_is_every_value_at_its_place(tmp_path, rotate, placed):
    scan = read(tmp_path / "in", oblique(rotate, placed))
    relevance = relevance_on(scan)
    write_parametric_map(tmp_path / "map.dcm", scan, relevance, record=RECORD, identity=KEY)
    image = hd.pm.ParametricMap.from_file(tmp_path / "map.dcm")
    for k, position, frame, group in frames_of(tmp_path / "map.dcm", scan):
        assert np.linalg.norm((LPS @ scan.affine @ [0, 0, k, 1])[:3] - position) < 1e-4
        assert np.array_equal(frame, relevance.data[0, :, :, k].T)
        original = pydicom.dcmread(scan.source.files[k])
        assert np.abs(np.array(original.ImagePositionPatient) - position).max() < 1e-4
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        assert item.ReferencedSOPInstanceUID == KEY.uid(original.SOPInstanceUID)
        assert item.ReferencedSOPClassUID == original.SOPClassUID
    volume = image.get_volume()  # highdicom's, whose axes are (K, J, I), K downwards here
    turned = Volume(volume.array.transpose(2, 1, 0)[None], LPS @ volume.affine[:, [2, 1, 0, 3]])
    assert np.array_equal(turned.data[0, :, :, ::-1], relevance.data[0])
    assert np.allclose(turned.affine @ [1, 2, 5 - 3, 1], scan.affine @ [1, 2, 3, 1], atol=1e-4)
    assert (image.ContentQualification, image.SOPClassUID.name) == ("RESEARCH", "Parametric Map Storage")
    (mapping,) = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.QuantityDefinitionSequence[1].ConceptCodeSequence[0].LongCodeValue == RECORD["method"]
    assert RECORD["question"] in image.ImageComments and RECORD["model"]["sha256"] in image.ImageComments


def test_several_channels_are_summed_and_zero_is_zero(tmp_path, scan):
    relevance = relevance_on(scan, channels=3)
    write_parametric_map(tmp_path / "sum.dcm", scan, relevance, record=RECORD, identity=KEY)
    for k, _, frame, _ in frames_of(tmp_path / "sum.dcm", scan):
        assert np.array_equal(frame, relevance.data.sum(0)[:, :, k].T)
    zero = scan.with_data(np.zeros((1, *scan.shape), np.float32))
    write_parametric_map(tmp_path / "zero.dcm", scan, zero, record={}, identity=KEY)
    assert (
        not hd.pm.ParametricMap.from_file(tmp_path / "zero.dcm").pixel_array.any()
        and errors(tmp_path / "zero.dcm") == []
    )


def test_a_sheared_stack_keeps_its_positions(tmp_path):
    sheared = UPRIGHT.copy()
    sheared[1, 2] = 0.7  # a gantry tilt: slices step sideways
    scan = read(tmp_path / "in", sheared, choices=Choices(on_tilt="keep-shear"))
    relevance, _, _ = written(scan, tmp_path / "out")
    ks = []
    for k, position, frame, _ in frames_of(tmp_path / "out" / "map.dcm", scan):
        assert np.abs((LPS @ sheared @ [0, 0, k, 1])[:3] - position).max() < 1e-4
        assert np.array_equal(frame, relevance.data[0, :, :, k].T)
        ks.append(k)
    assert sorted(ks) == list(range(6))
    for path in (tmp_path / "out").rglob("*.dcm"):
        assert errors(path) == [], path.name


def test_filled_slices_refer_to_nothing_and_say_so(tmp_path):
    def missing(k, image):
        identified(k, image)
        return k != 3

    scan = read(tmp_path / "in", edit=missing, choices=Choices(on_gap="fill"))
    assert scan.shape == STORED.shape and scan.source.files[3] is None
    written(scan, tmp_path / "out")
    frames = {k: (position, group) for k, position, _, group in frames_of(tmp_path / "out" / "map.dcm", scan)}
    assert {k for k, (_, group) in frames.items() if group.DerivationImageSequence} == {0, 1, 2, 4, 5}
    assert frames[3][0][2] == pytest.approx(-30 + 3 * 2.5)
    overlays = [pydicom.dcmread(path) for path in sorted((tmp_path / "out" / "overlay").iterdir())]
    assert ["SourceImageSequence" in image for image in overlays] == [True] * 3 + [False] + [True] * 2
    assert "filled in" in overlays[3].ImageComments and "filled in" not in overlays[2].ImageComments
    assert (overlays[3].pixel_array[-24:] != overlays[2].pixel_array[-24:]).any()
    for path in (tmp_path / "out").rglob("*.dcm"):
        assert errors(path) == [], path.name


@pytest.mark.parametrize("kind", ["multi-frame", "mosaic"])
def test_frames_of_one_file_are_referred_to(tmp_path, kind):
    if kind == "multi-frame":
        make_multiframe(
            tmp_path / "in" / "one", STORED[None], UPRIGHT, modality="CT", edit=lambda ds: identified(0, ds)
        )
    else:
        make_mosaic(tmp_path / "in" / "one", STORED, UPRIGHT)
    scan = read_volume(tmp_path / "in")
    relevance, labels, regions = written(scan, tmp_path / "out")
    original = pydicom.dcmread(tmp_path / "in" / "one")
    for k, position, frame, group in frames_of(tmp_path / "out" / "map.dcm", scan):
        assert np.abs((LPS @ UPRIGHT @ [0, 0, k, 1])[:3] - position).max() < 1e-4
        assert np.array_equal(frame, relevance.data[0, :, :, k].T)
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        assert item.ReferencedSOPInstanceUID == KEY.uid(original.SOPInstanceUID)
        assert item.ReferencedSOPClassUID == original.SOPClassUID
        if kind == "multi-frame":
            theirs = original.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
            assert np.allclose(theirs.PlanePositionSequence[0].ImagePositionPatient, position)
            assert item.SpatialLocationsPreserved == "YES"
        else:
            assert "ReferencedFrameNumber" not in item and item.SpatialLocationsPreserved == "NO"
    for path in (tmp_path / "out").rglob("*.dcm"):
        assert errors(path) == [], path.name
    if kind == "multi-frame":
        tree = hd.sr.srread(tmp_path / "out" / "numbers.dcm").content.get_volumetric_roi_measurement_groups()
        ks = np.nonzero((labels.data[0] == regions[0].number).any((0, 1)))[0]
        sourced = (
            tree[0].roi.source_images_for_segmentation
            if hasattr(tree[0].roi, "source_images_for_segmentation")
            else None
        )
        assert sourced is None or sum(len(one.referenced_frame_numbers) for one in sourced) == len(ks)


def test_overlays_are_the_displays_pixels_where_the_scan_lies(tmp_path, rotate, placed):
    affine = oblique(rotate, placed)
    scan = read(tmp_path / "in", affine, intercept=-1000)
    relevance = relevance_on(scan)
    write_secondary_capture(tmp_path / "overlay", scan, relevance, DISPLAY, record=RECORD, identity=KEY)
    factor = 52  # the least that makes 10 rows 512 or more
    for k, path in enumerate(sorted((tmp_path / "overlay").iterdir())):
        image = pydicom.dcmread(path)
        assert (image.InstanceNumber, image.BurnedInAnnotation, image.Modality) == (k + 1, "YES", "OT")
        spacing = np.array(image.PixelSpacing, float)
        assert np.allclose(spacing * factor, [0.9, 0.8])
        row, column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
        for i, j in ((0, 0), (11, 9), (4, 7)):  # the middle of the block of small pixels is the voxel's centre
            x, y = factor * i + (factor - 1) / 2, factor * j + (factor - 1) / 2
            place = np.array(image.ImagePositionPatient, float) + row * spacing[1] * x + column * spacing[0] * y
            assert np.abs(place - (LPS @ affine @ [i, j, k, 1])[:3]).max() < 1e-4
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == KEY.uid(scan.source.instance_uids[k])
        middle = image.pixel_array[factor // 2 : 520 : factor, factor // 2 : 624 : factor]
        truth = DISPLAY.rgb(scan.data[0, :, :, k].T, relevance.data[0, :, :, k].T)
        shown = DISPLAY.shown(relevance.data[0, :, :, k].T)
        away = np.ones(shown.shape, bool)
        away[[0, -1], 5:7] = away[4:6, [0, -1]] = away[4:6, [1, -2]] = False  # where the letters are
        assert np.abs(middle.astype(int) - truth)[away].max() <= 12  # between small pixels of the linear enlargement


def test_large_slices_are_not_enlarged_and_letters_follow_the_patient(tmp_path):
    big = RNG.integers(0, 2000, (40, 520, 2)).astype(np.uint16)
    coronal = np.array([[-1, 0, 0, 0], [0, 0, -1, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]]).astype(float)
    make_series(tmp_path / "in", big, coronal, modality="CT", edit=identified)
    scan = read_volume(tmp_path / "in")
    assert np.allclose(scan.affine, coronal)
    write_secondary_capture(tmp_path / "out", scan, relevance_on(scan), DISPLAY, record=RECORD, identity=KEY)
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert list(image.PatientOrientation) == ["L", "F"] and list(image.PixelSpacing) == [1, 1]
    below = image.pixel_array[520:]
    assert image.Columns > 300 and (below > 200).any(axis=-1).sum() > 500  # words, although the slice is narrow
    assert not (below[:, -3:] > 50).any()  # none runs out of the picture


def test_segments_are_the_regions(tmp_path, scan):
    _, labels, regions = written(scan, tmp_path / "out")
    segments = hd.seg.segread(tmp_path / "out" / "regions.dcm")
    assert segments.segmentation_type.value == "BINARY" and segments.number_of_segments == len(regions) > 1
    read_back = np.zeros(scan.shape[::-1], int)
    uids = [KEY.uid(uid) for uid in scan.source.instance_uids]
    pixels = segments.get_pixels_by_source_instance(uids, combine_segments=False, assert_missing_frames_are_empty=True)
    for number in range(1, len(regions) + 1):
        read_back[pixels[..., number - 1] > 0] = number
    assert np.array_equal(read_back, labels.data[0].transpose(2, 1, 0))
    description = segments.get_segment_description(1)
    assert description.segment_label == "positive relevance, cluster 1"
    assert description.algorithm_identification.name == RECORD["method"]
    assert {segments.get_segment_description(n).segmented_property_type.value for n in segments.segment_numbers} == {
        "relevance-pos",
        "relevance-neg",
    }


def test_the_report_has_the_numbers_and_their_segments(tmp_path, scan):
    _, _, regions = written(scan, tmp_path / "out")
    report = hd.sr.srread(tmp_path / "out" / "numbers.dcm")
    segments = hd.seg.segread(tmp_path / "out" / "regions.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(regions)
    for number, (group, region) in enumerate(zip(groups, regions, strict=True), start=1):
        values = [(m.name.meaning, m.unit.value, float(m.value)) for m in group.get_measurements()]
        truth = [region.volume_mm3, 100 * region.share, region.mean, region.peak]
        assert [unit for _, unit, _ in values] == ["mm3", "%", "1", "1"]
        assert np.allclose([value for *_, value in values], truth, rtol=1e-9)
        assert group.tracking_uid == segments.get_segment_description(number).tracking_uid
        assert group.referenced_segment.referenced_segment_numbers in (number, [number])
        assert group.referenced_segment.referenced_sop_instance_uid == segments.SOPInstanceUID
    text = "\n".join(str(element.value) for element in report.iterall() if element.VR in ("UT", "LO"))
    for said in (RECORD["question"], RECORD["method"], RECORD["model"]["sha256"], "Device Observer Name"):
        assert said in text
    with pytest.raises(ExportError, match="not the 1 regions"):
        write_measurement_report(
            tmp_path / "x.dcm", scan, regions[:1], segmentation=tmp_path / "out" / "regions.dcm", record=RECORD,
            identity=KEY,
        )  # fmt: skip
    with pytest.raises(ExportError, match="another scan or identity"):
        write_measurement_report(
            tmp_path / "x.dcm", scan, regions, segmentation=tmp_path / "out" / "regions.dcm", record=RECORD,
            identity=KEPT,
        )  # fmt: skip


def test_results_and_the_source_written_beside_them_belong_together(tmp_path, scan):
    written(scan, tmp_path / "out")
    write_source(tmp_path / "out" / "source", scan, KEY)
    there, wanted, studies = set(), set(), set()
    for path in (tmp_path / "out").rglob("*.dcm"):
        image = pydicom.dcmread(path)
        there.add(str(image.SOPInstanceUID))
        studies.add((image.StudyInstanceUID, image.PatientID))
        wanted |= {str(e.value) for e in image.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert len(wanted) == len(STORED[0, 0]) + 1 and wanted <= there  # six slices and the segmentation
    assert len(studies) == 1


def test_without_identity_nothing_identifies_and_all_is_reproducible(tmp_path, scan):
    written(scan, tmp_path / "out")
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    raw = b"".join(path.read_bytes() for path in files)
    assert not [secret for secret in SECRETS if secret.encode() in raw or secret.encode("latin-1") in raw]
    assert not [uid for uid in (scan.source.series_uid, scan.source.study_uid) if uid.encode() in raw]
    before = [path.read_bytes() for path in files]
    shutil.rmtree(tmp_path / "out")
    written(scan, tmp_path / "out")
    assert [path.read_bytes() for path in files] == before
    shutil.rmtree(tmp_path / "out")
    written(scan, tmp_path / "out", Identity(secret=b"another key, 0123456789"))
    assert all(path.read_bytes() != old for path, old in zip(files, before, strict=True))


def test_kept_identity_files_results_into_the_study(tmp_path, scan):
    written(scan, tmp_path / "out", KEPT)
    original = pydicom.dcmread(scan.source.files[0])
    instances, series = set(), set()
    for path in sorted((tmp_path / "out").rglob("*.dcm")):
        image = pydicom.dcmread(path)
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "StudyInstanceUID",
            "AccessionNumber",
            "StudyDate",
        ):
            assert image[keyword].value == original[keyword].value, keyword
        if "FrameOfReferenceUID" in image:
            assert image.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert image.get("PatientIdentityRemoved") is None and image.ContentDate != "19000101"
        instances.add(image.SOPInstanceUID)
        series.add(image.SeriesInstanceUID)
    assert len(instances) == 3 + 6 and len(series) == 4 and original.SeriesInstanceUID not in series
    group = pydicom.dcmread(tmp_path / "out" / "map.dcm").PerFrameFunctionalGroupsSequence[0]
    reference = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    assert reference in scan.source.instance_uids


def test_kept_names_in_any_script_survive(tmp_path):
    def japanese(k, image):
        identified(k, image)
        image.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        image.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
        image.StudyDescription = "x"
        image.ProtocolName = image.ImageComments = ""
        image.PatientSex = "?"  # as no IOD allows, and highdicom refuses
        for keyword in ("ReferringPhysicianName", "StudyID", "AccessionNumber"):
            delattr(image, keyword)

    scan = read(tmp_path / "in", edit=japanese)
    written(scan, tmp_path / "out", KEPT)
    for path in (tmp_path / "out").rglob("*.dcm"):
        assert str(pydicom.dcmread(path).PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


def test_a_question_that_names_the_patient_is_not_written(tmp_path, scan):
    relevance = relevance_on(scan)
    record = RECORD | {"question": "Where is the tumour of Frau müller?"}
    for write in (
        lambda to: write_parametric_map(to / "map.dcm", scan, relevance, record=record, identity=KEY),
        lambda to: write_secondary_capture(to / "sc", scan, relevance, DISPLAY, record=record, identity=KEY),
        lambda to: write_segmentation(to / "seg.dcm", scan, *clusters(relevance, 2.0), record=record, identity=KEY),
    ):
        (tmp_path / "out").mkdir()
        with pytest.raises(ExportError, match="PatientName") as caught:
            write(tmp_path / "out")
        assert "müller" not in str(caught.value).lower() and list((tmp_path / "out").iterdir()) == []
        (tmp_path / "out").rmdir()
    write_parametric_map(tmp_path / "map.dcm", scan, relevance, record=record, identity=KEPT)


def test_names_with_what_dicom_does_not_allow_are_written(tmp_path, scan):
    relevance = relevance_on(scan)
    labels, regions = clusters(relevance, 2.0)
    odd = [dataclasses.replace(region, name="left\\right\n" + "x" * 80) for region in regions]
    record = RECORD | {"method": "My\\Method" * 20, "question": "a\\b\n" * 3000}
    together = {"record": record, "identity": KEY}
    write_parametric_map(tmp_path / "map.dcm", scan, relevance, **together)
    write_segmentation(tmp_path / "seg.dcm", scan, labels, odd, **together)
    write_measurement_report(tmp_path / "sr.dcm", scan, odd, segmentation=tmp_path / "seg.dcm", **together)
    for name in ("map", "seg", "sr"):
        assert errors(tmp_path / f"{name}.dcm") == []
    assert (
        hd.seg.segread(tmp_path / "seg.dcm")
        .get_segment_description(1)
        .segment_label.startswith("positive relevance, left/right x")
    )


def test_what_cannot_be_written_is_refused(tmp_path, scan):
    relevance = relevance_on(scan)
    path = tmp_path / "map.dcm"
    nifti = Volume(scan.data, scan.affine)
    with pytest.raises(ExportError, match="not on the grid of a DICOM series"):
        write_parametric_map(path, nifti, nifti.with_data(relevance.data), record=RECORD, identity=KEY)
    other = Volume(relevance.data, scan.affine + np.diag([0.1, 0, 0, 0]))
    with pytest.raises(ExportError, match="own grid"):
        write_parametric_map(path, scan, other, record=RECORD, identity=KEY)
    spoilt = relevance.data.copy()
    spoilt[0, 0, 0, 0] = np.nan
    with pytest.raises(ExportError, match="NaN or infinity"):
        write_parametric_map(path, scan, scan.with_data(spoilt), record=RECORD, identity=KEY)
    labels, regions = clusters(relevance, 2.0)
    with pytest.raises(ExportError, match="lower threshold"):
        write_segmentation(path, scan, labels, (), record=RECORD, identity=KEY)
    with pytest.raises(ExportError, match="no voxel has that label"):
        write_segmentation(path, scan, scan.with_data(labels.data * 0), regions, record=RECORD, identity=KEY)
    assert not path.exists()
    write_parametric_map(path, scan, relevance, record=RECORD, identity=KEY)
    with pytest.raises(ExportError, match="exists already"):
        write_parametric_map(path, scan, relevance, record=RECORD, identity=KEY)
    write_parametric_map(path, scan, relevance, record=RECORD, identity=KEY, overwrite=True)


def test_burned_in_text_is_not_shown_again(tmp_path):
    def burned(k, image):
        identified(k, image)
        image.BurnedInAnnotation = "YES"

    scan = read(tmp_path / "in", edit=burned)
    with pytest.raises(ExportError, match="burned into its pixels"):
        write_secondary_capture(tmp_path / "out", scan, relevance_on(scan), DISPLAY, record=RECORD, identity=KEY)
    assert not (tmp_path / "out").exists()
    write_parametric_map(tmp_path / "map.dcm", scan, relevance_on(scan), record=RECORD, identity=KEY)
    assert pydicom.dcmread(tmp_path / "map.dcm").BurnedInAnnotation == "YES"
    assert [one for one in errors(tmp_path / "map.dcm") if "BurnedInAnnotation" not in one] == []


def test_letters_are_upright_words_are_drawn_and_nothing_covers_the_scan(tmp_path, scan):
    zero = scan.with_data(np.zeros((1, *scan.shape), np.float32))
    write_secondary_capture(tmp_path / "a", scan, zero, DISPLAY, record=RECORD, identity=KEY)
    write_secondary_capture(tmp_path / "b", scan, zero, DISPLAY, record=RECORD | {"method": "x"}, identity=KEY)
    one, two = (pydicom.dcmread(tmp_path / name / "0001.dcm").pixel_array for name in "ab")
    inside = one[40:480, 40:580]
    large = Image.fromarray(np.ascontiguousarray(scan.data[0, :, :, 0].T)).resize((624, 520), Image.Resampling.BILINEAR)
    grey = np.clip((np.asarray(large)[40:480, 40:580] + 160) / 400, 0, 1)
    assert np.abs(inside / 255 - grey[..., None]).max() < 0.003
    assert (one[520:] != two[520:]).any() and np.array_equal(one[:520], two[:520])
    series = sources(scan, KEY)
    assert series.shape == (10, 12) and series.positions.shape == (6, 3)
