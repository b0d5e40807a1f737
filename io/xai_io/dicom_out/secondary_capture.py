"""Relevance over the scan as a Secondary Capture series: colour pictures that every PACS shows."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..display import Display
from ..volume import Volume
from .identity import Identity
from .leaks import leaked, leaks
from .result import NAME, NOTICE, Result, digest, on_grid
from .source import refuse_burned_in
from .writing import series_aside

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_SERIES_NUMBER = 9002
_LEAST_ROWS = 512  # below which letters would be too coarse to read
_MOST_LINES = 8
_INK, _DIM, _GOLD = (242, 242, 242), (168, 168, 168), (255, 215, 95)
_FILLED = "This slice was filled in, not acquired."
_LETTERS = ("RL", "AP", "IS")  # at the low and the high end of an axis of LPS
_DICOM_LETTERS = ("RL", "AP", "FH")


def write_secondary_capture(
    folder: str | os.PathLike[str],
    scan: Volume,
    relevance: Volume,
    display: Display,
    *,
    record: Mapping[str, Any],
    identity: Identity | None = None,
    overwrite: bool = False,
) -> None:
    """Write one RGB Secondary Capture image for each slice along K: 0001.dcm, 0002.dcm, ...

    Each has the position, orientation, pixel spacing and frame of reference of its slice, so that viewers sort it
    and show it beside the scan (PS3.3 A.8 has no image plane: a Standard Extended SOP Class). Slices of fewer than 512
    rows are enlarged by a whole number, the spacing with them. What the picture is of, and that it is for research
    use only, is drawn below it, a colour bar at its right, letters of orientation at its edges; nothing is drawn over
    the rest of the scan. Burned-in annotation is declared.

    Parameters
    ----------
    folder
        To hold the series; made if it is not there.
    scan
        Read from DICOM, on its own grid; of several channels the first is shown.
    relevance
        (C, I, J, K) on that grid; the sum of several channels is shown.
    display
        Decides every pixel (see `Display.rgb`).
    record
        How it was made (see `Result`).
    identity
        Whose result it is; nobody's if None.
    overwrite
        Whether a series written there earlier may be replaced.

    Raises
    ------
    ExportError
        If the scan has no DICOM series, the relevance is not on its grid or not finite, the source says that text is
        burned into its pixels (unless identity is kept), or the files cannot be written or would identify the patient.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.valuerep import DSfloat

    values = on_grid(scan, relevance, "relevance")
    result = Result.of(scan, record, identity)
    series = result.series
    refuse_burned_in(series, result.identity, "pictures of it")
    factor = -(-_LEAST_ROWS // series.shape[0]) if series.shape[0] < _LEAST_ROWS else 1
    frame = _Frame.around((series.shape[0] * factor, series.shape[1] * factor), result, display)
    row, column = np.reshape(series.orientation, (2, 3))
    corner = (1 / factor - 1) / 2 * (row * series.spacing[1] + column * series.spacing[0])  # of the first small pixel
    letters = [_ends(direction, _LETTERS) for direction in (row, column)]
    purpose = hd.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    parts = (digest(scan.data[0], values), repr(display))
    with series_aside(folder, overwrite=overwrite) as aside:
        for k, header in enumerate(result.slices()):
            filled = series.headers[k] is None
            equipment = result.equipment("secondary capture", *parts)
            image = hd.sc.SCImage.from_ref_dataset(
                header,
                frame.picture(scan.data[0, :, :, k].T, values[k], letters, factor, _FILLED if filled else ""),
                photometric_interpretation="RGB",
                bits_allocated=8,
                coordinate_system="PATIENT",
                patient_orientation=("L", "P"),  # replaced below: only single letters are allowed here
                pixel_spacing=tuple(mm / factor for mm in series.spacing),
                series_number=_SERIES_NUMBER,
                instance_number=k + 1,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                **(equipment | {"sop_instance_uid": result.uid("secondary capture", *parts, str(k))}),
            )
            image.PatientOrientation = [_ends(direction, _DICOM_LETTERS)[1] for direction in (row, column)]
            image.ImagePositionPatient = [DSfloat(x, auto_format=True) for x in series.positions[k] + corner]
            image.ImageOrientationPatient = header.ImageOrientationPatient
            image.FrameOfReferenceUID = header.FrameOfReferenceUID
            image.PositionReferenceIndicator = header.get("PositionReferenceIndicator")
            image.SliceThickness = header.SliceThickness
            image.SpacingBetweenSlices = header.SpacingBetweenSlices
            image.BurnedInAnnotation = "YES"
            image.Laterality = series.first.get("Laterality")  # required of paired organs; may be empty
            image.ConversionType = "WSD"
            image.SecondaryCaptureDeviceManufacturer = NAME
            image.ImageComments = "\n".join([result.comments, *frame.lines[1:], *([_FILLED] if filled else [])])
            reference = series.reference(k)
            if reference is not None:
                reference.PurposeOfReferenceCodeSequence = [purpose]
                image.SourceImageSequence = [reference]
            result.finished(image, f"Relevance overlay ({result.method}), research only")
            image.save_as(aside / f"{k + 1:04d}.dcm", enforce_file_format=True)
        found = () if result.identity.keep else leaks(aside, scan, drawn=frame.drawn)
        if found:
            raise leaked(Path(folder), found)


@dataclass(frozen=True, eq=False)
class _Frame:
    """What surrounds every slice alike: words below it, a colour bar at its right.

    Parameters
    ----------
    canvas
        The picture without the slice.
    shape
        Rows and columns of the slice, enlarged.
    lines, drawn
        The lines below the slice; all that is drawn.
    display, font
        How slices and letters are drawn.
    """

    canvas: Image
    shape: tuple[int, int]
    lines: Sequence[str]
    drawn: Sequence[str]
    display: Display
    font: FreeTypeFont

    @classmethod
    def around(cls, shape: tuple[int, int], result: Result, display: Display) -> _Frame:
        """Draw it once."""
        from PIL import Image, ImageDraw

        size = max(14, round(shape[0] / 34))
        font = _font(size)
        widest = max(font.getlength(_word(value)) for value in (display.limit, -display.limit, display.threshold))
        bar = round(3 * size + max(widest, font.getlength("relevance")))
        width = max(shape[1] + bar, 26 * size)
        lines = _lines(result, display, int((width - size) / font.getlength("n")))
        pitch = round(1.35 * size)
        canvas = Image.new("RGB", (width, shape[0] + size + pitch * (len(lines) + 1)))
        draw = ImageDraw.Draw(canvas)
        for n, line in enumerate(lines):
            draw.text((size // 2, shape[0] + size // 2 + n * pitch), line, _INK if n else _GOLD, font)
        ticks = _draw_bar(canvas, draw, font, shape, display)
        return cls(canvas, shape, lines, [*lines, *ticks, _FILLED], display, font)

    def picture(
        self,
        scan: npt.NDArray[Any],
        relevance: npt.NDArray[Any],
        letters: Sequence[tuple[str, str]],
        factor: int,
        remark: str,
    ) -> npt.NDArray[np.uint8]:
        """One slice: pixels (rows, columns, 3)."""
        from PIL import Image, ImageDraw

        rows, columns = self.shape
        grey = np.asarray(scan, dtype=np.float32)
        if factor > 1:
            grey = np.nan_to_num(grey, nan=self.display.window[0])
            grey = np.asarray(Image.fromarray(grey).resize((columns, rows), Image.Resampling.BILINEAR))
        large = relevance.repeat(factor, axis=0).repeat(factor, axis=1)
        canvas = self.canvas.copy()
        canvas.paste(Image.fromarray(self.display.rgb(grey, large)), (0, 0))
        draw = ImageDraw.Draw(canvas)
        edge = self.font.size / 3
        (left, right), (top, bottom) = letters
        for place, letter, anchor in (
            ((edge, rows / 2), left, "lm"),
            ((columns - edge, rows / 2), right, "rm"),
            ((columns / 2, edge), top, "mt"),
            ((columns / 2, rows - edge), bottom, "mb"),
        ):
            draw.text(place, letter, _INK, self.font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
        if remark:
            draw.text((self.font.size // 2, canvas.height - self.font.size / 3), remark, _GOLD, self.font, anchor="lb")
        return np.asarray(canvas)


def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the same letters on every machine."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _lines(result: Result, display: Display, most: int) -> list[str]:
    """What is said below a slice, the notice first, no line longer than fits."""
    said = {name: value for name, value in result.facts.items() if name in ("question", "method")}
    if result.model:
        said["model"] = result.model
    said["display"] = (
        f"level {display.level:.4g}, width {display.width:.4g}; relevance ±{display.limit:.3g}, {display.words}"
    )
    lines = [line for name, value in said.items() for line in textwrap.wrap(f"{name}: {value}", most, max_lines=2)]
    return [NOTICE, *lines[:_MOST_LINES]]


def _draw_bar(
    canvas: Image, draw: ImageDraw, font: FreeTypeFont, shape: tuple[int, int], display: Display
) -> list[str]:
    """Colour bar on the grey that it will mostly lie on, with limits, threshold and zero; the words drawn."""
    from PIL import Image

    size = round(font.size)
    high, wide, left = shape[0] // 2, size, shape[1] + size
    top = (shape[0] - high) // 2
    table = display.table(high)[::-1]
    shown = table[:, :3] * table[:, 3:] + 0.3 * (1 - table[:, 3:])
    strip = np.rint(255 * np.repeat(shown[:, None], wide, axis=1)).astype(np.uint8)
    canvas.paste(Image.fromarray(strip), (left, top))
    values = [display.limit, 0.0, -display.limit]
    if display.threshold / (2 * display.limit) * high > 1.2 * size:  # else the words would run into the zero
        values += [display.threshold, -display.threshold]
    words = []
    for value in values:
        y = top + (1 - value / display.limit) / 2 * (high - 1)
        words.append(_word(value))
        draw.line([(left + wide, y), (left + wide + size // 3, y)], _INK)
        draw.text((left + wide + size // 2 + 2, y), words[-1], _INK, font, anchor="lm")
    draw.text((left, top - size // 2), "relevance", _DIM, font, anchor="lb")
    return [*words, "relevance"]


def _word(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _ends(direction: npt.NDArray[np.float64], letters: Sequence[str]) -> tuple[str, str]:
    """Letters of where an axis (LPS) comes from and goes to, two or three where it is oblique (12 degrees or more)."""
    order = [axis for axis in np.argsort(-np.abs(direction)) if abs(direction[axis]) > 0.2]
    start = "".join(letters[axis][int(direction[axis] < 0)] for axis in order)
    end = "".join(letters[axis][int(direction[axis] > 0)] for axis in order)
    return start, end
