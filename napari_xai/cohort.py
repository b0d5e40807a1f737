"""Many scans through one model: one load, one folder for each scan, one manifest, and no work done twice."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods3d import Cancelled, Method, Progress, Reference, Target, TorchModel, silent
from methods3d import method as method_named
from methods3d.method import recorded
from methods3d.references import resolved
from napari_xai.errors import USER_ERRORS, ExplainError
from napari_xai.explainer import Explainer
from napari_xai.explanation import Explanation
from napari_xai.exports import FILES, check_display, wanted
from napari_xai.reading import ScanLike
from napari_xai.saving import RECORD, check_place, remove_results
from napari_xai.scan_space import WayBack
from xai_io import Display, ExportError, Identity, Volume, XaiIOError, read_volume, write_json

__all__ = ["Cohort", "ScanRow", "explain_many"]

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ScanRow:
    """One scan of a cohort: its folder, and how it went.

    Attributes
    ----------
    case : folder's name: the scan's place in the order given, never its own name.
    key : digest of where the scan was read from, to know it again.
    status : "done", "failed" or "waiting".
    error : the sentence, without the scan's path; "" unless failed.
    seconds : for this scan, the model's loading aside.
    warnings : silent failures that were caught.
    """

    case: str
    key: str
    status: str = "waiting"
    error: str = ""
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cohort:
    """What a run over many scans left behind: the folder, its settings and a row for each scan."""

    folder: Path
    settings: dict[str, Any]
    rows: list[ScanRow]

    def write(self) -> None:
        """Write the manifest, whole or not at all."""
        record = {"settings": self.settings, "scans": [asdict(row) for row in self.rows]}
        write_json(self.folder / MANIFEST, record, overwrite=True)


def explain_many(
    scans: Sequence[ScanLike],
    explainer: Explainer,
    folder: str | os.PathLike[str],
    *,
    method: str | Method = "lrp",
    target: int | str | Target | None = None,
    against: int | str | None = None,
    way_back: WayBack = "interpolate",
    exports: Sequence[str] = (),
    display: Display | str | None = None,
    identity: Identity | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    finished: Callable[[int, ScanRow, Explanation | None], None] | None = None,
) -> Cohort:
    """Explain scans one after the other, each into its own folder; a scan that fails does not stop the rest.

    Started again with the same settings, it goes on where it was interrupted: scans that are done are left
    alone, failed ones are tried again, and scans that were added come after them. `finished` hears of every scan.
    `exports`, `display` and `identity` are as in `Explanation.save`.

    Raises
    ------
    ExplainError : the folder holds a run with other settings or of other scans, and `overwrite` is False; there is no
        such export; or a setting of the method names a mask or label map, which would be one scan's.
    Cancelled : from `progress`; scans that are done stay done.
    ExportError : the folder or the manifest cannot be written.
    """
    method = method_named(method)() if isinstance(method, str) else method
    folder = Path(folder)
    wanted(exports, None, identity)
    settings = _settings(explainer, method, target, against, way_back)
    settings |= {
        "exports": list(exports),
        "display": display.record if isinstance(display, Display) else display,
        "identity kept": identity is not None and identity.keep,
    }
    earlier = _earlier(folder, settings, overwrite=overwrite)
    digits = max(4, len(str(len(scans))))
    rows = [ScanRow(case=f"{n:0{digits}d}", key=_key(scan)) for n, scan in enumerate(scans, 1)]
    if not overwrite:
        rows = _resumed(rows, earlier, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise ExportError(f"The folder {folder} cannot be made ({failure.strerror}): choose another.") from failure
    for row in earlier if overwrite else ():
        remove_results(folder / row.case, FILES)
    cohort = Cohort(folder, settings, rows)
    cohort.write()
    for n, scan in enumerate(scans):
        if rows[n].status == "done":
            if finished is not None:
                finished(n, rows[n], None)
            continue
        started, found, error = time.perf_counter(), None, ""
        try:
            volume = explainer.read(scan)
            # What cannot be written is refused before the work. A case that is not done holds nothing of ours.
            wanted(exports, volume, identity)
            check_display(display, volume)
            check_place(folder / rows[n].case, FILES, volume, overwrite=overwrite)
            found = explainer.explain(
                volume, method=method, target=target, against=against, way_back=way_back, progress=progress
            )
            found.save(
                folder / rows[n].case,
                exports,
                display=display,
                identity=identity,
                overwrite=overwrite,
            )
        except Cancelled:  # the whole run is meant, not this scan
            raise
        except USER_ERRORS as failure:
            error = _nameless(str(failure), scan)
        except Exception as failure:  # one scan's surprise must not cost the others
            error = _nameless(f"{type(failure).__name__}: {failure}", scan)
        rows[n] = ScanRow(
            case=rows[n].case,
            key=rows[n].key,
            status="failed" if error else "done",
            error=error,
            seconds=round(time.perf_counter() - started, 3),
            warnings=[] if found is None else list(found.warnings),
        )
        cohort.write()
        if finished is not None:
            finished(n, rows[n], found)
    return cohort


def _settings(
    explainer: Explainer,
    method: Method,
    target: int | str | Target | None,
    against: int | str | None,
    way_back: str,
) -> dict[str, Any]:
    """What has to be the same for a run to go on."""
    settings: dict[str, Any] = {
        "model": explainer.loaded.hash,
        "method": method.name,
        "parameters": recorded(resolved(method, _content)),
        "target": target if isinstance(target, int | str | None) else repr(target),
        "against": against,
        "running": TorchModel(explainer.network, output=explainer.output, autocast=explainer.autocast).settings
        | {"windows": None if explainer.windows is None else asdict(explainer.windows)},
        "reading": asdict(explainer.reading) | {"series": _series(explainer.reading.series)},
        "way_back": way_back,
    }
    as_read: dict[str, Any] = json.loads(json.dumps(settings, default=repr))  # what the manifest will say
    return as_read


def _content(reference: Reference) -> Tensor:
    """What a setting names, by what it holds: the manifest has its digest, and no path."""
    if reference.kind != "scan":
        raise ExplainError("A mask or label map belongs to one scan: explain scans with them one by one.")
    try:
        return torch.as_tensor(read_volume(reference.source).data)
    except XaiIOError as error:
        raise ExplainError(f"A volume of the method's settings cannot be read: {error}") from error


def _series(wish: int | str | None) -> int | str | None:
    """Which DICOM series was asked for; a UID by its digest, since it leads to a patient."""
    return hashlib.sha256(wish.encode()).hexdigest()[:16] if isinstance(wish, str) else wish


def _earlier(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> list[ScanRow]:
    """The rows of an earlier run in this folder, which had the same settings unless it is to be overwritten."""
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = [ScanRow(**row) for row in record["scans"]]
        cases = all(row.case.isdigit() for row in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExplainError(f"{path} is not a manifest of this program: choose another folder.") from error
    if not cases:
        raise ExplainError(f"{path} is not a manifest of this program: choose another folder.")
    same = record.get("settings") == json.loads(json.dumps(settings, default=repr))
    if not same and not overwrite:
        raise ExplainError(
            f"{folder} holds a run with another model, method, question or way of writing: choose another folder, or "
            "overwrite."
        )
    return rows


def _resumed(rows: list[ScanRow], earlier: list[ScanRow], folder: Path) -> list[ScanRow]:
    """The rows, those that are done as they were; each scan has to be where it was."""
    before = {row.case: row for row in earlier}
    moved = [row.case for row in rows if row.case in before and before[row.case].key != row.key]
    gone = before.keys() - {row.case for row in rows}
    if moved or gone:
        raise ExplainError(
            f"{folder} holds a run of other scans (first at {min([*moved, *gone])}): give the same ones in the same "
            "order, with new ones after them, choose another folder, or overwrite."
        )
    whole = {case for case, row in before.items() if row.status == "done" and (folder / case / RECORD).exists()}
    return [before[row.case] if row.case in whole else row for row in rows]


def _key(scan: ScanLike) -> str:
    if isinstance(scan, Mapping):
        content = "".join(name + _key(one) for name, one in scan.items()).encode()
    elif isinstance(scan, Volume):
        content = scan.affine.tobytes() + scan.data.tobytes()
    else:
        content = str(Path(scan).resolve()).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _nameless(message: str, scan: ScanLike) -> str:
    """The message without the scan's path: folders and files are named after patients."""
    if isinstance(scan, Mapping):
        for one in scan.values():
            message = _nameless(message, one)
        return message
    if isinstance(scan, Volume):
        return message
    path = Path(scan)
    for text in sorted({str(path.resolve()), str(path), path.name} - {"", ".", ".."}, key=len, reverse=True):
        message = re.sub(rf"(?<![\w]){re.escape(text)}(?![\w])", "the scan", message)
    return message
