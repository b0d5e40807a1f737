"""A run that was interrupted and is taken up again ends with the map of one that was not, and asks nothing twice."""

import pytest
import torch

from methods3d import Cancelled, ClassScore, ModelInfo, PredictedRegion, RegionScore, TorchModel, WindowedModel
from methods3d.checkpoint import Answers, remembering

PERTURBING = ("occlusion", "ablation", "rise", "lime", "kernel-shap", "shapley-sampling", "sobol", "hsic")
INFO = ModelInfo(spacing=(1.0, 1.0, 1.0), air=-9.0)


@pytest.mark.parametrize("windows", [None, 12])
@pytest.mark.parametrize("name", [*PERTURBING, "score-cam", "extremal-perturbation"])
def test_taken_up_again_it_ends_with_the_same_map(make, volume, smallest, counted, name, windows):
    net, x, target = make("unet", 2), volume(1, 2, 16, 16, 16), PredictedRegion(1)
    more = {"samples": 9} if name in ("rise", "lime", "kernel-shap", "hsic") else {}
    dense = TorchModel(net, info=INFO)
    model = dense if windows is None else WindowedModel(dense, windows)
    whole, straight = Answers(), smallest(name, **more)(model, x, target)
    smallest(name, **more)(remembering(model, whole), x, target)
    count = len(whole.given)
    assert count > 2

    def stop(done, total, partial=None):
        if len(answers.given) >= count // 2:
            raise Cancelled("the power went off")

    answers = Answers()
    with pytest.raises(Cancelled):
        smallest(name, **more)(remembering(model, answers), x, target, progress=stop)
    assert count // 2 <= len(answers.given) < count
    with counted(net) as again:
        found = smallest(name, **more)(remembering(model, answers), x, target)
    with counted(net) as once:
        smallest(name, **more)(model, x, target)
    # Batches begin elsewhere, and convolutions of other batch sizes sum in another order.
    torch.testing.assert_close(found.values, straight.values, rtol=1e-8, atol=1e-10)
    assert len(answers.given) == count
    assert again.samples < once.samples

    with counted(net) as nothing:
        smallest(name, **more)(remembering(model, answers), x, target)
    assert nothing.samples < again.samples
    assert len(answers.given) == count


def test_what_is_kept_is_small(make, volume, smallest):
    answers = Answers()
    model = remembering(TorchModel(make("plain"), info=INFO), answers)
    smallest("extremal-perturbation")(model, volume(1, 1, 16, 16, 16), ClassScore(1))
    smallest("occlusion")(model, volume(1, 1, 16, 16, 16), ClassScore(1))
    assert max(kept.numel() for kept in answers.given) < 200


def test_other_questions_go_to_the_model(make, volume, region, smallest):
    net, x = make("unet"), volume(1, 1, 16, 16, 16)
    target = RegionScore(1, region((16, 16, 16), (2, 9), (2, 9), (2, 9)))
    model = TorchModel(net, info=INFO)
    found = smallest("saliency")(remembering(model, Answers()), x, target)
    assert torch.equal(found.values, smallest("saliency")(model, x, target).values)
