"""Features: what is taken out of a scan as a whole: supervoxels, cells of a grid, labelled regions, channels.

>>> print(features("supervoxels(200)"), features("grid(12)"))
supervoxels(200) grid(12)
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from methods3d.baselines import Baseline, digest, written
from methods3d.errors import ParameterError
from methods3d.types import Box, Edit, ModelInfo, Reference, Volume5d

__all__ = ["FEATURES", "Features", "FeaturesLike", "Presence", "features", "supervoxels"]

MOST = 2**15  # features, above which a mistake is likelier than a wish
COUNTED = 100  # labels that are taken for granted before a map is read
COMPACT = 0.1  # of the intensity range, that a supervoxel's whole diameter counts as much as


class Features(ABC):
    """A division of a scan."""

    name: ClassVar[str]

    @abstractmethod
    def labels(self, x: Volume5d, info: ModelInfo) -> Tensor:
        """Which feature each voxel of the one sample x belongs to: (1 or c, i, j, k), from 1 on; 0 to none.

        Raises
        ------
        ParameterError : the division does not fit the scan.
        """

    @abstractmethod
    def about(self, shape: tuple[int, int, int], info: ModelInfo) -> int:
        """How many features there will be on a grid of one channel, as far as known before the scan is."""

    def check_fit(self, x: Volume5d) -> None:
        """Raise ParameterError where it does not fit the scan."""
        return

    def __str__(self) -> str:
        """As it is written and read."""
        return self.name


@dataclass(frozen=True)
class Supervoxels(Features):
    """About so many compact pieces of like intensity (SLIC, Achanta et al. 2012), in mm; air belongs to none."""

    count: int
    name: ClassVar[str] = "supervoxels"

    def labels(self, x: Volume5d, info: ModelInfo) -> Tensor:
        """All channels share one division."""
        return supervoxels(x, self.count, info)

    def about(self, shape: tuple[int, int, int], info: ModelInfo) -> int:
        """As many as asked for."""
        return self.count

    def __str__(self) -> str:
        """With their number."""
        return f"{self.name}({self.count})"


@dataclass(frozen=True)
class Cells(Features):
    """Cubes of so many mm (voxels where the spacing is unknown)."""

    edge: float
    name: ClassVar[str] = "grid"

    def labels(self, x: Volume5d, info: ModelInfo) -> Tensor:
        """Numbered along the axes; the last along each may be cut short."""
        i, j, k = (
            torch.arange(n, device=x.device) // edge for n, edge in zip(x.shape[2:], self._edges(info), strict=True)
        )
        rows, columns = int(j[-1]) + 1, int(k[-1]) + 1
        return ((i[:, None, None] * rows + j[:, None]) * columns + k)[None] + 1

    def about(self, shape: tuple[int, int, int], info: ModelInfo) -> int:
        """All cells."""
        return math.prod(math.ceil(n / edge) for n, edge in zip(shape, self._edges(info), strict=True))

    def _edges(self, info: ModelInfo) -> list[int]:
        """In voxels."""
        return [max(1, round(self.edge / step)) for step in info.spacing or (1.0, 1.0, 1.0)]

    def __str__(self) -> str:
        """With their edge."""
        return f"{self.name}({written(self.edge)})"


@dataclass(frozen=True)
class Channels(Features):
    """Each input channel as a whole, such as the sequences of an MR examination."""

    name: ClassVar[str] = "channels"

    def labels(self, x: Volume5d, info: ModelInfo) -> Tensor:
        """The channel's number."""
        return torch.arange(1, x.shape[1] + 1, device=x.device)[:, None, None, None].expand(x.shape[1:])

    def about(self, shape: tuple[int, int, int], info: ModelInfo) -> int:
        """One."""
        return 1


