"""What goes into a report, and what cannot: the state of the Report dock. No Qt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari_xai._script import Recipe, recipe
from napari_xai._workplace import Result, Workplace
from napari_xai.errors import ExplainError
from napari_xai.exports import ALWAYS, EXPORTS, GROUPS, Results, wanted
from napari_xai.layers import is_scan
from xai_io import Display, Identity, XaiIOError
from xai_io.display import PLANES, Plane
from xai_io.pictures.montage import montage

__all__ = ["GROUPED", "IDENTIFIES", "Report", "preview", "scan_layer", "seen_window", "why_not"]

IDENTIFIES = (
    "Reports and DICOM objects will name the patient and belong to the original study. Pass them to nobody who may not "
    "see that study."
)
# In the order in which they are offered, by what they are for.
GROUPED: Mapping[str, tuple[str, ...]] = {
    "Report": GROUPS["report"],
    "DICOM": GROUPS["dicom"],
    "Data": tuple(n for n in EXPORTS if n not in (*ALWAYS, *GROUPS["report"], *GROUPS["dicom"])),
}


@dataclass
class Report:
    """What is chosen in the dock.

    Attributes
    ----------
    planes : that pictures show.
    centre : RAS mm of the point that the middle slices go through; None is the peak of the relevance.
    window : black and white of the scan, as it is seen in the viewer; None is the display's.
    exports : by name.
    keeps_identity : whether results belong to the patient.
    overwrites : whether earlier results are replaced.
    folder : where everything goes.
    """

    planes: tuple[Plane, ...] = PLANES
    centre: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    exports: frozenset[str] = frozenset({"html"})
    keeps_identity: bool = False
    overwrites: bool = False
    folder: Path = field(default_factory=lambda: Path.home() / "explained")

    @property
    def identity(self) -> Identity:
        """Whose results they are."""
        return Identity(keep=self.keeps_identity)

    def display(self, result: Result, workplace: Workplace) -> Display:
        """How pictures show a map: as the viewer does, in the planes and through the point that are chosen."""
        shown = workplace.displays.get(result.key, result.explanation.display)
        return replace(shown, planes=self.planes, centre=self.centre, window=self.window or shown.window)

    def missing(self, result: Result | None, reasons: Mapping[str, str]) -> str:
        """Why nothing can be exported, in one sentence; "" if something can."""
        if result is None:
            return "Explain something first: reports are of maps that were made in this window."
        if not self.planes:
            return "Choose a plane."
        refused = [name for name in EXPORTS if name in self.exports and reasons.get(name)]
        return f"{EXPORTS[refused[0]].what} cannot be had: {reasons[refused[0]]}." if refused else ""

    def save(self, result: Result, display: Display) -> dict[str, Path]:
        """Write everything; errors as `Explanation.save`."""
        return result.explanation.save(
            self.folder,
            sorted(self.exports),
            display=display,
            identity=self.identity,
            overwrite=self.overwrites,
        )

    def recipe(self, result: Result, workplace: Workplace) -> Recipe:
        """The run as Python and as a command line.

        Raises
        ------
        ExplainError : the model was not loaded from a file.
        """
        model = workplace.session.path_of(result.job.explainer)
        if model is None:
            raise ExplainError("The model was not loaded from a file: a script could not find it.")
        return recipe(result.job, model, self.folder)


def scan_layer(layers: Iterable[Any], result: Result) -> Any | None:
    """The layer of the first channel of a result's scan, which is the one in pictures; None if it was closed."""
    found = [layer for layer in layers if is_scan(layer) and layer.metadata["napari_xai"]["scan"] == result.scan]
    return min(found, key=lambda layer: layer.metadata["napari_xai"].get("channel", 0), default=None)


def seen_window(layer: Any | None) -> tuple[float, float] | None:
    """Black and white of a scan's layer as it is seen; None without one."""
    if layer is None:
        return None
    low, high = (float(value) for value in layer.contrast_limits)
    return low, high


def why_not(result: Result, display: Display, identity: Identity) -> dict[str, str]:
    """Export -> why it cannot be had of this map, for each that cannot; takes a while on large scans."""
    results = Results(result.explanation, display, identity, {}, Path())
    found: dict[str, str] = {}
    for name, export in EXPORTS.items():
        try:
            wanted([name], results.scan, identity)
            why = export.missing(results)
        except (ExplainError, XaiIOError) as error:
            why = str(error)
        if why:
            found[name] = why.rstrip(".")
    return found


def preview(result: Result, display: Display) -> bytes:
    """The picture that exports show, as PNG; drawn without any display.

    Raises
    ------
    ExportError : the point lies outside of the scan.
    """
    explanation = result.explanation
    return montage(explanation.scan, explanation.total, display).png
