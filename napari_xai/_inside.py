"""The layers of a model as a tree, and what one of them puts out for a scan, on the scan's own grid. No Qt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods3d import Progress, silent
from methods3d.types import Box, Layer
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from xai_io import Volume

__all__ = ["MEAN", "MOST", "Node", "activations", "channels_of", "layers_of", "tree"]

MOST = 8  # channels at once
MEAN = "mean"


@dataclass
class Node:
    """A module on the way to layers, or a layer itself.

    Attributes
    ----------
    name : the last part of its path.
    layer : None for a module that puts out no volume of its own.
    """

    name: str
    layer: Layer | None = None
    children: dict[str, "Node"] = field(default_factory=dict)


def layers_of(explainer: Explainer, scan: Volume) -> list[Layer]:
    """The model's layers that put out a volume for this scan, in the order in which they finish.

    Raises
    ------
    ExplainError, Methods3dError : the scan does not fit the model, or the model is TorchScript.
    """
    space = explainer.space(scan)
    return list(explainer.on(space).layers(space.x))


def tree(layers: Sequence[Layer], wanted: str = "") -> Node:
    """The layers whose path has all words of `wanted` in it, by the parts of their paths."""
    root = Node("")
    for layer in layers:
        if not all(word in layer.name.casefold() for word in wanted.casefold().split()):
            continue
        at = root
        for part in layer.name.split("."):
            at = at.children.setdefault(part, Node(part))
        at.layer = layer
    return root


def channels_of(text: str, channels: int) -> tuple[int, ...] | None:
    """Channels as people write them: "0, 3, 8-10"; "mean" is None, the mean over all of them.

    Raises
    ------
    ExplainError : it is nothing of that, there is no such channel, or there are too many.
    """
    if text.strip().casefold() == MEAN:
        return None
    ranges = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            ranges.append((int(first), int(last or first)))
    except ValueError:
        said = f"The channels {text!r} were given: write {MEAN!r}, or numbers such as 0, 3, 8-10."
        raise ExplainError(said) from None
    if not all(0 <= first <= last < channels for first, last in ranges):
        raise ExplainError(
            f"The channels {text!r} were given, but the layer has {channels}: choose 0 to {channels - 1}."
        )
    found = list(dict.fromkeys(n for first, last in ranges for n in range(first, last + 1)))
    if len(found) > MOST:
        raise ExplainError(f"{len(found)} channels were given: choose up to {MOST} at once, or {MEAN!r}.")
    return tuple(found)


def activations(
    explainer: Explainer,
    scan: Volume,
    layer: str,
    channels: Sequence[int] | None,
    progress: Progress = silent,
) -> Volume:
    """What a layer puts out for a scan, on the scan's grid: one channel for each that was chosen, or their mean.

    Windows of a sliding model are stitched as its prediction is. Voxels that the model did not see are zero.

    Raises
    ------
    ExplainError, Methods3dError : the scan does not fit the model, or there is no such layer.
    """
    space = explainer.space(scan)
    model = explainer.on(space)
    windows = model.passes((space.x.shape[2], space.x.shape[3], space.x.shape[4]))

    def chosen() -> Iterator[tuple[int, Box, Tensor]]:
        for done, tap in enumerate(model.taps(space.x, layer), 1):
            found = tap.activation
            part = found.mean(1, keepdim=True) if channels is None else found[:, list(channels)]
            yield tap.sample, tap.box, part
            progress(min(done, windows), windows)

    with torch.no_grad():
        found = model.blend(chosen(), space.x)
    return space.back(found[0], extensive=False)