@dataclass(frozen=True, eq=False)
class Labels(Features):
    """A label map (i, j, k) on the model's grid: organs, lesions, atlas regions; 0 is left alone."""

    map: Tensor | Reference
    name: ClassVar[str] = "labels"

    def check_fit(self, x: Volume5d) -> None:
        """On the same grid, and not empty."""
        if not isinstance(self.map, Tensor):
            raise ParameterError(
                "The label map is a reference that nobody has read: napari_xai.explain reads paths; "
                "give a tensor (i, j, k) on the model's grid here."
            )
        if tuple(self.map.shape) != tuple(x.shape[2:]):
            raise ParameterError(
                f"The label map has the shape {tuple(self.map.shape)}, but the model's grid is {tuple(x.shape[2:])}: "
                "give a label map (i, j, k) on the same grid."
            )
        if not bool((self.map != 0).any()):
            raise ParameterError("The label map is empty: give one with at least one label other than 0.")

    def labels(self, x: Volume5d, info: ModelInfo) -> Tensor:
        """The map's own labels, renumbered in their order."""
        self.check_fit(x)
        assert isinstance(self.map, Tensor)  # checked
        values, places = torch.unique(self.map.to(x.device), return_inverse=True)
        numbers: Tensor = torch.cumsum(values != 0, 0) * (values != 0)
        return numbers[places][None]

    def about(self, shape: tuple[int, int, int], info: ModelInfo) -> int:
        """The map's labels; a hundred where it is not read yet."""
        return len(torch.unique(self.map)) if isinstance(self.map, Tensor) else COUNTED

    def __str__(self) -> str:
        """By its content: a path could name a patient."""
        return f"{self.name}({digest(self.map)})"


FeaturesLike: TypeAlias = Features | Tensor | str
FEATURES = ("supervoxels(200)", "grid(16)", "channels")  # to choose from


def features(given: FeaturesLike) -> Features:
    """Features from a label map's tensor, or from text: "supervoxels(N)", "grid(MM)", "channels", "labels:PATH".

    Raises
    ------
    ParameterError : the text is none of these.
    """
    if isinstance(given, Features):
        return given
    if isinstance(given, Tensor):
        return Labels(given)
    text = str(given).strip()
    kind, colon, path = text.partition(":")
    if colon and kind == "labels" and path.strip():
        return Labels(Reference(path.strip(), "labels"))
    if text == "channels":
        return Channels()
    match = re.fullmatch(r"(supervoxels|grid)\(\s*(\d+(?:\.\d+)?)\s*\)", text)
    number = float(match[2]) if match else 0.0
    if match and number > 0 and (match[1] == "grid" or number.is_integer()):
        return Cells(number) if match[1] == "grid" else Supervoxels(int(number))
    raise ParameterError(
        f"The features {text!r} are not known: give 'supervoxels(N)', 'grid(MM)' with numbers above 0, 'channels' or "
        "'labels:PATH' with a label map's path."
    )


def supervoxels(x: Volume5d, count: int, info: ModelInfo) -> Tensor:
    """SLIC supervoxels of the one sample x: (1, i, j, k), about `count` of them, from 1 on; air is 0.

    Spacing is heeded. A voxel as unlike a supervoxel's mean as a tenth of the intensity range counts like one that is
    a supervoxel's diameter away. In noise stronger than that, pieces that do not hang together are merged, and there
    are fewer.
    """
    from skimage.segmentation import slic

    low, high = x.flatten(2).aminmax(dim=2)
    scale = (high - low).clamp(min=torch.finfo(x.dtype).tiny)[:, :, None, None, None]
    tissue = ((x - info.air).abs() > scale / 20).any(1)[0].cpu().numpy()
    if not tissue.any():
        tissue = np.ones_like(tissue)
    if count == 1:
        return torch.as_tensor(tissue, dtype=torch.long, device=x.device)[None]
    spacing = np.array(info.spacing or (1.0, 1.0, 1.0))
    image = ((x - low[:, :, None, None, None]) / scale)[0].movedim(0, -1).double().cpu().numpy()
    labels = slic(
        image,
        n_segments=count,
        compactness=COMPACT,
        spacing=tuple(spacing / np.prod(spacing) ** (1 / 3)),  # its steps are in voxels
        mask=tissue,  # without one its seeds would lie on a lattice of voxels, whatever the spacing
        channel_axis=-1,
        convert2lab=False,
        start_label=1,
        enforce_connectivity=True,
    )
    return torch.as_tensor(labels, dtype=torch.long, device=x.device)[None]


