"""Deletion and insertion curves: written out, over windows, and told apart from random maps'."""

import pytest
import torch
from torch import nn

from methods3d import ClassScore, InputXGradient, ModelInfo, ParameterError, RegionScore, TorchModel, WindowedModel
from methods3d.control import RandomMap
from methods3d.faithfulness import faithfulness

INFO = ModelInfo(spacing=(1.0, 1.0, 1.0), air=0.0)


class Planted(nn.Module):
    """The sum of a box of the scan."""

    def __init__(self):
        super().__init__()
        weight = torch.zeros(1, 12, 12, 12, dtype=torch.float64)
        weight[:, 2:6, 2:6, 2:6] = 1
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        total = (x * self.weight).flatten(1).sum(1, keepdim=True)
        return torch.cat([-total, total], 1)


def test_the_true_map_is_best_and_its_opposite_worst():
    model, x = TorchModel(Planted(), info=INFO), torch.rand(1, 1, 12, 12, 12, dtype=torch.float64) + 0.5
    truth = model.network.weight.detach()[None] * x
    best, random, worst = (
        faithfulness(model, x, ClassScore(1), values, blank=0.0) for values in (truth, torch.rand_like(x), -truth)
    )
    share = 64 / 12**3  # of the voxels that the score reads
    assert best.deletion.area < share < random.deletion.area < worst.deletion.area
    assert best.insertion.area > 1 - share > random.insertion.area > worst.insertion.area
    for curve in best.random_deletion:
        assert best.deletion.area < curve.area < 1
    assert best.deletion.scores[0] == best.insertion.scores[-1] == 1
    assert best.deletion.scores[-1] == best.insertion.scores[0] == 0
    assert list(best.deletion.shares) == sorted(best.deletion.shares)


@pytest.mark.parametrize("windows", [None, 12])
def test_curves_written_out(make, volume, region, windows):
    net, x = make("unet", 2), volume(1, 2, 16, 16, 16)
    target = RegionScore(1, region((16, 16, 16), (2, 9), (4, 12), (0, 16)))
    model = TorchModel(net, info=INFO)
    model = model if windows is None else WindowedModel(model, windows)
    values = InputXGradient()(model, x, target).values
    found = faithfulness(model, x, target, values, blank=0.3, points=5, controls=2, seed=7)
    random = [RandomMap(seed=7 + n).control(x[:, :1], (1.0, 1.0, 1.0)) for n in range(2)]
    curves = zip((found.deletion, *found.random_deletion), (found.insertion, *found.random_insertion), strict=True)
    empty = torch.full_like(x, 0.3)
    top, bottom = (float(model.scores(v, target)) for v in (x, empty))
    for one, (deletion, insertion) in zip((values.sum(1), *random), curves, strict=True):
        order = one.flatten().argsort(descending=True)
        for share, deleted, inserted in zip(deletion.shares, deletion.scores, insertion.scores, strict=True):
            first = torch.zeros(16**3, dtype=torch.bool)
            first[order[: int(share * 16**3 + 1e-9)]] = True
            first = first.view(16, 16, 16)
            for score, volume_left in (
                (deleted, torch.where(first, empty, x)),
                (inserted, torch.where(first, x, empty)),
            ):
                slow = (float(model.scores(volume_left, target)) - bottom) / (top - bottom)
                assert score == pytest.approx(slow, abs=1e-5)


def test_air_does_not_count(make, volume):
    net, x = make("plain"), volume(1, 1, 16, 16, 16)
    x[..., :8] = 0.0
    values = torch.rand_like(x)
    values[..., :8] = 9.0  # ranked first, but there is nothing to take away
    found = faithfulness(TorchModel(net, info=INFO), x, ClassScore(1), values, blank=0.0, controls=0)
    other = faithfulness(TorchModel(net, info=INFO), x, ClassScore(1), values * (x != 0), blank=0.0, controls=0)
    assert found.deletion == other.deletion
    assert found.random_deletion == ()


def test_progress_ends_where_it_said(make, volume):
    heard = []
    x = volume(1, 1, 16, 16, 16)
    faithfulness(
        TorchModel(make("plain"), info=INFO), x, ClassScore(1), x, blank=0.0, points=4,
        progress=lambda done, total, partial=None: heard.append((done, total)),
    )  # fmt: skip
    assert heard[-1] == (24, 24)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": torch.rand(1, 1, 8, 8, 8)}, "of one sample and its map on the same grid"),
        ({"points": 1}, "2 points or more"),
        ({"blank": "inpaint"}, "nothing surrounds a whole scan"),
        ({"blank": torch.rand(1, 8, 8, 8)}, "on the same grid"),
        ({"blank": "itself"}, "the same score, so that there is nothing to lose"),
    ],
)
def test_what_cannot_be_measured(make, volume, change, said):
    x = volume(1, 1, 16, 16, 16)
    if change.get("blank") == "itself":
        change = {"blank": x[0].clone()}
    asked = {"values": x, "blank": 0.0} | change
    with pytest.raises(ParameterError, match=said):
        faithfulness(TorchModel(make("plain"), info=INFO), x, ClassScore(1), asked.pop("values"), **asked)
