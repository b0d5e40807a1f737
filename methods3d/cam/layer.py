"""Which layer a class activation map is read from."""

import math
import re
from collections.abc import Sequence

from methods3d.errors import LayerError
from methods3d.types import Explainable, Layer, ModelInfo, Volume5d

__all__ = ["LAYER", "ONE_LAYER", "body", "chosen_layer", "chosen_layers"]

LAYER = (
    "layer to read by name, 'last' before the head, or '8 mm' for cells of that size; several with commas; "
    "empty: the last that is neither too coarse nor the prediction itself"
)
ONE_LAYER = LAYER.replace("; several with commas", "")
FINE_ENOUGH = 8  # voxels along each axis: a 4 x 4 x 4 map cannot point at a lesion


def chosen_layers(model: Explainable, x: Volume5d, wish: str) -> list[str]:
    """The layers that a setting names, as LAYER says.

    Raises
    ------
    LayerError : no layer fits the wish. A name is not looked up here.
    """
    names = [name.strip() for name in wish.split(",")]
    return list(dict.fromkeys(chosen_layer(model, x, name) for name in names))


def chosen_layer(model: Explainable, x: Volume5d, wish: str) -> str:
    """One layer, as LAYER says."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*mm", wish)
    if wish and wish != "last" and not size:
        return wish
    layers = model.layers(x)
    if size:
        return _of_size(layers, float(size[1]), model.info)
    return _last(layers) if wish == "last" else _fine_enough(layers)


def _full(layers: Sequence[Layer]) -> tuple[int, int, int]:
    """The network's finest resolution."""
    i, j, k = (max((layer.shape[axis] for layer in layers), default=1) for axis in range(3))
    return i, j, k


def body(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of more than one voxel before the head: before those at full resolution that put out the classes."""
    wide = [layer for layer in layers if math.prod(layer.shape) > 1]
    full = _full(layers)
    if not wide or wide[-1].shape != full:
        return wide
    return [layer for layer in wide if (layer.shape, layer.channels) != (full, wide[-1].channels)]


def _last(layers: Sequence[Layer]) -> str:
    """The last layer before the head: before global pooling, or before what puts out the classes."""
    found = body(layers)
    if not found:
        raise LayerError("The network has no layer of more than one voxel before its head: name one with layer=.")
    return found[-1].name


def _of_size(layers: Sequence[Layer], wanted: float, info: ModelInfo) -> str:
    """The last of the coarsest layers whose cells are no larger than `wanted` mm."""
    if info.spacing is None:
        raise LayerError("The model's spacing is unknown, so that a layer cannot be chosen in mm: name it.")

    def cell(layer: Layer) -> float:
        return max(s * n for s, n in zip(info.spacing or (), layer.scale, strict=True))

    fine = [layer for layer in layers if cell(layer) <= wanted * 1.01]
    if not fine:
        smallest = min(map(cell, layers), default=math.inf)
        raise LayerError(f"No layer has cells of {wanted:g} mm or less: the finest has {smallest:.3g} mm.")
    return max(reversed(fine), key=cell).name


def _fine_enough(layers: Sequence[Layer]) -> str:
    """The last layer whose map is fine enough to point, yet not at the prediction's own resolution.

    At most a quarter of the voxels of the network's finest layer (some networks never pool along one
    axis), and at least 8 along each axis that has as many; where no layer is that fine, the finest of them.
    """
    full = _full(layers)
    coarse = [layer for layer in layers if 1 < math.prod(layer.shape) <= math.prod(full) / 4]
    if not coarse:
        raise LayerError("No layer of the network lies below full resolution: name one with layer=.")
    fine = [layer for layer in coarse if all(s >= min(f, FINE_ENOUGH) for s, f in zip(layer.shape, full, strict=True))]
    best = fine[-1] if fine else max(reversed(coarse), key=lambda layer: math.prod(layer.shape))
    return best.name
