"""Many scans through one model: one load, one folder for each scan, one manifest, and no work done twice."""

import hashlib
import json
import os
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
from napari_xai.exports import wanted
from napari_xai.reading import ScanLike
from napari_xai.scan_space import WayBack
from xai_io import Display, Identity, Volume, XaiIOError, read_volume, write_json

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
    display: Callable[[Explanation], Display] | None = None,
    identity: Identity | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    finished: Callable[[int, ScanRow, Explanation | None], None] | None = None,
) -> Cohort:
    """Explain scans one after the other, each into its own folder; a scan that fails does not stop the rest.

    Started again with the same settings, it goes on where it was interrupted: scans that are done are left
    alone, failed ones are tried again. `finished` hears of every scan. `exports`, `display` (made from what was found)
    and `identity` are as in `Explanation.save`.

    Raises
    ------
    ExplainError : the folder holds a run with other settings, and `overwrite` is False; or a setting of the method
        names a mask or label map, which would be one scan's.
    Cancelled : from `progress`; scans that are done stay done.
    ExportError : the manifest cannot be written.
    """
    method = method_named(method)() if isinstance(method, str) else method
    folder = Path(folder)
    settings = _settings(explainer, method, target, against, way_back, exports)
    resuming = (folder / MANIFEST).exists()  # then what lies in the cases' folders is this run's own
    done = {} if overwrite else _done(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(4, len(str(len(scans))))
    rows = [ScanRow(case=f"{n:0{digits}d}", key=_key(scan)) for n, scan in enumerate(scans, 1)]
    rows = [done.get((row.case, row.key), row) for row in rows]
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
            wanted(exports, volume, identity)  # what cannot be written is refused before the work
            found = explainer.explain(
                volume, method=method, target=target, against=against, way_back=way_back, progress=progress
            )
            found.save(
                folder / rows[n].case,
                exports,
                display=None if display is None else display(found),
                identity=identity,
                overwrite=overwrite or resuming,
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
    exports: Sequence[str],
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
        "reading": asdict(explainer.reading),
        "way_back": way_back,
        "exports": list(exports),
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


def _done(folder: Path, settings: dict[str, Any]) -> dict[tuple[str, str], ScanRow]:
    """Scans that an earlier run with the same settings finished."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        rows = [ScanRow(**row) for row in record["scans"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ExplainError(f"{path} is not a manifest of this program: choose another folder, or overwrite.") from error
    if record.get("settings") != settings:
        raise ExplainError(
            f"{folder} holds a run with another model, method or question: choose another folder, or overwrite."
        )
    whole = [row for row in rows if row.status == "done" and (folder / row.case / "provenance.json").exists()]
    return {(row.case, row.key): row for row in whole}


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
    for text in sorted({str(path.resolve()), str(path), path.name}, key=len, reverse=True):
        message = message.replace(text, "the scan")
    return message
