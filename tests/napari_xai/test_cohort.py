"""Many scans: one manifest, nothing done twice, one failure costs one scan, no names."""

import json

import numpy as np
import pytest

from methods3d import Cancelled
from napari_xai import Explainer, explain
from napari_xai.cohort import explain_many
from napari_xai.errors import ExplainError
from xai_io import Volume, write_nifti


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
    with pytest.raises(ExplainError, match="another model, method or question"):
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
