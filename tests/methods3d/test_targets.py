"""What a target asks, decided once, and what it refuses."""

import pytest
import torch

from methods3d import (
    ClassMargin,
    ClassScore,
    PredictedRegion,
    RegionScore,
    Regression,
    Saliency,
    TargetError,
    TorchModel,
)

VECTOR = torch.tensor([[0.1, 2.0, -1.0], [3.0, -2.0, 1.0]], dtype=torch.float64)
ONE_LOGIT = torch.tensor([[0.7], [-0.4]], dtype=torch.float64)


@pytest.fixture
def spatial(volume):
    return volume(2, 3, 4, 5, 6)


def test_class_score():
    assert ClassScore(2)(VECTOR).tolist() == [-1.0, 1.0]
    assert ClassScore().bind(VECTOR)(VECTOR).tolist() == [2.0, 3.0]  # sample by sample
    assert ClassScore()(VECTOR).tolist() == [2.0, 3.0]
    assert ClassScore().bind(VECTOR)(-VECTOR).tolist() == [-2.0, -3.0]  # decided once


def test_one_logit_stands_for_two_classes():
    assert ClassScore(1)(ONE_LOGIT).tolist() == [0.7, -0.4]
    assert ClassScore(0)(ONE_LOGIT).tolist() == [-0.7, 0.4]
    assert ClassScore().bind(ONE_LOGIT)(ONE_LOGIT).tolist() == [0.7, 0.4]
    assert ClassMargin(1).bind(ONE_LOGIT)(ONE_LOGIT).tolist() == pytest.approx([1.4, -0.8])
    spatial = torch.full((1, 1, 2, 2, 2), -3.0)
    spatial[..., 0] = 5.0
    assert PredictedRegion(1).bind(spatial)(spatial).item() == 5.0
    assert PredictedRegion(0).bind(spatial)(spatial).item() == 3.0


def test_class_margin():
    assert ClassMargin(0, 1)(VECTOR).tolist() == pytest.approx([-1.9, 5.0])
    assert ClassMargin().bind(VECTOR)(VECTOR).tolist() == pytest.approx([1.9, 2.0])  # above each runner-up
    assert ClassMargin(2).bind(VECTOR)(VECTOR).tolist() == pytest.approx([-3.0, -2.0])  # below the best other
    assert ClassMargin(against=0).bind(VECTOR)(VECTOR).tolist() == pytest.approx([1.9, -2.0])  # the best other one


def test_region_score_is_the_mean_logit(spatial, region):
    mask = region((4, 5, 6), (1, 3), (0, 2), (2, 6))
    expected = spatial[:, 2, 1:3, 0:2, 2:6].mean((1, 2, 3))
    for given in (mask, mask.int() * 7, mask.double()):
        torch.testing.assert_close(RegionScore(2, given).bind(spatial)(spatial), expected)
        torch.testing.assert_close(RegionScore(2, given)(spatial), expected)
        assert torch.equal(RegionScore(2, given).support((4, 5, 6)), mask)
    other = region((4, 5, 6), (0, 1), (0, 1), (0, 1))
    both = RegionScore(2, torch.stack([mask, other])).bind(spatial)
    torch.testing.assert_close(both(spatial), torch.stack([expected[0], spatial[1, 2, 0, 0, 0]]))
    assert torch.equal(both.support((4, 5, 6)), mask | other)
    for n, one in enumerate((mask, other)):
        assert torch.equal(both.sample(n, 2).support((4, 5, 6)), one)


def test_predicted_region_is_bound_once(spatial):
    bound = PredictedRegion(1).bind(spatial)
    for n in range(2):
        chosen = spatial[n].argmax(0) == 1
        torch.testing.assert_close(bound(spatial)[n], spatial[n, 1][chosen].mean())
        torch.testing.assert_close(bound(-spatial)[n], -spatial[n, 1][chosen].mean())
    torch.testing.assert_close(PredictedRegion(1)(spatial), bound(spatial))


