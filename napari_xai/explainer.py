"""A model made ready: a scan in, relevance on the scan's own grid out."""

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from methods3d import (
    Attribution,
    Explainable,
    Method,
    ModelInfo,
    Progress,
    Reference,
    Target,
    TorchModel,
    WindowedModel,
    silent,
)
from methods3d import method as method_named
from methods3d.errors import ParameterError
from methods3d.faithfulness import Faithfulness, faithfulness
from methods3d.meter import part_of
from methods3d.references import resolved
from napari_xai.errors import ExplainError
from napari_xai.explanation import Explanation, Prediction
from napari_xai.question import Answerable, Question, predicted_labels, probabilities
from napari_xai.reading import Reading, ScanLike, VolumeLike
from napari_xai.resuming import check_folder, resumable
from napari_xai.scan_space import ModelSpace, WayBack
from xai_io import LoadedModel, Volume, WindowSettings, XaiIOError, load_model, read_labels

__all__ = ["Asked", "Explainer", "ModelLike", "device_named"]

ModelLike = str | os.PathLike[str] | LoadedModel | nn.Module


@dataclass(frozen=True, eq=False)
class Explainer:
    """A model made ready once, for any number of scans and questions."""

    loaded: LoadedModel
    network: nn.Module = field(repr=False)  # on its device
    windows: WindowSettings | None
    output: Any = None
    autocast: torch.dtype | None = None
    memory: int | str | None = None
    reading: Reading = Reading()  # noqa: RUF009 - frozen

    @classmethod
    def of(
        cls,
        model: ModelLike,
        *,
        device: str = "auto",
        windows: WindowSettings | Literal["model"] | None = "model",
        output: Any = None,
        autocast: torch.dtype | None = None,
        memory: int | str | None = None,
        reading: Reading = Reading(),  # noqa: B008
        network: str | os.PathLike[str] | None = None,
        trust: bool | Literal["remember"] = False,
    ) -> "Explainer":
        """Load a model and bring it to its device; parameters as in `napari_xai.explain`."""
        if isinstance(model, nn.Module):
            loaded = LoadedModel(network=model, name=type(model).__name__, hash=_hash(model), form="module")
        else:
            loaded = model if isinstance(model, LoadedModel) else load_model(model, trust, network=network)
        chosen = device_named(device)
        present = next((p.device for p in loaded.network.parameters()), chosen)
        # A copy where it has to move: the caller's network stays where it is.
        placed = loaded.network if present == chosen else copy.deepcopy(loaded.network).to(chosen)
        sliding = loaded.windows if windows == "model" else windows
        return cls(loaded, placed, sliding, output, autocast, memory, reading)

    def explain(
        self,
        scan: ScanLike,
        *,
        method: str | Method = "lrp",
        target: int | str | Target | None = None,
        against: int | str | None = None,
        region: VolumeLike | None = None,
        way_back: WayBack = "interpolate",
        measure: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress = silent,
    ) -> Explanation:
        """Explain one scan; parameters as in `napari_xai.explain`."""
        method = method_named(method)() if isinstance(method, str) else method
        if checkpoint is not None:
            check_folder(checkpoint)
        space = self.space(scan)
        method = resolved(method, partial(self._placed, space=space))
        method.check_all(self.on(space), space.x)  # settings that do not fit are refused before the model is run
        asked = self._asked(space, target, against, region, progress)
        goal = asked.question.target
        first, second = (part_of(progress, n, 2) for n in range(2)) if measure else (progress, silent)
        measured = None
        with _memory_said(), resumable(checkpoint, asked.model, method, space.x, goal) as model:
            attribution = method(model, space.x, goal, progress=first)
            if measure:
                attribution, measured = _measured(model, space.x, goal, attribution, second)
        values = attribution.values[0]
        return Explanation(
            scan=space.scan,
            relevance=space.back(values, extensive=attribution.extensive, way=way_back),
            field_of_view=space.field_of_view(values),
            prediction=self.prediction(asked.output, space),
            attribution=attribution,
            question=asked.question.words,
            model=self.loaded,
            grid=space.grid,
            way_back=way_back,
            faithfulness=measured,
        )

    def ask(
        self,
        scan: ScanLike,
        *,
        target: int | str | Target | None = None,
        against: int | str | None = None,
        region: VolumeLike | None = None,
        progress: Progress = silent,
    ) -> "Asked":
        """Run the model on one scan and bind the question on what it predicts; parameters as in `explain`."""
        return self._asked(self.space(scan), target, against, region, progress)

    def _asked(
        self,
        space: ModelSpace,
        target: int | str | Target | None,
        against: int | str | None,
        region: VolumeLike | None,
        progress: Progress,
    ) -> "Asked":
        mask = None if region is None else _on_grid_of(space.scan, region, "region")
        model = self.on(space)
        with _memory_said():
            question = Question(
                target=target,
                against=against,
                region=None if mask is None else space.region(mask),
                classes=self.loaded.classes,
                threshold=self.loaded.threshold,
            )
            question.check()
            output = model.output(space.x, progress=progress)
            return Asked(space, model, output, question.on(output))

    def read(self, scan: ScanLike, progress: Callable[[int, int], None] | None = None) -> Volume:
        """The scan as a Volume, checked against what the model takes."""
        return self.reading(scan, self.loaded, progress)

    def space(self, scan: ScanLike) -> ModelSpace:
        """The scan as the model sees it."""
        return ModelSpace.of(self.read(scan), self.loaded.preprocessing)

    def _placed(self, reference: Reference, space: ModelSpace) -> Tensor:
        """A volume that a method's settings name, on the model's grid."""
        source = reference.source
        try:
            if reference.kind == "scan":
                return space.beside(self.space(source))
            what = "label map" if reference.kind == "labels" else reference.kind
            there = space.label_map(_on_grid_of(space.scan, source, what))
        except XaiIOError as error:
            raise ExplainError(f"A volume of the method's settings cannot be read: {error}") from error
        return there != 0 if reference.kind == "mask" else there

    def on(self, space: ModelSpace) -> Explainable:
        """The model as the methods want to see it, with what is known of this scan's grid."""
        info = ModelInfo(
            spacing=space.grid.spacing,
            air=space.air,
            bounds=space.bounds,
            classes=self.loaded.classes,
            model_hash=self.loaded.hash,
            channels=space.x.shape[1],
        )
        dense = TorchModel(self.network, output=self.output, autocast=self.autocast, memory=self.memory, info=info)
        if self.windows is None:
            return dense
        w = self.windows
        return WindowedModel(
            dense,
            w.roi_size,
            sw_batch_size=w.sw_batch_size,
            overlap=w.overlap,
            mode=w.mode,
            sigma_scale=w.sigma_scale,
            padding_mode=w.padding_mode,
            cval=w.cval,
        )

    def prediction(self, output: Tensor, space: ModelSpace) -> Prediction:
        """What the model's output for a scan says."""
        name = self.loaded.classes.get
        if output.ndim == 2:
            shares = probabilities(output, self.loaded.activation)[0].tolist()
            return Prediction({name(k, f"class {k}"): p for k, p in enumerate(shares)}, None)
        members = predicted_labels(output, self.loaded.threshold)[0]
        overlapping = self.loaded.threshold is not None and output.shape[1] > 1
        # Overlapping classes are painted in order, the later over the earlier, with 0 kept for none of them.
        numbers = torch.arange(len(members)) + (1 if overlapping else 0)
        labels = (members.cpu() * numbers.view(-1, 1, 1, 1)).amax(0)
        voxel = space.grid.spacing[0] * space.grid.spacing[1] * space.grid.spacing[2]
        volumes = {name(k, f"class {k}"): float(members[k].sum()) * voxel for k in range(len(members))}
        names = {n: name(k, f"class {k}") for k, n in enumerate(numbers.tolist()) if n or len(members) == 1}
        return Prediction(volumes, space.labels(labels), names)


