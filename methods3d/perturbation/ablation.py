"""Ablation: features are taken out of the scan one by one, and the score watched."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from methods3d.baselines import FILLINGS, BaselineLike, filler_of, filling
from methods3d.features import FEATURES, FeaturesLike, Presence, features
from methods3d.meter import Meter
from methods3d.method import OneByOne, Relevance, setting
from methods3d.types import Cost, Edit, Explainable, Progress, Scores, Target, Volume5d

__all__ = ["Ablation"]


@dataclass(frozen=True, kw_only=True)
class Ablation(OneByOne):
    """How far the score drops without an organ, a lesion, a supervoxel or an MR sequence; all its voxels have the drop.

    In windows only those that a feature touches are run.

    When: the question is about things with names: a label map's regions, or the examination's sequences.
    """

    name: ClassVar[str] = "ablation"
    title: ClassVar[str] = "Ablation"
    source: ClassVar[str] = "Zeiler, Fergus 2014, sec. 4.2, for regions; as Captum's FeatureAblation"

    features: FeaturesLike = setting("supervoxels(100)", "what is taken out", choices=FEATURES, reads=features)
    fill: BaselineLike = setting("tissue", "what takes its place", choices=FILLINGS, reads=filling)

    def explain(self, model: Explainable, x: Volume5d, target: Target, score: Scores, progress: Progress) -> Relevance:
        """T(x) - T(x without the feature)."""
        presence = Presence(x, model.info, features(self.features), filler_of(model, x, self.fill))
        meter = Meter(progress, presence.count)
        drops = torch.zeros(presence.count, dtype=score.dtype, device=score.device)

        def edits() -> Iterator[Edit]:
            for n in range(presence.count):
                present = torch.ones(presence.count)
                present[n] = 0
                yield presence.edit(present)

        for after in model.edited(x, target, edits()):
            drops[meter.done : meter.done + len(after)] = score - after
            meter.add(len(after), lambda: presence.spread(drops))
        return Relevance(presence.spread(drops), score, extensive=False, chosen={"count": presence.count})

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """A prediction for every feature, and the score."""
        return Cost(forward=model.passes(shape) * (2 + features(self.features).about(shape, model.info)), backward=0)
