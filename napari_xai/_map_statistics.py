"""What is known of a whole map: percentiles of its magnitude, its peaks, how much lies in each slice. No Qt."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xai_io.display import Sign

__all__ = ["MapStatistics", "Peak"]

# A float32's own bits are a logarithmic scale: without its lowest 12, steps are a 2048th of the value.
DROPPED = 12
BINS = 1 << (31 - DROPPED)
AT_ONCE = 1 << 21  # voxels


@dataclass(frozen=True)
class Peak:
    """The value of one sign that is largest in magnitude, and its voxel."""

    value: float
    index: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MapStatistics:
    """Numbers of a map, from one pass through it.

    Attributes
    ----------
    positive, negative : for each axis, the sum of the positive and of the negative relevance in each slice across it.
    highest, lowest : the peaks of both signs; None where there is nothing of the sign.
    below : how many voxels have magnitudes up to each step of the scale.
    """

    positive: tuple[npt.NDArray[np.float64], ...]
    negative: tuple[npt.NDArray[np.float64], ...]
    highest: Peak | None
    lowest: Peak | None
    below: npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: npt.NDArray[np.floating], clipped: int = 0) -> "MapStatistics":
        """Go through a map in slabs, so that little memory is needed beside it; what is not finite counts as zero.

        So many voxels are zero because they were clipped: percentiles are of the others.
        """
        sums = [[np.zeros(n) for n in values.shape] for _ in range(2)]
        counts = np.zeros(BINS, np.int64)
        peaks: list[Peak | None] = [None, None]
        step = max(1, AT_ONCE // max(1, values[0].size))
        for first in range(0, len(values), step):
            slab = np.asarray(values[first : first + step], dtype=np.float32)
            if not np.isfinite(slab).all():
                slab = np.nan_to_num(slab, posinf=0, neginf=0)
            bits = np.abs(slab).view(np.uint32) >> DROPPED
            counts += np.bincount(bits.ravel(), minlength=BINS)
            for kind, sign in enumerate((1, -1)):
                part = np.maximum(sign * slab, 0)
                top = int(part.argmax())
                found, old = float(part.ravel()[top]), peaks[kind]
                if found > (0 if old is None else abs(old.value)):
                    at = np.unravel_index(top, part.shape)
                    peaks[kind] = Peak(sign * found, (first + int(at[0]), *(int(n) for n in at[1:])))
                flat = part.sum(axis=0, dtype=np.float64)
                sums[kind][0][first : first + step] = part.sum(axis=(1, 2), dtype=np.float64)
                sums[kind][1] += flat.sum(axis=1)
                sums[kind][2] += flat.sum(axis=0)
        counts[0] -= clipped
        return cls(tuple(sums[0]), tuple(-one for one in sums[1]), peaks[0], peaks[1], np.cumsum(counts))

    def value(self, percentile: float) -> float:
        """The magnitude that this percentage of the voxels that are not clipped stays below; to a 2048th of itself."""
        if not self.below[-1]:  # all of it was clipped
            return 0.0
        step = int(np.searchsorted(self.below, percentile / 100 * self.below[-1], side="right"))
        return _magnitude(min(step, BINS - 1))

    def percentile(self, value: float) -> float:
        """The percentage of the voxels that are not clipped whose magnitude stays below that of a value."""
        step = int(np.float32(abs(value)).view(np.uint32)) >> DROPPED
        return 100 * float(self.below[step - 1]) / max(1.0, float(self.below[-1])) if 0 < step < BINS else 0.0

    @property
    def top(self) -> float:
        """The largest magnitude."""
        return max(abs(peak.value) for peak in (self.highest, self.lowest, Peak(0.0, ())) if peak is not None)

    def peak(self, sign: Sign) -> Peak | None:
        """The largest magnitude of what is shown."""
        found = {"positive": [self.highest], "negative": [self.lowest]}.get(sign, [self.highest, self.lowest])
        return max((one for one in found if one is not None), key=lambda one: abs(one.value), default=None)


def _magnitude(step: int) -> float:
    return float(np.uint32(step << DROPPED).view(np.float32))
