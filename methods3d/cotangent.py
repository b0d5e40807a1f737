"""A score of an output, and its derivative there."""

from contextlib import nullcontext

import torch
from torch import Tensor

from methods3d.errors import TargetError
from methods3d.rewriting import Rules
from methods3d.types import Output, Scores, Target

__all__ = ["score_and_cotangent"]


def score_and_cotangent(
    bound: Target, y: Output, rules: Rules | None = None, y0: Output | None = None
) -> tuple[Scores, Tensor]:
    """T(Y) and dT/dY, both without a graph; with a reference Y0, the multipliers of T(Y) - T(Y0) under the rules.

    Raises
    ------
    TargetError : the score does not depend on the output differentiably.
    """
    mode = None if rules is None or y0 is None else rules.rewriting(len(y))
    if mode is not None and y0 is not None:
        with torch.no_grad(), mode, mode.reference():
            bound(y0)
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        with mode or nullcontext():
            scores = bound(leaf.view_as(leaf))  # of a leaf itself some tools cannot count
        if not scores.requires_grad:
            raise TargetError(
                f"{type(bound).__name__} does not depend differentiably on the model's output: give another target."
            )
        (seed,) = torch.autograd.grad(scores.sum(), leaf)
    return scores.detach(), seed
