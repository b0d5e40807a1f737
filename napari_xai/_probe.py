"""What lies under the cursor: place, scan, relevance, labels and classes. No Qt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_xai._map_statistics import MapStatistics
from napari_xai._words import share
from napari_xai._workplace import Result, Workplace
from napari_xai.layers import grid_of, to_ras
from xai_io.pictures.slices import direction

__all__ = ["Probe", "label_names", "probe", "result_of"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What is known of one voxel.

    Attributes
    ----------
    mm : its centre in RAS mm.
    scan, unit : the scan's value there.
    relevance, percentile : the map's value, and the percentage of unclipped voxels that are smaller in magnitude.
    labels : name of a labels layer -> what it says there; nothing where it says background.
    classes : class -> probability, of the whole scan.
    """

    mm: tuple[float, float, float]
    scan: float | None = None
    unit: str = ""
    relevance: float | None = None
    percentile: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """All of it, in one line."""
        said = [" ".join(direction(mm, axis) for axis, mm in enumerate(self.mm)) + " mm"]
        if self.scan is not None:
            said.append(f"scan {self.scan:.5g}{' ' if self.unit else ''}{self.unit}")
        if self.relevance is not None:
            rank = "" if self.percentile is None else f" (percentile {_percent(self.percentile)})"
            said.append(f"relevance {self.relevance:+.3g}{rank}")
        said += [f"{layer}: {label}" for layer, label in self.labels.items()]
        said += [", ".join(f"{name} {share(number)}" for name, number in self.classes.items())] if self.classes else []
        return " · ".join(said)


def probe(
    position: Iterable[float],
    relevance: Any,
    scan: Any | None,
    labels: Iterable[Any],
    statistics: MapStatistics | None,
    place: Workplace,
) -> Probe | None:
    """Look at a place in the viewer's world; None outside of the map.

    Labels may lie on another grid: those that say where they lie in the patient are asked for that place, which in
    napari's world is another one if either scan is oblique.
    """
    world = tuple(position)
    index = _voxel(relevance, world)
    if index is None:
        return None
    x, y, z = (to_ras(relevance.metadata) @ [*index, 1.0])[:3].tolist()
    here = to_ras(relevance.metadata) @ [*relevance.world_to_data(world[-3:]), 1.0]
    value = float(np.asarray(relevance.data[index]))
    under = None if scan is None else _voxel(scan, world)
    said = {}
    for layer in labels:
        placed = grid_of(layer) is not None
        where = _inside(layer, np.linalg.inv(to_ras(layer.metadata)) @ here) if placed else _voxel(layer, world)
        number = 0 if where is None else int(np.asarray(layer.data[where]))
        if number:
            said[str(layer.name)] = label_names(layer, place).get(number, f"label {number}")
    result = result_of(relevance, place)
    return Probe(
        mm=(x, y, z),
        scan=None if scan is None or under is None else float(np.asarray(scan.data[under])),
        unit="" if scan is None else str(scan.metadata["napari_xai"].get("units", "")),
        relevance=value,
        percentile=None if statistics is None or not np.isfinite(value) else statistics.percentile(value),
        labels=said,
        classes={} if result is None else _probabilities(result),
    )


def result_of(relevance: Any, place: Workplace) -> Result | None:
    """The run that a map came from, if it is known in this viewer."""
    return place.results.get(relevance.metadata["napari_xai"].get("map", ""))


def label_names(layer: Any, place: Workplace) -> Mapping[int, str]:
    """What the values of a labels layer are called: a prediction's by the classes of the model that made it."""
    own = layer.metadata.get("napari_xai", {})
    if own.get("names"):
        return dict(own["names"])
    if own.get("role") == "prediction":
        for result in place.results.values():
            if result.scan == own.get("scan") and result.explanation.model.hash == own.get("model"):
                return result.explanation.prediction.names
    return {}


def _voxel(layer: Any, world: tuple[float, ...]) -> tuple[int, ...] | None:
    """The voxel of a layer that a place lies in; None outside. A world's axes beyond the layer's come first."""
    if len(world) < layer.ndim:
        return None
    return _inside(layer, np.asarray(layer.world_to_data(world[-layer.ndim :])))


def _inside(layer: Any, index: npt.NDArray[np.float64]) -> tuple[int, ...] | None:
    """The voxel at an index between a layer's voxels; None outside."""
    at = np.floor(index[: layer.ndim] + 0.5)
    if not ((at >= 0) & (at < layer.data.shape)).all():
        return None
    return tuple(int(n) for n in at)


def _probabilities(result: Result) -> Mapping[str, float]:
    """Of a classifier; a segmentation's numbers are volumes."""
    predicted = result.explanation.prediction
    return predicted.classes if predicted.unit == "probability" else {}


def _percent(value: float) -> str:
    """With as many digits as tell the topmost voxels apart."""
    return f"{value:.1f}" if value < 99.9 else f"{value:.3f}" if value < 99.9995 else "above 99.999"
