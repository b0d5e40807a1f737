"""What is copied repeats the run: bit for bit, as Python and as a command line."""

import shlex
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import methods3d
from methods3d.references import resolved
from napari_xai._script import recipe
from napari_xai._session import Job, Session
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.reading import Reading
from xai_io import Choices, Volume, WindowSettings, read_volume, write_nifti


def job(path, scan, method, **question):
    asked = {"target": None, "against": None, "region": None} | question
    return Job(explainer=Explainer.of(path, device="cpu"), scan=scan, method=method, **asked)


def mask(scan):
    return scan.with_data((scan.data > 90).astype(np.uint8))


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Run words in another process."""

    def run(*words):
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path_factory.mktemp("cwd"), check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    return run


def same(recipe_folder, found):
    there = read_volume(recipe_folder / "relevance.nii.gz")
    return np.array_equal(there.data, found.relevance.data) and np.any(there.data)


def test_a_classifier_is_asked_again(again, classifier, scan_file, tmp_path):
    scan = read_volume(scan_file)
    method = methods3d.SmoothGrad(samples=2, of=methods3d.IntegratedGradients(steps=3, tolerance=0.5, baseline="air"))
    one = job(classifier, scan, method, target=1, against=0)
    found = one(methods3d.silent)
    by_python = recipe(one, classifier, tmp_path / "a")
    assert not by_python.volumes
    again(sys.executable, "-c", by_python.python)
    assert same(tmp_path / "a", found)
    words = shlex.split(recipe(one, classifier, tmp_path / "b").shell)
    assert words[0] == "napari-xai"
    again(sys.executable, "-m", "napari_xai", *words[1:])
    assert same(tmp_path / "b", found)


def test_a_painted_region_and_a_painted_baseline_are_files(again, segmenter, scan_file, tmp_path):
    scan = read_volume(scan_file)
    wished = methods3d.IntegratedGradients(steps=3, tolerance=0.5, baseline="inpaint:organs")
    method = resolved(wished, lambda reference: methods3d.Reference(mask(scan), reference.kind))
    one = job(segmenter, scan, method, target=1, region=mask(scan))
    found = one(methods3d.silent)
    for name in ("a", "b"):
        made = recipe(one, segmenter, tmp_path / name)
        assert sorted(path.name[:-16] for path in made.volumes) == ["mask", "region"]
        other = recipe(replace(one, region=mask(scan).with_data(1 - mask(scan).data)), segmenter, tmp_path / name)
        assert len({*made.volumes} | {*other.volumes}) == 3  # scripts that were copied before keep their own region
        (tmp_path / name).mkdir()
        for path, volume in made.volumes.items():
            write_nifti(path, volume)
        words = [*shlex.split(made.shell)[1:]]
        again(*([sys.executable, "-c", made.python] if name == "a" else [sys.executable, "-m", "napari_xai", *words]))
        assert same(tmp_path / name, found)


def test_what_was_answered_when_the_scan_was_read_is_said(classifier, scan_file, tmp_path):
    one = job(classifier, read_volume(scan_file), methods3d.Saliency(absolute=False))
    one = replace(one, reading=Reading(series=2, choices=Choices(on_gap="fill", frame=3)))
    made = recipe(one, classifier, tmp_path)
    assert "reading=Reading(series=2, choices=Choices(on_gap='fill', frame=3))," in made.python
    assert "--series 2 --on-gap fill --frame 3" in made.shell
    assert "--no-absolute" in made.shell
    compile(made.python, "script", "exec")


def test_a_baseline_that_was_read_otherwise_than_the_scan_is_a_file(classifier, scan_file, tmp_path):
    """One reading counts for all scans of a run: another series of the scan's folder would become the scan itself."""
    scan, other = read_volume(scan_file), read_volume(scan_file)
    session = Session(channels=1, model=classifier, method="integrated-gradients", settings={"baseline": "scan:other"})
    session.keep(classifier, Explainer.of(classifier, device="cpu"))
    second = Reading(series=2)

    def made(reading, of_other):
        one = session.job(scan, None, {"other": lambda: other}, reading=reading, readings={"other": of_other})
        return recipe(one, classifier, tmp_path)

    for reading, of_other in ((second, Reading()), (second, Reading(series=1)), (Reading(), second)):
        by_file = made(reading, of_other)
        ((copied, volume),) = by_file.volumes.items()
        assert (copied.name[:5], volume) == ("scan_", other)
        assert f"baseline='scan:{copied}'" in by_file.python
        assert f"--baseline scan:{copied}" in by_file.shell
        assert ("--series 2" in by_file.shell) == (reading == second)
    alike = made(second, second)
    assert not alike.volumes
    assert f"scan:{scan_file}" in alike.python


def test_a_scan_that_is_copied_into_a_file_is_read_as_that_file(classifier, scan, tmp_path):
    one = replace(job(classifier, scan, methods3d.LRP()), reading=Reading(series=2))
    assert "--series" not in recipe(one, classifier, tmp_path).shell


def test_windows_of_ones_own_are_said_or_the_command_line_is_refused(segmenter, scan_file, tmp_path):
    one = job(segmenter, read_volume(scan_file), methods3d.Saliency())
    own = replace(one.explainer.loaded.windows, roi_size=(24, 24, 16), overlap=0.5)
    made = recipe(replace(one, explainer=replace(one.explainer, windows=own)), segmenter, tmp_path)
    assert "--window 24,24,16 --overlap 0.5" in made.shell
    assert "windows=WindowSettings(roi_size=(24, 24, 16)" in made.python
    assert "from xai_io import WindowSettings" in made.python
    odd = WindowSettings(roi_size=16, mode="constant", cval=3.0)
    made = recipe(replace(one, explainer=replace(one.explainer, windows=odd)), segmenter, tmp_path)
    with pytest.raises(ExplainError, match="copy the run as Python"):
        _ = made.shell


def test_a_scan_that_stands_in_no_file_is_one_of_the_volumes(classifier, scan, tmp_path):
    made = recipe(job(classifier, scan, methods3d.LRP()), classifier, tmp_path)
    ((path, volume),) = made.volumes.items()
    assert isinstance(volume, Volume)
    assert f"{str(path)!r}" in made.python
