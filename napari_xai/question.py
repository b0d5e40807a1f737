"""The user's question in the library's terms: which class, why rather than which other, over which region."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods3d import ClassMargin, ClassScore, LayerUnit, PredictedRegion, RegionScore, Target, TargetError

__all__ = ["Answerable", "Question", "predicted_labels", "probabilities"]

AGAINST = "; what is negative speaks against it"


@dataclass(frozen=True, eq=False)
class Answerable:
    """A target bound on the prediction, and the question in words for captions and records."""

    target: Target
    words: str


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a model about one scan.

    Attributes
    ----------
    target : class by index or name, or any Target of methods3d; None asks for what was predicted.
    against : "rather than which class?", by index or name; None: the runner-up (classifiers).
    region : (i, j, k) bool on the model's grid: "why this region?"; None: where the class was predicted.
    classes : class index -> name, as the model has them.
    threshold : probability above which a voxel is labelled; then classes overlap. None: by argmax.
    """

    target: int | str | Target | None = None
    against: int | str | None = None
    region: Tensor | None = None
    classes: Mapping[int, str] | None = None
    threshold: float | None = None

    def check(self) -> None:
        """Refuse, before the model is run, classes that it does not have; errors as `on`."""
        for given in (self.target, self.against):
            k = self._index(given) if isinstance(given, int | str) else None
            if k is not None and self.classes and k not in self.classes and k >= len(self.classes):
                known = ", ".join(f"{k} ({name})" for k, name in self.classes.items())
                raise TargetError(f"There is no class {given!r}: this model has {known}.")

    def on(self, output: Tensor) -> Answerable:
        """Bind the question on the clean prediction (1, k) or (1, k, i, j, k).

        Raises
        ------
        TargetError : a class does not exist, nothing is predicted as it, or region and output do not fit.
        """
        if isinstance(self.target, LayerUnit):
            asked = self.target if self.region is None else replace(self.target, mask=self.region)
            return Answerable(asked, str(asked))
        if self.target is not None and not isinstance(self.target, int | str):
            return Answerable(self.target.bind(output), type(self.target).__name__)
        return self._of_class(output) if output.ndim == 2 else self._of_region(output)

    def _of_class(self, output: Tensor) -> Answerable:
        if self.region is not None:
            raise TargetError(
                "A region was given, but this model is a classifier, whose score belongs to the whole scan: "
                "leave the region out."
            )
        k = self._index(self.target)
        if output.shape[1] == 1 and self.against is None:
            # One logit is already the margin between its two classes.
            predicted = int(output[0, 0] > 0)
            k = predicted if k is None else k
            words = f"why {self._name(k)}" if k == predicted else f"why not {self._name(k)}{AGAINST}"
            return Answerable(ClassScore(k).bind(output), words)
        against = self._index(self.against)
        bound = ClassMargin(k, against).bind(output)
        logits = output[0] if output.shape[1] > 1 else torch.cat([-output[0], output[0]])
        chosen = int(logits.argmax()) if k is None else k
        if against is None:
            rest = logits.clone()
            rest[chosen] = -torch.inf
            against = int(rest.argmax())
            if chosen != int(logits.argmax()):  # the margin over what is predicted is below zero
                return Answerable(bound, f"why not {self._name(chosen)} but {self._name(against)}{AGAINST}")
        return Answerable(bound, f"why {self._name(chosen)} rather than {self._name(against)}")

    def _of_region(self, output: Tensor) -> Answerable:
        if self.against is not None:
            raise TargetError(
                "A class to compare with was given, but this model segments: ask why a class is predicted in a region."
            )
        k = self._index(self.target)
        if self.region is not None:
            k = self._likeliest(output, self.region) if k is None else k
            voxels = int(self.region.sum())
            return Answerable(
                RegionScore(k, self.region).bind(output), f"why {self._name(k)} in a region of {voxels} voxels"
            )
        if k is None:
            k = self._largest(output)
        bound = PredictedRegion(k, by="argmax" if self.threshold is None else self.threshold).bind(output)
        support = bound.support((output.shape[2], output.shape[3], output.shape[4]))
        voxels = 0 if support is None else int(support.sum())
        return Answerable(bound, f"why {self._name(k)} in the {voxels} voxels predicted as it")

    def _index(self, given: int | str | Target | None) -> int | None:
        if given is None or isinstance(given, int):
            return given
        names = {name.casefold(): k for k, name in (self.classes or {}).items()}
        if isinstance(given, str) and given.casefold() in names:
            return names[given.casefold()]
        if isinstance(given, str) and given.lstrip("-").isdigit():
            return int(given)
        known = ", ".join(f"{k} ({name})" for k, name in (self.classes or {}).items()) or "only numbered classes"
        raise TargetError(f"There is no class {given!r}: this model has {known}.")

    def _name(self, k: int) -> str:
        name = (self.classes or {}).get(k)
        return f"{name!r} (class {k})" if name else f"class {k}"

    def _likeliest(self, output: Tensor, region: Tensor) -> int:
        logits = output[0] if output.shape[1] > 1 else torch.cat([-output[0], output[0]])
        return int(logits[:, region.to(output.device)].mean(1).argmax())

    def _largest(self, output: Tensor) -> int:
        """The class, background aside, that most voxels are predicted as."""
        first = 1 if self.threshold is None or output.shape[1] == 1 else 0
        labels = predicted_labels(output, self.threshold)
        counts = labels[:, 1:].flatten(2).sum(2)[0] if first else labels.flatten(2).sum(2)[0]
        if int(counts.max()) == 0:
            raise TargetError(
                "The model predicts nothing but background in this scan, so there is no region to explain: "
                "give a region of your own and the class to ask about."
            )
        return int(counts.argmax()) + first


def predicted_labels(output: Tensor, threshold: float | None) -> Tensor:
    """Whether each voxel is predicted as each class: (b, k, i, j, k) bool, k >= 2.

    Classes overlap under a threshold, and exclude each other without one.
    """
    if output.shape[1] == 1:
        positive = output > 0 if threshold is None else torch.sigmoid(output) > threshold
        return torch.cat([~positive, positive], 1)
    if threshold is not None:
        return torch.sigmoid(output) > threshold
    chosen = output.argmax(1, keepdim=True)
    return torch.zeros_like(output, dtype=torch.bool).scatter_(1, chosen, True)


def probabilities(output: Tensor, activation: str | None) -> Tensor:
    """Class probabilities (b, k), k >= 2, of a classifier's logits: softmax unless the model says sigmoid."""
    if output.shape[1] == 1:
        positive = torch.sigmoid(output)
        return torch.cat([1 - positive, positive], 1)
    return torch.sigmoid(output) if activation == "sigmoid" else torch.softmax(output, 1)
