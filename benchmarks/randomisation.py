"""Whether a map still depends on what a model has learnt: cascading randomisation of both sample models.

From the output down, stage by stage, the weights are drawn anew, and each map is compared with the trained
model's (Adebayo et al. 2018). A map that hardly changes shows the scan, not what the model makes of it.

python benchmarks/randomisation.py [--seeds 0 1 2] [--write docs/results.md]
"""

import argparse
import copy
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _tables import machine, table, write
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from methods3d import LRP, ClassScore, InputXGradient, Method, PredictedRegion, Saliency, Target
from methods3d.rules import COMPOSITES
from napari_xai import Explainer
from napari_xai.samples import sample
from napari_xai.scan_space import ModelSpace
from xai_io import read_volume

METHODS: dict[str, Method] = {
    "saliency": Saliency(),
    "input-x-gradient": InputXGradient(),
    **{f"lrp {name}": LRP(composite=name) for name in COMPOSITES},
}
# From the output down; a stage is what runs between two changes of resolution, or a layer of its own.
STAGES = {
    "lesion_classifier": (
        "class_layers",
        "features.norm5",
        "features.denseblock3",
        "features.transition2",
        "features.denseblock2",
        "features.transition1",
        "features.denseblock1",
        "features.norm0",
        "features.conv0",
    ),
    "lesion_segmenter": (
        "model.2.1",
        "model.2.0",
        "model.1.submodule.2.1",
        "model.1.submodule.2.0",
        "model.1.submodule.1.submodule.2.1",
        "model.1.submodule.1.submodule.2.0",
        "model.1.submodule.1.submodule.1",
        "model.1.submodule.1.submodule.0",
        "model.1.submodule.0",
        "model.0",
    ),
}
CHANGED = 0.5  # rank correlation of magnitudes above which a map has hardly changed
NEAR = 10.0  # mm around the region of a segmenter's target; further out, any map is small whatever the weights

Maps = dict[str, NDArray[np.float64]]


class Agreement(NamedTuple):
    """Spearman's rank correlation of two maps: near the target, of their magnitudes there, and in all the brain."""

    signed: float
    magnitude: float
    anywhere: float


def randomised(net: nn.Module, stages: Sequence[str], seed: int) -> Iterator[nn.Module]:
    """The network with one stage more drawn anew each time, in place."""
    rest = {name for name, _ in net.named_parameters()}
    for n, stage in enumerate(stages):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * seed + n)
            for module in net.get_submodule(stage).modules():
                drawn_anew(module)
        rest = {name for name in rest if not name.startswith(f"{stage}.")}
        yield net
    assert not rest, f"No stage holds {sorted(rest)}."


