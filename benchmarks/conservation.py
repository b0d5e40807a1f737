"""Whether LRP keeps the score, and what that costs: every composite, MONAI's networks and both sample models.

python benchmarks/conservation.py [--networks UNet ...] [--composites gamma ...] [--write docs/results.md]
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from _tables import machine, table, write
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from zoo import Entry, prepared, volume, zoo

from methods3d import LRP, ClassScore, Explainable, PredictedRegion, RuleError, Target, TorchModel
from methods3d.rules import COMPOSITES
from napari_xai import Explainer
from napari_xai.samples import sample
from napari_xai.scan_space import ModelSpace

METHODS = {name: LRP(composite=name) for name in COMPOSITES} | {
    "epsilon, absorb": LRP(composite="epsilon", bias="absorb")
}
CONSERVING = ("gamma", "z-plus")  # composites whose relevance is to be the score, but for constants and dead ends
SAMPLES = {"sample classifier": "lesion_classifier", "sample segmenter": "lesion_segmenter"}
NOTABLE = 1e-4  # of the score, below which what was absorbed is not told


class Outputs:
    """Picks one of a network's outputs, and remembers it each time that the network runs."""

    def __init__(self, choice: int | str | Callable[[Any], Tensor] | None = None) -> None:
        self.choice = choice
        self.seen: list[Tensor] = []

    def __call__(self, y: Any) -> Tensor:
        if self.choice is not None:
            y = self.choice(y) if callable(self.choice) else y[self.choice]
        self.seen.append(y.detach())
        return y

    def of(self, run: Callable[[], Any]) -> list[Tensor]:
        """The outputs of one run, window by window."""
        self.seen.clear()
        run()
        return list(self.seen)


@dataclass(frozen=True)
class Case:
    """A question to a network, bound once, and what the network puts out meanwhile."""

    model: Explainable
    x: Tensor
    target: Target
    outputs: Outputs

    def gradient(self) -> None:
        """The plain gradient, which LRP is compared with."""
        self.model.gradient(self.x, self.target)


@dataclass(frozen=True)
class Measured:
    """One composite on one network; all but the names in units of the score, or of the plain gradient.

    Attributes
    ----------
    total, size : the sum of relevance, and of its magnitude.
    gap : of what relevance and what was absorbed add up to, in units of max(|score|, size).
    change : how far the network's output moves inside the mode, in units of its largest output.
    time : None where it was not asked for.
    """

    network: str
    composite: str
    refused: str = ""
    total: float = math.nan
    size: float = math.nan
    gap: float = math.nan
    change: float = math.nan
    flops: float = math.nan
    time: float | None = None
    absorbed: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def lost(self) -> float:
        """What no rule could hand on: constants, and dead ends."""
        return self.absorbed.get("constant", 0.0) + self.absorbed.get("dead", 0.0)


def of_entry(entry: Entry, *, air: bool = True) -> Case:
    """A network of the zoo on its volume."""
    outputs = Outputs(entry.output)
    return asked(TorchModel(prepared(entry), output=outputs), volume(entry, air=air), outputs)


def of_sample(bundle: str) -> Case:
    """A sample model on the sample scan, as it is delivered: the segmenter in windows."""
    outputs = Outputs()
    explainer = Explainer.of(sample(f"bundles/{bundle}"), device="cpu")
    explainer = replace(explainer, output=outputs)
    space = ModelSpace.of(explainer.read(sample("volumes/brain_lesion.nii.gz")), explainer.loaded.preprocessing)
    return asked(explainer.on(space), space.x, outputs)


def asked(model: Explainable, x: Tensor, outputs: Outputs) -> Case:
    """The first class of a classifier, or where a segmenter predicts the second."""
    y = model.output(x)
    return Case(model, x, (ClassScore(0) if y.ndim == 2 else PredictedRegion(1)).bind(y), outputs)


CASES: dict[str, Callable[..., Case]] = {entry.name: partial(of_entry, entry) for entry in zoo()} | {
    name: partial(of_sample, bundle) for name, bundle in SAMPLES.items()
}


def measured(name: str, case: Case, composites: Sequence[str], *, repeats: int = 0) -> list[Measured]:
    """The composites on one network; times are medians of repeats that take turns."""
    with FlopCounterMode(display=False) as plain:
        clean = case.outputs.of(case.gradient)
    found = [accounted(name, case, composite, clean, plain.get_total_flops()) for composite in composites]
    if not repeats:
        return found
    runs = {"": case.gradient} | {
        row.composite: partial(METHODS[row.composite], case.model, case.x, case.target)
        for row in found
        if not row.refused
    }
    seconds = [{name: processor_time(run) for name, run in runs.items()} for _ in range(repeats)]
    medians = {name: statistics.median(turn[name] for turn in seconds) for name in runs}
    return [replace(r, time=None if r.refused else medians[r.composite] / medians[""]) for r in found]


