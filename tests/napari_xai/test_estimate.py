"""What a run will take, as it is said before: passes, seconds, memory; and what to do when memory ran out."""

import pytest
import torch

from methods3d import methods
from methods3d.memory import PeakBytes
from napari_xai._estimate import Estimate, Known, Remaining, advised, predict
from napari_xai._presets import PRESETS, effort_of, efforts, preset
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer


def known_of(bundle, scan):
    explainer = Explainer.of(bundle, device="cpu")
    return explainer, *predict(explainer, scan, lambda *_: None)


def test_a_prediction_tells_what_the_model_says_and_takes(classifier, segmenter, scan):
    explainer, known, found = known_of(classifier, scan)
    assert known.classes == explainer.explain(scan, method="saliency").prediction.classes
    assert known.predicted == max(range(2), key=list(known.classes.values()).__getitem__)
    assert not known.segments
    assert found.labels is None
    assert known.seconds > 0
    assert 0 < known.forward <= known.graph
    explainer, known, found = known_of(segmenter, scan)
    assert known.segments
    assert known.predicted is None
    assert found.labels.shape == scan.shape
    assert known.seconds > 0


@pytest.mark.parametrize("name", ["saliency", "lrp", "integrated-gradients", "rise", "occlusion"])
@pytest.mark.parametrize("model", ["classifier", "segmenter"])
def test_memory_is_told_within_a_factor(name, model, scan, request):
    explainer, known, _ = known_of(request.getfixturevalue(model), scan)
    method = methods()[name](**preset(name, "Fast look"))
    with PeakBytes() as peak:
        explainer.explain(scan, method=method)
    assert 1 / 3 < known.estimate(method).bytes / peak.bytes < 3


def test_what_cannot_be_known_is_not_told(classifier, scan):
    _, known, _ = known_of(classifier, scan)

    class Silent:
        def cost(self, model, shape):
            raise ValueError

    assert known.estimate(Silent()) is None


def test_an_estimate_in_words():
    assert str(Estimate(10, 41.2, 1_230_000_000)) == "About 40 s, 1.2 GB"
    assert str(Estimate(1, 0.01, 900)) == "About 1 s, 1 MB"
    assert str(Estimate(1, 250, 35_200_000)) == "About 4 min, 35 MB"
    assert str(Estimate(1, 2.04 * 3600, 35_200_000)) == "About 2.0 h, 35 MB"


def test_the_time_left_follows_the_part_that_is_going_on():
    left = Remaining()
    assert left.heard(0, 10, 0.0) is None
    assert left.heard(1, 10, 0.5) is None  # too early to say
    assert left.heard(2, 10, 2.0) == pytest.approx(8.0)
    assert left.heard(1, 100, 3.0) is None  # the next part has begun
    assert left.heard(11, 100, 13.0) == pytest.approx(89.0)


def test_memory_that_ran_out_says_what_to_change(classifier, scan):
    explainer, _, _ = known_of(classifier, scan)
    method = methods()["saliency"]()
    found = advised(torch.OutOfMemoryError("CUDA out of memory"), method, explainer)
    assert isinstance(found, ExplainError)
    assert "The computer ran out of memory" in str(found)
    assert "occlusion or RISE" in str(found)
    wrapped = ExplainError("The device ran out of memory.")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert "crop the scan" in str(advised(wrapped, None, explainer))
    other = KeyError("x")
    assert advised(other, method, explainer) is other


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_fast_look_is_less_work_and_thorough_is_more(name, classifier, scan):
    known = _shared(classifier, scan)
    kind = methods()[name]
    assert set().union(*PRESETS[name]) <= set(preset(name, "Usual"))
    passes = [known.estimate(kind(**preset(name, effort))).passes for effort in efforts(name)]
    assert passes == sorted(set(passes)), passes
    assert len(passes) >= 2
    assert kind(**preset(name, "Usual")) == kind()
    for effort in efforts(name):
        assert effort_of(name, preset(name, effort)) == effort


def test_settings_of_ones_own_are_no_effort():
    assert effort_of("rise", preset("rise", "Usual") | {"samples": 7}) is None
    assert efforts("lrp") == ("Usual",)


def _shared(classifier, scan, kept=[]) -> Known:  # noqa: B006 - one prediction serves all
    if not kept:
        kept.append(known_of(classifier, scan)[1])
    return kept[0]
