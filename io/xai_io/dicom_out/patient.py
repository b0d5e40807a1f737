"""What a scan shows of its patient: the header, for those who keep the identity on purpose, and the pixels."""

from __future__ import annotations

from ..volume import Volume
from .headers import read_header

_ASKED = {
    "name": "PatientName",
    "ID": "PatientID",
    "born": "PatientBirthDate",
    "sex": "PatientSex",
    "study of": "StudyDate",
    "accession": "AccessionNumber",
}


def patient(scan: Volume) -> dict[str, str]:
    """Read who the scan is of from the first file of its DICOM series; nothing where there is none, or it says nothing.

    Raises
    ------
    ExportError
        If the file can no longer be read.
    """
    file = next((file for file in scan.source.files if file is not None), None)
    header = None if file is None else read_header(file)
    found = {} if header is None else {what: str(header.get(keyword) or "") for what, keyword in _ASKED.items()}
    return {what: value for what, value in found.items() if value}


def burned_in(scan: Volume) -> bool:
    """Whether the scan's DICOM series says that text is burned into its pixels; errors as `patient`."""
    file = next((file for file in scan.source.files if file is not None), None)
    return file is not None and str(read_header(file).get("BurnedInAnnotation", "")).upper() == "YES"
