"""The formats that an explanation is written in, one row each; viewer, command line and scripts write through them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import xai_io
from napari_xai.errors import ExplainError
from napari_xai.saving import RECORD
from xai_io import Display, ExportError, Identity, Region, Report, Volume

if TYPE_CHECKING:
    from napari_xai.explanation import Explanation

__all__ = ["ALWAYS", "EXPORTS", "FILES", "GROUPS", "Export", "Results", "check_display", "shown_as", "wanted"]


@dataclass(frozen=True, eq=False)
class Results:
    """An explanation, how it is shown, and whose it is said to be.

    Attributes
    ----------
    display : window, colours and threshold of every picture; what passes the threshold makes the regions.
    identity : whether the patient's identity is kept, and the key of pseudonyms.
    record : what provenance.json says.
    folder : where everything goes; nothing is there.
    """

    explanation: "Explanation"
    display: Display
    identity: Identity
    record: Mapping[str, Any]
    folder: Path

    @property
    def scan(self) -> Volume:
        """As it was read."""
        return self.explanation.scan

    @cached_property
    def total(self) -> Volume:
        """Relevance summed over the input's channels: (1, i, j, k)."""
        return self.explanation.total

    @cached_property
    def clusters(self) -> tuple[Volume, tuple[Region, ...]]:
        """What the display's threshold lets through, as labels and as a table; nothing where it has none."""
        if self.display.threshold == 0:
            return self.total.with_data(np.zeros(self.total.data.shape, np.uint16)), ()
        return xai_io.clusters(self.total, self.display.threshold, sign=self.display.sign)

    @cached_property
    def report(self) -> Report:
        """What both forms of the report say."""
        prediction = self.explanation.prediction
        named = {} if prediction.labels is None else prediction.names
        return Report(
            scan=self.scan,
            relevance=self.total,
            record=self.record,
            display=self.display,
            regions=self.clusters[1],
            labels=prediction.labels,
            structures=() if prediction.labels is None else xai_io.region_table(self.total, prediction.labels, named),
            patient=xai_io.patient(self.scan) if self.identity.keep else None,
        )

    @property
    def dicom(self) -> dict[str, Any]:
        """What every DICOM object wants to know."""
        return {"record": self.record, "identity": self.identity}


@dataclass(frozen=True)
class Export:
    """One format.

    Attributes
    ----------
    file : what the file or folder is called.
    what : it is, in a few words.
    write : writes it to a path, and returns the words that it drew into pixels.
    missing : what the results lack for it, in a few words; "" if nothing.
    """

    file: str
    what: str
    write: Callable[[Results, Path], tuple[str, ...] | None]
    missing: Callable[[Results], str] = lambda results: ""

    def to(self, results: Results) -> Path:
        """Write it into the results' folder, and search it for the source's identifiers.

        Raises
        ------
        ExportError : it cannot be written, or would identify the patient; then nothing of it is left.
        """
        path = results.folder / self.file
        drawn = self.write(results, path)
        xai_io.checked(path, results.scan, results.identity, drawn=drawn or ())
        return path


def _relevance(results: Results, path: Path) -> None:
    xai_io.write_nifti(path, results.explanation.relevance)


def _prediction(results: Results, path: Path) -> None:
    assert results.explanation.prediction.labels is not None  # else it is missing
    xai_io.write_nifti(path, results.explanation.prediction.labels)


def _montage(results: Results, path: Path) -> tuple[str, ...]:
    caption = results.explanation.caption
    return xai_io.write_montage(path, results.scan, results.total, caption=caption, display=results.display)


def _regions(results: Results, path: Path) -> None:
    xai_io.write_regions(path, results.clusters[1])


def _curves(results: Results, path: Path) -> None:
    results.explanation.write_curves(path)


def _html(results: Results, path: Path) -> tuple[str, ...]:
    return xai_io.write_report_html(path, results.report)


def _pdf(results: Results, path: Path) -> tuple[str, ...]:
    return xai_io.write_report_pdf(path, results.report)


def _zarr(results: Results, path: Path) -> None:
    xai_io.write_omezarr(path, results.explanation.relevance)


def _parametric_map(results: Results, path: Path) -> None:
    xai_io.write_parametric_map(path, results.scan, results.total, **results.dicom)


def _secondary_capture(results: Results, path: Path) -> None:
    xai_io.write_secondary_capture(path, results.scan, results.total, results.display, **results.dicom)


def _segmentation(results: Results, path: Path) -> None:
    labels, regions = results.clusters
    xai_io.write_segmentation(path, results.scan, labels, regions, **results.dicom)


def _measurements(results: Results, path: Path) -> None:
    segments = path.with_name(EXPORTS["seg"].file)
    xai_io.write_measurement_report(path, results.scan, results.clusters[1], segmentation=segments, **results.dicom)


