"""A perturbation run that was interrupted is taken up again where it ended.

A method asks its questions in an order that its settings and seed decide. So it is enough to keep the answers: run
again, it gets those that it had, and goes on with the rest.

>>> import torch
>>> from methods3d import ClassScore, Occlusion, TorchModel
>>> from methods3d.checkpoint import Answers, remembering
>>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(512, 2))
>>> answers = Answers()
>>> covered = Occlusion(size=4, stride=4, unit="voxel", levels=1)
>>> found = covered(remembering(TorchModel(net), answers), torch.rand(1, 1, 8, 8, 8), ClassScore(1))
>>> len(answers.given)
8
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor

from methods3d.types import Edit, Explainable, Scores, Target, Volume5d

__all__ = ["Answers", "remembering"]


@dataclass
class Answers:
    """What a model said so far, in the order in which it was asked.

    Attributes
    ----------
    given : scores () after edits, and other small tensors.
    """

    given: list[Tensor] = field(default_factory=list)

    def add(self, new: list[Tensor]) -> None:
        """Keep what the model has just said."""
        self.given += new


def remembering(model: Explainable, answers: Answers) -> Explainable:
    """The model, but that answers which it has given already are not worked out again.

    Parameters
    ----------
    answers : of an earlier run with the same method, scan and question, or none; grows.
    """
    return cast(Explainable, _Remembering(model, answers))


@dataclass
class _Place:
    """How far a run has come in the answers."""

    next: int = 0


class _Remembering:
    """Answers edits from memory as far as it reaches; everything else goes to the model."""

    def __init__(self, model: Explainable, answers: Answers, place: _Place | None = None) -> None:
        self._model, self._answers, self._place = model, answers, place or _Place()

    def __getattr__(self, name: str) -> Any:
        """Whatever is not remembered."""
        return getattr(self._model, name)

    def cut(self, runner: Callable[[Any], Any]) -> "_Remembering":
        """The model cut, with the same memory."""
        return _Remembering(self._model.cut(runner), self._answers, self._place)

    def edited(self, x: Volume5d, target: Target, edits: Iterable[Edit]) -> Iterator[Scores]:
        """The score after each edit: from memory as far as it reaches."""
        waiting = iter(edits)
        while self._place.next < len(self._answers.given):
            if next(waiting, None) is None:
                return
            self._place.next += 1
            yield self._answers.given[self._place.next - 1][None].to(x)
        for scores in self._model.edited(x, target, waiting):
            self._answers.add(list(scores.detach().cpu()))
            self._place.next += len(scores)
            yield scores

    def recalled(self, compute: Callable[[], Tensor]) -> Tensor:
        """compute(), or what it gave the time before."""
        if self._place.next == len(self._answers.given):
            self._answers.add([compute().detach().cpu()])
        self._place.next += 1
        return self._answers.given[self._place.next - 1]
