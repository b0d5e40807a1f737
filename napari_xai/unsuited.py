"""Which methods a model will refuse, and why: asked of the methods themselves, before any scan."""

from functools import cache

import torch
from torch import Tensor, nn

from methods3d import (
    Cancelled,
    LayerError,
    Methods3dError,
    RegionScore,
    TorchModel,
    UnsupportedModelError,
    WindowedModel,
    methods,
)
from methods3d.cam.layer import chosen_layer
from xai_io import LoadedModel

__all__ = ["unsuited"]

SMALL = 8  # voxels along each axis of the network that stands for all of its kind


def unsuited(loaded: LoadedModel, shape: tuple[int, ...]) -> dict[str, str]:
    """Method -> why it refuses this model with its default settings, for an input of a shape (i, j, k)."""
    found = dict(_of_scripts()) if loaded.form == "torchscript" else _without_layers(loaded, shape)
    if loaded.windows is not None and "cam" not in found:
        found["cam"] = _cam_in_windows()
    return found


@cache
def _of_scripts() -> dict[str, str]:
    """What the methods say to a TorchScript network, however small; each is stopped at its first progress."""
    x = torch.linspace(0, 1, SMALL**3).reshape(1, 1, SMALL, SMALL, SMALL)
    target = RegionScore(1, torch.ones(SMALL, SMALL, SMALL, dtype=torch.bool))
    model = TorchModel(torch.jit.trace(_network(), x))  # type: ignore[no-untyped-call]
    found = {}
    for name, method in methods().items():
        try:
            method()(model, x, target, progress=_stop)
        except UnsupportedModelError as error:
            found[name] = str(error)
        except Methods3dError:  # it began; or it wants something else of so small a network
            continue
    return found


@cache
def _cam_in_windows() -> str:
    x = torch.linspace(0, 1, 2 * SMALL**3).reshape(1, 1, 2 * SMALL, SMALL, SMALL)
    target = RegionScore(1, torch.ones(2 * SMALL, SMALL, SMALL, dtype=torch.bool))
    try:
        methods()["cam"]()(WindowedModel(TorchModel(_network()), SMALL), x, target)
    except Methods3dError as error:
        return str(error)
    raise AssertionError("cam served windows")


def _without_layers(loaded: LoadedModel, shape: tuple[int, ...]) -> dict[str, str]:
    """Methods that read a layer, where the network has none that their default setting fits."""
    model = TorchModel(loaded.network)
    x = torch.zeros(1, loaded.in_channels or 1, *shape)
    said: dict[str, str] = {}
    found = {}
    for name, method in methods().items():
        wish = getattr(method(), "layer", None)
        if wish is None:
            continue
        if wish not in said:
            try:
                said[wish] = ""
                chosen_layer(model, x, wish)
            except LayerError as error:
                said[wish] = str(error)
            except Methods3dError:  # an input of this shape does not go through, which is said with the layers
                continue
        if said[wish]:
            found[name] = said[wish]
    return found


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval()


def _stop(done: int, total: int, partial: Tensor | None = None) -> None:
    raise Cancelled("It began, which is all that was asked.")
