"""The panel of the dock "Relevance": how a map is shown, what lies under the cursor, where its relevance lies."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_error
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QFileDialog,
    QLabel,
    QMenu,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_xai._hotspots import MOST, hot_spots, peak_index, regions_in
from napari_xai._latest import Latest
from napari_xai._look import Look, read_look, write_look
from napari_xai._map_statistics import MapStatistics
from napari_xai._overlay import (
    chosen_map,
    filtered,
    left_out,
    map_key,
    map_layers,
    original,
    paint,
    paint_scan,
    scan_under,
    show_values,
    voxel_mm,
)
from napari_xai._overlay_controls import OverlayControls
from napari_xai._parts import combo, note, row
from napari_xai._probe import label_names, probe
from napari_xai._profile_plot import ProfilePlot
from napari_xai._region_table import RegionTable
from napari_xai._window_level import presets
from napari_xai._words import sentence
from napari_xai._workplace import workplace
from napari_xai.layers import on_one_grid, volume_of
from xai_io import Display, Region, write_regions

if TYPE_CHECKING:
    import napari

__all__ = ["Panel"]

SOON, LATER = 150, 400  # milliseconds after the last change in which a map is filtered, and hot spots are listed
AT_ONCE = 30  # the same for the probe: it follows the cursor, but not each of its pixels


class Panel(QWidget):  # type: ignore[misc]
    """Works on the relevance layer that is selected, else on the topmost."""

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self._place = workplace(viewer)
        self.layer: Any = None
        self.scan: Any = None
        self.look: Look | None = None
        self.statistics: MapStatistics | None = None
        self._masks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # relevance layer -> labels that clip it
        self._measured_in: Any = None  # the labels that the table of regions is of
        self._clipped: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # how many voxels of a map are left out
        self._painting = False
        self._at_cursor = False  # whether the probe looks there; else at the crosshair
        self._filter, self._measure = Latest(self, SOON), Latest(self, 0)
        self._list, self._tell, self._begin = Latest(self, LATER), Latest(self, LATER), Latest(self, 0)
        self._probe_soon = QTimer(self)
        self._probe_soon.setSingleShot(True)
        self._probe_soon.setInterval(AT_ONCE)
        self._lay_out()
        self._connect()
        self._choose(None)
        self._follow_layers()

    # --- what can be done -------------------------------------------------------------------

    def use(self, look: Look) -> None:
        """Show the chosen map this way: colours at once, other values in the background."""
        if self.layer is None:
            return
        before, self.look = self.look, look
        key = map_key(self.layer)
        self._painting = True
        try:
            for one in map_layers(self._viewer.layers, key):
                paint(one, look)
                one.metadata["napari_xai"]["look"] = look.record
            if self.scan is not None:
                paint_scan(self.scan, look.display)
        finally:
            self._painting = False
        self.controls.show_look(look, self._units)
        self._place.show(key, look.display)
        if before is None or (before.smoothing, before.between) != (look.smoothing, look.between):
            self._refilter()
        self._list_spots()

    def clip(self, labels: Any) -> None:
        """Show relevance only inside a labels layer; None is everywhere."""
        if self.layer is not None and labels is not self._mask:
            self._hear_mask(False)
            self._masks[self.layer] = labels
            self._hear_mask(True)
            self._offer_labels()
            self._refilter()

    def go(self, index: tuple[int, ...]) -> None:
        """Put the crosshair, and the middle of the view, on a voxel of the map."""
        dims, world = self._viewer.dims, np.asarray(self.layer.data_to_world(index))
        dims.set_point(range(dims.ndim - len(world), dims.ndim), tuple(world))
        self._viewer.scene.camera.center = tuple(dims.point[axis] for axis in dims.displayed)
        self._at_cursor = False
        self._probe_later()

    def go_to_peak(self) -> None:
        """Go to the largest magnitude of what is shown."""
        peak = None if self.statistics is None or self.look is None else self.statistics.peak(self.look.display.sign)
        if peak is not None:
            self.go(peak.index)

    def save_preset(self, path: Path) -> None:
        """Save how the map is shown, for this dock and for the command line."""
        if self.look is not None:
            self._try(lambda look: write_look(path, look), self.look)

    def load_preset(self, path: Path) -> None:
        """Show the map as a preset says; a percentile is taken of this map."""

        def load(found: Path) -> None:
            look = read_look(found)
            if look.percentile is not None and self.statistics is not None:
                look = look.with_threshold(self.statistics.value(look.percentile), look.percentile)
            self.use(look)

        self._try(load, path)

    def reset(self) -> None:
        """Show the map as every map is shown at first."""
        if self.layer is None:
            return
        layer, scan = self.layer, self.scan or self.layer
        map_, under = volume_of(original(layer), layer.metadata), volume_of(scan.data, scan.metadata)

        def then(look: Look) -> None:
            if layer is self.layer:
                self.clip(None)
                self.use(look)

        self._begin.ask("Looking for the usual display", lambda: Look.usual(under, map_), then)

    def export(self, path: Path) -> None:
        """Write the table that is seen as CSV."""
        table = self.tabs.currentWidget().findChild(RegionTable)
        self._try(lambda regions: write_regions(path, regions, overwrite=True), table.regions)

    def cancel(self) -> None:
        """The dock is closed: nothing that is under way is wanted any more, and the map itself is shown again."""
        for one in (self._filter, self._measure, self._list, self._tell, self._begin):
            one.drop()
        if self._follow_mouse in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.remove(self._follow_mouse)
        if self.layer is not None and self.layer in self._viewer.layers:
            show_values(self.layer, original(self.layer), "")

    # --- which map --------------------------------------------------------------------------

    def _follow_layers(self, event: Any = None) -> None:
        if not isalive(self):
            return
        layers = self._viewer.layers
        if self._mask is not None and self._mask not in layers:
            self.clip(None)
        chosen = chosen_map(layers)
        if chosen is not self.layer:
            self._choose(chosen)
        elif chosen is not None and self._choose_scan() and self.look is not None:
            self.use(self._in_window(self.look))
        self._name()
        self._offer_labels()

    def _choose(self, layer: Any) -> None:
        """Go over to another map; the one before stays as it is shown."""
        if self.layer is not None:
            self.layer.events.data.disconnect(self._follow_data)
            self.layer.events.contrast_limits.disconnect(self._follow_limits)
        self._hear_mask(False)
        self.layer, self.look, self.statistics = layer, None, None
        self._hear_mask(True)
        for table in (self.spots, self.regions):
            table.show_regions(())
        self._update_export()
        self.setEnabled(layer is not None)
        self.setToolTip(
            "" if layer is not None else "There is no relevance layer: explain a scan first, or open a map."
        )
        self._choose_scan()
        if layer is None:
            return
        layer.events.data.connect(self._follow_data)
        layer.events.contrast_limits.connect(self._follow_limits)
        self.look = self._in_window(self._known())
        self.controls.in_canvas.setChecked(layer.colorbar.visible)
        self.use(self.look)
        self._refilter()  # another dock may have shown it otherwise, or this one before it was closed
        self._measure_map()

    @property
    def _mask(self) -> Any:
        """The labels layer that clips the chosen map, or None."""
        return None if self.layer is None else self._masks.get(self.layer)

    def _hear_mask(self, on: bool) -> None:
        """Whether the map is clipped anew when its mask is replaced or painted on."""
        for event in ("data", "paint") if self._mask is not None else ():
            emitter = getattr(self._mask.events, event)
            (emitter.connect if on else emitter.disconnect)(self._refilter)

    def _choose_scan(self) -> bool:
        """Take the scan's layer that is seen under the map; whether it is another one."""
        scan = None if self.layer is None else scan_under(self._viewer.layers, self.layer)
        if scan is self.scan:
            return False
        if self.scan is not None:
            self.scan.events.contrast_limits.disconnect(self._follow_window)
        self.scan = scan
        found = {}
        if scan is not None:
            scan.events.contrast_limits.connect(self._follow_window)
            found = presets(scan.data, scan.metadata["napari_xai"])
        self.controls.offer_windows(found)
        return True

    def _in_window(self, look: Look) -> Look:
        """The look, in the window in which the scan is seen now: that of another of its channels would not suit it."""
        if self.scan is None:
            return look
        low, high = (float(value) for value in self.scan.contrast_limits)
        return look.with_display(window=(low, high))

    def _known(self) -> Look:
        """How this map was looked at last, else as its layer stands."""
        record = self.layer.metadata["napari_xai"].get("look")
        look = Look.like(self._layers_own()) if record is None else Look.of(record)
        display = self._place.displays.get(map_key(self.layer))
        return look if display is None or display == look.display else Look.like(display)

    def _layers_own(self) -> Display:
        """The display that a new layer stands in, without a look at its data."""
        limit = max(abs(value) for value in self.layer.contrast_limits)
        window = (0.0, 1.0) if self.scan is None else tuple(self.scan.contrast_limits)
        return Display(window=window, limit=limit, threshold=0.1 * limit)

    # --- what others change -----------------------------------------------------------------

    def _follow_data(self, event: Any = None) -> None:
        """The map was filtered here, or replaced by a newer one, which is filtered in turn."""
        if isalive(self) and self.layer.data is original(self.layer):
            self._refilter()
        self._measure_map()

    def _follow_limits(self) -> None:
        """napari's own slider was moved: the limit follows, and zero stays in the middle."""
        if isalive(self) and not self._painting and self.look is not None:
            limit = max(abs(float(value)) for value in self.layer.contrast_limits)
            self._try(lambda look: self.use(look.with_limit(limit)), self.look)

    def _follow_window(self) -> None:
        """The scan's window was changed elsewhere."""
        if isalive(self) and not self._painting and self.look is not None:
            self._try(lambda look: self.use(self._in_window(look)), self.look)

    def _follow_display(self, key: str, display: Display) -> None:
        """Another dock has changed how a map is shown."""
        if isalive(self) and self.look is not None and key == map_key(self.layer) and display != self.look.display:
            self.use(replace(self.look, display=display, limit=display.limit, percentile=None))

    # --- in the background ------------------------------------------------------------------

    def _refilter(self, event: Any = None) -> None:
        """Smooth and clip the map anew, or bring it back."""
        if not isalive(self) or self.layer is None or self.look is None:
            return
        layer, look, mask = self.layer, self.look, self._mask
        map_, mm = original(layer), voxel_mm(layer)
        if not look.alters and mask is None:
            self._filter.drop()
            self._clipped.pop(layer, None)
            if layer.data is not map_:
                show_values(layer, map_, "")
            return
        inside = None if mask is None else mask.data
        scan = None if self.scan is None else self.scan.data
        words = ", ".join(part for part in (look.words, "" if mask is None else "clipped by a mask") if part)

        def work() -> Any:
            outside = left_out(look, scan=scan, mask=inside)
            values = filtered(map_, mm, look.smoothing, outside)
            return values, 0 if outside is None else int(outside.sum())

        def then(found: Any) -> None:
            if layer is self.layer and original(layer) is map_:
                values, self._clipped[layer] = found
                show_values(layer, values, words)

        self._filter.ask("Filtering the map", work, then)

    def _measure_map(self) -> None:
        """Take the numbers of what is shown."""
        layer, values = self.layer, self.layer.data

        def then(found: MapStatistics) -> None:
            if layer is self.layer and layer.data is values:
                self._measured(found)

        clipped = self._clipped.get(layer, 0)
        self._measure.ask("Measuring the map", lambda: MapStatistics.of(values, clipped), then)

    def _measured(self, found: MapStatistics) -> None:
        self.statistics = found
        self.controls.show_statistics(found)
        self._update_peak()
        self._show_curve()
        self._probe_later()
        look = self.look
        if look is not None and look.percentile is not None:
            look = look.with_threshold(found.value(look.percentile), look.percentile)
        if look is not None and look != self.look:
            self.use(look)
        else:
            self._list_spots()
        self._list_regions()

    def _list_spots(self) -> None:
        """List what passes the threshold."""
        self._update_peak()
        layer, look = self.layer, self.look
        if layer is None or look is None:
            return
        values, metadata = layer.data, {"napari_xai": dict(layer.metadata["napari_xai"])}
        self.spots_note.setText("Looking for hot spots …")

        def then(found: tuple[Region, ...]) -> None:
            if layer is self.layer:
                self.spots.show_regions(found)
                self.spots_note.setText(self._about(found))
                self._update_export()

        self._list.ask("Looking for hot spots", lambda: hot_spots(values, metadata, look), then)

    def _list_regions(self, event: Any = None) -> None:
        """Measure the map in each label of the chosen layer."""
        if not isalive(self):
            return
        layer, labels = self.layer, self.regions_of.currentData()
        self._hear_regions(labels)
        if layer is None or labels is None:
            self.regions.show_regions(())
            self._update_export()
            return
        values, metadata = layer.data, {"napari_xai": dict(layer.metadata["napari_xai"])}
        numbers, names = labels.data, label_names(labels, self._place)

        def then(found: tuple[Region, ...]) -> None:
            if layer is self.layer and labels is self.regions_of.currentData():
                self.regions.show_regions(found)
                self._update_export()

        self._tell.ask("Measuring regions", lambda: regions_in(values, metadata, numbers, names), then)

    def _hear_regions(self, labels: Any) -> None:
        """Measure anew when the labels are replaced, or painted on."""
        before, self._measured_in = self._measured_in, labels
        if labels is not before:
            for layer in (one for one in (before, labels) if one is not None):
                for event in ("data", "paint"):
                    emitter = getattr(layer.events, event)
                    (emitter.connect if layer is labels else emitter.disconnect)(self._list_regions)

    # --- what is said -----------------------------------------------------------------------

    def _say_probe(self) -> None:
        """What lies under the cursor; where there is none, or it is a ray through 3D, at the crosshair."""
        if self.layer is None:
            self.probe.setText("")
            return
        viewer = self._viewer
        place = viewer.cursor.position if self._at_cursor and viewer.dims.ndisplay == 2 else viewer.dims.point
        labels = [one for one in viewer.layers if isinstance(one, Labels) and one.ndim == self.layer.ndim]
        found = probe(place, self.layer, self.scan, labels, self.statistics, self._place)
        self.probe.setText("The cursor is outside of the scan." if found is None else found.line)

    def _about(self, found: tuple[Region, ...]) -> str:
        if self.look is None or self.look.display.threshold == 0:
            if self.look is not None and self.look.percentile:
                return "Most of what is shown is zero, and so is this percentile: choose a higher one, or a value."
            return "Set a threshold: hot spots are what passes it."
        words = self.layer.metadata["napari_xai"].get("filtered", "")
        of = f" of the map {words}" if words else ""
        if not found:
            return f"No cluster{of} of 10 mm³ or more passes the threshold."
        share = sum(region.share for region in found)
        many = f"The {MOST} weightiest hot spots" if len(found) == MOST else f"{len(found)} hot spot"
        many += "s" if 1 < len(found) < MOST else ""
        return f"{many}{of}: {share:.0%} of all |relevance|. Click to go."

    @property
    def _units(self) -> str:
        return str(self.layer.metadata["napari_xai"].get("units", "")) or "score"

    def _name(self) -> None:
        self.name.setText("No relevance layer" if self.layer is None else str(self.layer.name))
        self.name.setToolTip(self.name.text())

    def _show_curve(self) -> None:
        """The curve across the axis that is sliced."""
        if self.statistics is None or self.layer is None:
            return
        axis = self._axis
        title = f"Relevance per slice, {self.layer.axis_labels[axis]}"
        self.curve.show_sums(self.statistics.positive[axis], self.statistics.negative[axis], title)
        self._show_slice()

    def _show_slice(self) -> None:
        at = self.layer.world_to_data(self._viewer.dims.point[-self.layer.ndim :])[self._axis]
        self.curve.show_slice(round(float(at)))

    def _jump(self, number: int) -> None:
        dims, layer, axis = self._viewer.dims, self.layer, self._axis
        index = np.asarray(layer.world_to_data(dims.point[-layer.ndim :]))
        index[axis] = number
        dims.set_point(axis + dims.ndim - layer.ndim, float(layer.data_to_world(index)[axis]))

    @property
    def _axis(self) -> int:
        """The axis of the map that is sliced; of a 3D view, the first that 2D would slice."""
        dims = self._viewer.dims
        lead = dims.ndim - self.layer.ndim  # a world of more axes leads with them
        return next(int(axis) for axis in dims.order if axis >= lead) - int(lead)

    def _offer_labels(self) -> None:
        layer, there = self.layer, list(self._viewer.layers)
        found = (
            []
            if layer is None
            else [one for one in there if isinstance(one, Labels) and on_one_grid(one, layer, there)]
        )
        self.controls.offer_masks(found, self._mask)
        chosen = self.regions_of.currentData()
        blocked = self.regions_of.blockSignals(True)
        self.regions_of.clear()
        for one in found:
            self.regions_of.addItem(str(one.name), one)
        same = [k for k, one in enumerate(found) if one is chosen]
        self.regions_of.setCurrentIndex(same[0] if same else 0 if found else -1)
        self.regions_of.blockSignals(blocked)
        if self.regions_of.currentData() is not chosen:
            self._list_regions()

    def _update_peak(self) -> None:
        if self.statistics is None or self.look is None:
            can, said = False, "The map is being measured …"
        elif self.statistics.peak(self.look.display.sign) is None:
            can, said = False, "The map is zero where it is shown"
        else:
            can, said = True, "Crosshair to the largest magnitude that is shown"
        self.peak_button.setEnabled(can)
        self.peak_button.setToolTip(said)

    def _update_export(self) -> None:
        table = self.tabs.currentWidget().findChild(RegionTable)
        self.export_button.setEnabled(bool(table.regions))
        self.export_button.setToolTip("Write this table as CSV" if table.regions else "The table is empty")

    def _try(self, work: Callable[[Any], None], what: Any) -> None:
        try:
            work(what)
        except Exception as error:  # never a traceback in the console
            logging.getLogger(__name__).debug("shown as a notification", exc_info=error)
            show_error(sentence(error))

    # --- made once --------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.name, self.probe, self.spots_note = QLabel(), QLabel(), note()
        self.probe.setWordWrap(True)
        self.probe.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.probe.setMinimumHeight(3 * self.probe.fontMetrics().lineSpacing())  # so that nothing jumps below it
        self.probe.setToolTip("What lies under the cursor; at the crosshair after a jump, and in 3D.")
        self.name.setStyleSheet("font-weight: bold;")
        self.name.setMinimumWidth(50)
        self.controls, self.curve = OverlayControls(), ProfilePlot()
        self.peak_button, self.export_button = QPushButton("Go to peak"), QPushButton("Export …")
        preset, menu = QPushButton("Preset"), QMenu(self)
        preset.setToolTip("How this map is shown, as a file that the command line takes, too")
        menu.addAction("Load …", self._ask_preset)
        menu.addAction("Save …", self._ask_where)
        menu.addAction("Reset", self.reset)
        preset.setMenu(menu)
        self.spots, self.regions, self.regions_of = (
            RegionTable(("Name", "Effect", "Mean")),
            RegionTable(("No.",)),
            combo(),
        )
        self.regions_of.setPlaceholderText("No labels layer lies on this scan")
        self.tabs = QTabWidget()
        for title, *parts in (
            ("Hot spots", self.spots_note, self.spots),
            ("Regions", self.regions_of, self.regions),
        ):
            page = QWidget()
            column = QVBoxLayout(page)
            column.setContentsMargins(0, 4, 0, 0)
            for part in parts:
                column.addWidget(part)
            self.tabs.addTab(page, title)
        inner = QWidget()
        column = QVBoxLayout(inner)
        column.setContentsMargins(0, 0, 4, 0)
        for part in (
            self.name,
            self.controls,
            self.curve,
            row(self.peak_button, preset),
            self.tabs,
            self.export_button,
        ):
            column.addWidget(part)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(inner)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.probe)
        layout.addWidget(area, stretch=1)

    def _connect(self) -> None:
        self.controls.changed.connect(self.use)
        self.controls.masked.connect(self.clip)
        self.controls.barred.connect(self._show_bar)
        self.curve.chosen.connect(self._jump)
        self.peak_button.clicked.connect(self.go_to_peak)
        self.export_button.clicked.connect(self._ask_table)
        self.tabs.currentChanged.connect(lambda _: self._update_export())
        self.regions_of.currentIndexChanged.connect(self._list_regions)
        for table in (self.spots, self.regions):
            table.chosen.connect(lambda region: self.go(peak_index(region, self.layer.metadata)))
        self._probe_soon.timeout.connect(self._say_probe)
        viewer = self._viewer
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, event).connect(self._follow_layers)
        viewer.layers.selection.events.active.connect(self._follow_layers)
        viewer.mouse_move_callbacks.append(self._follow_mouse)
        viewer.dims.events.point.connect(self._follow_point)
        viewer.dims.events.order.connect(self._reorder)
        self._place.displayed.connect(self._follow_display)

    def _follow_mouse(self, viewer: Any, event: Any) -> None:
        if isalive(self):
            self._at_cursor = True
            self._probe_later()

    def _follow_point(self, event: Any = None) -> None:
        if isalive(self) and self.layer is not None:
            self._show_slice()
            self._probe_later()

    def _probe_later(self) -> None:
        if not self._probe_soon.isActive():
            self._probe_soon.start()

    def _reorder(self, event: Any = None) -> None:
        if isalive(self):
            self._show_curve()

    def _show_bar(self, seen: bool) -> None:
        if self.layer is not None:
            self.layer.colorbar.visible = seen

    def _ask_preset(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a preset", "", "Presets (*.json)")
        if path:
            self.load_preset(Path(path))

    def _ask_where(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save this preset", "look.json", "Presets (*.json)")
        if path:
            self.save_preset(Path(path))

    def _ask_table(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save this table", "regions.csv", "Tables (*.csv)")
        if path:
            self.export(Path(path))
