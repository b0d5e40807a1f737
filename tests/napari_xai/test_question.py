"""Questions in words become the right target, or a sentence that helps."""

import pytest
import torch

from methods3d import ClassScore, TargetError
from napari_xai.question import Question, predicted_labels, probabilities

NAMES = {0: "healthy", 1: "Tumour", 2: "stroke"}
LOGITS = torch.tensor([[1.0, 5.0, 3.0]])


@pytest.mark.parametrize("wish", [1, "1", "Tumour", "tumour", None])
def test_a_class_is_found_by_number_name_or_prediction(wish):
    answer = Question(target=wish, classes=NAMES).on(LOGITS)
    assert answer.target(LOGITS).item() == 2.0  # the margin over the runner-up
    assert answer.words == "why 'Tumour' (class 1) rather than 'stroke' (class 2)"


def test_why_rather_than():
    answer = Question(target="stroke", against="healthy", classes=NAMES).on(LOGITS)
    assert answer.target(LOGITS).item() == 2.0
    assert "rather than 'healthy'" in answer.words


def test_one_logit_has_two_classes():
    output = torch.tensor([[-2.0]])
    answer = Question(classes={0: "benign", 1: "malignant"}).on(output)
    assert answer.words == "why 'benign' (class 0)"
    assert answer.target(output).item() == 2.0
    assert Question(target=1).on(output).target(output).item() == -2.0


def test_a_target_of_the_library_is_taken_as_it_is():
    assert Question(target=ClassScore(2)).on(LOGITS).target(LOGITS).item() == 3.0


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (Question(target="glioma", classes=NAMES), r"no class 'glioma': this model has 0 \(healthy\), 1 \(Tumour\)"),
        (Question(target=7, classes=NAMES), "Class 7 does not exist: the model has 3 classes; choose 0 to 2"),
        (Question(target=1, against=1), "class 1 was given twice"),
        (Question(region=torch.ones(2, 2, 2, dtype=torch.bool)), "this model is a classifier"),
    ],
)
def test_a_classifier_refuses_in_one_sentence(question, sentence):
    with pytest.raises(TargetError, match=sentence):
        question.on(LOGITS)


@pytest.fixture
def segmentation():
    """Background everywhere but 8 voxels of class 1 and 27 of class 2."""
    output = torch.zeros(1, 3, 6, 6, 6)
    output[:, 0] = 1
    output[:, 1, :2, :2, :2] = 4
    output[:, 2, 3:, 3:, 3:] = 6
    return output


def test_the_largest_class_but_background_is_asked_about(segmentation):
    answer = Question(classes=NAMES).on(segmentation)
    assert answer.words == "why 'stroke' (class 2) in the 27 voxels predicted as it"
    assert answer.target(segmentation).item() == pytest.approx(6)


def test_a_region_of_the_users_own(segmentation):
    region = torch.zeros(6, 6, 6, dtype=torch.bool)
    region[:2, :2, :4] = True  # half of it class 1
    answer = Question(target=1, region=region).on(segmentation)
    assert answer.target(segmentation).item() == pytest.approx(2)
    assert "region of 16 voxels" in answer.words
    assert "class 1" in Question(region=region).on(segmentation).words


def test_overlapping_classes_by_threshold(segmentation):
    output = torch.full((1, 2, 4, 4, 4), -3.0)
    output[0, 0, :2] = 2
    output[0, 1, :3] = 1
    assert Question(threshold=0.5).on(output).words == "why class 1 in the 48 voxels predicted as it"
    members = predicted_labels(output, 0.5)
    assert members[0, :, 0, 0, 0].tolist() == [True, True]
    assert predicted_labels(output, 0.8)[0, 1].sum() == 0  # sigmoid(1) = 0.73


def test_nothing_predicted_is_said(segmentation):
    segmentation[:, 0] = 9
    with pytest.raises(TargetError, match="nothing but background"):
        Question().on(segmentation)
    with pytest.raises(TargetError, match="Class 1 is predicted in no voxel"):
        Question(target=1).on(segmentation)


def test_a_segmentation_has_no_against(segmentation):
    with pytest.raises(TargetError, match="this model segments"):
        Question(target=1, against=2).on(segmentation)


def test_probabilities_sum_to_one_unless_classes_overlap():
    assert probabilities(LOGITS, None).sum().item() == pytest.approx(1)
    assert probabilities(LOGITS, "sigmoid").sum().item() == pytest.approx(torch.sigmoid(LOGITS).sum().item())
    assert probabilities(torch.tensor([[0.0]]), "sigmoid").tolist() == [[0.5, 0.5]]
