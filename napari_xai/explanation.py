"""What comes out: relevance on the scan, the prediction, and the record of how both came about."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from methods3d import Attribution
from methods3d.faithfulness import Curve, Faithfulness
from napari_xai.errors import ExplainError
from napari_xai.exports import EXPORTS, FILES, Results, shown_as, wanted
from napari_xai.layers import LayerData, label_layer, relevance_layers, scan_layers
from napari_xai.saving import RECORD, check_place, put_together
from napari_xai.scan_space import FieldOfView, WayBack
from xai_io import (
    Display,
    ExportError,
    Identity,
    LoadedModel,
    Volume,
    burned_in,
    checked,
    display_for,
    write_curves,
    write_json,
)

__all__ = ["Explanation", "Prediction"]

LOST = 0.05  # of the relevance outside the scan, above which it is reported
NOTICE = "Research use only; not a medical device, not for diagnosis."


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about the scan.

    Attributes
    ----------
    classes : class name -> probability (classifier), or its predicted volume in mm3 (segmentation).
    labels : predicted label map on the scan's own grid, or None for a classifier.
    names : of the labels' values, background aside.
    """

    classes: Mapping[str, float]
    labels: Volume | None
    names: Mapping[int, str] = field(default_factory=dict)

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
    field_of_view : what of the map lies outside the scan, and what of the scan the model did not see.
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
    field_of_view: FieldOfView
    prediction: Prediction
    attribution: Attribution
    question: str
    model: LoadedModel = field(repr=False)
    grid: Volume = field(repr=False)
    way_back: WayBack
    faithfulness: Faithfulness | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Silent failures that were caught in the map, and on its way back."""
        found, lost = list(self.attribution.warnings), self.field_of_view.relevance_outside
        if lost > LOST:
            found.append(f"{lost:.0%} of the relevance lies outside the scan (padding, turned corners), and is lost")
        if self._burned_in:
            found.append(
                "the scan says that text is burned into its pixels, which a map that is multiplied with them can show"
            )
        return tuple(found)

    @cached_property
    def _burned_in(self) -> bool:
        return burned_in(self.scan)

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
            "warnings": list(self.warnings),
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
                "code that was run": list(self.model.ran),
            },
            "scan": {
                "shape": list(self.scan.shape),
                "channels": self.scan.channels,
                "affine_ras_mm": self.scan.affine.tolist(),
                "modality": self.scan.modality,
                "notes": list(self.scan.source.notes),
            },
            "model_grid": {"shape": list(self.grid.shape), "affine_ras_mm": self.grid.affine.tolist()},
            "way_back": self.way_back,
            "field_of_view": asdict(self.field_of_view),
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

    @cached_property
    def total(self) -> Volume:
        """Relevance summed over the input's channels: (1, i, j, k)."""
        found = self.relevance
        return found if found.channels == 1 else found.with_data(found.data.sum(0, keepdims=True))

    @cached_property
    def display(self) -> Display:
        """How pictures show it where nothing else is said; its threshold bounds the regions."""
        return display_for(self.scan, self.total)

    def save(
        self,
        folder: str | os.PathLike[str],
        exports: Sequence[str] = (),
        *,
        display: Display | str | None = None,
        identity: Identity | None = None,
        overwrite: bool = False,
    ) -> dict[str, Path]:
        """Write relevance, montage, table of regions and provenance.json; prediction and curves if there are any.

        All files appear together, after each was read again and searched for the source's identifiers. With `overwrite`
        they take the place of all earlier results in the folder, which stay as they were if anything goes wrong.

        Parameters
        ----------
        exports : what else, by the names in `napari_xai.exports`: "html", "pdf", "zarr", "pm", "sc", "seg", "sr",
            "source", or the groups "report" and "dicom".
        display : how pictures show it, or a CT window by name; its threshold bounds the regions.
        identity : whose results they are; nobody's if None.

        Returns
        -------
        Name of the export -> path. What could not be made of this map is said in the record under "not_written".

        Raises
        ------
        ExplainError : there is no such export.
        ExportError : results are there already, the folder cannot be written to, the disk is full, the map is not
            finite, DICOM was asked for of a scan that has none, or a file would have identified the patient.
        """
        folder, identity = Path(folder), identity or Identity()
        check_place(folder, FILES, self.scan, overwrite=overwrite)
        names = wanted(exports, self.scan, identity)
        self._check_finite()
        with put_together(folder, FILES) as aside:
            results = Results(self, shown_as(self, display), identity, self.record, aside)
            lacking = {name: why for name in names if (why := EXPORTS[name].missing(results))}
            asked = {name: why for name, why in lacking.items() if name not in ("prediction", "curves")}
            shown = {"display": results.display.record}
            record = self.record | shown | ({"not_written": asked} if asked else {})
            results = replace(results, record=record)
            made = {name: EXPORTS[name].to(results) for name in names if name not in lacking}
            made["provenance"] = aside / RECORD
            write_json(made["provenance"], record)
            checked(made["provenance"], self.scan, identity)
        return {name: folder / path.name for name, path in made.items()}

    def save_as(
        self,
        path: str | os.PathLike[str],
        export: str,
        *,
        display: Display | str | None = None,
        identity: Identity | None = None,
    ) -> Path:
        """Write one export alone, under a name of the caller's; a file that is there is replaced. Returns the path.

        Parameters
        ----------
        path : where it is to go; a folder for OME-Zarr, Secondary Capture and a copy of the source.
        export, display, identity : as for `save`; not "sr", which refers to a segmentation beside it.

        Raises
        ------
        ExplainError, ExportError : as `save`; or it cannot be had of this map.
        """
        path, identity = Path(path), identity or Identity()
        if export == "sr":
            raise ExplainError("Measurements refer to a segmentation beside them: write both with `save`.")
        check_place(path.parent, (path.name,), self.scan, overwrite=True)
        wanted([export], self.scan, identity)
        self._check_finite()
        with put_together(path.parent, (path.name,)) as aside:
            results = Results(self, shown_as(self, display), identity, self.record, aside)
            results = replace(results, record=self.record | {"display": results.display.record})
            lacking = EXPORTS[export].missing(results)
            if lacking:
                raise ExportError(f"{EXPORTS[export].what} cannot be had: {lacking}.")
            EXPORTS[export].to(results).replace(aside / path.name)
        return path

    def _check_finite(self) -> None:
        if not (np.isfinite(self.relevance.data).all() and np.isfinite(self.attribution.scores[0].item())):
            said = "; ".join(self.attribution.warnings) or "the model's output is too large for its precision"
            raise ExportError(f"The map or its score is NaN or infinite, and nothing was written: {said}.")

    def write_curves(self, path: Path) -> None:
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
        return layers + relevance_layers(self.relevance, name, self.record, self.model.channel_names)
