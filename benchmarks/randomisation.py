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
from pathlib import Path

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
    **{f"lrp, {name}": LRP(composite=name) for name in COMPOSITES},
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

Maps = dict[str, NDArray[np.float64]]
Agreement = tuple[float, float]  # Spearman's rank correlation of two maps, signed and of their magnitudes


def randomised(net: nn.Module, stages: Sequence[str], seed: int) -> Iterator[tuple[str, nn.Module]]:
    """The network with one stage more drawn anew each time, in place."""
    rest = {name for name, _ in net.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        for stage in stages:
            torch.set_rng_state(state)  # whoever looks at the network between two stages may draw, too
            for module in net.get_submodule(stage).modules():
                drawn_anew(module)
            state = torch.get_rng_state()
            rest = {name for name in rest if not name.startswith(f"{stage}.")}
            yield stage, net
    assert not rest, f"No stage holds {sorted(rest)}."


def drawn_anew(module: nn.Module) -> None:
    """Its own parameters and running statistics, as they were before training; shuffled where it cannot tell."""
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for values in module.parameters(recurse=False):
        values.data = values.data.flatten()[torch.randperm(values.numel())].view_as(values)


def agreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> Agreement:
    """Spearman's rank correlation of two maps, signed and of their magnitudes."""
    return spearman(a, b), spearman(np.abs(a), np.abs(b))


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

    def maps(self, net: nn.Module, methods: Mapping[str, Method]) -> Maps:
        """Every method's map of the scan, inside the brain."""
        model = replace(self.explainer, network=net).on(self.space)
        found = {name: method(model, self.space.x, self.target) for name, method in methods.items()}
        return {name: f.values[0].sum(0).double().numpy()[self.brain] for name, f in found.items()}

    def cascade(
        self, methods: Mapping[str, Method], stages: Sequence[str], seed: int
    ) -> Iterator[tuple[str, dict[str, Agreement]]]:
        """How each method's map agrees with the trained model's, after each stage."""
        net = self.explainer.network
        trained = self.maps(net, methods)
        for stage, changed in randomised(copy.deepcopy(net), stages, seed):
            now = self.maps(changed, methods)
            yield stage, {name: agreement(trained[name], now[name]) for name in methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(STAGES), choices=STAGES, metavar="NAME")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    console = Console(stderr=True)
    methods = {name: METHODS[name] for name in given.methods}
    rows, curves, unmoved = [], [], []
    for bundle in given.models:
        question, stages = Question(bundle), STAGES[bundle]
        model = bundle.removeprefix("lesion_")
        runs = []
        for seed in given.seeds:
            steps = question.cascade(methods, stages, seed)
            runs.append([found for _, found in track(steps, f"{model}, seed {seed}", len(stages), console=console)])
        path = {  # method -> the mean agreement over seeds, stage by stage
            name: [tuple(map(statistics.fmean, zip(*(run[n][name] for run in runs)))) for n in range(len(stages))]
            for name in methods
        }
        for name, steps in path.items():
            shown = {"first stage": steps[0], "half": steps[len(stages) // 2 - 1], "all": steps[-1]}
            rows.append(
                {"model": model, "method": name}
                | {f"{when}: signed": f"{signed:.2f}" for when, (signed, _) in shown.items()}
                | {f"{when}: magnitude": f"{size:.2f}" for when, (_, size) in shown.items()}
            )
        curves.append(
            table(
                [
                    {model: name} | {stage: f"{size:.2f}" for stage, (_, size) in zip(stages, steps, strict=True)}
                    for name, steps in path.items()
                ]
            )
        )
        still = [name for name, steps in path.items() if steps[-1][1] > CHANGED]
        unmoved.append(f"{model}: {', '.join(still) or 'none'}")
    text = "\n\n".join(
        [
            table(rows),
            "Spearman's rank correlation inside the brain between the map of the trained model and the map after its "
            "first stage from the output down, half of its stages, and all of them were drawn anew; of the maps, and "
            f"of their magnitudes. The same scan and target throughout; mean over the seeds "
            f"{', '.join(map(str, given.seeds))}. {machine()}",
            f"Methods whose magnitudes hardly change, that is, correlate above {CHANGED:g} once nothing of the training "
            f"is left: {'; '.join(unmoved)}.",
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
