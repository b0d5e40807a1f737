"""What all DICOM results share: how they were made, whom they belong to, what they refer to."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ExportError
from ..volume import Volume
from .deidentified import DUMMY_DATE, DUMMY_TIME
from .identity import Identity
from .source import SourceSeries, sources

if TYPE_CHECKING:
    from pydicom import Dataset

NAME = "napari-xai"
SCHEME = "99NAPARIXAI"  # of our own codes: private ones begin with 99 (PS3.16, section 8.2)
NOTICE = "Research use only, not for diagnosis."
_LONGEST_FACT = 1500  # characters: all six fit into what LT may hold, 10240
# What is a frame's own, or tells of many: elements are shared between copies, so these are made anew.
_FRAMES = re.compile(
    "SOP(Class|Instance)UID|Rows|Columns|Image(Position|Orientation)Patient|PixelSpacing|SliceThickness|SliceLocation"
    "|SpacingBetweenSlices|NumberOfFrames|.*FunctionalGroups.*|Dimension.*"
)
_PER_SLICE = "2.25.{}"  # stand-in UID of a slice, replaced by what it refers to


def short(text: str) -> str:
    """Make of any text what LO may hold: one line of at most 64 characters, no backslash, which would part values."""
    return " ".join(text.replace("\\", "/").split())[:64].strip()


@functools.cache
def version() -> str:
    """Of this software."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return "0"


@dataclass(frozen=True)
class Result:
    """One export: the scan's series, and how what is exported was made.

    Parameters
    ----------
    series
        Source series, its identifiers mapped or kept.
    record
        Of the explanation: `question`, `method`, `parameters`, `target`, `model` (`name`, `sha256`) are used where
        they are there.
    identity
        Whose results these are.
    made
        When; part of the UIDs where identity is kept, because dates are then too.
    """

    series: SourceSeries
    record: Mapping[str, Any]
    identity: Identity
    made: str

    @classmethod
    def of(cls, scan: Volume, record: Mapping[str, Any], identity: Identity | None) -> Result:
        """Read the source series again.

        Raises
        ------
        ExportError
            If there is none.
        """
        identity = identity or Identity()
        now = datetime.datetime.now().isoformat() if identity.keep else ""
        return cls(sources(scan, identity), record, identity, now)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.record.get("method") or "relevance")

    @property
    def model(self) -> str:
        """Name of the model and the first digits of its hash."""
        model = self.record.get("model") or {}
        return ", ".join(str(part) for part in (model.get("name"), str(model.get("sha256") or "")[:12]) if part)

    @property
    def facts(self) -> dict[str, str]:
        """What to say of how the map was made, name by name."""
        parameters = self.record.get("parameters") or {}
        settings = ", ".join(f"{name}={value}" for name, value in parameters.items() if value not in ("", None))
        model = self.record.get("model") or {}
        said = {
            "question": self.record.get("question"),
            "method": self.method,
            "parameters": settings,
            "target": self.record.get("target"),
            "model": model.get("name"),
            "model sha256": model.get("sha256"),
        }
        return {name: " ".join(str(value).split())[:_LONGEST_FACT] for name, value in said.items() if value}

    @property
    def comments(self) -> str:
        """The facts as text, for people."""
        return "\n".join([NOTICE, *(f"{name}: {value}" for name, value in self.facts.items())])

    def uid(self, kind: str, *parts: str) -> str:
        """UID of something new: the same for the same source, record, content and version of this software."""
        record = json.dumps(self.record, sort_keys=True, default=str)
        source = str(self.series.first.SeriesInstanceUID)
        return self.identity.new_uid(kind, source, record, version(), self.made, *parts)

    def equipment(self, kind: str, *parts: str) -> dict[str, Any]:
        """What highdicom asks of every new object: identifiers and equipment."""
        return {
            "series_instance_uid": self.uid(f"{kind} series", *parts),
            "sop_instance_uid": self.uid(kind, *parts),
            "manufacturer": NAME,
            "manufacturer_model_name": NAME,
            "software_versions": version(),
            "device_serial_number": version(),
            "specific_character_set": "ISO_IR 192",
        }

    def algorithm(self) -> Any:
        """Sequence that identifies the method."""
        import highdicom as hd
        from pydicom.sr.codedict import codes

        return hd.AlgorithmIdentificationSequence(
            name=short(self.method),
            family=codes.DCM.ArtificialIntelligence,
            version=version(),
            source=NAME,
            parameters={name: value for name, value in self.facts.items() if name != "method"},
        )

    def slices(self) -> list[Dataset]:
        """One header a slice, as of a single-frame image, whatever the file is: from these highdicom derives results.

        Each has the slice's own place and a stand-in UID, which `referring` replaces.
        """
        from pydicom import Dataset
        from pydicom.uid import CTImageStorage
        from pydicom.valuerep import DSfloat

        base = Dataset()
        base.update({element.tag: element for element in self.series.first if not _FRAMES.fullmatch(element.keyword)})
        base.SOPClassUID = CTImageStorage  # any single-frame class; which it was stands in the references
        base.Rows, base.Columns = self.series.shape
        base.ImageOrientationPatient = [DSfloat(x, auto_format=True) for x in self.series.orientation]
        base.PixelSpacing = [DSfloat(x, auto_format=True) for x in self.series.spacing]
        base.SliceThickness = _thickness(self.series)
        base.SpacingBetweenSlices = DSfloat(self.series.slice_spacing, auto_format=True)
        found = []
        for k, position in enumerate(self.series.positions.tolist()):
            one = Dataset()
            one.update(base)
            one.SOPInstanceUID = _PER_SLICE.format(k + 1)
            one.ImagePositionPatient = [DSfloat(x, auto_format=True) for x in position]
            found.append(one)
        return found

    def referring(self, dataset: Dataset) -> Dataset:
        """Replace stand-in references by those to the source's images and frames; none for slices filled in."""
        from pydicom import Dataset

        whole = []
        for instance in self.series.instances:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance.SOPClassUID, instance.SOPInstanceUID
            whole.append(item)
        dataset.SourceImageSequence = whole
        together = Dataset()
        together.SeriesInstanceUID = self.series.first.SeriesInstanceUID
        together.ReferencedInstanceSequence = whole
        dataset.ReferencedSeriesSequence = [together]
        for frame in dataset.get("PerFrameFunctionalGroupsSequence", ()):
            derived = frame.DerivationImageSequence[0]
            kept = [self._referred(item) for item in derived.SourceImageSequence]
            derived.SourceImageSequence = [item for item in kept if item is not None]
            if not derived.SourceImageSequence:
                frame.DerivationImageSequence = []
        return dataset

    def _referred(self, item: Dataset) -> Dataset | None:
        k = int(item.ReferencedSOPInstanceUID.rpartition(".")[2]) - 1
        reference, header = self.series.reference(k), self.series.headers[k]
        if reference is None or header is None:
            return None
        aligned = (header.get("Rows"), header.get("Columns")) == self.series.shape  # a mosaic's tiles are not
        reference.SpatialLocationsPreserved = "YES" if aligned else "NO"
        reference.PurposeOfReferenceCodeSequence = item.PurposeOfReferenceCodeSequence
        return reference

    def finished(self, dataset: Dataset, description: str) -> Dataset:
        """Say what the object is; without kept identity, no date; and nothing random."""
        dataset.SeriesDescription = short(description)
        if not self.identity.keep:
            for keyword in ("InstanceCreationDate", "InstanceCreationTime", "DateOfSecondaryCapture",
                            "TimeOfSecondaryCapture", "SeriesDate", "SeriesTime"):  # fmt: skip
                if keyword in dataset:
                    delattr(dataset, keyword)
            for keyword, dummy in (("ContentDate", DUMMY_DATE), ("ContentTime", DUMMY_TIME)):
                if keyword in dataset:
                    setattr(dataset, keyword, dummy)
            for item in dataset.get("ContributingEquipmentSequence", ()):
                if "ContributionDateTime" in item:
                    del item.ContributionDateTime
        dimensions = self.uid("dimensions", str(dataset.SOPInstanceUID))
        for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
            for item in dataset.get(keyword, ()):
                item.DimensionOrganizationUID = dimensions
        return dataset


