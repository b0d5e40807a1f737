"""The main job on the sample brain: the sample models and many methods, and where the relevance lies."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from methods3d import Method, Progress, methods
from napari_xai.errors import USER_ERRORS
from napari_xai.explainer import Explainer
from napari_xai.localisation import concentration, peak
from napari_xai.samples import sample
from xai_io import Volume, read_volume

__all__ = ["SHOWN", "Row", "quick_method", "run"]

SHOWN = (
    *("saliency", "input-x-gradient", "integrated-gradients", "deeplift", "guided-backprop", "fullgrad"),
    *("lrp", "clrp", "salient-relevance", "grad-cam", "hires-cam", "layer-cam", "occlusion"),
)
MODELS = {
    "classifier": ("lesion_classifier", "model"),
    "segmenter": ("lesion_segmenter", "model"),
    "segmenter, dense": ("lesion_segmenter", None),
}
QUICK: dict[str, Any] = {
    "steps": 4,
    "samples": 4,
    "orders": 2,
    "count": 12,
    "cell": 24.0,
    "size": 32.0,
    "stride": 32.0,
    "levels": 1,
    "features": "supervoxels(4)",
    "channels": 4,
    "tolerance": 0.0,
    "resolution": 16,
}
CROP = 56  # voxels along each axis: eight of the segmenter's windows


@dataclass(frozen=True)
class Row:
    """How one method did on one model.

    Attributes
    ----------
    model, method : by name.
    seconds : of the method alone.
    concentration, peak_in_lesion : as in `localisation`.
    gap : of the score; None where nothing is promised.
    warnings : silent failures that were caught.
    refused : why the method does not apply to the model, in one sentence; "" where it does.
    """

    model: str
    method: str
    seconds: float = 0.0
    concentration: float = 0.0
    peak_in_lesion: bool = False
    gap: float | None = None
    warnings: tuple[str, ...] = ()
    refused: str = ""


def run(
    out: Path | None, progress: Progress, *, names: Sequence[str] = SHOWN, dense: bool = False, quick: bool = False
) -> list[Row]:
    """Explain the brain with a lesion by methods and models, into `out`/model/method; a row for each.

    Earlier results of the demo are replaced.

    Parameters
    ----------
    out : folder; None writes nothing.
    names : of the methods.
    dense : the segmenter without windows as well.
    quick : on a crop, with the smallest budgets: to see that everything runs, not what it finds.
    """
    volumes = [
        read_volume(sample(f"volumes/{name}.nii.gz")) for name in ("brain_lesion", "brain_lesion_mask", "brain_mask")
    ]
    scan, lesion, brain = _cropped(volumes, CROP) if quick else volumes
    inside, tissue = lesion.data[0] > 0, brain.data[0] > 0
    models = [name for name in MODELS if dense or MODELS[name][1]]
    explainers = {
        name: Explainer.of(sample(f"bundles/{MODELS[name][0]}"), windows=MODELS[name][1])  # type: ignore[arg-type]
        for name in models
    }
    jobs = [(model, quick_method(name) if quick else methods()[name]()) for model in models for name in names]
    rows = []
    for n, (model, method) in enumerate(jobs):
        progress(n, len(jobs))
        row = Row(model, method.name)
        try:
            found = explainers[model].explain(scan, method=method, target="lesion")
        except USER_ERRORS as error:
            rows.append(replace(row, refused=str(error)))
            continue
        if out is not None:
            found.save(out / model.replace(", ", "_") / method.name, overwrite=True)
        rows.append(
            replace(
                row,
                seconds=found.record["seconds"],
                concentration=concentration(found.relevance, inside, tissue),
                peak_in_lesion=bool(inside[peak(found.relevance)]),
                gap=found.record["gap"],
                warnings=tuple(found.record["warnings"]),
            )
        )
    progress(len(jobs), len(jobs))
    return rows


def quick_method(name: str) -> Method:
    """A method with the smallest budgets."""
    cls = methods()[name]
    small = {f.name: QUICK[f.name] for f in fields(cls) if f.name in QUICK}
    if "of" in {f.name for f in fields(cls)}:
        small["of"] = methods()["input-x-gradient"]()
    return cls(**small)


def _cropped(volumes: Sequence[Volume], size: int) -> list[Volume]:
    """The same box of each, around what the second is not zero in."""
    where = np.argwhere(volumes[1].data[0] > 0).mean(0)
    starts = [int(min(max(c - size / 2, 0), n - size)) for c, n in zip(where, volumes[0].shape, strict=True)]
    i, j, k = (slice(start, start + size) for start in starts)
    found = []
    for volume in volumes:
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ starts
        found.append(replace(volume, data=volume.data[:, i, j, k], affine=affine))
    return found
