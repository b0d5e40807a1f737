"""Results that appear together or not at all, and in whose place nothing is lost that was not theirs."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from xai_io import ExportError, Volume

__all__ = ["RECORD", "check_place", "put_together", "remove_results"]

RECORD = "provenance.json"
PARTS = {".dcm"}  # what our folders of files hold


def check_place(folder: Path, files: Iterable[str], scan: Volume, *, overwrite: bool) -> None:
    """Refuse a place where results cannot be put, or where something would be lost; ask before the run.

    Parameters
    ----------
    folder : where they are to go; it need not exist.
    files : names of all files and folders that could be written or removed there.
    scan : what is explained: it is never written over.

    Raises
    ------
    ExportError : the folder is a file, cannot be made or written to; it holds results, and `overwrite` is False; the
        scan lies where results would go; or a folder there holds what was not written here.
    """
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "is a file" if above == folder and not above.is_dir() else "cannot be written to"
        raise ExportError(f"{above} {what}, so that no results can go to {folder}: choose another folder.")
    there = [name for name in files if (folder / name).exists()]
    inputs = {Path(path).resolve() for path in (scan.source.path, *scan.source.files) if path is not None}
    for name in there:
        target = (folder / name).resolve()
        if any(target == one or target in one.parents for one in inputs):
            raise ExportError(f"{folder / name} is what the scan was read from: choose another folder for the results.")
    if there and not overwrite:
        raise ExportError(f"{folder} holds {', '.join(there)} already: choose another folder, or overwrite.")
    for name in there:
        _refuse_strangers(folder / name)


@contextmanager
def put_together(folder: Path, files: Iterable[str]) -> Iterator[Path]:
    """Yield a hidden folder; what is written there takes its place in `folder` when the block ends well.

    Earlier results by any of the names `files` are removed then; when it does not end well, they stay as they were.

    Raises
    ------
    ExportError : the folder cannot be made.
    """
    made = not folder.exists()
    aside = folder / f".{uuid4().hex[:8]}.part"
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"The folder {folder} cannot be made ({error.strerror}): choose another.") from error
    try:
        yield aside
        remove_results(folder, files)
        for item in sorted(aside.iterdir(), key=lambda item: item.name == RECORD):  # it says that the rest is whole
            item.replace(folder / item.name)
    except ExportError as error:
        raise ExportError(str(error).replace(str(aside), str(folder))) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if made and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def remove_results(folder: Path, files: Iterable[str]) -> None:
    """Remove earlier results by these names, the first of them first: without its record nothing claims to be whole.

    Raises
    ------
    ExportError : a folder holds what was not written here; nothing was removed.
    """
    there = [folder / name for name in files if (folder / name).exists()]
    for item in there:
        _refuse_strangers(item)
    for item in there:
        shutil.rmtree(item) if item.is_dir() else item.unlink()


def _refuse_strangers(item: Path) -> None:
    """Refuse to remove a folder that holds more than what results hold."""
    if not item.is_dir():
        return
    ours = (item / "zarr.json").is_file() or all(
        path.is_file() and path.suffix in PARTS and path.stem.isdigit() for path in item.iterdir()
    )
    if not ours:
        raise ExportError(f"{item} is a folder that holds more than earlier results: choose another folder.")
