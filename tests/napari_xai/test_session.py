"""What the widget would run, and why it would not: without a window."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from methods3d import Cancelled, Occlusion, ParameterError, ShapeError
from napari_xai._estimate import predict
from napari_xai._session import Session
from napari_xai._words import about, sentence, summary, words
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from xai_io import Volume


def ready(bundle, scan, **choices):
    session = Session(channels=scan.channels, model=bundle, **choices)
    session.keep(bundle, Explainer.of(bundle, device="cpu"))
    return session


def test_what_is_missing_is_said_in_turn(classifier, scan):
    session = Session()
    assert "Open a scan first" in session.missing
    session.channels = 3
    assert session.missing == "Choose a model first."
    session.model = classifier
    assert "is not loaded" in session.missing
    session.keep(classifier, Explainer.of(classifier, device="cpu"))
    assert session.missing == ("The scan has 3 channel(s), but the model takes 1 (T1): choose another scan or model.")
    session.channels = 1
    assert session.missing is None
    session.target = session.against = 1
    assert "itself" in session.missing
    with pytest.raises(ExplainError, match="itself"):
        session.job(scan)


def test_a_classifier_is_asked_why_rather_than(classifier, scan):
    session = ready(classifier, scan, target=1, against=0, method="lrp", settings={"composite": "gamma(0.5)"})
    assert (session.classifies, session.segments) == (True, False)
    assert session.classes == {0: "no lesion", 1: "lesion"}
    explanation = session.job(scan)(lambda *_: None)
    assert explanation.question == "why 'lesion' (class 1) rather than 'no lesion' (class 0)"
    assert explanation.attribution.provenance.parameters["composite"] == "*: gamma(0.5)"


def test_a_model_that_is_loaded_again_says_nothing_of_the_one_before(classifier, scan):
    session = ready(classifier, scan)
    session.scans = ("key",)
    first = session.explainer
    session.predicted(("key",), first, predict(first, scan, lambda *_: None)[0])
    assert session.known is not None
    session.keep(classifier, Explainer.of(classifier, device="cpu"))
    assert session.known is None
    assert session.path_of(first) == session.path_of(session.explainer) == classifier


def test_a_segmenter_is_asked_about_a_region(segmenter, scan):
    session = ready(segmenter, scan, target=1, against=1, method="saliency")  # against: left by another model
    assert (session.classifies, session.segments) == (False, True)
    mask = scan.with_data((scan.data > 90).astype(np.uint8))
    job = session.job(scan, mask)
    assert job.against is None
    assert "in a region of" in job(lambda *_: None).question
    with pytest.raises(ExplainError, match="empty"):
        session.job(scan, mask.with_data(0 * mask.data))


def test_a_job_is_not_changed_by_later_choices(classifier, scan):
    session = ready(classifier, scan, method="occlusion", settings={"size": 20.0})
    job = session.job(scan)
    session.method, session.settings, session.target = "lrp", {}, 1
    assert job.method == Occlusion(size=20.0)
    assert job.target is None


def test_settings_out_of_range_are_refused(classifier, scan):
    with pytest.raises(ParameterError, match="above 0"):
        ready(classifier, scan, method="occlusion", settings={"size": -1.0}).job(scan)


def test_cancelling_keeps_nothing(classifier, scan):
    def stop(*_):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        ready(classifier, scan, method="occlusion").job(scan)(stop)


def test_classes_without_names_are_learnt_from_the_first_prediction(classifier, scan):
    session = ready(classifier, scan, method="saliency", scans=("a",))
    object.__setattr__(session.explainer.loaded, "classes", {})
    assert session.classes == {}
    known, _ = predict(session.explainer, scan, lambda *_: None)
    session.predicted(("a",), session.explainer, known)
    assert session.classes == {0: "class 0", 1: "class 1"}
    assert session.known is known
    session.forget({"b"})
    assert session.known is None


def test_why_not_is_the_margin_over_what_is_predicted(classifier, scan):
    session = ready(classifier, scan, method="input-x-gradient", why_not=True, scans=("a",))
    assert "Choose the class" in session.missing
    known, _ = predict(session.explainer, scan, lambda *_: None)
    other = 1 - known.predicted
    session.target = other
    job = session.job(scan)
    found = job(lambda *_: None)
    assert found.question.startswith(f"why not '{session.classes[other]}' (class {other}) but")
    assert float(found.attribution.scores[0]) < 0
    job.check(other ^ 1)
    with pytest.raises(ExplainError, match="is what is predicted"):
        job.check(other)
    session.target = known.predicted
    session.predicted(("a",), session.explainer, known)
    assert "is what is predicted" in session.missing


def test_results_and_models_in_words(classifier, segmenter, scan):
    text = summary(ready(classifier, scan).job(scan)(lambda *_: None))
    assert text.startswith("Why ")
    assert "Score" in text
    assert "Predicted: no lesion" in text
    assert about(Explainer.of(classifier, device="cpu").loaded) == "DenseNet, a classifier, 1 channel"
    assert "in windows of 16 × 16 × 16" in about(Explainer.of(segmenter, device="cpu").loaded)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("batch", "Batch"),
        ("sw_batch_size", "Sw batch size"),
        ("GradCAM", "Grad CAM"),
        ("LRP", "LRP"),
        ("InputXGradient", "Input x gradient"),
        ("lesion classifier", "Lesion classifier"),
    ],
)
def test_labels_read_well(name, label):
    assert words(name) == label


def test_an_error_is_one_sentence():
    assert sentence(ExplainError("Do this.")) == "Do this."
    assert sentence(KeyError("x")) == "Something went wrong that was not expected: KeyError: 'x'"
    assert "\n" not in sentence(RuntimeError("one\ntwo"))


def test_a_scan_that_is_too_small_for_the_model_is_said_without_pytorchs_words(scan):
    net = nn.Sequential(nn.Conv3d(1, 1, 3), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    with pytest.raises(ShapeError) as refused:
        predict(Explainer.of(net, device="cpu"), Volume(scan.data[:, :2, :3, :4], scan.affine), lambda *_: None)
    assert sentence(refused.value) == (
        "The model cannot run on this scan, of which it gets 1 channel(s) of 2 × 3 × 4 voxels: it is too small, or of "
        "another size or other channels than the model was made for; choose another scan or model."
    )


def test_paths_need_not_exist_until_they_are_loaded():
    assert "gone" in Session(channels=1, model=Path("/gone")).missing
