"""What can go wrong between disk and values, each as one sentence that says what to do."""


class XaiIOError(Exception):
    """Anything `xai_io` refuses: the message says what was given, what is allowed and what to do."""


class ScanError(XaiIOError):
    """Not a scan that can be read: no such file, no images, cut short, or values no network can use."""


class NonFiniteScan(ScanError):  # noqa: N818
    """Voxels are NaN or infinite.

    Attributes
    ----------
    background
        Whether they may be background, which ``Choices(on_nan="zero")`` reads as 0: they are NaN, and others are not.
    """

    def __init__(self, message: str, *, background: bool = False) -> None:
        super().__init__(message)
        self.background = background


class DecoderMissing(ScanError):  # noqa: N818
    """The pixels are compressed in a way that needs a decoder which is not installed."""


class GeometryError(XaiIOError):
    """Where the voxels lie in the patient is unknown, or they do not lie on one regular grid."""


class ModelError(XaiIOError):
    """Not a model that can be loaded: no bundle, a broken config, weights that do not fit."""


class UntrustedModel(ModelError):  # noqa: N818
    """Loading this model would run code that came with it, and nobody said that it may.

    Attributes
    ----------
    entry
        What needs it: an id in the config, or a file's name.
    what
        What stands there, in short.
    """

    def __init__(self, message: str, *, entry: str = "", what: str = "") -> None:
        super().__init__(message)
        self.entry, self.what = entry, what


class ExportError(XaiIOError):
    """A result could not be written; nothing half-written was left behind."""
