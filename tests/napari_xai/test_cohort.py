"""Many scans: one manifest, nothing done twice, one failure costs one scan, no names."""

import json

import numpy as np
import pytest
import torch

from methods3d import Ablation, Cancelled, Deconvnet, GuidedBackprop, IntegratedGradients, SmoothGrad
from napari_xai import Explainer, explain
from napari_xai.cohort import _nameless, explain_many
from napari_xai.errors import ExplainError
from napari_xai.reading import Reading
from xai_io import Display, ExportError, Identity, Volume, write_nifti


@pytest.fixture
def files(scan, tmp_path):
    """Three scans, the second cut short."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "in" / f"JaneDoe_{n}.nii.gz" for n in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        write_nifti(path, Volume(scan.data + rng.random(scan.data.shape, dtype=np.float32), scan.affine))
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    return paths


def test_a_failure_costs_one_scan(files, classifier, tmp_path):
    cohort = explain_many(files, Explainer.of(classifier), tmp_path / "out", method="saliency")
    assert [row.status for row in cohort.rows] == ["done", "failed", "done"]
    assert cohort.rows[1].error
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert "JaneDoe" not in manifest
    assert str(tmp_path) not in manifest
    assert [row["case"] for row in json.loads(manifest)["scans"]] == ["0001", "0002", "0003"]
    assert (tmp_path / "out" / "0001" / "relevance.nii.gz").exists()
    assert not (tmp_path / "out" / "0002").exists()


def test_a_run_goes_on_where_it_was_interrupted(files, classifier, tmp_path):
    explainer, seen = Explainer.of(classifier), []

    def stop(n, row, found):
        seen.append((n, found is not None))
        if n == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain_many(files, explainer, tmp_path / "out", method="saliency", finished=stop)
    made = (tmp_path / "out" / "0001" / "relevance.nii.gz").stat().st_mtime_ns
    seen.clear()
    cohort = explain_many(
        files,
        explainer,
        tmp_path / "out",
        method="saliency",
        finished=lambda n, row, found: seen.append((n, found is not None)),
    )
    assert seen == [(0, False), (1, False), (2, True)]  # the first was done, the second fails again
    assert (tmp_path / "out" / "0001" / "relevance.nii.gz").stat().st_mtime_ns == made
    assert [row.status for row in cohort.rows] == ["done", "failed", "done"]


def test_other_settings_in_the_same_folder_are_refused(files, classifier, tmp_path):
    explainer = Explainer.of(classifier)
    explain_many(files[:1], explainer, tmp_path / "out", method="saliency")
    with pytest.raises(ExplainError, match="another model, method, question or way of writing"):
        explain_many(files[:1], explainer, tmp_path / "out", method="input-x-gradient")
    explain_many(files[:1], explainer, tmp_path / "out", method="input-x-gradient", overwrite=True)


def test_explain_takes_many(files, classifier, tmp_path):
    cohort = explain([files[0], files[2]], classifier, method="saliency", folder=tmp_path / "out")
    assert [row.status for row in cohort.rows] == ["done", "done"]


def test_what_is_not_of_this_run_is_not_overwritten(files, classifier, tmp_path):
    explainer = Explainer.of(classifier)
    explainer.explain(files[0], method="saliency").save(tmp_path / "out" / "0001")
    before = (tmp_path / "out" / "0001" / "relevance.nii.gz").read_bytes()
    cohort = explain_many(files[:1], explainer, tmp_path / "out", method="input-x-gradient")
    assert cohort.rows[0].status == "failed"
    assert "already" in cohort.rows[0].error
    assert (tmp_path / "out" / "0001" / "relevance.nii.gz").read_bytes() == before


def test_cancelling_ends_the_run_and_not_one_scan(files, classifier, tmp_path):
    def cancel(done, total, partial=None):
        raise Cancelled("by the test")

    with pytest.raises(Cancelled):
        explain_many(files, Explainer.of(classifier), tmp_path / "out", method="saliency", progress=cancel)
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text())["scans"]
    assert [row["status"] for row in rows] == ["waiting"] * 3


def test_settings_that_name_volumes_are_known_by_their_content_and_named_by_none(files, scan, classifier, tmp_path):
    """Another baseline is another run, wherever it lies; the same elsewhere is the same."""
    explainer, places = Explainer.of(classifier), [tmp_path / f"MuellerHans_{n}.nii.gz" for n in range(3)]
    for n, place in enumerate(places):
        write_nifti(place, scan.with_data(scan.data + (n == 2)))

    def run(place):
        method = IntegratedGradients(steps=2, tolerance=0, baseline=f"scan:{place}")
        return explain_many(files[:1], explainer, tmp_path / "out", method=method)

    assert run(places[0]).rows[0].status == "done"
    assert "MuellerHans" not in (tmp_path / "out" / "manifest.json").read_text()
    run(places[1])
    with pytest.raises(ExplainError, match="another model, method, question or way of writing"):
        run(places[2])


def test_a_run_with_another_inner_method_or_precision_is_another_run(files, classifier, tmp_path):
    def run(of, **more):
        return explain_many(
            files[:1], Explainer.of(classifier, **more), tmp_path / "out", method=SmoothGrad(of=of, samples=2)
        )

    run(GuidedBackprop())
    for other in ((Deconvnet(), {}), (GuidedBackprop(), {"autocast": torch.bfloat16})):
        with pytest.raises(ExplainError, match="another model, method, question or way of writing"):
            run(other[0], **other[1])


def test_one_scans_label_map_is_not_laid_over_others(files, scan, classifier, tmp_path):
    write_nifti(tmp_path / "organs.nii.gz", scan.with_data((scan.data > 90).astype(np.uint8)))
    for method in (
        Ablation(features=f"labels:{tmp_path / 'organs.nii.gz'}"),
        IntegratedGradients(baseline=f"complement:{tmp_path / 'organs.nii.gz'}"),
    ):
        with pytest.raises(ExplainError, match="belongs to one scan"):
            explain_many(files, Explainer.of(classifier), tmp_path / "out", method=method)
    assert not (tmp_path / "out").exists()


def test_another_identity_or_display_is_another_run(files, classifier, tmp_path):
    explainer, out = Explainer.of(classifier), tmp_path / "out"
    given = {"method": "saliency", "identity": Identity(keep=True)}
    explain_many(files[:1], explainer, out, **given)
    for change in ({"identity": None}, {"display": Display(window=(0, 1), limit=1.0, threshold=0.1)}):
        with pytest.raises(ExplainError, match="way of writing"):
            explain_many(files[:1], explainer, out, **given | change)


def test_results_stay_those_of_their_scan(files, classifier, tmp_path):
    explainer, out = Explainer.of(classifier), tmp_path / "out"
    first, last = files[0], files[2]
    explain_many([first, last], explainer, out, method="saliency")
    before = (out / "0001" / "relevance.nii.gz").read_bytes()
    for other in ([last, first], [first], [tmp_path / "nothing.nii.gz", first]):
        with pytest.raises(ExplainError, match="a run of other scans"):
            explain_many(other, explainer, out, method="saliency")
    assert (out / "0001" / "relevance.nii.gz").read_bytes() == before
    more = explain_many([first, last, files[1]], explainer, out, method="saliency")
    assert [row.status for row in more.rows] == ["done", "done", "failed"]
    explain_many([last], explainer, out, method="saliency", overwrite=True)
    assert not (out / "0002" / "relevance.nii.gz").exists()


def test_the_manifest_names_no_series(files, classifier, tmp_path):
    explainer = Explainer.of(classifier, reading=Reading(series="1.2.3.97"))
    explain_many(files[:1], explainer, tmp_path / "out", method="saliency")
    assert "1.2.3.97" not in (tmp_path / "out" / "manifest.json").read_text()


def test_a_folder_that_cannot_be_made_is_one_sentence(files, classifier, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="cannot be made"):
        explain_many(files[:1], Explainer.of(classifier), tmp_path / "file" / "out", method="saliency")


@pytest.mark.parametrize("name", [".", "a", "/"])
def test_short_names_do_not_spoil_the_sentence(name):
    said = _nameless("Folders without a scan.", name)
    assert said in ("Folders without a scan.", "Folders without the scan scan.")
