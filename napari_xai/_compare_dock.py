"""The dock "Compare": maps of one scan side by side, how far they agree, and the controls beside them."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from napari.utils import Colormap
from napari.utils.notifications import show_info
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QGridLayout,
    QHeaderView,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from methods3d import Cancelled, Edges, InputItself, Method, RandomMap
from napari_xai._choices import scans
from napari_xai._compare import SCALES, Comparison, Scale, agreement, difference, limits, tissue
from napari_xai._latest import Latest
from napari_xai._orientation import letters
from napari_xai._ortho import PLANES, Grid, Seen, painted
from napari_xai._outcome import Outcome
from napari_xai._overlay import maps, original, scan_under
from napari_xai._pane import Pane
from napari_xai._parts import combo, form, note, row
from napari_xai._queue import Run
from napari_xai._run_rows import say
from napari_xai._task import Task
from napari_xai._watch import Watch, go_in, go_on
from napari_xai._workplace import Result, workplace
from napari_xai.layers import on_one_grid, relevance_layers, volume_of
from xai_io import Display

if TYPE_CHECKING:
    import napari

__all__ = ["Panel"]

CONTROLS: tuple[type[Method], ...] = (RandomMap, Edges, InputItself)
SCALE_WORDS: dict[Scale, str] = {
    "own": "each map's own, as in the viewer",
    "common": "one for all: the largest",
    "top": "each map's highest percent",
}
COLUMNS = 2  # of pictures side by side
WAIT = 200  # milliseconds until numbers are made of what was chosen last


class Panel(QWidget):  # type: ignore[misc]
    """Maps are chosen in a list; the pictures follow the viewer's sliders, and move them."""

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self._workplace = workplace(viewer)
        self._outcome = Outcome(viewer, self._workplace)
        self._latest = Latest(self, WAIT)
        self._task: Task | None = None
        self._tissue: tuple[list[Any], Any] = ([], None)  # of which scans' data, and where
        self._asked: tuple[list[str], list[Any], float] = ([], [], 0.0)  # names, maps and percent of the numbers
        self.comparison: Comparison | None = None
        self.panes: list[Pane] = []
        self._lay_out()
        self._watch = Watch(viewer, self)
        self._connect()
        self._list()

    # --- what is chosen ---------------------------------------------------------------------

    @property
    def chosen(self) -> list[Any]:
        """The maps that are ticked, in the order of the list."""
        items = (self.maps.item(n) for n in range(self.maps.count()))
        return [item.data(Qt.ItemDataRole.UserRole) for item in items if item.checkState() == Qt.CheckState.Checked]

    def choose(self, layers: list[Any]) -> None:
        """Tick these maps, and no others."""
        blocker = QSignalBlocker(self.maps)
        for n in range(self.maps.count()):
            item = self.maps.item(n)
            ticked = item.data(Qt.ItemDataRole.UserRole) in layers
            item.setCheckState(Qt.CheckState.Checked if ticked else Qt.CheckState.Unchecked)
        blocker.unblock()
        self._choose()

    # --- what can be done -------------------------------------------------------------------

    def subtract(self) -> None:
        """Add the difference of two maps as a layer; each is divided by its limit first."""
        if self._task is not None:
            return
        one, other = self.chosen
        (a, b), (name, other_name) = (float(x.contrast_limits[1]) for x in (one, other)), (_made(one), _made(other))
        maps_, own = (original(one), original(other)), one.metadata["napari_xai"]
        metadata = {"napari_xai": {field: own[field] for field in ("affine_ras_mm", "shape")}}
        record = {
            "method": "difference",
            "question": f"{name} / {a:.3g} - {other_name} / {b:.3g}",
            "scan": {"shape": own["shape"], "affine_ras_mm": own["affine_ras_mm"]},
            "difference": [name, other_name],
            "divided by": [a, b],
        }

        def work(_: Any) -> Any:
            values = difference(maps_[0], a, maps_[1], b)
            (layer,) = relevance_layers(volume_of(values, metadata), f"difference: {record['question']}", record)
            layer[1]["metadata"]["napari_xai"] |= {"units": "limits", "scan": own.get("scan")}
            return layer

        self._task = Task("Difference of two maps", work, ended=self._subtracted, parent=self)
        self._update()

    def run_control(self, kind: type[Method]) -> None:
        """Make a map that knows nothing of the model, for the scan, the model and the question of the first map."""
        found = self._result
        if found is None or self._task is not None:
            return
        job = replace(found.job, method=kind())
        run = Run(job.explainer, job.scan, (found.scan,), title=f"{kind.title} of the scan", known=None, job=job)

        def work(hear: Any) -> Any:
            explanation = job(hear)
            return run, job, explanation, explanation.layers()

        self._task = Task(run.title, work, ended=self._controlled, parent=self)
        self._update()

    def cancel(self) -> None:
        """Nothing that is under way is wanted any more."""
        self._latest.drop()
        if self._task is not None:
            self._task.cancel()

    # --- in the background ------------------------------------------------------------------

    def _subtracted(self, outcome: Any) -> None:
        self._task = None
        if not isinstance(outcome, Exception):
            self._viewer.add_layer(Layer.create(*outcome))
        elif not isinstance(outcome, Cancelled):
            say(outcome)
        self._update()

    def _controlled(self, outcome: Any) -> None:
        self._task = None
        if isinstance(outcome, Exception):
            if not isinstance(outcome, Cancelled):
                say(outcome)
        else:
            try:
                chosen, run = self.chosen, outcome[0]
                if run.scans[0] in scans(self._viewer.layers):
                    self._outcome.explained(*outcome)
                    self.choose([*chosen, maps(self._viewer.layers)[0]])
                else:
                    show_info(f"{run.title}: the scan was closed in the meantime, and its map was not kept.")
            except Exception as error:  # never a traceback in the console
                say(error)
        self._update()

    def _compare(self) -> None:
        """Make the numbers of the chosen maps, unless they are there."""
        layers, percent, known = self.chosen, self.percent.value(), self._tissue
        names = _names(layers)
        asked = names, [original(layer) for layer in layers], percent
        if asked[::2] == self._asked[::2] and all(a is b for a, b in zip(asked[1], self._asked[1], strict=True)):
            return
        self._asked, self.comparison = asked, None
        self._fill_table()
        if len(layers) < 2:
            self._latest.drop()
            return
        values = dict(zip(names, asked[1], strict=True))
        under = [scan.data for scan in self._scans]

        def work() -> tuple[Comparison, tuple[list[Any], Any]]:
            same = len(known[0]) == len(under) and all(a is b for a, b in zip(known[0], under, strict=True))
            inside = known[1] if same else np.logical_and.reduce([tissue(one) for one in under]) if under else None
            return agreement(values, inside, percent), (under, inside)

        self._latest.ask("Agreement of maps", work, self._compared)
        self.said.setText("The numbers are being made …")

    def _compared(self, found: tuple[Comparison, tuple[list[Any], Any]]) -> None:
        self.comparison, self._tissue = found
        self._fill_table()
        self.redraw()

    # --- what is shown ----------------------------------------------------------------------

    def redraw(self) -> None:
        """Paint the chosen maps, each on its scan alone."""
        layers = self.chosen
        if not self.isVisible() or not layers or len(layers) != len(self.panes):
            return
        scan = scan_under(self._viewer.layers, layers[0])
        grid, plane = Grid.of(scan or layers[0]), PLANES[self.plane.currentText()]
        point = tuple(self._viewer.dims.point[-3:])
        names, scale = _names(layers), self.scale.currentData()
        own = {name: float(layer.contrast_limits[1]) for name, layer in zip(names, layers, strict=True)}
        ranges = limits(scale, own, self.comparison)
        number = f"{grid.voxel(point)[plane.axis] + 1} / {grid.shape[plane.axis]}"
        for pane, layer, name in zip(self.panes, layers, names, strict=True):
            least, full = ranges[name]
            changes: dict[str, Any] = {"visible": True, "contrast_limits": (-full, full)}
            if not np.isnan(least):
                shown = Display(window=(0, 1), limit=full, threshold=least).table()
                changes["colormap"] = Colormap(shown, name="highest")
            seen, under = [Seen(layer, **changes)], scan_under(self._viewer.layers, layer)
            if under is not None:
                seen.insert(0, Seen(under, visible=True, opacity=1.0))
            pane.plane = plane
            picture = painted(seen, grid, plane, point)
            sides = letters(layer, (), (plane.rows, plane.columns))
            pane.show_picture(picture, grid, point, sides, _short(name), number, f"± {full:.3g}")
            pane.setToolTip(name)

    def _choose(self, item: Any = None) -> None:
        """Show as many pictures as maps are ticked, and compare them."""
        layers = self.chosen
        for n in range(self.maps.count()):
            one = self.maps.item(n)
            layer = one.data(Qt.ItemDataRole.UserRole)
            fits = not layers or layer in layers or on_one_grid(layer, layers[0])
            blocker = QSignalBlocker(self.maps)
            one.setFlags(one.flags() | Qt.ItemFlag.ItemIsEnabled if fits else one.flags() & ~Qt.ItemFlag.ItemIsEnabled)
            one.setToolTip(layer.name if fits else "It lies on another grid than the maps that are ticked")
            blocker.unblock()
        while len(self.panes) > len(layers):
            self.panes.pop().deleteLater()
        while len(self.panes) < len(layers):
            pane = Pane(PLANES["axial"], self)
            pane.picked.connect(partial(self._move, pane))
            pane.scrolled.connect(partial(self._scroll, pane))
            self._pictures.addWidget(pane, len(self.panes) // COLUMNS, len(self.panes) % COLUMNS)
            self.panes.append(pane)
        self._compare()
        self._update()
        self._watch.soon()

    def _list(self) -> None:
        """List the maps that there are; new ones are ticked while there is room for them side by side."""
        there = maps(self._viewer.layers)
        known = [self.maps.item(n).data(Qt.ItemDataRole.UserRole) for n in range(self.maps.count())]
        chosen = [layer for layer in self.chosen if layer in there]
        for layer in there:
            first = chosen[0] if chosen else layer
            whole = layer.metadata["napari_xai"].get("part", "") in ("", "all channels")
            if layer not in known and whole and len(chosen) < COLUMNS and on_one_grid(layer, first):
                chosen.append(layer)
        blocker = QSignalBlocker(self.maps)
        self.maps.clear()
        for layer in there:
            item = QListWidgetItem(layer.name)
            item.setData(Qt.ItemDataRole.UserRole, layer)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            self.maps.addItem(item)
        blocker.unblock()
        self.choose(chosen)

    def _fill_table(self) -> None:
        found = self.comparison
        self.table.setRowCount(0 if found is None else len(found.pairs))
        for at, pair in enumerate(() if found is None else found.pairs):
            texts = [f"{_short(pair.one)} · {_short(pair.other)}"]
            texts += ["–" if np.isnan(x) else f"{x:.2f}" for x in (pair.rank, pair.magnitude, pair.overlap)]
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(f"{pair.one}\n{pair.other}")
                self.table.setItem(at, column, item)
        self.table.setVisible(found is not None)
        under = self._scans
        several = f"These maps are of different scans: {', '.join(scan.name for scan in under)}. "
        self.said.setText(
            "Tick two maps or more to see how far they agree."
            if found is None
            else f"{several if len(under) > 1 else ''}Over {found.voxels:,} voxels{' of tissue' if under else ''}. By "
            f"chance, the highest {found.percent:g} % overlap by {found.chance:.2f}."
        )

    def _update(self) -> None:
        """Enable what can be used, and say why the rest cannot."""
        two = len(self.chosen) == 2
        self.subtract_button.setEnabled(two and self._task is None)
        self.subtract_button.setToolTip(
            "Something else is being made …"
            if self._task is not None
            else "Add a layer: the first map minus the second, each divided by its limit"
            if two
            else "Tick exactly two maps to subtract one from the other."
        )
        why = (
            "A control is being made …"
            if self._task is not None
            else "Controls belong to a map that was made in this session: run a method first."
            if self._result is None
            else ""
        )
        for kind, button in self.controls.items():
            button.setEnabled(not why)
            button.setToolTip(why or (kind.__doc__ or "").strip().splitlines()[0])

    @property
    def _scans(self) -> list[Any]:
        """The scans' layers that the ticked maps lie on, each once."""
        under = (scan_under(self._viewer.layers, layer) for layer in self.chosen)
        return list({id(scan): scan for scan in under if scan is not None}.values())

    @property
    def _result(self) -> Result | None:
        """The first of the ticked maps that was made in this session; else the latest on their scan."""
        results = self._workplace.results
        own = [layer.metadata["napari_xai"] for layer in self.chosen]
        keys = {one.get("scan") for one in own}
        ticked = (results[one["map"]] for one in own if one.get("map") in results)
        latest = (result for result in reversed(results.values()) if not own or result.scan in keys)
        return next(ticked, next(latest, None))

    # --- followed ---------------------------------------------------------------------------

    def _move(self, pane: Pane, row_: float, column: float) -> None:
        if (grid := self._grid) is not None:
            go_in(self._viewer, grid, pane.plane, row_, column)

    def _scroll(self, pane: Pane, step: int) -> None:
        if (grid := self._grid) is not None:
            go_on(self._viewer, grid, pane.plane, step)

    @property
    def _grid(self) -> Grid | None:
        layers = self.chosen
        return Grid.of(scan_under(self._viewer.layers, layers[0]) or layers[0]) if layers else None

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's
        """Catch up with what happened unseen."""
        super().showEvent(event)
        self._watch.soon()

    def _lay_out(self) -> None:
        self.maps = QListWidget()
        self.maps.setMaximumHeight(96)
        self.plane, self.scale, self.percent = combo(), combo(), QDoubleSpinBox()
        self.plane.addItems(list(PLANES))
        for scale in SCALES:
            self.scale.addItem(SCALE_WORDS[scale], scale)
        self.percent.setRange(0.1, 50)
        self.percent.setDecimals(1)
        self.percent.setValue(5)
        self.percent.setSuffix(" %")
        self.percent.setKeyboardTracking(False)
        self.percent.setToolTip("Of the tissue's voxels: what counts as highest, by magnitude")
        self.subtract_button = QPushButton("Difference")
        self.controls = {kind: QPushButton(kind.title) for kind in CONTROLS}
        self._pictures = QGridLayout()
        self._pictures.setSpacing(2)
        self.said = note()
        self.table = QTableWidget(0, 4)
        self.table.setHorizontalHeaderLabels(["Maps", "Rank", "Magnitude", "Overlap"])
        hints = (
            "",
            "Spearman's rank correlation of the values: 1 same order, 0 unrelated, -1 reversed",
            "Spearman's rank correlation of the magnitudes, whatever their signs",
            "Dice coefficient of where each map is highest by magnitude: 1 same voxels, 0 none",
        )
        for column, hint in enumerate(hints):
            self.table.horizontalHeaderItem(column).setToolTip(hint)
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setMaximumHeight(130)
        rows = form()
        rows.addRow("Plane", self.plane)
        rows.addRow("Scale", self.scale)
        rows.addRow("Highest", self.percent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.maps)
        layout.addLayout(rows)
        layout.addLayout(self._pictures, 1)
        layout.addWidget(self.table)
        layout.addWidget(self.said)
        layout.addWidget(self.subtract_button)
        layout.addWidget(row(*self.controls.values()))

    def _connect(self) -> None:
        self.maps.itemChanged.connect(self._choose)
        self.plane.currentIndexChanged.connect(self.redraw)
        self.scale.currentIndexChanged.connect(self.redraw)
        self.percent.valueChanged.connect(self._compare)
        self.subtract_button.clicked.connect(self.subtract)
        for kind, button in self.controls.items():
            button.clicked.connect(partial(self.run_control, kind))
        self._watch.looks.connect(self.redraw)
        self._watch.layers.connect(self._list)
        self._workplace.explained.connect(self._explained)

    def _explained(self, result: Result) -> None:
        if isalive(self):  # workplaces outlive docks
            self._update()


def _names(layers: list[Any]) -> list[str]:
    """The layers' names, each different from the others."""
    names: list[str] = []
    for layer in layers:
        same = sum(name == layer.name or name.startswith(f"{layer.name} [") for name in names)
        names.append(f"{layer.name} [{same + 1}]" if same else layer.name)
    return names


def _made(layer: Any) -> str:
    """What a map is of, as records may say it: a layer's name may be that of a file, and that a patient's."""
    record = layer.metadata["napari_xai"]["provenance"]
    return ": ".join(str(record[name]) for name in ("method", "question") if name in record)


def _short(name: str) -> str:
    """The method's part of a map's name."""
    return name.split(":", maxsplit=1)[0]
