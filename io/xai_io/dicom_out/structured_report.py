"""Numbers of relevance regions as a DICOM structured report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from ..regions import Region
from ..volume import Volume
from .identity import Identity
from .result import NAME, SCHEME, Result, short, version
from .segmentation import region_type, segment_label
from .writing import write_dataset

if TYPE_CHECKING:
    from highdicom.sr import Measurement, ReferencedSegment, VolumetricROIMeasurementsAndQualitativeEvaluations
    from pydicom import Dataset

_SERIES_NUMBER = 9004


def write_measurement_report(
    path: str | os.PathLike[str],
    scan: Volume,
    regions: Sequence[Region],
    *,
    segmentation: str | os.PathLike[str],
    record: Mapping[str, Any],
    identity: Identity | None = None,
    overwrite: bool = False,
) -> None:
    """Write the numbers of regions as a report of TID 1500 (PS3.16), a Comprehensive 3D SR.

    For each region a group (TID 1411) with its volume in mm3, its share of all absolute relevance in percent, its
    mean and its peak, that refers to its segment and is tracked by that segment's UID. The method is its algorithm
    (TID 4019), with question, settings, target, model and the model's hash as parameters. The observer is a device:
    this software.

    Parameters
    ----------
    path
        The .dcm file.
    scan
        Read from DICOM, on its own grid.
    regions
        As they were given to `write_segmentation`.
    segmentation
        What that wrote, with the same identity.
    record
        How the map was made (see `Result`).
    identity
        Whose result it is; nobody's if None.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    ExportError
        If the segmentation cannot be read or is not of these regions and this scan under this identity; the scan has
        no DICOM series; or the file cannot be written or would identify the patient.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    result = Result.of(scan, record, identity)
    segments = _segments(Path(segmentation), regions, result)
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                    uid=result.identity.new_uid("device", NAME, version()),
                    name=NAME,
                    manufacturer_name=NAME,
                    model_name=NAME,
                    serial_number=version(),
                ),
            )
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            _group(number, region, segments, result) for number, region in enumerate(regions, start=1)
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = hd.sr.Comprehensive3DSR(
        evidence=[*result.series.instances, segments],
        content=report,
        **result.equipment("report", str(segments.SOPInstanceUID), repr(tuple(regions))),
        series_number=_SERIES_NUMBER,
        instance_number=1,
        is_complete=True,
    )
    result.finished(document, f"Relevance numbers ({result.method}), research only")
    write_dataset(path, document, scan, result.identity, overwrite=overwrite)


def _segments(path: Path, regions: Sequence[Region], result: Result) -> Any:
    """Read the segmentation, and insist that it is that of these regions and this scan."""
    import highdicom as hd

    try:
        segments = hd.seg.segread(path)
        labels = [segments.get_segment_description(n).segment_label for n in segments.segment_numbers]
    except Exception as error:  # whatever is wrong with it
        raise ExportError(
            f"{path} is not a segmentation that can be read ({type(error).__name__}); write one with "
            "write_segmentation first."
        ) from error
    wanted = [segment_label(region) for region in regions]
    series = {str(one.SeriesInstanceUID) for one in segments.get("ReferencedSeriesSequence", ())}
    if labels != wanted or series != {str(result.series.first.SeriesInstanceUID)}:
        raise ExportError(
            f"{path} has {len(labels)} segments that are not the {len(wanted)} regions given, or is of another scan or "
            "identity; pass what write_segmentation wrote of them."
        )
    return segments


def _group(
    number: int, region: Region, segments: Any, result: Result
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Measurements of one region."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segment = segments.get_segment_description(number)
    facts = [f"{name}={value}" for name, value in result.facts.items() if name != "method"]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.tracking_id),
        referenced_segment=_reference(number, segments),
        finding_category=codes.SCT.SpatialAndRelationalConcept,
        finding_type=region_type(region),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=short(result.method), version=version(), parameters=facts, family=codes.DCM.ArtificialIntelligence,
            manufacturer=NAME,
        ),
        measurements=_measurements(region),
    )  # fmt: skip


def _measurements(region: Region) -> list[Measurement]:
    from highdicom.sr import CodedConcept, Measurement
    from pydicom.sr.codedict import codes

    relevance = CodedConcept("relevance", SCHEME, "Relevance of a voxel to a model's score")
    share = CodedConcept("relevance-share", SCHEME, "Share of all absolute relevance")
    extreme = codes.SCT.Maximum if region.peak >= 0 else codes.SCT.Minimum
    return [
        Measurement(name=codes.SCT.Volume, value=region.volume_mm3, unit=codes.UCUM.CubicMillimeter),
        Measurement(name=share, value=100 * region.share, unit=codes.UCUM.Percent),
        Measurement(name=relevance, value=region.mean, unit=codes.UCUM.NoUnits, derivation=codes.SCT.Mean),
        Measurement(name=relevance, value=region.peak, unit=codes.UCUM.NoUnits, derivation=extreme),
    ]


def _reference(number: int, segments: Dataset) -> ReferencedSegment:
    """Refer to a segment and to all source frames that it lies on; to the source series where those were filled in.

    highdicom's own way keeps one frame of a multi-frame source.
    """
    import highdicom as hd

    found: dict[tuple[str, str], list[int]] = {}
    shared = segments.SharedFunctionalGroupsSequence[0]
    for frame in segments.PerFrameFunctionalGroupsSequence:
        (segment,) = (frame if "SegmentIdentificationSequence" in frame else shared).SegmentIdentificationSequence
        if segment.ReferencedSegmentNumber == number:
            for derived in frame.get("DerivationImageSequence", ()):
                for source in derived.SourceImageSequence:
                    key = str(source.ReferencedSOPClassUID), str(source.ReferencedSOPInstanceUID)
                    found.setdefault(key, []).extend(
                        [int(source.ReferencedFrameNumber)] if "ReferencedFrameNumber" in source else []
                    )
    images = [
        hd.sr.SourceImageForSegmentation(*key, referenced_frame_numbers=numbers or None)
        for key, numbers in found.items()
    ]
    series = hd.sr.SourceSeriesForSegmentation(segments.ReferencedSeriesSequence[0].SeriesInstanceUID)
    return hd.sr.ReferencedSegment(
        segments.SOPClassUID, segments.SOPInstanceUID, number, source_images=images or None,
        source_series=None if images else series,
    )  # fmt: skip
