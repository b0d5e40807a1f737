"""Checkpoints of perturbation runs: what the model has answered so far, in a file."""

import hashlib
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from methods3d import Explainable, Method, Target
from methods3d.checkpoint import Answers, remembering
from methods3d.method import described, recorded
from napari_xai.errors import ExplainError
from xai_io import written_aside

__all__ = ["resumable"]

EVERY = 20.0  # seconds between two savings


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written later, ExplainError."""
    if not Path(path).absolute().parent.is_dir():
        raise ExplainError(
            f"The checkpoint {path} cannot be written, because its folder does not exist: make it first."
        )


@contextmanager
def resumable(
    path: str | os.PathLike[str] | None, model: Explainable, method: Method, x: Tensor, target: Target
) -> Iterator[Explainable]:
    """The model, with its answers kept in a file while the block runs; those that the file has are not asked again.

    The file is written now and then and when the block ends early, and is deleted when it ends well. It holds scores
    and a digest of what was asked, and nothing of the scan. Without a path, the model as it is.

    Raises
    ------
    ExplainError : the file belongs to another run, or is none of this program's.
    """
    if path is None:
        yield model
        return
    answers = _Saved(Path(path), _key(model, method, x, target))
    try:
        yield remembering(model, answers)
    except BaseException:
        answers.save()
        raise
    Path(path).unlink(missing_ok=True)


class _Saved(Answers):
    """Answers that are saved now and then."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(_read(path, key) if path.exists() else [])
        self._path, self._key = path, key
        self._count, self._when = len(self.given), time.monotonic()

    def add(self, new: list[Tensor]) -> None:
        """Keep, and save if it is time."""
        super().add(new)
        if time.monotonic() - self._when > EVERY:
            self.save()

    def save(self) -> None:
        """Write what is new, whole or not at all."""
        if len(self.given) > self._count:
            with written_aside(self._path, overwrite=True) as file:
                torch.save({"key": self._key, "given": self.given}, file)
        self._count, self._when = len(self.given), time.monotonic()


def _key(model: Explainable, method: Method, x: Tensor, target: Target) -> str:
    """What has to be the same for a run to go on."""
    parts = [method.name, repr(recorded(method)), repr(model.settings), model.info.model_hash, repr(tuple(x.shape))]
    total = hashlib.sha256("\n".join(parts).encode())
    total.update(x.detach().cpu().contiguous().numpy().tobytes())
    total.update(described(target).encode())
    return total.hexdigest()


def _read(path: Path, key: str) -> list[Tensor]:
    try:
        found = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        known, given = found["key"], list(found["given"])
    except Exception as error:
        raise ExplainError(
            f"{path} is no checkpoint of this program, or is damaged: delete it, or name another file."
        ) from error
    if known != key:
        raise ExplainError(
            f"{path} is a checkpoint of another run (scan, model, method or question): delete it, or name another file."
        )
    return given
