"""DICOM files and series that appear whole or not at all, and only if nothing in them identifies the patient."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import written_aside
from ..errors import ExportError
from ..volume import Volume
from .identity import Identity
from .leaks import leaked, leaks

if TYPE_CHECKING:
    from pydicom import Dataset


def write_dataset(
    path: str | os.PathLike[str],
    dataset: Dataset,
    scan: Volume,
    identity: Identity,
    *,
    overwrite: bool = False,
    drawn: Iterable[str] = (),
) -> None:
    """Write one DICOM file, whole or not at all, and only if nothing in it identifies the patient.

    Raises
    ------
    ExportError
        If it would (unless identity is kept), or the file cannot be written.
    """
    with written_aside(path, overwrite=overwrite) as file:
        dataset.save_as(file, enforce_file_format=True)
        file.flush()
        found = () if identity.keep else leaks(file.name, scan, drawn=drawn)
        if found:
            raise leaked(Path(path), found)


@contextlib.contextmanager
def series_aside(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends well, and vanishes when it does not.

    Raises
    ------
    ExportError
        If `folder` exists and is not empty, unless `overwrite`, and even then if it holds anything but DICOM files
        that could be a series written earlier; if it cannot be made.
    """
    target = Path(folder)
    there = sorted(target.iterdir()) if target.is_dir() else []
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target} is a file, and a folder was to be written; name another.")
    if there and not overwrite:
        raise ExportError(f"{target} is not empty and was not touched; name another folder, or pass overwrite=True.")
    strangers = [path.name for path in there if not (path.is_file() and path.suffix == ".dcm" and path.stem.isdigit())]
    if strangers:
        raise ExportError(
            f"{target} holds more than a series written earlier ({len(strangers)} other files or folders) and was not "
            "touched; name another folder."
        )
    aside = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.part")
    try:
        aside.mkdir()
        yield aside
        if target.is_dir():
            shutil.rmtree(target)
        aside.replace(target)
    except OSError as error:
        raise ExportError(f"{target} was not written ({error.strerror or error}); name another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
