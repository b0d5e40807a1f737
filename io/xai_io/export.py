"""Records as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ._files import written_aside
from .errors import ExportError


def as_json(mapping: Mapping[str, Any]) -> bytes:
    """Encode a record as indented UTF-8 JSON.

    Raises
    ------
    ExportError
        If it holds something that JSON has no word for (an array, NaN, infinity).
    """
    try:
        return json.dumps(mapping, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ExportError(f"The record is not JSON ({error}); use plain finite values.") from error


def write_json(path: str | os.PathLike[str], mapping: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write a record as indented UTF-8 JSON, whole or not at all.

    Raises
    ------
    ExportError
        If the record is not JSON (see `as_json`), or the file cannot be written (see `written_aside`).
    """
    content = as_json(mapping)
    with written_aside(path, overwrite=overwrite) as file:
        file.write(content)
