"""Whether a map points at what the score hangs on: deletion and insertion curves, beside those of random maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods3d.baselines import BaselineLike, baseline
from methods3d.control import RandomMap
from methods3d.errors import ParameterError
from methods3d.layers import LayerUnit
from methods3d.meter import Meter
from methods3d.types import Box, Edit, Explainable, Progress, Target, Volume5d, silent

__all__ = ["Curve", "Faithfulness", "faithfulness"]

FINEST = 1e-3  # the first share of voxels that is taken


@dataclass(frozen=True)
class Curve:
    """The score while voxels are taken away, or put back, those first that a map ranks highest.

    Attributes
    ----------
    shares : of the voxels that differ from the baseline, from 0 to 1.
    scores : as shares of the way from the baseline's score (0) to the scan's (1).
    """

    shares: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def area(self) -> float:
        """Under the curve, over the share of voxels."""
        return float(torch.trapezoid(torch.tensor(self.scores), torch.tensor(self.shares)))


@dataclass(frozen=True)
class Faithfulness:
    """Curves of a map and of random maps.

    Attributes
    ----------
    deletion, insertion : of the map: the lower the area under deletion the better, the higher under insertion.
    random_deletion, random_insertion : of random maps, one for each seed.
    settings : what they were measured with.
    """

    deletion: Curve
    insertion: Curve
    random_deletion: tuple[Curve, ...]
    random_insertion: tuple[Curve, ...]
    settings: Mapping[str, object]

    @property
    def record(self) -> dict[str, object]:
        """JSON-ready: areas of the map and of the random maps, and the curves."""

        def areas(curves: Sequence[Curve]) -> list[float]:
            return [round(curve.area, 6) for curve in curves]

        return {
            "deletion": round(self.deletion.area, 6),
            "deletion, random maps": areas(self.random_deletion),
            "insertion": round(self.insertion.area, 6),
            "insertion, random maps": areas(self.random_insertion),
            "shares": [round(share, 6) for share in self.deletion.shares],
            "deletion curve": [round(score, 6) for score in self.deletion.scores],
            "insertion curve": [round(score, 6) for score in self.insertion.scores],
            "settings": dict(self.settings),
        }


def faithfulness(
    model: Explainable,
    x: Volume5d,
    target: Target,
    values: Volume5d,
    *,
    blank: BaselineLike = "tissue",
    points: int = 16,
    controls: int = 3,
    seed: int = 0,
    progress: Progress = silent,
) -> Faithfulness:
    """Deletion and insertion curves of a map (Petsiuk et al. 2018, sec. 4.2), and of random maps for comparison.

    A voxel's rank is that of its relevance, summed over channels, and all its channels go together. Only voxels that
    differ from the baseline count. Shares of them grow geometrically from a thousandth, because a lesion is small.
    Random maps are smooth noise (8 mm), since single voxels taken out at random break more than any map's regions.

    Parameters
    ----------
    model, target : as for a method; the target is bound once, on x.
    x : (1, c, i, j, k) one sample.
    values : (1, 1 or c, i, j, k) the map on x's grid.
    blank : what takes the place of a voxel that is taken away.
    points : shares beside 0.
    controls, seed : number of random maps, and the first one's seed.

    Raises
    ------
    ParameterError : more than one sample, a map on another grid or with NaN, or fewer than two points.
    """
    fits = values.ndim == 5 and values.shape[1] in (1, x.shape[1]) and values.shape[2:] == x.shape[2:]
    if len(x) != 1 or len(values) != 1 or not fits:
        raise ParameterError(
            f"A curve is of one sample and its map on the same grid, not of {tuple(x.shape)} and {tuple(values.shape)}."
        )
    if not bool(torch.isfinite(values).all()):
        raise ParameterError("The map has NaN or infinite values, which have no rank: measure another.")
    if points < 2 or controls < 0:
        raise ParameterError(f"A curve needs 2 points or more and 0 controls or more, not {points} and {controls}.")
    nothing = baseline(blank)
    nothing.check_fit(x)
    if isinstance(target, LayerUnit):
        model, target = target.on(model, x)
    bound, score = model.bind(x, target)
    empty = model.reference(x, nothing)
    base = model.scores(empty, bound)
    if bool(score == base):
        raise ParameterError(
            f"The scan and its baseline {nothing} have the same score, so that there is nothing to lose: "
            "take another baseline."
        )
    spacing = model.info.spacing or (1.0, 1.0, 1.0)
    maps = [values.sum(1)[0]]
    maps += [RandomMap(seed=seed + n).control(x[:, :1], spacing)[0, 0] for n in range(controls)]
    shares = torch.logspace(torch.log10(torch.tensor(FINEST)).item(), 0, points).tolist()
    meter = Meter(progress, 2 * len(maps) * (points - 1))

    def curve(ranks: Tensor, start: Volume5d, end: Volume5d, first: float, last: float) -> Curve:
        """From `start` to `end`, voxel by voxel in order of rank."""
        found = [first]
        for scores in model.edited(start, bound, _exchanged(ranks, shares[:-1], start, end)):
            found += ((scores - base) / (score - base)).tolist()
            meter.add(len(scores))
        return Curve((0.0, *shares), (*found, last))

    counting = (x != empty).any(1)[0]
    deletion, insertion = [], []
    for one in maps:
        ranks = _ranks(one, counting)
        deletion.append(curve(ranks, x, empty, 1.0, 0.0))
        insertion.append(curve(ranks, empty, x, 0.0, 1.0))
    settings = {"blank": str(nothing), "points": points, "controls": controls, "seed": seed}
    return Faithfulness(deletion[0], insertion[0], tuple(deletion[1:]), tuple(insertion[1:]), settings)


def _ranks(values: Tensor, counting: Tensor) -> Tensor:
    """Each counting voxel's place in the order, as a share (0 to 1); infinity for the others."""
    order = values[counting].argsort(descending=True, stable=True)
    ranks = torch.full(values.shape, torch.inf, dtype=torch.float64, device=values.device)
    places = torch.empty(len(order), dtype=torch.float64, device=values.device)
    places[order] = (torch.arange(len(order), dtype=torch.float64, device=values.device) + 1) / max(len(order), 1)
    ranks[counting] = places
    return ranks


def _exchanged(ranks: Tensor, shares: Sequence[float], start: Volume5d, end: Volume5d) -> Iterator[Edit]:
    """The start with the first voxels of each share taken from the end; only their box is edited."""
    for share in shares:
        taken = ranks <= share
        box = _box_of(taken)
        values = torch.where(taken[box], end[(0, slice(None), *box)], start[(0, slice(None), *box)])
        yield Edit(box, slice(0, start.shape[1]), values)


def _box_of(mask: Tensor) -> Box:
    """The smallest box that holds it; one voxel where there is nothing."""
    if not bool(mask.any()):
        return slice(0, 1), slice(0, 1), slice(0, 1)
    i, j, k = (slice(int(at.min()), int(at.max()) + 1) for at in mask.nonzero(as_tuple=True))
    return i, j, k
