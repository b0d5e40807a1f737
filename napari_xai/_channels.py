"""Several scans as the channels of one model: which of the open ones can be which channel. No Qt."""

from collections.abc import Mapping

import numpy as np

from napari_xai._choices import Scan
from napari_xai._session import Session
from napari_xai.errors import ExplainError
from xai_io import LoadedModel, Volume, name_of_channel, stack_channels

__all__ = ["alike", "channel_names", "guessed", "input_missing", "model_input", "stacked"]


def channel_names(loaded: LoadedModel) -> tuple[str, ...]:
    """Of the model's input: its own names, or else their numbers; none where nothing says how many."""
    return tuple(loaded.channel_names) or tuple(f"{n:04}" for n in range(loaded.in_channels or 0))


def alike(scans: Mapping[str, Scan], chosen: Scan) -> dict[str, Scan]:
    """The scans of one channel on exactly the grid of a chosen one, which is among them, by key."""

    def grid(scan: Scan) -> tuple[list[int], np.ndarray]:
        own = scan.layers[0].metadata["napari_xai"]
        return list(own["shape"]), np.array(own["affine_ras_mm"])

    shape, affine = grid(chosen)
    found = {}
    for key, scan in scans.items():
        its_shape, its_affine = grid(scan)
        if scan.channels == 1 and its_shape == shape and np.allclose(its_affine, affine, atol=1e-3):
            found[key] = scan
    return found


def guessed(names: tuple[str, ...], scans: Mapping[str, Scan]) -> dict[str, str]:
    """Channel -> key of the one scan whose name says that it is that channel; what is in doubt is left out."""
    found = {}
    for name in names:
        fits = [key for key, scan in scans.items() if _plain(scan.name) == _plain(name)]
        if len(fits) == 1:
            found[name] = fits[0]
    return found


def stacked(chosen: Mapping[str, str], scans: Mapping[str, Scan], names: tuple[str, ...]) -> Volume:
    """Channel -> key as one volume, in the order of the model; errors as `xai_io.stack_channels`."""
    numbered = {f"{n:04}": scans[chosen[name]].volume for n, name in enumerate(names)}
    return stack_channels(numbered, names if not names[0].isdigit() else ())


def model_input(session: Session, scans: Mapping[str, Scan]) -> Volume:
    """What the chosen model takes: the chosen scan, or one for each of its channels.

    Parameters
    ----------
    scans : that are open, by key.

    Raises
    ------
    ExplainError : something is missing.
    XaiIOError : a scan's layers cannot be used, as in `Scan.volume`, or do not fit each other.
    """
    if missing := input_missing(session, scans):
        raise ExplainError(missing)
    explainer, keys = session.explainer, session.scans
    if explainer is None or len(keys) == 1:
        return scans[keys[0]].volume
    names = channel_names(explainer.loaded)
    return stacked(dict(zip(names, keys, strict=True)), scans, names)


def input_missing(session: Session, scans: Mapping[str, Scan]) -> str:
    """Why there is no such input yet, in one sentence; "" if there is."""
    if session.input_missing:
        return session.input_missing
    return "" if set(session.scans) <= set(scans) else "The chosen scan was closed: choose another one under Explain."


def _plain(name: str) -> str:
    return (name_of_channel(name) or name).casefold().replace(" ", "").replace("-", "").replace("_", "")