class Presence:
    """One scan, some of whose features are taken away, wholly or in part.

    Attributes
    ----------
    x, empty : (1, c, i, j, k) the scan, and what it is without any of its features.
    labels : (1 or c, i, j, k) as in Features.
    count : number of features.
    """

    def __init__(self, x: Volume5d, info: ModelInfo, division: Features, fill: Baseline) -> None:
        self.x, self.labels = x, division.labels(x, info)
        self.count = int(self.labels.max())
        if self.count < 1:
            raise ParameterError(f"The features {division} are none in this scan: name others.")
        if self.count > MOST:
            raise ParameterError(
                f"The features {division} are {self.count} in this scan, but may be {MOST} at most: make them larger."
            )
        self.empty = self._emptied(info, fill)

    def _emptied(self, info: ModelInfo, fill: Baseline) -> Volume5d:
        """Each feature filled by itself, from the scan as it is."""
        if self.labels.shape[0] > 1:
            return fill.volume(self.x, info)
        filler = fill.filler(self.x, info)
        if type(fill).filler is Baseline.filler:  # each voxel by itself: all at once
            return filler(self.labels[0] > 0)
        empty = self.x.clone()
        for n in range(1, self.count + 1):
            mask = self.labels[0] == n
            empty = torch.where(mask, filler(mask), empty)
        return empty

    def edit(self, present: Tensor) -> Edit:
        """The scan with each feature present by so much (n,), from 0 (taken away) to 1."""
        box = self._box(present)
        share = torch.cat([present.new_ones(1), present]).to(self.x)
        kept = share[self.labels[(slice(None), *box)]]
        x, empty = self.x[(0, slice(None), *box)], self.empty[(0, slice(None), *box)]
        # Where nothing is taken away the scan has to stay bit for bit.
        values = torch.where(kept == 1, x, torch.where(kept == 0, empty, kept * x + (1 - kept) * empty))
        return Edit(box, slice(0, self.x.shape[1]), values)

    def spread(self, values: Tensor, *, evenly: bool = False) -> Volume5d:
        """One value for each feature (n,) laid over its voxels (1, c, i, j, k); evenly: shared among them."""
        values = values.to(self.x)
        if evenly:
            values = values / self.sizes.clamp(min=1).to(values)
        return torch.cat([values.new_zeros(1), values])[self.labels].expand(self.x.shape[1:]).clone()[None]

    @cached_property
    def sizes(self) -> Tensor:
        """Voxels of each feature over all channels, (n,)."""
        each = torch.bincount(self.labels.flatten(), minlength=self.count + 1)[1:]
        return each * (self.x.shape[1] // self.labels.shape[0])

    def _box(self, present: Tensor) -> Box:
        """The smallest box that holds all that is taken away; one voxel where nothing is."""
        gone = (present != 1).nonzero()[:, 0].tolist()
        if not gone:
            return slice(0, 1), slice(0, 1), slice(0, 1)
        low, high = self._bounds[0][gone].amin(0).tolist(), self._bounds[1][gone].amax(0).tolist()
        i, j, k = (slice(a, b + 1) for a, b in zip(low, high, strict=True))
        return i, j, k

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        """First and last voxel of each feature along each axis, (n, 3) each."""
        low = torch.full((self.count + 1, 3), torch.iinfo(torch.long).max)
        high = torch.full((self.count + 1, 3), -1)
        for labels in self.labels.cpu():
            for axis in range(3):
                for place in range(labels.shape[axis]):
                    present = labels.select(axis, place).unique()
                    low[present, axis] = low[present, axis].clamp(max=place)
                    high[present, axis] = place
        return low[1:], high[1:]
