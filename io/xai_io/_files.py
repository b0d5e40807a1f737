"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import ExportError

CONFIG_FOLDER = "NAPARI_XAI_CONFIG"  # environment variable that names another folder than the user's own


def config_folder() -> Path:
    """Where what the user has settled once is kept; it need not exist."""
    given = os.environ.get(CONFIG_FOLDER)
    if given:
        return Path(given)
    from platformdirs import user_config_path

    return user_config_path("napari-xai", appauthor=False)


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes `path` when the block ends well, and vanishes when it does not.

    The bytes go to a hidden neighbour in the same folder (a rename across file systems would copy, and a
    copy can stop half-way), are flushed to the disk, and are renamed over `path` in one step.

    Parameters
    ----------
    path
        The file to write; its folder must exist.
    overwrite
        Whether a file that is already there may be replaced.

    Raises
    ------
    ExportError
        If `path` exists and `overwrite` is False, if its folder does not exist or cannot be written to, or if
        the disk is full. Whatever else the block raises passes through; in every case no new file is left.
    """
    target = Path(path)
    _refuse_existing(target, overwrite)
    if not target.parent.is_dir():
        raise ExportError(
            f"{target} cannot be written because the folder {target.parent} does not exist; make it first."
        )
    aside = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.part")
    try:
        try:
            with aside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _refuse_existing(target, overwrite)  # somebody may have written it meanwhile
            aside.replace(target)
        except OSError as error:
            raise ExportError(_why(target, error)) from error
    finally:
        with contextlib.suppress(OSError):  # renamed away when all went well; never mask the first error
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_aside(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends well, and vanishes when it does not.

    As `written_aside`, for results that are folders. A folder that is replaced is moved away first and deleted last.

    Parameters
    ----------
    path
        The folder to write; the one it lies in must exist.
    overwrite
        Whether a folder that is already there may be replaced with all that it holds: the caller has looked at it.

    Raises
    ------
    ExportError
        As `written_aside`; or if `path` is a file.
    """
    target = Path(path)
    if target.is_file():
        raise ExportError(f"{target} is a file, and a folder was to be written; name a folder.")
    if target.exists() and not overwrite:
        raise ExportError(f"{target} exists already and was not touched; pass overwrite=True to replace it.")
    if not target.parent.is_dir():
        raise ExportError(
            f"{target} cannot be written because the folder {target.parent} does not exist; make it first."
        )
    aside, old = (target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:8]}.{what}") for what in ("part", "old"))
    try:
        try:
            aside.mkdir()
            yield aside
            if target.exists():
                target.replace(old)
            try:
                aside.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
        except OSError as error:
            raise ExportError(_why(target, error)) from error
    finally:
        for rest in (aside, old):
            shutil.rmtree(rest, ignore_errors=True)


def _refuse_existing(target: Path, overwrite: bool) -> None:
    """Refuse a folder always, and a file unless it may be overwritten."""
    if target.is_dir():
        raise ExportError(f"{target} is a folder, and a file was to be written; name a file inside it.")
    if target.exists() and not overwrite:
        raise ExportError(f"{target} exists already and was not touched; pass overwrite=True to replace it.")


def _why(target: Path, error: OSError) -> str:
    """Say in one sentence why the operating system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{target} was not written because the disk is full; free some space or name another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{target} was not written because its folder is read-only for this user; name another folder."
    return f"{target} was not written ({error.strerror or error}); check the folder or name another one."