def test_predicted_region_by_threshold_lets_classes_overlap(spatial):
    for k in range(3):
        bound = PredictedRegion(k, by=0.4).bind(spatial)
        chosen = torch.sigmoid(spatial[0, k]) > 0.4
        torch.testing.assert_close(bound(spatial)[0], spatial[0, k][chosen].mean())


def test_regression_is_measured_from_a_reference():
    assert Regression(2, reference=0.5).bind(VECTOR)(VECTOR).tolist() == [-1.5, 0.5]
    assert Regression(0)(ONE_LOGIT).tolist() == [0.7, -0.4]  # a value, not a class: no sign, no second channel


@pytest.mark.parametrize(
    "target", [ClassScore(1), ClassScore(), ClassMargin(1), ClassMargin(0, 2), ClassMargin(against=1)], ids=repr
)
def test_what_says_that_it_is_linear_is(target):
    bound = target.bind(VECTOR)
    torch.testing.assert_close(bound(3 * VECTOR), 3 * bound(VECTOR))
    for n in range(2):
        torch.testing.assert_close(
            bound.sample(n, 2).bind(VECTOR[n : n + 1])(VECTOR[n : n + 1]), bound(VECTOR)[n : n + 1]
        )


# --- bad input: the sentence says what was given, what is allowed, and what to do ---


@pytest.mark.parametrize(
    ("target", "output", "said"),
    [
        (ClassScore(3), VECTOR, "Class 3 does not exist: the model has 3 classes; choose 0 to 2."),
        (ClassScore(-1), VECTOR, "Class -1 does not exist: the model has 3 classes; choose 0 to 2."),
        (ClassScore(2), ONE_LOGIT, "Class 2 does not exist: the model has 2 classes; choose 0 to 1."),
        (ClassMargin(0, 5), VECTOR, "Class 5 does not exist"),
        (ClassMargin(1, 1), VECTOR, "A margin needs two classes, but class 1 was given twice."),
        (ClassScore(0), "spatial", r"use PredictedRegion\(k\)"),
        (ClassMargin(0), "spatial", r"use PredictedRegion\(k\)"),
        (Regression(0), "spatial", r"use PredictedRegion\(k\)"),
        (Regression(4), VECTOR, "Value 4 does not exist: the model regresses 3; choose 0 to 2."),
        (Regression(1), ONE_LOGIT, "Value 1 does not exist: the model regresses 1; choose 0."),
        (PredictedRegion(0), VECTOR, r"use ClassScore\(k\)"),
        (RegionScore(0, torch.ones(4, 5, 6)), VECTOR, r"use ClassScore\(k\)"),
        (PredictedRegion(3), "spatial", "Class 3 does not exist"),
        (PredictedRegion(1, by=0.999999), "spatial", "Class 1 is predicted in no voxel, .*RegionScore"),
        (PredictedRegion(1, by=1.5), "spatial", r"a probability in \[0, 1\), not by 1.5"),
        (PredictedRegion(1, by="softmax"), "spatial", "not by 'softmax'"),
        (RegionScore(0, torch.ones(4, 5, 5)), "spatial", r"\(4, 5, 5\), but the model's grid is \(4, 5, 6\)"),
        (RegionScore(0, torch.ones(5, 6)), "spatial", r"give a mask \(i, j, k\) on the same grid"),
        (RegionScore(0, torch.zeros(4, 5, 6)), "spatial", "The region is empty"),
        (RegionScore(0, torch.ones(3, 4, 5, 6)), "spatial", r"There are 3 regions for 2 sample\(s\)"),
    ],
)  # fmt: skip
def test_what_a_target_refuses(spatial, target, output, said):
    with pytest.raises(TargetError, match=said) as caught:
        target.bind(spatial if isinstance(output, str) else output)
    assert str(caught.value).endswith(".")


def test_a_target_that_depends_on_nothing_is_refused(make, volume, targets):
    class Deaf(targets.Weighted):
        def __call__(self, output):
            return torch.zeros(len(output))

    with pytest.raises(TargetError, match="Deaf does not depend differentiably on the model's output"):
        Saliency()(TorchModel(make("plain")), volume(1, 1, 16, 16, 16), Deaf(torch.ones(1)))
