"""FullGrad: the input's share in the score, and that of every bias where it acts."""

from dataclasses import dataclass
from typing import ClassVar

from methods3d.method import Method, Relevance
from methods3d.rules.full import FullGradients
from methods3d.types import Cost, Explainable, Progress, Target, Volume5d
from methods3d.windows import PADDED

__all__ = ["FullGrad"]


@dataclass(frozen=True, kw_only=True)
class FullGrad(Method):
    """The magnitude of x dT/dx, and of every layer's bias x gradient where it acts; one volume for all channels.

    Signed, the two add up to the score on any network: the gap says how exactly. A map of magnitudes does not.
    Biases of vectors and tokens lie nowhere, and are in the sum only. The papers' rescaling of each layer to [0, 1]
    is left out: it would weigh every layer alike, whatever it did, and every window by itself.

    When: much of the score comes from biases and norm shifts, which input x gradient does not show.
    """

    name: ClassVar[str] = "fullgrad"
    title: ClassVar[str] = "FullGrad"
    source: ClassVar[str] = "Srinivas, Fleuret 2019, arXiv:1905.00780, eq. 3 and 7; sec. 3.1 for what has no bias"

    def attribute(self, model: Explainable, x: Volume5d, target: Target, progress: Progress) -> Relevance:
        """|x dT/dx| + sum over layers of |b dT/dh|; the gap is score - sum x dT/dx - sum b dT/dh."""
        found = model.gradient(x, target, rules=FullGradients(), progress=progress)
        own = x * found.values
        values = own.abs().sum(1, keepdim=True)
        if found.voxels is not None:
            values += found.voxels.sum(1, keepdim=True)
        biases = [kept for (site, _), kept in found.leaks.items() if site != PADDED]  # those are magnitudes
        gap = found.scores - own.flatten(1).sum(1) - sum(biases)
        return Relevance(values, found.scores, extensive=True, gap=gap, warnings=found.warnings)

    def cost(self, model: Explainable, shape: tuple[int, int, int]) -> Cost:
        """One forward, with a tangent for what is not linear; one backward."""
        n = model.passes(shape)
        return Cost(forward=2 * n, backward=n)