def _thickness(series: SourceSeries) -> float:
    """Slice thickness that the source states, else the distance between slices."""
    groups = list(series.first.get("SharedFunctionalGroupsSequence", ()))
    groups += list(series.first.get("PerFrameFunctionalGroupsSequence", ()))[:1]
    items = [group.PixelMeasuresSequence[0] for group in groups if group.get("PixelMeasuresSequence")]
    said = next((item.SliceThickness for item in [series.first, *items] if item.get("SliceThickness")), None)
    return float(said or round(series.slice_spacing, 6))


def on_grid(scan: Volume, other: Volume, what: str) -> npt.NDArray[Any]:
    """Values of a map as frames (K, rows, columns): the sum of its channels.

    Raises
    ------
    ExportError
        If it is not on the scan's grid, or not finite.
    """
    if other.shape != scan.shape or not np.allclose(other.affine, scan.affine, atol=1e-4):
        raise ExportError(
            f"A {what} of shape {other.data.shape} was given for a scan of {scan.data.shape}; pass it on the scan's "
            "own grid."
        )
    values = other.data[0] if other.channels == 1 else other.data.sum(0)
    if not np.isfinite(values).all():
        raise ExportError(
            f"A {what} with NaN or infinity was given; DICOM allows numbers alone: find out where they come from."
        )
    frames: npt.NDArray[Any] = values.transpose(2, 1, 0)
    return frames


def digest(*arrays: npt.NDArray[Any]) -> str:
    """SHA-256 of values."""
    made = hashlib.sha256()
    for array in arrays:
        made.update(np.ascontiguousarray(array).data)
    return made.hexdigest()
