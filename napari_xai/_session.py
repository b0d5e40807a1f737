"""What is going to be run: scan, model, method, settings and question. No Qt, so that it is tested alone."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from methods3d import Method, Progress, Reference
from methods3d import method as method_named
from methods3d.references import resolved
from napari_xai._estimate import Known
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.explanation import Explanation
from napari_xai.reading import Reading
from xai_io import Volume

__all__ = ["Job", "Session"]


@dataclass(frozen=True, eq=False)
class Job:
    """One run, fixed when it was asked for: what is chosen later does not change it.

    Attributes
    ----------
    why_not : the target is not what is predicted, and the question is what speaks against it.
    reading : how the scan was read.
    beside : scans that the method's settings name, and how each was read.
    """

    explainer: Explainer
    scan: Volume
    method: Method
    target: int | None
    against: int | None
    region: Volume | None
    why_not: bool = False
    reading: Reading = Reading()  # noqa: RUF009 - frozen
    beside: tuple[tuple[Volume, Reading], ...] = ()

    def reading_of(self, volume: Volume) -> Reading:
        """How a scan that the method's settings name was read."""
        return next((reading for one, reading in self.beside if one is volume), Reading())

    def check(self, predicted: int | None) -> None:
        """Refuse, before the run, to ask why not of the very class that is predicted: ExplainError."""
        if self.why_not and predicted == self.target:
            name = self.explainer.loaded.classes.get(predicted, f"class {predicted}") if predicted is not None else ""
            raise ExplainError(f"{name!r} is what is predicted: ask why it is, or why another class is not.")

    def __call__(self, progress: Progress) -> Explanation:
        """Run it; errors as `Explainer.explain`."""
        return self.explainer.explain(
            self.scan,
            method=self.method,
            target=self.target,
            against=self.against,
            region=self.region,
            progress=progress,
        )


