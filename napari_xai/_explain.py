"""The one function that most scripts need."""

import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

import torch

from methods3d import Method, Progress, Target, silent
from napari_xai.cohort import Cohort, explain_many
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer, ModelLike
from napari_xai.explanation import Explanation
from napari_xai.reading import Reading, ScanLike, VolumeLike
from napari_xai.scan_space import WayBack
from xai_io import Volume, WindowSettings

__all__ = ["explain"]

Scans = list[ScanLike] | tuple[ScanLike, ...]


class Settings(TypedDict, total=False):
    """The keywords of `explain`, for type checkers."""

    method: str | Method
    target: int | str | Target | None
    against: int | str | None
    region: VolumeLike | None
    device: str
    windows: WindowSettings | Literal["model"] | None
    output: Any
    autocast: torch.dtype | None
    memory: int | str | None
    measure: bool
    checkpoint: str | os.PathLike[str] | None
    way_back: WayBack
    reading: Reading
    network: str | os.PathLike[str] | None
    trust: bool | Literal["remember"]
    progress: Progress
    folder: str | os.PathLike[str] | None


@overload
def explain(scan: ScanLike, model: ModelLike, **settings: Unpack[Settings]) -> Explanation: ...
@overload
def explain(scan: Scans, model: ModelLike, **settings: Unpack[Settings]) -> Cohort: ...
def explain(
    scan: ScanLike | Scans,
    model: ModelLike,
    *,
    method: str | Method = "lrp",
    target: int | str | Target | None = None,
    against: int | str | None = None,
    region: VolumeLike | None = None,
    device: str = "auto",
    windows: WindowSettings | Literal["model"] | None = "model",
    output: Any = None,
    autocast: torch.dtype | None = None,
    memory: int | str | None = None,
    measure: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    way_back: WayBack = "interpolate",
    reading: Reading = Reading(),  # noqa: B008
    network: str | os.PathLike[str] | None = None,
    trust: bool | Literal["remember"] = False,
    progress: Progress = silent,
    folder: str | os.PathLike[str] | None = None,
) -> Explanation | Cohort:
    """Explain what a model saw in a scan, or in many.

    Parameters
    ----------
    scan : a file or folder that `xai_io.read_volume` reads, or a Volume; for models of several input channels also a
        folder with a scan for each, or channel name -> scan; or a list of these, which are then explained one after
        the other into `folder`.
    model : what `xai_io.load_model` loads, a LoadedModel, or a network (which is not changed).
    method : a name from `methods3d.methods()`, or a method with its settings.
    target : class by index or name, or any Target; None asks for what the model predicts.
    against : the class to compare with ("why X rather than Y"); None is the runner-up. Classifiers only.
    region : a mask on the scan (path or Volume) that the question is about; None is where the class is
        predicted. Segmentation only.
    device : "auto" (a GPU if there is one), "cpu", "cuda:0" ...
    windows : sliding windows; "model" as the bundle says, None for the whole scan at once.
    output : which of several outputs to explain: index, key or callable.
    autocast : torch.float16 or torch.bfloat16 for the forward pass.
    memory : what running may take beyond the volumes, in bytes or as "4GiB": decides how much runs at once.
    measure : measure the map, too: deletion and insertion curves beside those of random maps. For one scan.
    checkpoint : file that an interrupted run of a perturbation method leaves behind, and is taken up again from. For
        one scan.
    way_back : "interpolate", or "sum-preserving" (the transpose of interpolation).
    reading : what the scan may leave open: which series, what to do about gaps, tilts, other grids.
    network : file with the `network_def` of plain weights.
    trust : run the code that a bundle brings; "remember" to do so from now on.
    progress : hears of work done; may raise methods3d.Cancelled.
    folder : for many scans: where their results and the manifest go; a run that was interrupted goes on there.

    Returns
    -------
    An Explanation, or for many scans the Cohort with a row for each.

    Raises
    ------
    XaiIOError, Methods3dError, ExplainError : in one sentence, what was given, what is allowed, what to do.
    """
    explainer = Explainer.of(
        model,
        device=device,
        windows=windows,
        output=output,
        autocast=autocast,
        memory=memory,
        reading=reading,
        network=network,
        trust=trust,
    )
    if isinstance(scan, str | os.PathLike | Volume | Mapping):
        return explainer.explain(
            scan,
            method=method,
            target=target,
            against=against,
            region=region,
            way_back=way_back,
            measure=measure,
            checkpoint=checkpoint,
            progress=progress,
        )
    if folder is None or region is not None or checkpoint is not None or measure:
        raise ExplainError(
            "Many scans need a folder= for their results, and take no region, checkpoint or measure: "
            "these belong to one scan."
        )
    return explain_many(
        scan, explainer, folder, method=method, target=target, against=against, way_back=way_back, progress=progress
    )
