"""Runs that wait, what a run leaves on its way, and what it is asked about: without a window."""

import numpy as np
import pytest

from methods3d import RISE, meter
from napari_xai._channels import alike, channel_names, guessed, stacked
from napari_xai._choices import Scan
from napari_xai._place import ball, component
from napari_xai._queue import Queue, Run
from napari_xai._session import Session
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.layers import scan_layers
from xai_io import ScanError, Volume


def run_of(bundle, scan, *, method=None, **settings):
    session = Session(channels=scan.channels, model=bundle, method=method or "rise", settings=settings)
    explainer = Explainer.of(bundle, device="cpu")
    session.keep(bundle, explainer)
    job = None if method is None else session.job(scan)
    return Run(explainer, scan, ("a",), title="a run", known=None, job=job)


class Layer:
    """As much of a layer as is asked for."""

    def __init__(self, name, data, options):
        self.name, self.data, self.metadata = name, data, options["metadata"]


def opened(**volumes):
    found = {}
    for name, volume in volumes.items():
        layers = [Layer(name, data, options) for data, options, _ in scan_layers(volume, name)]
        key = layers[0].metadata["napari_xai"]["scan"]
        found[key] = Scan(key, tuple(layers))
    return found


def test_what_waits_comes_in_order_and_can_be_dropped():
    queue, heard = Queue(), []
    queue.changed.connect(lambda: heard.append(len(queue)))
    for run in "abcd":
        queue.append(run)
    assert queue.take() == "a"
    queue.remove("c")
    queue.remove("c")
    assert list(queue) == ["b", "d"]
    queue.clear()
    queue.clear()
    assert queue.take() is None
    assert heard == [1, 2, 3, 4, 3, 2, 0]


def test_a_run_predicts_first_and_shows_maps_so_far(classifier, scan, monkeypatch):
    monkeypatch.setattr(meter, "PARTIAL_EVERY", 0.0)
    run = run_of(classifier, scan, method="rise", samples=12)
    seen = []

    def hear(done, total):
        assert run.known is not None or run.prediction is None
        if run.so_far is not None and (not seen or seen[-1] is not run.so_far):
            seen.append(run.so_far)

    job, explanation, layers = run(hear)
    assert isinstance(job.method, RISE)
    assert run.prediction.classes == explanation.prediction.classes
    assert len(seen) > 2
    data, options, kind = seen[-1]
    assert kind == "image"
    final = layers[-1]
    assert data.shape == final[0].shape
    assert np.allclose(options["affine"], final[1]["affine"])
    # The last one was made of nearly all masks.
    assert np.corrcoef(data.ravel(), final[0].ravel())[0, 1] > 0.8


def test_a_run_without_a_job_is_the_prediction_alone(segmenter, scan):
    run = run_of(segmenter, scan)
    assert run(lambda *_: None) is None
    assert run.prediction.labels.shape == scan.shape
    assert run.known.segments


def test_a_component_is_what_is_connected_under_the_cursor():
    labels = np.zeros((8, 8, 8), np.int16)
    labels[1:3, 1:3, 1:3] = 2
    labels[3, 3, 3] = 2  # by a corner
    labels[6, 6, 6] = 2
    labels[3, 3, 4] = 1
    label, mask = component(labels, (1, 1, 1))
    assert label == 2
    assert mask.sum() == 9
    for nothing in ((0, 0, 0), (9, 0, 0), (-1, 0, 0)):
        with pytest.raises(ExplainError, match="Nothing is predicted there"):
            component(labels, nothing)


def test_a_ball_is_round_in_mm():
    spacing = (3.0, 1.0, 1.5)
    mask = ball((20, 40, 40), spacing, (10, 20, 20), 12)
    places = (np.argwhere(mask) - (10, 20, 20)) * spacing
    assert np.linalg.norm(places, axis=1).max() <= 6
    assert mask.sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.1)
    assert ball((4, 4, 4), (5, 5, 5), (0, 3, 0), 1).sum() == 1
    with pytest.raises(ExplainError, match="outside"):
        ball((4, 4, 4), (5, 5, 5), (0, 4, 0), 1)


def test_scans_become_channels_by_name_or_by_choice(scan):
    other = scan.with_data(scan.data + 1)
    moved = Volume(scan.data, scan.affine + np.diag([0, 0, 0.5, 0]))
    two = scan.with_data(np.concatenate([scan.data, scan.data]))
    scans = opened(**{"patient T1": scan, "patient FLAIR": other, "moved T2": moved, "two": two})
    first = next(iter(scans.values()))
    near = alike(scans, first)
    assert [one.name for one in near.values()] == ["patient T1", "patient FLAIR"]
    names = ("FLAIR", "T1", "T2")
    found = guessed(names, near)
    assert {name: scans[key].name for name, key in found.items()} == {"FLAIR": "patient FLAIR", "T1": "patient T1"}
    names = names[:2]
    assert np.array_equal(stacked(found, scans, names).data, np.concatenate([other.data, scan.data]))
    turned = dict(zip(names, reversed(found.values()), strict=True))  # a user knows better
    assert np.array_equal(stacked(turned, scans, names).data, np.concatenate([scan.data, other.data]))
    assert guessed(names, dict.fromkeys("ab", first)) == {}  # two scans could be T1
    both = next(key for key, one in scans.items() if one.name == "two")
    with pytest.raises(ScanError, match="single channel"):
        stacked({"FLAIR": found["FLAIR"], "T1": both}, scans, names)


def test_channels_without_names_go_by_number(classifier):
    loaded = Explainer.of(classifier, device="cpu").loaded
    assert channel_names(loaded) == ("T1",)
    object.__setattr__(loaded, "channel_names", ())
    object.__setattr__(loaded, "in_channels", 3)
    assert channel_names(loaded) == ("0000", "0001", "0002")
