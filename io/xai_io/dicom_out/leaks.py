"""A last look at what was written: is anything in it that identifies whom the scan is of?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import ExportError
from ..volume import Volume
from .identifiers import FILE, FOLDER, identifiers
from .identity import Identity
from .texts import texts


def leaks(path: str | os.PathLike[str], scan: Volume, *, drawn: Iterable[str] = ()) -> tuple[str, ...]:
    """Search a written file, or all files in a folder, for what identifies the scan's patient.

    What is looked for is said in `identifiers`, where it is looked for in `texts`.

    Parameters
    ----------
    path
        What was written.
    scan
        Whose source files are read again for what to look for.
    drawn
        Text that was drawn into pixels, which no search would find there.

    Returns
    -------
    tuple of str
        What was found and where, in the names of attributes, never the values themselves; empty if nothing was.
    """
    known = identifiers(scan.source)
    found: set[str] = {f"{kind} in text drawn on the picture" for text in drawn for kind in known.within(text)}
    root = Path(path)
    for file in sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]:
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        found |= {f"{kind} in a file's name" for kind in known.within(name.removesuffix(".part"))}
        for where, text, least in texts(file):
            kinds = known.within(text, least) | (known.equal(text) if not least else set())
            found |= {f"{kind} in {where}" for kind in kinds}
    return tuple(sorted(found))


def checked(path: str | os.PathLike[str], scan: Volume, identity: Identity, *, drawn: Iterable[str] = ()) -> None:
    """Search what was written for the source's identifiers, and remove it if there is one.

    Nothing is searched where identity is kept.

    Raises
    ------
    ExportError
        If anything was found; the file or folder is gone then.
    """
    if identity.keep:
        return
    found = leaks(path, scan, drawn=drawn)
    if not found:
        return
    root = Path(path)
    shutil.rmtree(root) if root.is_dir() else root.unlink(missing_ok=True)
    raise leaked(root, found)


def leaked(path: Path, found: tuple[str, ...]) -> ExportError:
    """Say that a file was not kept, and why, without a value."""
    advice = "take names and identifiers out of the question, the model's name and the file's name"
    if all(one.startswith((FILE, FOLDER)) for one in found):  # often a project's name, and the model's
        which = "folder above it" if all(one.startswith(FOLDER) for one in found) else "file or folder"
        advice = f"rename the scan's {which} or the model"
    return ExportError(
        f"{path.name if path.name else path} would have identified the patient ({'; '.join(found[:5])}) and was "
        f"removed; {advice}, or keep the identity on purpose."
    )