def _source(results: Results, path: Path) -> None:
    xai_io.write_source(path, results.scan, results.identity)


def _no_labels(results: Results) -> str:
    return "the model predicts no labels" if results.explanation.prediction.labels is None else ""


def _no_curves(results: Results) -> str:
    return "no curves were measured" if results.explanation.faithfulness is None else ""


def _burned_in(results: Results) -> str:
    shows = not results.identity.keep and xai_io.burned_in(results.scan)
    return "the scan says that text is burned into its pixels, which pictures would show" if shows else ""


def _no_regions(results: Results) -> str:
    if results.display.threshold == 0:
        return "the display has no threshold, and regions are what passes it"
    return "" if results.clusters[1] else "no region of the map passes the threshold"


EXPORTS: Mapping[str, Export] = {
    "relevance": Export("relevance.nii.gz", "relevance on the scan's grid", _relevance),
    "prediction": Export("prediction.nii.gz", "predicted labels", _prediction, _no_labels),
    "montage": Export("montage.png", "slices around the peak", _montage, _burned_in),
    "regions": Export("regions.csv", "table of regions", _regions),
    "curves": Export("curves.png", "deletion and insertion curves", _curves, _no_curves),
    "html": Export("report.html", "report, one self-contained page", _html, _burned_in),
    "pdf": Export("report.pdf", "report, to print", _pdf, _burned_in),
    "zarr": Export("relevance.ome.zarr", "relevance as OME-Zarr", _zarr),
    "pm": Export("parametric_map.dcm", "DICOM Parametric Map", _parametric_map),
    "sc": Export("secondary_capture", "DICOM Secondary Capture, colour overlays", _secondary_capture, _burned_in),
    "seg": Export("segmentation.dcm", "DICOM Segmentation of the regions", _segmentation, _no_regions),
    "sr": Export("measurements.dcm", "DICOM SR (TID 1500) with the regions' numbers", _measurements, _no_regions),
    "source": Export("source", "the de-identified source series", _source, _burned_in),
}
FILES = (RECORD, *(export.file for export in EXPORTS.values()))
ALWAYS = ("relevance", "prediction", "montage", "regions", "curves")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "report": ("html", "pdf"),
    "dicom": ("pm", "sc", "seg", "sr"),
}
OF_DICOM = {"pm", "sc", "seg", "sr", "source"}


def shown_as(explanation: "Explanation", wish: Display | str | None) -> Display:
    """The display that is wished for: a preset, a CT window by name, or what suits the map.

    Raises
    ------
    ExportError : there is no such window, or the scan is not in HU.
    """
    if isinstance(wish, str):
        return replace(explanation.display, window=xai_io.display_window(explanation.scan, wish))
    return wish or explanation.display


def check_display(wish: Display | str | None, scan: Volume) -> None:
    """Refuse, before the run, a display that does not fit a scan; errors as `shown_as`."""
    if isinstance(wish, str):
        xai_io.display_window(scan, wish)
    elif wish is not None and wish.centre is not None:
        inside = scan.voxel_of(np.array(wish.centre))
        if bool(((inside < -0.5) | (inside > np.array(scan.shape) - 0.5)).any()):
            raise ExportError(
                f"The display's centre ({', '.join(f'{mm:g}' for mm in wish.centre)}) mm lies outside of the scan: "
                "leave it out, or give a point inside."
            )


def wanted(names: Iterable[str], scan: Volume | None = None, identity: Identity | None = None) -> tuple[str, ...]:
    """The exports by these names, in the order in which they are written: those that are always, and those they need.

    Parameters
    ----------
    names : of exports, or of groups of them.
    scan, identity : if given, what the scan does not allow is refused.

    Raises
    ------
    ExplainError : there is no such export, or a copy of the source with the identity kept.
    ExportError : DICOM of a scan that is not on the grid of a DICOM series; a copy of a mosaic.
    """
    asked = {one for name in names for one in GROUPS.get(name, (name,))}
    unknown = sorted(asked - EXPORTS.keys())
    if unknown:
        known = ", ".join([*GROUPS, *EXPORTS])
        raise ExplainError(f"There is no export {unknown[0]!r}: choose from {known}.")
    if "sr" in asked:
        asked.add("seg")  # whose segments it measures
    if "source" in asked and identity is not None and identity.keep:
        raise ExplainError(
            "A copy of the source is for results that are nobody's; with the identity kept they refer to the original "
            "series: leave one of the two out."
        )
    if scan is not None and asked & OF_DICOM:
        series = xai_io.sources(scan, identity or Identity())
        if "source" in asked and "MOSAIC" in series.first.get("ImageType", ()):
            raise ExportError(
                "The scan is a mosaic, whose places stand in private attributes, so that no copy of it can be "
                "nobody's: leave the source out."
            )
    return tuple(name for name in EXPORTS if name in asked or name in ALWAYS)