def _measured(
    model: Explainable, x: Tensor, target: Target, found: Attribution, progress: Progress
) -> tuple[Attribution, Faithfulness | None]:
    """The map's curves; where it has none the map is kept, with a warning that says why."""
    try:
        return found, faithfulness(model, x, target, found.values, progress=progress)
    except ParameterError as error:
        return replace(found, warnings=(*found.warnings, f"there are no curves: {error}")), None


class Asked(NamedTuple):
    """A scan as the model sees it, the model, what it predicts, and the question bound on that."""

    space: ModelSpace
    model: Explainable
    output: Tensor
    question: Answerable


def _on_grid_of(scan: Volume, given: VolumeLike, what: str) -> Volume:
    """A mask or label map on the scan's own grid."""
    found = given if isinstance(given, Volume) else read_labels(given)
    if found.shape != scan.shape:
        off = f"{found.shape} voxels, not {scan.shape}"
    elif (most := abs(found.affine - scan.affine).max()) > 1e-3:
        off = f"an affine that is off by up to {most:.3g} mm"
    else:
        return found
    raise ExplainError(
        f"The {what} lies on another grid than the scan, with {off}: resample it to the scan (nearest neighbour), "
        "or paint it there."
    )


def device_named(wish: str) -> torch.device:
    """A device by its name; "auto" is a GPU if there is one.

    Raises
    ------
    ExplainError : there is no such device on this computer.
    """
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["auto", "cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        *most, last = map(repr, there)
        raise ExplainError(
            f"The device {wish!r} cannot be used: give {', '.join(most)} or {last}, which this computer has."
        ) from error
    return device


def _hash(net: nn.Module) -> str:
    """SHA-256 over a network's parameters and buffers, in order."""
    total = hashlib.sha256()
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor):
            total.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@contextmanager
def _memory_said() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ExplainError(
            "The device ran out of memory for one volume at a time: use smaller windows, autocast, or device='cpu'."
        ) from error
