"""Standardised uptake by body weight (g/mL) from PET values, and refusal wherever a header leaves it open.

SUVbw = activity concentration [Bq/mL] x body weight [g] / injected dose [Bq], the dose decayed to the time that the
values are decay-corrected to. The rules are those of QIBA's SUV vendor-neutral pseudo-code
(https://qibawiki.rsna.org/index.php/Standardized_Uptake_Value_(SUV)).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ScanError
from .files import parsed, quiet
from .frame import Frame, words
from .series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

UNITS = "SUVbw"

_PHILIPS = "Philips PET Private Group"
_DOSE_BQ = (1e5, 1e11)  # 0.1 MBq to 100 GBq: outside this, another unit was written
_WEIGHT_KG = (0.01, 700.0)  # a mouse to the heaviest patient: outside this, another unit
_HALF_LIVES = 12.0  # after which nothing is left to see: the times do not belong together
_SLACK = 0.02  # by how much a decay factor may miss its own formula


def suv_factor(series: Series, volumes: Sequence[Sequence[Frame]]) -> tuple[float, str]:
    """What to multiply rescaled PET values with to get SUVbw, and the units of the product.

    Raises
    ------
    ScanError
        If the series is no PET, or if units, decay correction, dose, weight or times are missing or contradictory.
    """
    if series.modality != "PT":
        raise _unsure(series, f"modality {series.modality or 'unknown'}, which is no PET")
    with quiet():
        headers = [parsed(frames[0].file) for frames in volumes]
        found = {_of(header, series, volumes) for header in headers}
        units = {frame.units for frames in volumes for frame in frames}
    if len(found) > 1 or len(units) > 1:
        raise _unsure(series, "volumes of different scale, of which each has its own uptake; choose one frame")
    return found.pop(), UNITS


def _of(header: Dataset, series: Series, volumes: Sequence[Sequence[Frame]]) -> float:
    """The factor of one volume."""
    units = volumes[0][0].units
    kind = str(header.get("SUVType") or "BW")
    if units == "GML":
        if kind != "BW":
            raise _unsure(series, f"values in uptake of type {kind}, not by body weight")
        return 1.0
    if units == "CNTS":
        factor = _philips(header, 0x00)
        if factor:
            return factor
        scale = _philips(header, 0x09)
        if not scale:
            raise _unsure(series, "values in counts and none of Philips' private factors (7053,xx00) and (7053,xx09)")
        return scale * _per_activity(header, series, volumes)
    if units != "BQML":
        raise _unsure(series, f"values in units {units or 'that it does not say'}, where BQML, GML or CNTS are needed")
    return _per_activity(header, series, volumes)


def _per_activity(header: Dataset, series: Series, volumes: Sequence[Sequence[Frame]]) -> float:
    """Body weight in g over the dose in Bq that is left at the time that the values are corrected to."""
    corrected = words(header, "CorrectedImage")
    if "ATTN" not in corrected:
        raise _unsure(series, "values that are not corrected for attenuation")
    tracer = (header.get("RadiopharmaceuticalInformationSequence") or [None])[0]
    if tracer is None:
        raise _unsure(series, "no RadiopharmaceuticalInformationSequence")
    dose = _between(tracer, "RadionuclideTotalDose", _DOSE_BQ, "Bq", series)
    weight = _between(header, "PatientWeight", _WEIGHT_KG, "kg", series)
    decay = str(header.get("DecayCorrection") or "")
    if decay == "ADMIN":
        return weight * 1000 / dose
    if decay != "START" or "DECY" not in corrected:
        raise _unsure(series, f"DecayCorrection {decay or 'missing'}, where START or ADMIN is needed")
    half_life = _between(tracer, "RadionuclideHalfLife", (1.0, 1e9), "s", series)
    start = _start(header, series, volumes, half_life)
    elapsed = _since_injection(tracer, start, series)
    if not 0 <= elapsed <= _HALF_LIVES * half_life:
        raise _unsure(series, f"an injection {elapsed / 60:.0f} minutes before the scan")
    return weight * 1000 / (dose * 2 ** (-elapsed / half_life))


def _start(header: Dataset, series: Series, volumes: Sequence[Sequence[Frame]], half_life: float) -> datetime.datetime:
    """The time that values are decay-corrected to: the series', unless it was made after the scan.

    A series time later than an acquisition is the time of some processing. Then GE's private scan time counts, or
    else the earliest acquisition, if the decay factor of its image says that it was corrected to that time.
    """
    times = [(str(frame.apart.get("acquisition time", "")), frame) for frames in volumes for frame in frames]
    first, frame = min(times, key=lambda item: item[0])
    acquired = _moment(first, series, "AcquisitionTime")
    said = _moment(f"{header.get('SeriesDate') or ''}{header.get('SeriesTime') or ''}", series, "SeriesTime")
    if said <= acquired:
        return said
    private = header.get_private_item(0x0009, 0x0D, "GEMS_PETD_01") if _has(header, 0x0009, "GEMS_PETD_01") else None
    if private is not None:
        return _moment(str(private.value), series, "GE's private scan time")
    image = parsed(frame.file)
    factor, seconds = image.get("DecayFactor"), float(image.get("ActualFrameDuration") or 0) / 1000
    if factor is None or not 1 - _SLACK <= float(factor) <= 2 ** (seconds / half_life) + _SLACK:
        raise _unsure(series, "a series time later than its acquisition, and no decay factor that settles which counts")
    return acquired


def _since_injection(tracer: Any, start: datetime.datetime, series: Series) -> float:
    """Seconds from injection to `start`; an injection with a time of day alone may lie before midnight."""
    stamp = str(tracer.get("RadiopharmaceuticalStartDateTime") or "")
    if stamp:
        return (start - _moment(stamp, series, "RadiopharmaceuticalStartDateTime")).total_seconds()
    time = str(tracer.get("RadiopharmaceuticalStartTime") or "")
    if not time:
        raise _unsure(series, "no time of injection")
    injected = _moment(f"{start:%Y%m%d}{time}", series, "RadiopharmaceuticalStartTime")
    if injected > start:
        injected -= datetime.timedelta(days=1)
    return (start - injected).total_seconds()


def _moment(text: str, series: Series, name: str) -> datetime.datetime:
    """A DICOM date and time; one with an offset from UTC cannot be set against those that have none."""
    whole, _, fraction = text.strip().partition(".")
    try:
        moment = datetime.datetime.strptime(whole, "%Y%m%d%H%M%S" if len(whole) == 14 else "%Y%m%d%H%M")
        return moment + datetime.timedelta(seconds=float(f"0.{fraction or 0}"))
    except ValueError:
        raise _unsure(series, f"no usable {name}") from None


def _between(item: Any, keyword: str, limits: tuple[float, float], unit: str, series: Series) -> float:
    """A number that its unit allows."""
    try:
        value = float(item.get(keyword))
    except (TypeError, ValueError):
        raise _unsure(series, f"no {keyword}") from None
    if not (math.isfinite(value) and limits[0] <= value <= limits[1]):
        raise _unsure(series, f"a {keyword} that cannot be in {unit}")
    return value


def _has(header: Dataset, group: int, creator: str) -> bool:
    try:
        header.private_block(group, creator)
    except KeyError:
        return False
    return True


def _philips(header: Dataset, element: int) -> float:
    """A factor of Philips', 0 where there is none."""
    if not _has(header, 0x7053, _PHILIPS):
        return 0.0
    block = header.private_block(0x7053, _PHILIPS)
    value = block[element].value if element in block else None
    try:
        factor = float(value.decode() if isinstance(value, bytes) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0
    return factor if math.isfinite(factor) and factor > 0 else 0.0


def _unsure(series: Series, what: str) -> ScanError:
    return ScanError(
        f"{series.path} has {what}, so that its uptake (SUV) is unknown; read its values as they are with suv='off' "
        "(--suv off)."
    )
