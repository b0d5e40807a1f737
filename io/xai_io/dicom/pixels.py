"""Values of planes: decoded by pydicom and the decoders that it finds, then rescaled as each header says."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ..errors import DecoderMissing, ScanError
from .files import File, header_of, opened, quiet
from .frame import Frame

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

#: Of several decoders the one that is right in most cases; the others serve where it cannot.
_PREFERRED = {"1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls"}
_PREFERRED |= {f"1.2.840.10008.1.2.4.{n}": "pylibjpeg" for n in (90, 91, 201, 202, 203)}
_LARGE = 64 << 20  # bytes that compressed pixels may promise, and
_SHRUNK = 1000  # how many times the file's own size they may, where that is more
_TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "ModalityLUTSequence")


def decode(
    frames: Sequence[Frame], out: npt.NDArray[np.float32], places: Sequence[int], *, done: Callable[[int], None]
) -> int:
    """Decode planes into their places of (slices, rows, columns), rescaled; return how many pixels are padding.

    Bits that are not part of the value (old overlays) are masked off, MONOCHROME1 keeps its values, a Modality LUT
    Sequence is applied, pixels with the padding value keep it, rescaled like the others.

    Parameters
    ----------
    done
        Called with the number of planes decoded.

    Raises
    ------
    DecoderMissing
        If the pixels are compressed and no decoder for them is installed.
    ScanError
        If they are damaged or cut short.
    """
    images: dict[File, dict[int, list[tuple[int, Frame]]]] = defaultdict(lambda: defaultdict(list))
    for place, frame in zip(places, frames, strict=True):
        images[frame.file][frame.number].append((place, frame))  # several only in a mosaic
    padded = finished = 0
    for file, members in images.items():
        for planes, (stored, header) in zip(members.values(), _decoded(file, list(members)), strict=True):
            for place, frame in planes:
                plane = _tile(stored, frame)
                if frame.padding is not None:
                    padded += int(((plane >= frame.padding[0]) & (plane <= frame.padding[1])).sum())
                out[place] = _rescaled(plane, frame, header)
            finished += len(planes)
            done(finished)
    return padded


def _decoded(file: File, numbers: Sequence[int]) -> Iterator[tuple[npt.NDArray[Any], Dataset]]:
    """Yield stored values and the header for each frame number (0 in single-frame files)."""
    import pydicom
    from pydicom.pixels.utils import iter_pixels

    try:
        with quiet(), opened(file) as stream:
            header = header_of(stream, _TAGS)
            syntax = _syntax(header)
            plugin = _decoder(syntax, file)
            _check_size(stream, header, syntax, max(numbers))
            stream.seek(0)
            options: dict[str, Any] = {"transfer_syntax_uid": syntax}
            source: BinaryIO | Dataset = stream
            if syntax.is_deflated:  # not to be read in pieces
                source, options = pydicom.dcmread(stream), {}
            indices = [max(number, 1) - 1 for number in numbers]
            for image in iter_pixels(source, indices=indices, raw=True, decoding_plugin=plugin, **options):
                if image.shape != (header.Rows, header.Columns):
                    raise ValueError("its pixels are not as many as its header says")
                yield image, header
    except ScanError:
        raise
    except Exception as error:  # decoders raise what they like on damaged pixels
        raise ScanError(f"{file} is cut short or damaged ({_short(error)}); copy the series again.") from error


def _syntax(header: Dataset) -> UID:
    """The transfer syntax, which a data set without preamble does not name."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta = getattr(header, "file_meta", None)
    said = meta.get("TransferSyntaxUID") if meta else None
    if said:
        return cast("UID", said)
    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _decoder(syntax: UID, file: File) -> str:
    """Name the decoder to use, "" for whichever pydicom finds; or the one that is missing."""
    from pydicom.pixels.decoders.base import get_decoder

    if not syntax.is_transfer_syntax:
        raise ValueError("its transfer syntax is none of DICOM's")
    if not syntax.is_compressed or syntax.is_deflated:
        return ""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise DecoderMissing(
            f"{file} is compressed as {syntax.name}, for which there is no decoder; export it uncompressed."
        ) from error
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise DecoderMissing(
            f"{file} is compressed as {syntax.name} and no decoder for it is installed ({needs}); install one of "
            "them or export the series uncompressed."
        )
    preferred = _PREFERRED.get(syntax, "")
    return preferred if preferred in decoder.available_plugins else ""


def _check_size(stream: BinaryIO, header: Dataset, syntax: UID, frames: int) -> None:
    """Refuse a header that promises more pixels than its file can hold, before memory is taken for them."""
    held = stream.seek(0, os.SEEK_END)
    frame = int(header.Rows) * int(header.Columns) * int(header.get("BitsAllocated") or 8) // 8
    promised = frame * max(frames, 1)
    if promised > (max(_LARGE, _SHRUNK * held) if syntax.is_encapsulated or syntax.is_deflated else held):
        raise ValueError(f"{held} bytes where its header promises {promised}")


def _tile(stored: npt.NDArray[Any], frame: Frame) -> npt.NDArray[Any]:
    """Cut the plane out of a mosaic; an image of its own is passed on."""
    columns, rows = frame.shape
    down, across = divmod(frame.tile, frame.tiles)
    plane = stored[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns]
    if plane.shape != (rows, columns):
        raise ScanError(f"{frame.file} has fewer pixels than its header says; copy the series again.")
    return plane


def _rescaled(plane: npt.NDArray[Any], frame: Frame, header: Dataset) -> npt.NDArray[Any]:
    """What the stored values mean: float64, so that only the last step rounds."""
    if header.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return np.asarray(apply_modality_lut(plane, header))
    if (frame.slope, frame.intercept) == (1.0, 0.0):
        return plane
    rescaled: npt.NDArray[Any] = np.multiply(plane, frame.slope, dtype=np.float64) + frame.intercept
    return rescaled


def _short(error: Exception) -> str:
    """The first line of an error from inside a decoder, which speaks of bytes and sizes."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
