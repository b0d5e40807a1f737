"""Values of planes: decoded by pydicom and the decoders that it finds, then rescaled as each header says."""

from __future__ import annotations

import os
import struct
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
_PREFERRED = {"1.2.840.10008.1.2.4.80": "gdcm", "1.2.840.10008.1.2.4.81": "gdcm"}
_PREFERRED |= {f"1.2.840.10008.1.2.4.{n}": "pylibjpeg" for n in (90, 91, 201, 202, 203)}
_LARGE = 64 << 20  # bytes that compressed pixels may promise, and
_SHRUNK = 1000  # how many times the file's own size they may, where that is more
_START_OF_FRAME = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7)
_TAGS = (
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ModalityLUTSequence",
)


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
            if header.get("HighBit") not in (None, (header.get("BitsStored") or 0) - 1):
                raise ScanError(f"{file} stores its values in other bits than the lowest (HighBit); export it again.")
            syntax = _syntax(header)
            plugin = _decoder(syntax, file)
            indices = [max(number, 1) - 1 for number in numbers]
            if syntax.is_encapsulated:
                _check_codestreams(stream, header, indices)
            _check_size(stream, header, syntax, max(indices) + 1)
            stream.seek(0)
            options: dict[str, Any] = {"transfer_syntax_uid": syntax}
            source: BinaryIO | Dataset = stream
            if syntax.is_deflated:  # not to be read in pieces
                source, options = pydicom.dcmread(stream), {}
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
    promised = frame * frames
    if promised > (max(_LARGE, _SHRUNK * held) if syntax.is_encapsulated or syntax.is_deflated else held):
        raise ValueError(f"{held} bytes where its header promises {promised}")


def _check_codestreams(stream: BinaryIO, header: Dataset, indices: Sequence[int]) -> None:
    """Refuse compressed frames that end early, or of another size than the header's, by which decoders would go.

    `stream` is where reading the header stopped: at the pixel data element, whose head takes 12 bytes.
    """
    from pydicom.encaps import get_frame

    start = stream.tell() + 12
    count = int(header.get("NumberOfFrames") or 1)
    for index in indices:
        stream.seek(start)
        frame = get_frame(stream, index, number_of_frames=count)
        begins = frame[:2] in (b"\xff\xd8", b"\xff\x4f")
        if begins and not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):  # some pad with 0, some with 255
            raise ValueError("its compressed pixels have no end")  # which decoders would make up
        if _signed(frame) and not header.get("PixelRepresentation"):
            raise ValueError("its compressed pixels have a sign that its header denies")
        size = codestream_size(frame)
        if size not in (None, (header.Columns, header.Rows)):
            raise ValueError("its compressed pixels have another size than its header says")


def _signed(frame: bytes) -> bool:
    """Whether a JPEG 2000 codestream declares signed values (ITU-T T.800 A.5.1, Ssiz)."""
    siz = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    return siz >= 0 and len(frame) > siz + 42 and frame[siz + 42] >= 0x80


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Columns and rows that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None of another, or where it does not.

    (ITU-T T.81 B.2.2, T.87 C.2.2, T.800 A.5.1)
    """
    siz = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # at the start, unless it is wrapped as a file
    if siz >= 0:
        width, height, left, top = struct.unpack_from(">4I", frame, siz + 8)
        return width - left, height - top
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 <= len(frame):
        marker, length = frame[at : at + 2], int.from_bytes(frame[at + 2 : at + 4])
        if marker[1] in _START_OF_FRAME:
            height, width = struct.unpack_from(">2H", frame, at + 5)
            return width, height
        at += 2 + max(length, 2)
    return None


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
    if frame.slope == 0 and plane.min() < plane.max():
        raise ScanError(f"{frame.file} has a rescale slope of 0, by which all its values are lost; export it again.")
    rescaled: npt.NDArray[Any] = np.multiply(plane, frame.slope, dtype=np.float64) + frame.intercept
    return rescaled


def _short(error: Exception) -> str:
    """The last line of an error from inside a decoder, which speaks of bytes and sizes."""
    words = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()[:200].rstrip(".")
    return "no decoder can make sense of it" if "NoneType" in words else words  # what pydicom makes of GDCM's silence
