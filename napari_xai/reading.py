"""A scan from disk as a model takes it: one volume, or one for each of its input channels."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_xai.errors import ExplainError
from xai_io import Choices, LoadedModel, ScanError, Volume, name_of_channel, read_volume, sniff, stack_channels

__all__ = ["Reading", "ScanLike", "VolumeLike"]

VolumeLike = str | os.PathLike[str] | Volume
ScanLike = VolumeLike | Mapping[str, VolumeLike]  # channel name -> its scan


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a scan may leave open, answered beforehand.

    Attributes
    ----------
    series : which DICOM series, by its number in the listing or its UID, where there are several.
    choices : what to do about scans that are not one regular volume; they are refused otherwise.
    resample : bring the scans of several channels to the grid of the first.
    """

    series: int | str | None = None
    choices: Choices = Choices()  # noqa: RUF009 - frozen
    resample: bool = False

    def __call__(
        self, scan: ScanLike, loaded: LoadedModel, progress: Callable[[int, int], None] | None = None
    ) -> Volume:
        """Read a scan, checked against the channels that the model takes.

        A folder that holds a scan for each channel is read by the names of its files and folders.

        Raises
        ------
        XaiIOError : it is no scan, an irregular one, or its channels are not the model's.
        ExplainError : the number of channels is another one.
        """
        several = scan if isinstance(scan, Mapping) else _channels_in(scan, loaded)
        if several is None:
            assert not isinstance(scan, Mapping)
            volume = self._one(scan, progress)
        else:
            read = {name: self._one(one, progress) for name, one in several.items()}
            volume = stack_channels(read, loaded.channel_names, resample=self.resample)
        wanted = loaded.in_channels
        if wanted is not None and volume.channels != wanted:
            names = f" ({', '.join(loaded.channel_names)})" if loaded.channel_names else ""
            raise ExplainError(
                f"The scan has {volume.channels} channel(s), but the model takes {wanted}{names}: "
                "give a scan with these channels, or one scan for each (--channel NAME=PATH)."
            )
        return volume

    def _one(self, scan: VolumeLike, progress: Callable[[int, int], None] | None) -> Volume:
        if isinstance(scan, Volume):
            return scan
        return read_volume(scan, series=self.series, choices=self.choices, progress=progress)


def _channels_in(scan: VolumeLike, loaded: LoadedModel) -> dict[str, Path] | None:
    """Files, or folders of DICOM, in a folder by the channels that their names say; None where it is no such folder."""
    if isinstance(scan, Volume) or (loaded.in_channels or 1) == 1 or not Path(scan).is_dir():
        return None
    found: dict[str, Path] = {}
    for place in sorted(Path(scan).iterdir()):
        name = name_of_channel(place)
        if name is None or not sniff(place):
            continue
        if name in found:
            raise ScanError(
                f"{scan} holds two scans called {name}, {found[name].name} and {place.name}: name the ones that "
                "are meant (--channel NAME=PATH)."
            )
        found[name] = place
    return found if len(found) > 1 else None
