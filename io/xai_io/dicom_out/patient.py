"""Who a scan is of: only for those who keep the identity on purpose."""

from __future__ import annotations

from ..volume import Volume
from .source import read_header

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
