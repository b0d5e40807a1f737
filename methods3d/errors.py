"""What can go wrong in an attribution, by type; every message is one sentence with a way out."""

from collections.abc import Sequence

__all__ = [
    "Cancelled",
    "LayerError",
    "MethodError",
    "Methods3dError",
    "MixedSamples",
    "ModelOutputError",
    "ParameterError",
    "RuleError",
    "ShapeError",
    "TargetError",
    "UnsupportedModelError",
    "VolumeError",
]


class Methods3dError(Exception):
    """Base of every error that this package raises on purpose."""


class VolumeError(Methods3dError, ValueError):
    """The input tensor is not a volume that can be explained."""


class ShapeError(VolumeError):
    """The network itself cannot run on a volume of this shape.

    Attributes
    ----------
    shape : (b, c, i, j, k) of what was given.
    """

    def __init__(self, message: str, shape: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.shape = tuple(shape)


class ParameterError(Methods3dError, ValueError):
    """A method's or a window's parameter is out of range."""


class RuleError(Methods3dError, ValueError):
    """A propagation rule or composite does not exist, or cannot serve where it is asked to."""


class TargetError(Methods3dError, ValueError):
    """The target does not exist in, or does not fit, the model's output."""


class LayerError(Methods3dError, ValueError):
    """The named layer does not exist or cannot carry a map."""


class ModelOutputError(Methods3dError, ValueError):
    """The model returned something that no score can be read from."""


class UnsupportedModelError(Methods3dError, ValueError):
    """The method needs something of the model that this kind of model does not show."""


class MixedSamples(Methods3dError):  # noqa: N818 - caught where volumes are batched
    """The samples of a batch change each other's output: they have to run one by one."""


class MethodError(Methods3dError, ValueError):
    """No method has this name."""


class Cancelled(Methods3dError):  # noqa: N818 - not a fault: raised by a progress callback
    """The run was cancelled between two batches; nothing was kept."""
