"""Where relevance lies on lesions that the sample models were not trained on: every method, both models.

Methods that take long see fewer lesions: as many as fit into the time for each, five at least. Each model has a process
of its own, with one thread if OMP_NUM_THREADS is 1.

python benchmarks/localisation.py [--lesions 20] [--minutes 1] [--write docs/results.md]
"""

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from _tables import machine, table, write
from rich.console import Console

from methods3d import LayerError, methods
from napari_xai import Explainer
from napari_xai.errors import USER_ERRORS
from napari_xai.localisation import concentration, peak
from napari_xai.scan_space import ModelSpace
from xai_io import Volume

LEAST = 5  # lesions, however long a method takes
COLUMNS = (
    "peak in lesion",
    "lesion share, median",
    "gap of the score, median",
    "seconds, median",
    "network passes, estimated",
)
ROOT = Path(__file__).resolve().parent.parent
BUNDLES = ROOT / "sample_volumes" / "bundles"
sys.path.insert(0, str(ROOT / "sample_volumes"))
from lesions import held_out, load_brain  # noqa: E402 - the samples are scripts, not a package


def of_model(bundle: str, names: Sequence[str], lesions: int, minutes: float) -> list[dict[str, object]]:
    """A row for each method."""
    explainer, console = Explainer.of(BUNDLES / bundle, device="cpu"), Console(stderr=True)
    rows = []
    for name in names:
        rows.append(measured(bundle, name, explainer, lesions, minutes, console))
        console.print(f"{bundle}, {len(rows)} of {len(names)} methods: {name}", highlight=False)
    return rows


def measured(
    bundle: str, name: str, explainer: Explainer, lesions: int, minutes: float, console: Console
) -> dict[str, object]:
    """One method on one model over the lesions."""
    brain = load_brain()
    hits, shares, seconds, gaps, missed = [], [], [], [], 0
    method, found = methods()[name](), None
    row = {"model": bundle.removeprefix("lesion_"), "method": name}
    for seed in range(lesions):
        if seed >= LEAST and sum(seconds) > 60 * minutes:
            break
        scan, mask = held_out(seed, brain)
        try:
            found = explainer.explain(
                Volume(scan[None].astype(np.float32), brain.affine, modality="MR"), method=method, target="lesion"
            )
        except USER_ERRORS as error:
            missed += 1
            console.print(f"{bundle} {name} lesion {seed}: {error}")
            if isinstance(error, LayerError) and not hits:
                return row | dict.fromkeys(COLUMNS, "-") | {"settings": f"does not apply: {error}"}
            continue
        lesion = mask > 0
        hits.append(bool(lesion[peak(found.relevance)]))
        shares.append(concentration(found.relevance, lesion, brain.parenchyma))
        seconds.append(found.attribution.provenance.seconds)
        if found.attribution.gap is not None:
            gaps.append(abs(float(found.attribution.gap[0] / found.attribution.scores[0])))
    if found is None:
        return row | dict.fromkeys(COLUMNS, "-") | {"settings": "refused every lesion"}
    settings = ", ".join(
        f"{k}={v['method'] if isinstance(v, dict) else v}"
        for k, v in found.attribution.provenance.parameters.items()
        if v not in ("", None)
    )
    space = ModelSpace.of(found.scan, explainer.loaded.preprocessing)
    cost = method.cost(explainer.on(space), space.grid.shape)
    return row | {
        "peak in lesion": f"{sum(hits)} of {len(hits) + missed}",
        "lesion share, median": f"{statistics.median(shares):.0f}",
        "gap of the score, median": f"{statistics.median(gaps):.1e}" if gaps else "-",
        "seconds, median": f"{statistics.median(seconds):.2f}",
        "network passes, estimated": f"{cost.forward} forward, {cost.backward} backward",
        "settings": settings or "-",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lesions", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--methods", nargs="*", default=list(methods()))
    parser.add_argument("--models", nargs="*", default=["lesion_classifier", "lesion_segmenter"])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    work = partial(of_model, names=given.methods, lesions=given.lesions, minutes=given.minutes)
    with ProcessPoolExecutor(len(given.models), multiprocessing.get_context("spawn")) as processes:
        rows = [row for rows in processes.map(work, given.models) for row in rows]
    text = (
        f"{table(rows)}\n\nUp to {given.lesions} lesions drawn from seeds that the models were not trained on, as many "
        f"as fit into {given.minutes:g} minutes, and {LEAST} at least; peak after "
        "smoothing by 4 mm (full width at half maximum); lesion share: share of positive relevance inside the lesion, "
        "over the lesion's share of the brain; gap: what the method promises minus what it gives. "
        f"{machine()}"
    )
    sys.stdout.write(text + "\n")
    if given.write:
        write(given.write, "localisation", text)


if __name__ == "__main__":
    main()