def accounted(name: str, case: Case, composite: str, clean: Sequence[Tensor], flops: int) -> Measured:
    """The account of one composite, against the network's clean outputs and the plain gradient's operations."""
    case.outputs.seen.clear()
    try:
        with FlopCounterMode(display=False) as counted:
            got = METHODS[composite](case.model, case.x, case.target)
    except RuleError as error:
        return Measured(name, composite, refused=str(error))
    assert got.gap is not None  # LRP promises the score
    score, size = float(got.scores[0]), float(got.values.abs().sum())
    return Measured(
        name,
        composite,
        total=float(got.values.sum()) / score,
        size=size / abs(score),
        gap=abs(float(got.gap[0])) / max(abs(score), size),
        change=moved(case.outputs.seen, clean),
        flops=counted.get_total_flops() / flops,
        absorbed={cause: float(kept[0]) / score for cause, kept in got.absorbed.items()},
        warnings=got.warnings,
    )


def moved(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The largest difference of two runs' outputs, in units of the largest output."""
    return max(float((i - j).abs().max() / j.abs().max()) for i, j in zip(a, b, strict=True))


def processor_time(run: Callable[[], Any]) -> float:
    """Seconds of processor time, which others on the machine do not lengthen as they do the clock's."""
    started = time.process_time()
    run()
    return time.process_time() - started


# --- what is required ---


@dataclass(frozen=True)
class Requirement:
    """An upper limit of something that is measured, on every network to which it applies."""

    words: str
    limit: float
    of: Callable[[Measured], float]
    holds_for: Callable[[Measured], bool] = lambda row: True

    def worst(self, rows: Sequence[Measured]) -> Measured | None:
        """The row nearest to the limit or furthest beyond it; NaN is furthest."""
        those = [row for row in rows if not row.refused and self.holds_for(row)]
        return max(those, key=lambda row: (math.isnan(self.of(row)), self.of(row)), default=None)

    def met(self, rows: Sequence[Measured]) -> bool:
        """Whether all rows keep the limit."""
        worst = self.worst(rows)
        return worst is None or self.of(worst) <= self.limit

    def line(self, rows: Sequence[Measured]) -> str:
        """The requirement, its worst case, and whether it is met."""
        worst = self.worst(rows)
        if worst is None:
            return f"- {self.words}: nothing to measure it on."
        verdict = "met" if self.met(rows) else "NOT MET"
        return (
            f"- {self.words}, at most {self.limit:g}: {verdict}; worst {self.of(worst):.2g} "
            f"({worst.network}, {worst.composite})."
        )


REQUIREMENTS = (
    Requirement("the account, \\|sum + absorbed - score\\| in max(\\|score\\|, sum \\|R\\|)", 1e-3, lambda r: r.gap),
    Requirement("change of the network's output while its functions are rewritten", 1e-6, lambda r: r.change),
    Requirement("functions without a rule", 0, lambda r: sum("no rule covers" in w for w in r.warnings)),
    Requirement(
        "gamma and z-plus: \\|(sum + dead + constant) / score - 1\\|",
        1e-3,
        lambda r: abs(r.total + r.lost - 1),
        lambda r: r.composite in CONSERVING,
    ),
    Requirement(
        f"gamma and z-plus where dead and constant are each below {NOTABLE:g} of the score: \\|sum / score - 1\\|",
        1e-3,
        lambda r: abs(r.total - 1),
        lambda r: r.composite in CONSERVING and max(abs(r.absorbed.get(c, 0)) for c in ("dead", "constant")) < NOTABLE,
    ),
    Requirement(
        "FLOPs of epsilon with biases absorbed, in plain gradients",
        1.05,
        lambda r: r.flops,
        lambda r: r.composite == "epsilon, absorb",
    ),
    Requirement(
        "FLOPs of epsilon and gamma with biases spread, in plain gradients",
        2.1,
        lambda r: r.flops,
        lambda r: r.composite in ("epsilon", "gamma"),
    ),
)


# --- tables ---


def summary(rows: Sequence[Measured]) -> Iterator[dict[str, str]]:
    """One row for each composite, over all networks."""
    for composite in dict.fromkeys(row.composite for row in rows):
        mine = [row for row in rows if row.composite == composite and not row.refused]
        if not mine:
            continue
        totals, sizes = [row.total for row in mine], [row.size for row in mine]
        times = [row.time for row in mine if row.time is not None]
        yield {
            "composite": composite,
            "networks": str(len(mine)),
            "sum / score": f"{min(totals):.3g} to {max(totals):.3g}",
            "magnitude, median (worst)": f"{statistics.median(sizes):.2f} ({max(sizes):.3g})",
            "gap, worst": f"{max(row.gap for row in mine):.0e}",
            "output change, worst": f"{max(row.change for row in mine):.0e}",
            "time, median (worst)": f"{statistics.median(times):.2f} ({max(times):.2f})" if times else "-",
            "FLOPs, worst": f"{max(row.flops for row in mine):.2f}",
        }


def without_air(rows: Sequence[Measured], airless: Sequence[Measured]) -> Iterator[dict[str, str]]:
    """One row for each network: the composites that are to conserve, with and without air around the body."""
    found = {(row.network, row.composite): row for row in rows}
    bare = {(row.network, row.composite): row for row in airless}
    for network in dict.fromkeys(row.network for row in rows):
        line = {"network": network}
        for composite in CONSERVING:
            for words, those in (("", found), (", no air", bare)):
                row = those.get((network, composite))
                line[f"{composite}{words}: sum / score"] = f"{row.total:.4f}" if row else "-"
                line[f"{composite}{words}: absorbed"] = absorbed(row) if row else "-"
        yield line


def in_full(rows: Sequence[Measured]) -> Iterator[dict[str, str]]:
    """One row for each network and composite."""
    for row in rows:
        line = {"network": row.network, "composite": row.composite}
        if row.refused:
            line |= dict.fromkeys(("sum / score", "magnitude", "gap", "output change", "time", "FLOPs"), "-")
            yield line | {"absorbed": row.refused}
            continue
        yield line | {
            "sum / score": f"{row.total:.4f}",
            "magnitude": f"{row.size:.3g}",
            "gap": f"{row.gap:.0e}",
            "output change": f"{row.change:.0e}",
            "time": "-" if row.time is None else f"{row.time:.2f}",
            "FLOPs": f"{row.flops:.2f}",
            "absorbed": absorbed(row),
        }


def absorbed(row: Measured) -> str:
    """Notable causes, as shares of the score."""
    kept = {cause: share for cause, share in row.absorbed.items() if not abs(share) < NOTABLE}
    return ", ".join(f"{cause} {share:.4f}" for cause, share in kept.items()) or "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(CASES), choices=CASES, metavar="NAME")
    parser.add_argument("--composites", nargs="*", default=list(METHODS), choices=METHODS, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=1, help="runs that a time is the median of")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    console = Console(stderr=True)
    rows: list[Measured] = []
    airless: list[Measured] = []
    for name in track(given.networks, "networks", console=console):
        rows += measured(name, CASES[name](), given.composites, repeats=given.repeats)
        conserving = [composite for composite in given.composites if composite in CONSERVING]
        if name not in SAMPLES:
            airless += measured(name, CASES[name](air=False), conserving)
    every = [*rows, *(replace(row, network=f"{row.network}, no air") for row in airless)]
    said = sorted({f"- {row.network}, {row.composite}: {w}." for row in every for w in row.warnings})
    text = "\n\n".join(
        [
            table(list(summary(rows))),
            f"{len(given.networks)} networks, each on one scan in float32; the sample models on the sample scan, the "
            "segmenter in its own windows. Magnitude: sum of \\|relevance\\| over \\|score\\|. Gap: \\|sum + absorbed "
            "- score\\| over max(\\|score\\|, sum of \\|relevance\\|). Output change: how far the network's output "
            "moves while its functions are rewritten, over its largest value. Time and FLOPs are told in plain input "
            "gradients of the same score; time is the processor's, "
            f"the median of {given.repeats} run(s) that take turns. {machine()}",
            "Required with and without air, on every network, and checked:",
            "\n".join(requirement.line(every) for requirement in REQUIREMENTS),
            *(["The runs warn:", "\n".join(said)] if said else []),
            "Network by network, for the two composites that are to keep all of the score. Dead is what a shift adds "
            "where no input contributes, as in the air around a scan, which is exactly zero, or (z-plus) where all "
            "contributions are negative; constant is what tokens, positions and plain numbers add.",
            table(list(without_air(rows, airless))),
            "<details><summary>Every network under every composite</summary>",
            table(list(in_full(rows))),
            "</details>",
        ]
    )
    sys.stdout.write(text + "\n")
    if given.write:
        write(given.write, "conservation", text)
    if not all(requirement.met(every) for requirement in REQUIREMENTS):
        sys.exit("A requirement is not met.")


if __name__ == "__main__":
    main()
