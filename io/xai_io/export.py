"""Records as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ._files import written_aside
from .errors import ExportError


def write_json(path: str | os.PathLike[str], mapping: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write a record as indented UTF-8 JSON, whole or not at all.

    Raises
    ------
    ExportError
        If the record holds something that JSON has no word for (an array, NaN, infinity), or the file cannot
        be written (see `written_aside`).
    """
    try:
        text = json.dumps(mapping, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"{path} was not written because the record is not JSON ({error}); use plain finite values."
        ) from error
    with written_aside(path, overwrite=overwrite) as file:
        file.write(text.encode() + b"\n")
