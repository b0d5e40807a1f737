"""The controls of an overlay: window, colours, threshold, opacity, and what of the map is left out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QSlider, QVBoxLayout, QWidget

from napari_xai._color_bar import ColorBar
from napari_xai._look import COLORMAPS, Look
from napari_xai._map_statistics import MapStatistics
from napari_xai._number import Number
from napari_xai._parts import add_row, combo, form, row
from napari_xai._words import sentence
from napari_xai.errors import USER_ERRORS

__all__ = ["OverlayControls"]

STEPS = 1000
DECADES = 4.0  # the percentile slider ends at 99.99: most of it is the tail, where thresholds lie
SIGN_WORDS = {"both": "Both signs", "positive": "Positive only", "negative": "Negative only"}


class OverlayControls(QWidget):  # type: ignore[misc]
    """Shows a look, and says how it is changed."""

    changed = Signal(object)  # the Look
    masked = Signal(object)  # the labels layer outside of which nothing is shown, or None
    barred = Signal(bool)  # whether the colour bar is seen in the canvas

    def __init__(self) -> None:
        super().__init__()
        self._look: Look | None = None
        self._statistics: MapStatistics | None = None
        self._windows: Mapping[str, tuple[float, float]] = {}
        self.preset, self.colormap, self.sign, self.mask, self.rule = (combo() for _ in range(5))
        self.level, self.width, self.limit, self.threshold = (Number() for _ in range(4))
        self.low, self.high, self.smoothing = Number("any"), Number("any"), Number()
        self.slider, self.opacity = QSlider(Qt.Orientation.Horizontal), QSlider(Qt.Orientation.Horizontal)
        self.bar, self.in_canvas = ColorBar(), QCheckBox("Colour bar in the canvas")
        self._lay_out()
        self._connect()

    # --- what is shown ----------------------------------------------------------------------

    def show_look(self, look: Look, units: str) -> None:
        """Show how a map is seen; nobody hears of it."""
        self._look = look
        blocked = [QSignalBlocker(one) for one in (self.colormap, self.sign, self.rule, self.slider, self.opacity)]
        display = look.display
        self.level.show_number(display.level)
        self.width.show_number(display.width)
        if self.colormap.findData(display.colormap) < 0:
            self.colormap.addItem(display.colormap, display.colormap)
        self.colormap.setCurrentIndex(self.colormap.findData(display.colormap))
        self.sign.setCurrentIndex(self.sign.findData(display.sign))
        self.rule.setCurrentIndex(0 if look.percentile is not None else 1)
        self.threshold.show_number(look.percentile if look.percentile is not None else display.threshold)
        self.slider.setValue(self._step(look))
        self.limit.show_number(display.limit)
        self.opacity.setValue(round(100 * display.opacity))
        self.low.show_number(look.between[0])
        self.high.show_number(look.between[1])
        self.smoothing.show_number(look.smoothing)
        self.bar.show_look(look, units)
        self._name_window()
        del blocked

    def show_statistics(self, statistics: MapStatistics | None) -> None:
        """Let the slider reach the map's largest magnitude; percentiles wait for this."""
        self._statistics = statistics
        known = statistics is not None
        self.slider.setEnabled(known)
        self.rule.setEnabled(known)
        self.slider.setToolTip(
            "Relevance of a smaller magnitude is hidden, of both signs alike."
            if known
            else "The map is being measured …"
        )
        if self._look is not None:
            with QSignalBlocker(self.slider):
                self.slider.setValue(self._step(self._look))

    def offer_windows(self, windows: Mapping[str, tuple[float, float]]) -> None:
        """Windows of the scan, by name."""
        self._windows = windows
        with QSignalBlocker(self.preset):
            self.preset.clear()
            for name in windows:
                self.preset.addItem(name[:1].upper() + name[1:], name)
        for one in (self.preset, self.level, self.width, self.low, self.high):
            one.setEnabled(bool(windows))
        self._name_window()

    def offer_masks(self, layers: Sequence[Any], chosen: Any) -> None:
        """Labels layers that can clip the map; their names are read again."""
        with QSignalBlocker(self.mask):
            self.mask.clear()
            self.mask.addItem("Everywhere", None)
            for layer in layers:
                self.mask.addItem(f"Inside {layer.name}", layer)
            found = [k for k in range(1, self.mask.count()) if self.mask.itemData(k) is chosen]
            self.mask.setCurrentIndex(found[0] if found else 0)

    def _name_window(self) -> None:
        if self._look is None:
            return
        low, high = self._look.display.window
        near = (name for name, one in self._windows.items() if all(map(math.isclose, one, (low, high))))
        with QSignalBlocker(self.preset):
            self.preset.setCurrentIndex(self.preset.findData(next(near, "")))

    # --- the slider -------------------------------------------------------------------------

    def _step(self, look: Look) -> int:
        """Where the slider stands: by percentile in decades of what is left, by value along its square root."""
        if look.percentile is not None:
            return round(STEPS * min(1.0, -math.log10(1 - look.percentile / 100) / DECADES))
        top = 0.0 if self._statistics is None else self._statistics.top
        return round(STEPS * math.sqrt(min(1.0, look.display.threshold / top))) if top else 0

    def _slide(self, step: int) -> None:
        if self._statistics is None or self._look is None:
            return
        if self._look.percentile is not None:
            self._by_percentile(100 * (1 - 10 ** (-DECADES * step / STEPS)))
        else:
            self._change(lambda look: look.with_threshold(self._top() * (step / STEPS) ** 2))

    def _top(self) -> float:
        return 0.0 if self._statistics is None else self._statistics.top

    def _by_percentile(self, percentile: float) -> None:
        found = self._statistics
        if found is not None:
            percentile = round(min(max(percentile, 0.0), 100 - 10 ** (2 - DECADES)), 3)
            self._change(lambda look: look.with_threshold(found.value(percentile), percentile))

    # --- what is changed --------------------------------------------------------------------

    def _change(self, change: Callable[[Look], Look]) -> None:
        """Say how the look is changed; what cannot be is shown as it was."""
        if self._look is None:
            return
        try:
            look = change(self._look)
        except USER_ERRORS as error:
            show_error(sentence(error))
            look = self._look
        self.changed.emit(look)

    def _set_threshold(self, number: float) -> None:
        if self._look is not None and self._look.percentile is not None:
            self._by_percentile(number)
        else:
            self._change(lambda look: look.with_threshold(max(0.0, number)))

    def _set_rule(self, index: int) -> None:
        """Go on from the threshold that there is, said the other way."""
        if self._look is None or self._statistics is None:
            return
        threshold = self._look.display.threshold
        if index == 0:
            self._by_percentile(self._statistics.percentile(threshold))
        else:
            self._change(lambda look: look.with_threshold(threshold))

    def _set_window(self) -> None:
        level, width = self.level.number, self.width.number
        if level is not None and width is not None:
            self._change(lambda look: look.with_window(level, width))

    def _set_preset(self) -> None:
        window = self._windows.get(self.preset.currentData())
        if window is not None:
            self._change(lambda look: look.with_display(window=window))

    # --- made once --------------------------------------------------------------------------

    def _lay_out(self) -> None:
        for name in COLORMAPS:
            self.colormap.addItem(name, name)
        for sign, said in SIGN_WORDS.items():
            self.sign.addItem(said, sign)
        self.rule.addItems(["Percentile", "Value"])
        self.rule.setMinimumContentsLength(8)
        self.preset.setPlaceholderText("Own window")
        self.slider.setRange(0, STEPS)
        self.opacity.setRange(1, 100)
        rows = form()
        add_row(rows, "Scan window", self.preset, "Scan values shown black to white.")
        add_row(rows, "Level, width", row(self.level, self.width), "Scan value shown mid-grey, and range to white.")
        add_row(rows, "Colours", self.colormap, "Signed and locked at zero: the middle colour is always zero.")
        add_row(
            rows,
            "Full colour at",
            self.limit,
            "Relevance from which colours no longer change, of both signs; 1.25 to 100 times the threshold.",
        )
        add_row(
            rows,
            "Threshold",
            row(self.rule, self.threshold),
            "Relevance of a smaller magnitude is hidden: by percentile of |relevance| inside of the clip, or by value.",
        )
        rows.addRow("", self.slider)
        add_row(rows, "Opacity", self.opacity, "Of full relevance; smaller magnitudes are more transparent.")
        add_row(rows, "Show", self.sign)
        add_row(rows, "Clip", self.mask, "Show relevance only inside the labels of a layer on this scan.")
        add_row(rows, "Scan from, to", row(self.low, self.high), "Show relevance only where the scan has such values.")
        add_row(
            rows,
            "Smooth (mm)",
            self.smoothing,
            "Full width at half maximum of a Gaussian in mm. For looking only: exports show the map itself.",
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addWidget(self.bar)
        layout.addWidget(self.in_canvas)

    def _connect(self) -> None:
        self.preset.currentIndexChanged.connect(self._set_preset)
        self.level.changed.connect(self._set_window)
        self.width.changed.connect(self._set_window)
        self.colormap.currentIndexChanged.connect(
            lambda _: self._change(lambda look: look.with_display(colormap=self.colormap.currentData()))
        )
        self.limit.changed.connect(lambda number: self._change(lambda look: look.with_limit(number)))
        self.rule.currentIndexChanged.connect(self._set_rule)
        self.threshold.changed.connect(self._set_threshold)
        self.slider.valueChanged.connect(self._slide)
        self.opacity.valueChanged.connect(
            lambda percent: self._change(lambda look: look.with_display(opacity=percent / 100))
        )
        self.sign.currentIndexChanged.connect(
            lambda _: self._change(lambda look: look.with_display(sign=self.sign.currentData()))
        )
        self.mask.currentIndexChanged.connect(lambda _: self.masked.emit(self.mask.currentData()))
        for bound in (self.low, self.high):
            bound.changed.connect(
                lambda _: self._change(lambda look: replace(look, between=(self.low.number, self.high.number)))
            )
        self.smoothing.changed.connect(lambda number: self._change(lambda look: replace(look, smoothing=number)))
        self.in_canvas.toggled.connect(self.barred)