@dataclass
class Session:
    """The choices that stand in the widget, and the models that were loaded for it.

    Attributes
    ----------
    channels : of the chosen scan; None while there is none.
    model : path of the chosen model.
    method, settings : a name from `methods3d.methods()` and its fields.
    target, against : classes by index; None is what is predicted, and the runner-up.
    why_not : whether the question is why the target is not predicted; classifiers only.
    scans : keys of the scans that make up the model's input: the chosen one, or one for each channel.
    unassigned : channels of the model that no scan was chosen for yet, where several scans make up its input.
    """

    channels: int | None = None
    model: Path | None = None
    method: str = "lrp"
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: int | None = None
    against: int | None = None
    why_not: bool = False
    scans: tuple[str, ...] = ()
    unassigned: tuple[str, ...] = ()
    _loaded: dict[Path, Explainer] = field(default_factory=dict, repr=False)
    _numbered: dict[Path, tuple[str, ...]] = field(default_factory=dict, repr=False)
    _paths: "WeakKeyDictionary[Explainer, Path]" = field(default_factory=WeakKeyDictionary, repr=False)
    _known: dict[tuple[tuple[str, ...], Path], Known] = field(default_factory=dict, repr=False)

    @property
    def explainer(self) -> Explainer | None:
        """The chosen model, if it is loaded."""
        return None if self.model is None else self._loaded.get(self.model)

    @property
    def classes(self) -> Mapping[int, str]:
        """Class index -> name; for a model without names as many as its first answer had."""
        if self.explainer is None or self.model is None:
            return {}
        return self.explainer.loaded.classes or dict(enumerate(self._numbered.get(self.model, ())))

    @property
    def classifies(self) -> bool:
        """Whether classes can be compared: the model is, or may be, a classifier."""
        return self.explainer is not None and self.explainer.loaded.task != "segmentation"

    @property
    def segments(self) -> bool:
        """Whether a region can be asked about: the model is, or may be, a segmenter."""
        return self.explainer is not None and self.explainer.loaded.task != "classification"

    @property
    def missing(self) -> str | None:
        """Why there can be no run yet, in one sentence; None if there can."""
        return self.input_missing or self._question_missing

    @property
    def input_missing(self) -> str | None:
        """Why there can be no prediction yet, in one sentence; None if there can."""
        if self.channels is None:
            return "Open a scan first: drop a NIfTI file or a DICOM folder, or take one from File > Open Sample."
        if self.model is None:
            return "Choose a model first."
        if self.explainer is None:
            return f"The model {self.model.name} is not loaded: choose it again."
        loaded = self.explainer.loaded
        if self.unassigned:
            return f"Choose a scan for {', '.join(self.unassigned)}, or open one that has all channels."
        if loaded.in_channels is not None and loaded.in_channels != self.channels:
            names = f" ({', '.join(loaded.channel_names)})" if loaded.channel_names else ""
            return (
                f"The scan has {self.channels} channel(s), but the model takes {loaded.in_channels}{names}: "
                "choose another scan or model."
            )
        return None

    @property
    def _question_missing(self) -> str | None:
        if self.why_not and self.classifies:
            if self.target is None:
                return "Choose the class that you ask about: why is it not what is predicted?"
            if self.known is not None and self.known.predicted == self.target:
                return "This class is what is predicted: ask why it is, or why another class is not."
        elif self.classifies and self.against is not None and self.against == self.target:
            return "A class cannot be compared with itself: choose two."
        return None

    @property
    def known(self) -> Known | None:
        """What a prediction of the chosen model on the chosen scan told, if there was one."""
        return None if self.model is None else self._known.get((self.scans, self.model))

    def predicted(self, scans: tuple[str, ...], explainer: Explainer, known: Known) -> None:
        """Remember a prediction, and the names of its classes."""
        for path, loaded in self._loaded.items():
            if loaded is explainer:
                self._known[scans, path] = known
                self._numbered[path] = tuple(known.classes)

    def forget(self, open_scans: Collection[str]) -> None:
        """Drop what is known of scans that are closed."""
        for key in [key for key in self._known if not set(key[0]) <= set(open_scans)]:
            del self._known[key]

    def keep(self, path: Path, explainer: Explainer) -> None:
        """Remember a model that was loaded, and forget what one that was loaded from there before has said."""
        self._known = {key: known for key, known in self._known.items() if key[1] != path}
        self._numbered.pop(path, None)
        self._loaded[path] = explainer
        self._paths[explainer] = path

    def path_of(self, explainer: Explainer) -> Path | None:
        """Where a model was loaded from; None if it was not loaded here."""
        return self._paths.get(explainer)

    def job(
        self,
        scan: Volume,
        region: Volume | None = None,
        volumes: Mapping[str, Callable[[], Volume]] | None = None,
        *,
        reading: Reading = Reading(),  # noqa: B008
        readings: Mapping[str, Reading] | None = None,
    ) -> Job:
        """The run that was asked for; the method's settings may name `volumes`, or else files.

        Parameters
        ----------
        reading : how the scan was read.
        readings : how those of `volumes` were read that are scans.

        Raises
        ------
        ExplainError : something is missing.
        Methods3dError : there is no such method, or one of its settings is out of range.
        """
        if self.missing is not None or self.explainer is None:
            raise ExplainError(self.missing or "Choose a model first.")
        if region is not None and not region.data.any():
            raise ExplainError("The region is empty: paint it, with the label that is selected in its layer.")
        known, beside = volumes or {}, []

        def read(reference: Reference) -> Reference:
            name = str(reference.source)
            if name not in known:
                return reference
            volume = known[name]()  # only what is named is made: another may lack a channel
            beside.append((volume, (readings or {}).get(name, Reading())))
            return Reference(volume, reference.kind)

        method = resolved(method_named(self.method)(**self.settings), read)

        return Job(
            explainer=self.explainer,
            scan=scan,
            method=method,
            target=self.target,
            against=self.against if self.classifies and not self.why_not else None,
            region=region if self.segments else None,
            why_not=self.why_not and self.classifies,
            reading=reading,
            beside=tuple(beside),
        )