def drawn_anew(module: nn.Module) -> None:
    """Its own parameters and running statistics, as they were before training; shuffled where it cannot tell."""
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for values in module.parameters(recurse=False):
        values.data = values.data.flatten()[torch.randperm(values.numel())].view_as(values)


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The correlation of ranks, where equals share their mean rank; 0 where one map is the same everywhere."""
    ranks = []
    for values in (a, b):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    if any(rank.std() == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


class Question:
    """A sample model, the sample scan, and what of the trained model's prediction is explained throughout."""

    def __init__(self, bundle: str) -> None:
        self.explainer = Explainer.of(sample(f"bundles/{bundle}"), device="cpu")
        scan = self.explainer.read(sample("volumes/brain_lesion.nii.gz"))
        self.space = ModelSpace.of(scan, self.explainer.loaded.preprocessing)
        self.brain = self.space.region(read_volume(sample("volumes/brain_mask.nii.gz"))).numpy()
        model = self.explainer.on(self.space)
        lesion: Target = ClassScore(1) if bundle == "lesion_classifier" else PredictedRegion(1)
        self.target, _ = model.bind(self.space.x, lesion)
        region = self.target.support(self.space.grid.shape)
        self.near = self.brain if region is None else self.brain & self.grown(region.numpy())

    def grown(self, region: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The region and what lies within NEAR of it."""
        reach = [range(-int(NEAR // step), int(NEAR // step) + 1) for step in self.space.grid.spacing]
        there = np.zeros_like(region)
        for shift in product(*reach):
            if np.hypot.reduce(np.multiply(shift, self.space.grid.spacing)) <= NEAR:
                there |= np.roll(region, shift, (0, 1, 2))  # no lesion is that close to the edge of the scan
        return there

    def maps(self, net: nn.Module, methods: Mapping[str, Method]) -> Maps:
        """Every method's map of the scan."""
        model = replace(self.explainer, network=net).on(self.space)
        found = {name: method(model, self.space.x, self.target) for name, method in methods.items()}
        return {name: f.values[0, 0].double().numpy() for name, f in found.items()}

    def agreement(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> Agreement:
        """How much two maps are alike."""
        size, near = (abs(a), abs(b)), self.near
        magnitude = spearman(*(m[near] for m in size))
        anywhere = magnitude if near is self.brain else spearman(*(m[self.brain] for m in size))
        return Agreement(spearman(a[near], b[near]), magnitude, anywhere)

    def cascade(
        self, methods: Mapping[str, Method], stages: Sequence[str], seed: int
    ) -> Iterator[dict[str, Agreement]]:
        """How each method's map agrees with the trained model's, after each stage."""
        net = self.explainer.network
        trained = self.maps(net, methods)
        for changed in randomised(copy.deepcopy(net), stages, seed):
            now = self.maps(changed, methods)
            yield {name: self.agreement(trained[name], now[name]) for name in methods}


def mean(found: Sequence[Agreement]) -> Agreement:
    """The mean over runs."""
    return Agreement(*(statistics.fmean(values) for values in zip(*found, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(STAGES), choices=STAGES, metavar="NAME")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    console = Console(stderr=True)
    methods = {name: METHODS[name] for name in given.methods}
    rows, curves, unmoved, anywhere = [], [], [], []
    for bundle in given.models:
        question, stages, model = Question(bundle), STAGES[bundle], bundle.removeprefix("lesion_")
        runs = []
        for seed in given.seeds:
            steps = question.cascade(methods, stages, seed)
            runs.append(list(track(steps, f"{model}, seed {seed}", len(stages), console=console)))
        paths = {name: [mean([run[n][name] for run in runs]) for n in range(len(stages))] for name in methods}
        for name, path in paths.items():
            shown = {"first stage": path[0], "half": path[len(stages) // 2 - 1], "all": path[-1]}
            rows.append(
                {"model": model, "method": name}
                | {f"{when}: signed": f"{found.signed:.2f}" for when, found in shown.items()}
                | {f"{when}: magnitude": f"{found.magnitude:.2f}" for when, found in shown.items()}
            )
        magnitudes = {name: [f"{found.magnitude:.2f}" for found in path] for name, path in paths.items()}
        curves.append(
            table([{model: name} | dict(zip(stages, path, strict=True)) for name, path in magnitudes.items()])
        )
        still = [name for name, path in paths.items() if path[-1].magnitude > CHANGED]
        unmoved.append(f"{model}: {', '.join(still) or 'none'}")
        if question.near is not question.brain:
            anywhere.append(f"{min(path[-1].anywhere for path in paths.values()):.2f}")
    text = "\n\n".join(
        [
            table(rows),
            "Spearman's rank correlation between the map of the trained model and the map after its first stage from "
            "the output down, half of its stages, and all of them were drawn anew; of the maps, and of their "
            "magnitudes. The same scan and target throughout; mean over the seeds "
            f"{', '.join(map(str, given.seeds))}. {machine()}",
            f"Methods whose magnitudes hardly change (a correlation above {CHANGED:g} once nothing that was learnt is "
            f"left): {'; '.join(unmoved)}.",
            "The classifier's maps are compared inside the brain, the segmenter's inside the brain within "
            f"{NEAR:g} mm of the region that is explained."
            + "".join(
                f" In all of the brain its magnitudes correlate by {least} or more under every method listed: which "
                "voxels a region can depend on, and how little on the far ones, is the architecture's doing."
                for least in anywhere
            ),
            "<details><summary>Magnitudes after every stage, from the output down</summary>",
            *curves,
            "</details>",
        ]
    )
    sys.stdout.write(text + "\n")
    if given.write:
        write(given.write, "randomisation", text)


if __name__ == "__main__":
    main()
