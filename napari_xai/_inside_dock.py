"""The dock "Look inside": the layers of the model, and what any of them puts out for the scan."""

from typing import TYPE_CHECKING, Any

from napari.layers import Layer as ViewerLayer
from qtpy.QtCore import QEvent, QSignalBlocker, Qt
from qtpy.QtWidgets import QHeaderView, QLineEdit, QPushButton, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

from methods3d import Cancelled
from methods3d.types import Layer
from napari_xai._channels import input_missing, model_input
from napari_xai._choices import Scan, scans
from napari_xai._inside import MEAN, MOST, Node, activations, channels_of, layers_of, tree
from napari_xai._parts import add_row, form, note, row
from napari_xai._run_rows import say
from napari_xai._task import Task
from napari_xai._watch import Watch
from napari_xai._words import sentence
from napari_xai._workplace import workplace
from napari_xai.explainer import Explainer
from napari_xai.layers import activation_layers

if TYPE_CHECKING:
    import napari

__all__ = ["Panel"]

FEW = 12  # layers that are shown at once: with so few left by the filter, all branches are open


class Panel(QWidget):  # type: ignore[misc]
    """The model and its input, a scan or one for each channel, are those that are chosen under Explain."""

    def __init__(self, viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self._viewer = viewer
        self._session = workplace(viewer).session
        self._scans: dict[str, Scan] = {}
        self._task: Task | None = None
        self._listed: tuple[Explainer | None, tuple[str, ...]] = (None, ())  # of which model and scans the layers are
        self._layers: list[Layer] = []
        self._lay_out()
        self._watch = Watch(viewer, self)
        self._watch.layers.connect(self._follow_layers)
        self._follow_layers()

    # --- what can be done -------------------------------------------------------------------

    def list_layers(self) -> None:
        """List the layers of the chosen model, as its input goes through it."""
        explainer = self._session.explainer
        if explainer is None or self._task is not None:
            return
        try:
            volume = model_input(self._session, self._scans)
        except Exception as error:
            say(error)
            return
        listed = explainer, self._session.scans

        def found(layers: list[Layer]) -> None:
            self._listed = listed
            self._found(layers)

        self._start("Layers of the model", lambda hear: layers_of(explainer, volume), found)

    def show_activations(self) -> None:
        """Show what the selected layer puts out, as images on the scan."""
        layer, explainer = self._selected, self._session.explainer
        if layer is None or explainer is None or self._task is not None:
            return
        try:
            channels = channels_of(self.channels.text(), layer.channels)
            volume = model_input(self._session, self._scans)
        except Exception as error:
            say(error)
            return
        which = [f"channel {n}" for n in channels] if channels is not None else [f"mean of {layer.channels} channels"]
        names = [f"{layer.name}: {one}" for one in which]
        own = {"scan": self._session.scans[0], "model": explainer.loaded.hash, "layer": layer.name}

        def work(hear: Any) -> Any:
            return activation_layers(activations(explainer, volume, layer.name, channels, hear), names, **own)

        self._start(f"Activations of {layer.name}", work, self._came)

    def cancel(self) -> None:
        """What is under way is not wanted any more."""
        if self._task is not None:
            self._task.cancel()

    # --- in the background ------------------------------------------------------------------

    def _start(self, title: str, work: Any, then: Any) -> None:
        self._then = then
        self._task = Task(title, work, ended=self._ended, parent=self)
        self._update()
        self.said.setText(f"{title} …")

    def _ended(self, outcome: Any) -> None:
        self._task = None
        self._update()
        if isinstance(outcome, Cancelled):
            self.said.setText("")
            return
        try:
            if isinstance(outcome, Exception):
                raise outcome
            self._then(outcome)
        except Exception as error:
            say(error)
            self.said.setText(sentence(error))

    def _found(self, layers: list[Layer]) -> None:
        self._layers = layers
        self._show_tree()

    def _came(self, layers: list[Any]) -> None:
        for data, options, kind in reversed(layers):  # the first, which is visible, on top
            self._viewer.add_layer(ViewerLayer.create(data, options, kind))
        self.said.setText(f"Shown: {', '.join(options['name'] for _, options, _ in layers)}")

    # --- what is shown ----------------------------------------------------------------------

    def _show_tree(self, wanted: str = "") -> None:
        root = tree(self._layers, self.filter.text())
        blocker = QSignalBlocker(self.tree)
        self.tree.clear()
        count = _add(self.tree.invisibleRootItem(), root)
        if self.filter.text().strip() or count <= FEW:
            self.tree.expandAll()
        blocker.unblock()
        self.said.setText(f"{count} of {len(self._layers)} layers that put out a volume" if self._layers else "")
        self._update()

    def _follow_layers(self) -> None:
        self._scans = scans(self._viewer.layers)
        self._update()

    @property
    def _selected(self) -> Layer | None:
        item = self.tree.currentItem()
        found = None if item is None else item.data(0, Qt.ItemDataRole.UserRole)
        return found if isinstance(found, Layer) else None

    def _update(self, item: Any = None, before: Any = None) -> None:
        """Enable what can be used, and say why the rest cannot."""
        explainer, session = self._session.explainer, self._session
        why = (
            "Open a scan first."
            if not self._scans
            else "Choose a model under Explain first."
            if explainer is None
            else input_missing(session, self._scans)
        )
        self.input.setText(why or ", ".join(self._scans[key].name for key in session.scans))
        why = why or ("Something is being done already …" if self._task is not None else "")
        self.list_button.setText("List layers" if explainer is None else f"List layers of {explainer.loaded.name}")
        self.list_button.setEnabled(not why)
        self.list_button.setToolTip(why or "List what puts out a volume when this scan goes through the model")
        stale = self._layers and self._listed != (explainer, session.scans)
        why = why or (
            "The list is of another model or scan: list the layers again."
            if stale
            else "Choose a layer in the list."
            if self._selected is None
            else ""
        )
        self.show_button.setEnabled(not why)
        self.show_button.setToolTip(why or "Add what this layer puts out as images on the scan")

    def event(self, event: QEvent) -> bool:
        """The model may have been chosen in another dock since the mouse was here."""
        if event.type() in (QEvent.Type.Enter, QEvent.Type.Show):
            self._update()
        return bool(super().event(event))

    def _double_clicked(self, item: QTreeWidgetItem, column: int) -> None:
        if self.show_button.isEnabled():
            self.show_activations()

    def _lay_out(self) -> None:
        self.input, self.list_button, self.filter = note(), QPushButton(), QLineEdit()
        self.filter.setPlaceholderText("Filter by name")
        self.filter.setClearButtonEnabled(True)
        self.tree = QTreeWidget()
        self.tree.setHeaderLabels(["Layer", "Channels", "Shape"])
        self.tree.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.tree.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.tree.header().setStretchLastSection(False)
        self.tree.setExpandsOnDoubleClick(False)  # which shows a layer
        self.tree.setToolTip("Double click shows what a layer puts out")
        self.channels, self.show_button, self.said = QLineEdit(MEAN), QPushButton("Show"), note()
        rows = form()
        add_row(rows, "Input", self.input, "The scan, or one for each channel, that is chosen under Explain")
        below = form()
        add_row(
            below,
            "Channels",
            row(self.channels, self.show_button),
            f'"{MEAN}" over all, or up to {MOST} such as 0, 3, 8-10',
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addWidget(self.list_button)
        layout.addWidget(self.filter)
        layout.addWidget(self.tree, 1)
        layout.addLayout(below)
        layout.addWidget(self.said)
        self.list_button.clicked.connect(self.list_layers)
        self.filter.textChanged.connect(self._show_tree)
        self.tree.currentItemChanged.connect(self._update)
        self.tree.itemDoubleClicked.connect(self._double_clicked)
        self.channels.returnPressed.connect(self.show_activations)
        self.show_button.clicked.connect(self.show_activations)


def _add(parent: QTreeWidgetItem, node: Node) -> int:
    """Add a node's children below an item; how many of them are layers, all the way down."""
    count = 0
    for child in node.children.values():
        item = QTreeWidgetItem(parent, [child.name])
        layer = child.layer
        if layer is not None:
            item.setText(1, str(layer.channels))
            item.setText(2, " × ".join(map(str, layer.shape)))
            item.setData(0, Qt.ItemDataRole.UserRole, layer)
            item.setToolTip(0, layer.name)
            count += 1
        count += _add(item, child)
    return count
