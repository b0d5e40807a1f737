"""What comes out: relevance on the scan, the prediction, and the record of how both came about."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from methods3d import Attribution
from methods3d.faithfulness import Curve, Faithfulness
from napari_xai.layers import LayerData, label_layer, relevance_layers, scan_layers
from napari_xai.scan_space import WayBack
from xai_io import ExportError, LoadedModel, Volume, write_curves, write_json, write_montage, write_nifti

__all__ = ["Explanation", "Prediction", "refuse_existing"]

FILES = {
    "relevance": "relevance.nii.gz",
    "montage": "montage.png",
    "prediction": "prediction.nii.gz",
    "curves": "curves.png",
    "provenance": "provenance.json",
}
NOTICE = "Research use only; not a medical device, not for diagnosis."


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about the scan.

    Attributes
    ----------
    classes : class name -> probability (classifier), or its predicted volume in mm3 (segmentation).
    labels : predicted label map on the scan's own grid, or None for a classifier.
    """

    classes: Mapping[str, float]
    labels: Volume | None

    @property
    def unit(self) -> str:
        """Of the numbers."""
        return "probability" if self.labels is None else "mm3"


@dataclass(frozen=True, eq=False)
class Explanation:
    """A scan explained.

    Attributes
    ----------
    scan : the scan as it was read.
    relevance : (c, i, j, k) float32 on exactly the scan's shape and affine; one volume per input channel.
    prediction : what the model says.
    attribution : the map on the model's grid, its score, gap, warnings and provenance.
    question : what was asked, in words.
    model : the model that was asked.
    grid : the model's grid.
    way_back : how the map came back to the scan.
    faithfulness : deletion and insertion curves, if they were asked for.
    """

    scan: Volume
    relevance: Volume
    prediction: Prediction
    attribution: Attribution
    question: str
    model: LoadedModel = field(repr=False)
    grid: Volume = field(repr=False)
    way_back: WayBack
    faithfulness: Faithfulness | None = None

    @property
    def record(self) -> dict[str, Any]:
        """JSON-ready provenance: everything needed to repeat and to judge the map, nothing about the patient."""
        found, made = self.attribution, self.attribution.provenance
        return {
            "notice": NOTICE,
            "question": self.question,
            "score": float(found.scores[0]),
            "gap": None if found.gap is None else float(found.gap[0]),
            "absorbed": {cause: float(kept[0]) for cause, kept in found.absorbed.items()},
            "warnings": list(found.warnings),
            "method": made.method,
            "parameters": dict(made.parameters),
            "target": made.target,
            "running": dict(made.running),
            "prediction": dict(self.prediction.classes),
            "prediction_unit": self.prediction.unit,
            "model": {
                "name": self.model.name,
                "form": self.model.form,
                "network": made.network,
                "sha256": made.model_hash,
            },
            "scan": {
                "shape": list(self.scan.shape),
                "channels": self.scan.channels,
                "affine_ras_mm": self.scan.affine.tolist(),
                "modality": self.scan.modality,
            },
            "model_grid": {"shape": list(self.grid.shape), "affine_ras_mm": self.grid.affine.tolist()},
            "way_back": self.way_back,
            "extensive": found.extensive,
            "sum_on_model_grid": float(found.values.sum()),
            "sum_on_scan": float(self.relevance.data.sum(dtype=np.float64)),
            "versions": dict(made.versions),
            "device": made.device,
            "dtype": made.dtype,
            "seconds": round(made.seconds, 3),
            "peak_memory_bytes": made.peak_memory,
            **({} if self.faithfulness is None else {"faithfulness": self.faithfulness.record}),
        }

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> dict[str, Path]:
        """Write relevance.nii.gz, montage.png and provenance.json; if there is one, prediction.nii.gz; curves.png.

        Each file is written aside and renamed; nothing that exists is touched unless `overwrite`.

        Raises
        ------
        ExportError : a file exists already, the folder cannot be made, or the disk is full.
        """
        folder = Path(folder)
        if not overwrite:
            refuse_existing(folder)
        missing = {"prediction": self.prediction.labels is None, "curves": self.faithfulness is None}
        paths = {what: folder / name for what, name in FILES.items() if not missing.get(what)}
        for what in FILES.keys() - paths.keys():
            (folder / FILES[what]).unlink(missing_ok=True)  # of the earlier results that these replace
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportError(f"The folder {folder} cannot be made ({error.strerror}): choose another.") from error
        write_nifti(paths["relevance"], self.relevance, overwrite=overwrite)
        if self.prediction.labels is not None:
            write_nifti(paths["prediction"], self.prediction.labels, overwrite=overwrite)
        total = self.relevance.with_data(self.relevance.data.sum(0, keepdims=True))
        write_montage(paths["montage"], self.scan, total, caption=self.caption, overwrite=overwrite)
        if self.faithfulness is not None:
            self._write_curves(paths["curves"], overwrite=overwrite)
        write_json(paths["provenance"], self.record, overwrite=overwrite)  # last: it says that the rest is whole
        return paths

    def _write_curves(self, path: Path, *, overwrite: bool) -> None:
        """Deletion and insertion, beside random maps."""
        assert self.faithfulness is not None  # it was measured
        found = self.faithfulness
        name = self.attribution.provenance.method

        def panel(curve: Curve, random: Sequence[Curve]) -> tuple[Sequence[float], dict[str, list[Sequence[float]]]]:
            return curve.shares, {name: [curve.scores], "random maps": [one.scores for one in random]}

        write_curves(
            path,
            {
                f"deletion, area {found.deletion.area:.3f}": panel(found.deletion, found.random_deletion),
                f"insertion, area {found.insertion.area:.3f}": panel(found.insertion, found.random_insertion),
            },
            across="share of the tissue's voxels, highest relevance first",
            up="score: 0 baseline, 1 scan",
            notice=f"{self.question}. {NOTICE}",
            overwrite=overwrite,
        )

    @property
    def caption(self) -> dict[str, str]:
        """What a picture of the map has to say beside it."""
        made = self.attribution.provenance
        settings = ", ".join(f"{name}={value}" for name, value in made.parameters.items() if value not in ("", None))
        return {
            "method": f"{made.method} ({settings})" if settings else made.method,
            "question": self.question,
            "model": f"{self.model.name}, {made.model_hash[:12]}" if made.model_hash else self.model.name,
            "score": f"{float(self.attribution.scores[0]):.4g}",
            "notice": NOTICE,
        }

    def layers(self) -> list[LayerData]:
        """Napari layers (data, options, type): the scan, the prediction, and relevance on top."""
        layers = scan_layers(self.scan)
        if self.prediction.labels is not None:
            layers.append(label_layer(self.prediction.labels, "prediction"))
        name = f"{self.attribution.provenance.method}: {self.question}"
        return layers + relevance_layers(self.relevance, name, self.record)


def refuse_existing(folder: str | os.PathLike[str]) -> None:
    """Raise ExportError where a folder holds earlier results."""
    there = [name for name in FILES.values() if (Path(folder) / name).exists()]
    if there:
        raise ExportError(f"{folder} holds {', '.join(there)} already: choose another folder, or overwrite.")
