"""What a report says: pictures, numbers and how they came about, once for every format it is written in."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..display import Display
from ..pictures.curves import curves
from ..pictures.montage import check_grids, key_slices, montage
from ..pictures.sheet import Picture
from ..pictures.slices import direction, peak_mm
from ..regions import Region, effect
from ..volume import Volume
from .blocks import Block, Facts, Figure, Section, Table, Text

TITLE = "Relevance report"
NOTICE = "RESEARCH USE ONLY, NOT FOR DIAGNOSIS"

_FIRST = 6  # classes on the first page; the others follow at the end
_READING = (
    "Red raises and blue lowers the score that the question asks about. The map shows what this network's score "
    "depends on, which need not be where a disease is. It is the output of a research method, not a finding."
)
_HEADS = ("no.", "region", "score", "volume (mm³)", "share", "mean", "peak", "peak at (mm)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a report is made of.

    Parameters
    ----------
    scan
        Of several channels the first is shown.
    relevance
        One channel on the scan's grid: of several input channels the sum.
    record
        How the map came about: the provenance that is saved beside it.
    display
        How both are shown.
    regions
        Clusters of the relevance, at the display's threshold.
    labels
        Predicted label map on the scan's grid, if there is one: its outlines are shown.
    structures
        Relevance in each of its labels.
    patient
        What to print about the patient, name by name; nothing is printed unless it is given here.

    Raises
    ------
    ExportError
        If the relevance or the labels are not one channel on the scan's grid.
    """

    scan: Volume
    relevance: Volume
    record: Mapping[str, Any]
    display: Display
    regions: Sequence[Region] = ()
    labels: Volume | None = None
    structures: Sequence[Region] = ()
    patient: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse maps that do not lie on the scan."""
        for volume in (self.relevance, self.labels):
            if volume is not None:
                check_grids(self.scan, volume)

    def sections(self) -> tuple[Section, ...]:
        """Everything the report says, in order; the pictures are drawn anew."""
        written = [
            Section("Patient", (Facts(tuple((self.patient or {}).items())),)),
            Section("Warnings", tuple(Text(str(words), strong=True) for words in self._get("warnings", ()))),
            Section("Prediction", self._prediction(slice(0, _FIRST))),
            Section("Key slices", self._key_slices()),
            Section("Regions of relevance", self._regions()),
            Section("Relevance in predicted structures", self._structures()),
            Section("More slices", (self._more_slices(),)),
            Section("Faithfulness", self._faithfulness()),
            Section("Method", (Facts(tuple(self._method())),)),
            Section("Model", (Facts(tuple(self._model())),)),
            Section("Scan and grids", (Facts(tuple(self._geometry())), *map(Text, self.scan.source.notes))),
            Section("Display", (Facts(tuple(self._shown())),)),
            Section("Software", (Facts(tuple(self._software())),)),
            Section("Further classes", self._prediction(slice(_FIRST, None))),
        ]
        return tuple(section for section in written if any(block != Facts(()) for block in section.blocks))

    @property
    def question(self) -> str:
        """What was asked, in words."""
        return str(self._get("question", ""))

    @property
    def summary(self) -> str:
        """What a reader has to know before the pictures: method, model and score; the rest comes after them."""
        model, score = self._get("model", {}), self._get("score")
        parts = [self._get("method", ""), model.get("name", ""), (model.get("sha256") or "")[:12]]
        return " · ".join([*filter(None, parts), *([] if score is None else [f"score {score:.4g}"])])

    def _get(self, name: str, missing: Any = None) -> Any:
        found = self.record.get(name)
        return missing if found is None else found

    def _prediction(self, some: slice) -> tuple[Block, ...]:
        unit = self._get("prediction_unit", "")
        ranked = sorted(self._get("prediction", {}).items(), key=lambda one: -one[1])
        value = _probability if unit == "probability" else _number
        rows = tuple((str(name), value(number)) for name, number in ranked[some])
        if not rows:
            return ()
        left = len(ranked) - _FIRST
        note = (Text(f"{left} more on the last page."),) if some.start == 0 and left > 0 else ()
        return Table(
            ("class", "volume on the model's grid (mm³)" if unit == "mm3" else unit), rows, frozenset({1})
        ), *note

    def _key_slices(self) -> tuple[Block, ...]:
        """Slices through the display's centre, else the first region's peak, so that table and picture agree."""
        where = f"{_place(self._centre)} mm"
        if not self.relevance.data.any():
            zero = Text("The map is zero everywhere: there is no relevance to show.", strong=True)
            return zero, self._figure(f"the middle of the scan, {where}")
        if self.display.centre is not None:
            return (self._figure(where),)
        peak = f"region {self.regions[0].number}" if self.regions else "the relevance"
        return (self._figure(f"the peak of {peak}, {where}"),)

    @property
    def _centre(self) -> tuple[float, float, float]:
        if self.display.centre is not None:
            return self.display.centre
        return self.regions[0].peak_mm if self.regions else peak_mm(self.relevance, self.display.sign)

    def _figure(self, through: str) -> Figure:
        rows = "the scan alone, relevance over it" + ("" if self.labels is None else ", outlines of the prediction")
        return Figure(
            key_slices(self.scan, self.relevance, self._display, self.labels),
            f"Slices through {through}. From top to bottom: {rows}. Radiological view: the patient's right is on the "
            f"left. {_READING}",
        )

    def _more_slices(self) -> Figure:
        picture = montage(self.scan, self.relevance, self._display)
        return Figure(picture, "Slices around the same point, one row for each plane.")

    @property
    def _display(self) -> Display:
        return dataclasses.replace(self.display, centre=self._centre)

    def _regions(self) -> tuple[Block, ...]:
        how = (
            f"Clusters of voxels whose |relevance| is {self.display.threshold:.3g} or more, touching at faces, edges "
            "or corners, positive and negative apart. Share: of all |relevance| on the scan."
        )
        if not self.regions:
            return (Text(f"No region was found. {how}"),)
        held = sum(region.share for region in self.regions)
        rest = "the rest is below the threshold or in smaller clusters"
        return _table(self.regions), Text(f"{how} Together they hold {_share(held)}; {rest}.")

    def _structures(self) -> tuple[Block, ...]:
        return (_table(self.structures),) if self.structures else ()

    def _faithfulness(self) -> tuple[Block, ...]:
        """Areas and curves, if they were measured."""
        found = self._get("faithfulness")
        if found is None:
            return ()
        rows, panels = [], {}
        for name, better in (("deletion", "lower"), ("insertion", "higher")):
            random = ", ".join(f"{area:.3f}" for area in found[f"{name}, random maps"])
            rows.append((name, f"{found[name]:.3f}", random or "none", better))
            panels[name] = (found["shares"], {str(self._get("method", "map")): [found[f"{name} curve"]]})
        across, up = "share of the tissue's voxels, highest relevance first", "score: 0 baseline, 1 scan"
        png = curves(panels, across=across, up=up)
        heads = ("curve", "area, this map", "area, random maps", "better is")
        settings = ", ".join(_pairs(found.get("settings", {})))
        caption = (
            f"The score while the most relevant voxels are removed (deletion) or restored (insertion); {settings}."
        )
        return Table(heads, tuple(rows), frozenset({1})), Figure(
            Picture(png, _size(png), (across, up, *panels)), caption
        )

    def _method(self) -> Iterator[tuple[str, str]]:
        yield "question", self.question
        yield "method", str(self._get("method", ""))
        yield from ((f"parameter {name}", _value(value)) for name, value in self._get("parameters", {}).items())
        yield "target", str(self._get("target", ""))
        score, gap = self._get("score"), self._get("gap")
        if score is not None:
            yield "score explained", f"{score:.6g}"
        if gap is None:
            yield "completeness gap", "not defined: the values of this method do not sum to the score"
        else:
            relative = f" ({abs(gap / score):.2g} of the score)" if score else ""
            yield "completeness gap", f"{gap:.3g}{relative}"
        absorbed = self._get("absorbed", {})
        if absorbed:
            yield "absorbed, by cause", ", ".join(f"{cause} {kept:.3g}" for cause, kept in absorbed.items())
        if self._get("extensive", False):
            sums = self._get("sum_on_model_grid"), self._get("sum_on_scan")
            yield "sum of relevance", "{:.6g} on the model's grid, {:.6g} on the scan".format(*sums)

    def _model(self) -> Iterator[tuple[str, str]]:
        for name, value in self._get("model", {}).items():
            if value:
                yield name, str(value)
        for name, value in self._get("running", {}).items():
            if value is not None:
                yield f"run with {name}", "; ".join(_pairs(value)) if isinstance(value, Mapping) else _value(value)

    def _geometry(self) -> Iterator[tuple[str, str]]:
        scan = self.scan
        yield "scan", _grid(scan) + (f", {scan.channels} channels" if scan.channels > 1 else "")
        yield "modality, units", f"{scan.modality or 'unknown'}, {scan.units or 'unknown'}"
        grid = self._get("model_grid")
        if grid:
            blank = Volume(np.broadcast_to(np.float32(0), (1, *grid["shape"])), np.array(grid["affine_ras_mm"]))
            same = blank.shape == scan.shape and bool((abs(blank.affine - scan.affine) < 1e-4).all())
            yield "model's grid", "the scan's own" if same else _grid(blank)
        if self._get("way_back"):
            yield "way back to the scan", str(self._get("way_back"))
        seen = self._get("field_of_view", {})
        if seen:
            yield "relevance outside the scan", f"{_share(seen['relevance_outside'])}, not shown"
            yield "scan outside the model's view", f"{_share(seen['scan_unseen'])} of the voxels, shown as zero"

    def _shown(self) -> Iterator[tuple[str, str]]:
        shown, units = self.display, f" {self.scan.units}".rstrip()
        yield "window", f"level {shown.level:.4g}{units}, width {shown.width:.4g}{units}"
        yield "relevance", f"full colour at ±{shown.limit:.3g}, {shown.words}"
        yield "colours", f"{shown.colormap}, opacity {shown.opacity:g}"

    def _software(self) -> Iterator[tuple[str, str]]:
        versions = self._get("versions", {})
        if versions:
            yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
        if self._get("device"):
            yield "device", f"{self._get('device')}, {self._get('dtype', '')}"
        if self._get("seconds") is not None:
            yield "time", f"{self._get('seconds'):.1f} s"
        if self._get("peak_memory_bytes"):
            yield "peak memory", f"{self._get('peak_memory_bytes') / 2**20:.0f} MiB"


def _size(png: bytes) -> tuple[int, int]:
    from PIL import Image

    return Image.open(io.BytesIO(png)).size


def _table(regions: Sequence[Region]) -> Table:
    rows = tuple(
        (
            str(one.number),
            one.name,
            effect(one),
            _number(one.volume_mm3),
            _share(one.share),
            f"{one.mean:.3g}",
            f"{one.peak:.3g}",
            _place(one.peak_mm),
        )
        for one in regions
    )
    return Table(_HEADS, rows, frozenset({0, 3, 4, 5, 6}))


def _place(point: tuple[float, float, float]) -> str:
    return ", ".join(direction(mm, axis) for axis, mm in enumerate(point))


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _probability(value: float) -> str:
    return "< 0.0001" if 0 < value < 1e-4 else "> 0.9999" if 1 - 1e-4 < value < 1 else f"{value:.4f}"


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {_value(value)}" for name, value in values.items()]


def _value(value: Any) -> str:
    return " × ".join(f"{one:g}" for one in value) if isinstance(value, list) else str(value)


def _grid(volume: Volume) -> str:
    shape, spacing = " × ".join(map(str, volume.shape)), " × ".join(f"{mm:.4g}" for mm in volume.spacing)
    return f"{shape} voxels of {spacing} mm, axes {volume.axcodes}"
