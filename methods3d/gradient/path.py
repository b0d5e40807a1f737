"""Gradients gathered along a path from a baseline to the scan."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from methods3d.types import Explainable, Progress, Scores, Target, Volume5d

__all__ = ["Gathered", "Line", "Path", "gathered_along"]

FINER = 8  # points of a piece that the path was split into
MOST = 12  # times as many points as asked for, at which splitting ends


class Path(Protocol):
    """Where a path is at t from 0 (the baseline) to 1 (the scan), and how fast it moves there: (1, c, i, j, k)."""

    def point(self, t: float) -> Volume5d:
        """The place."""
        ...

    def velocity(self, t: float) -> Volume5d:
        """The derivative of `point`."""
        ...


@dataclass(frozen=True)
class Line(Path):
    """The straight way."""

    start: Volume5d
    end: Volume5d

    def point(self, t: float) -> Volume5d:
        """Between the two."""
        return torch.lerp(self.start, self.end, t)

    def velocity(self, t: float) -> Volume5d:
        """Their difference, at any t."""
        return self.end - self.start


@dataclass(frozen=True)
class Gathered:
    """A path integral.

    Attributes
    ----------
    values : (1, c, i, j, k) the integral of dT/dx dx/dt.
    gap : (1,) how far its sum is from the change in score.
    points : where gradients were taken.
    """

    values: Volume5d
    gap: Scores
    points: int


class _Piece(NamedTuple):
    """A piece of the path, and the scores at its ends."""

    start: float
    stop: float
    first: Scores
    last: Scores


def gathered_along(
    path: Path, model: Explainable, target: Target, score: Scores, *, points: int, tolerance: float, progress: Progress
) -> Gathered:
    """The integral of dT/dx dx/dt, by Gauss-Legendre quadrature, in as many pieces as it takes.

    The whole path is one piece at first. A piece's own gap (change in score less sum) is known exactly; where it is
    too large, the piece is halved: below an instance norm nearly all of the change may lie in a thousandth of the
    path. Only one piece is held at a time.

    Parameters
    ----------
    target, score : bound, and its value at the path's end.
    points : of the first piece; halves have 8 each. At most 12 times as many are used altogether.
    tolerance : of the change in score, that the whole gap may be; 0 leaves it at one piece.
    """
    base = model.scores(path.point(0.0), target)
    allowed, most = tolerance * float((score - base).abs()), MOST * points
    pieces = [_Piece(0.0, 1.0, base, score)]
    values: Volume5d | None = None
    used = 0
    while pieces:
        piece = pieces.pop()
        length, n = piece.stop - piece.start, FINER if used else points
        nodes, weights = np.polynomial.legendre.leggauss(n)  # no point lies on the (often singular) baseline itself
        total = used + n + FINER * len(pieces)
        found = model.gradients(
            (path.point(piece.start + length * (t + 1) / 2) for t in nodes),
            target,
            progress=lambda *_: progress(used, total),  # noqa: B023 - heard while this piece runs
        )
        part: Volume5d | None = None
        for t, w, gradient in zip(nodes, weights, found, strict=True):
            share = gradient.values.mul_(path.velocity(piece.start + length * (t + 1) / 2)).mul_(length * w / 2)
            part = share if part is None else part.add_(share)
            used += 1
            progress(used, total)
        assert part is not None  # there is at least one point
        gap = float((piece.last - piece.first - part.sum()).abs())
        middle = piece.start + length / 2
        # Of pieces, half of what is allowed goes by length, and half to all alike: together they never have more.
        may_miss = allowed * (1.0 if length == 1 else (length + FINER / most) / 2)
        if allowed and gap > may_miss and used + FINER * (len(pieces) + 2) <= most:
            between = model.scores(path.point(middle), target)
            pieces += [
                _Piece(middle, piece.stop, between, piece.last),
                _Piece(piece.start, middle, piece.first, between),
            ]
        else:
            values = part if values is None else values.add_(part)
    assert values is not None  # the last piece was kept
    return Gathered(values, score - base - values.sum(), used)
