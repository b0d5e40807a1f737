"""The main job on the sample brain: both models, every method, and where the relevance lies."""

from pathlib import Path
from typing import Any

from methods3d import Method, Progress, methods
from napari_xai.explainer import Explainer
from napari_xai.localisation import concentration, peak
from napari_xai.samples import sample
from xai_io import read_volume

__all__ = ["run"]


def run(out: Path, progress: Progress) -> list[dict[str, Any]]:
    """Explain the brain with a lesion by every method and model, into `out`/model/method; a row for each.

    Earlier results of the demo are replaced. A row holds model, method, seconds, concentration (see
    `localisation`), whether the smoothed peak lies in the lesion, gap and warnings.
    """
    scan = read_volume(sample("volumes/brain_lesion.nii.gz"))
    lesion = read_volume(sample("volumes/brain_lesion_mask.nii.gz")).data[0] > 0
    brain = read_volume(sample("volumes/brain_mask.nii.gz")).data[0] > 0
    jobs: list[tuple[str, Method]] = [
        (bundle, cls()) for bundle in ("lesion_classifier", "lesion_segmenter") for cls in methods().values()
    ]
    rows = []
    explainers: dict[str, Explainer] = {}
    for n, (bundle, method) in enumerate(jobs):
        progress(n, len(jobs))
        if bundle not in explainers:
            explainers[bundle] = Explainer.of(sample(f"bundles/{bundle}"))
        found = explainers[bundle].explain(scan, method=method, target="lesion")
        found.save(out / bundle / method.name, overwrite=True)
        rows.append(
            {
                "model": bundle,
                "method": method.name,
                "seconds": found.record["seconds"],
                "concentration": concentration(found.relevance, lesion, brain),
                "peak_in_lesion": bool(lesion[peak(found.relevance)]),
                "gap": found.record["gap"],
                "warnings": found.record["warnings"],
            }
        )
    progress(len(jobs), len(jobs))
    return rows
