"""A map shows what the model has learnt: with the weights drawn anew, it is another map (Adebayo et al. 2018)."""

import copy

import numpy as np
import pytest
import torch
from randomisation import STAGES, Question, randomised, spearman

from methods3d import LRP, Saliency


@pytest.mark.parametrize(("bundle", "most"), [("lesion_classifier", 0.25), ("lesion_segmenter", 0.6)])
def test_a_map_changes_when_everything_learnt_is_lost(bundle, most):
    """Over six seeds magnitudes correlate by 0.16 and 0.52 at most; flat rules, which show the scan, by up to 0.85."""
    question, methods = Question(bundle), {"saliency": Saliency(), "gamma": LRP()}
    net = question.explainer.network
    trained = question.maps(net, methods)
    *_, lost = randomised(copy.deepcopy(net), STAGES[bundle], seed=0)
    drawn = dict(lost.named_parameters())
    assert not [name for name, learnt in net.named_parameters() if torch.equal(drawn[name], learnt)]
    for name, found in question.maps(lost, methods).items():
        agreement = question.agreement(trained[name], found)
        assert max(agreement.signed, agreement.magnitude) < most


def test_equal_values_share_their_rank():
    a, b = np.array([3.0, 1, 1, 2, 5, 5]), np.array([2.0, 1, 3, 3, 7, 0])
    scipy = pytest.importorskip("scipy.stats")
    assert spearman(a, b) == pytest.approx(scipy.spearmanr(a, b).statistic)
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, np.ones(6)) == 0
