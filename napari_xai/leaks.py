"""Where relevance leaks on its way through a network: site by site, with what each kept and why."""

from pathlib import Path
from typing import Any, Literal

import torch

from methods3d import ClassScore, RegionScore, Target, TorchModel
from methods3d.lrp.propagate import leaks
from methods3d.rules import Propagation, composite
from napari_xai.errors import ExplainError
from napari_xai.explainer import Explainer
from napari_xai.inspection import probe_shape

__all__ = ["leak_report"]


def leak_report(
    path: Path,
    *,
    scan: Path | None = None,
    rules: str = "gamma",
    bias: Literal["spread", "absorb"] = "spread",
    target: str | None = None,
    trust: bool = False,
    network: Path | None = None,
) -> dict[str, Any]:
    """The account of LRP on a model, JSON-ready: score, relevance, and every site of the network.

    Without a scan, on seeded noise of the model's usual size, which shows the network's structure but not what
    becomes of real relevance.

    Raises
    ------
    ExplainError : a class is named without a scan.
    RuleError, LayerError : the rules do not exist, or do not fit the network.
    UnsupportedModelError : TorchScript, which does not show its functions.
    """
    propagation = Propagation(composite(rules), bias)
    explainer = Explainer.of(path, trust=trust, network=network)
    if target is not None and scan is None:
        raise ExplainError("A class can be asked about on a scan only: give --scan as well, or leave --target out.")
    if scan is not None:
        asked = explainer.ask(scan, target=target)
        model, x, question, words = asked.model, asked.space.x, asked.question.target, asked.question.words
    else:
        model = TorchModel(explainer.network, output=explainer.output)
        shape = probe_shape(explainer.loaded)
        x = torch.randn(1, explainer.loaded.in_channels or 1, *shape, generator=torch.Generator().manual_seed(0))
        question = _on_noise(model.output(x))
        words = f"a class's score on noise of {' x '.join(map(str, shape))} voxels"
    sites, found = leaks(model, x, question, propagation)
    score = float(found.scores[0])
    return {
        "question": words,
        "rules": str(propagation.composite),
        "bias": bias,
        "score": score,
        "sum of relevance": float(found.values.sum()),
        "absorbed": {cause: float(kept[0]) for cause, kept in found.absorbed.items()},
        "gap": None if found.gap is None else float(found.gap[0]),
        "warnings": list(found.warnings),
        "sites": [
            {
                "layer": leak.site.layer,
                "function": leak.site.function,
                "rule": leak.rule,
                "received": leak.received,
                "handed on": leak.handed,
                "absorbed": leak.absorbed,
            }
            for leak in sites
        ],
    }


def _on_noise(output: torch.Tensor) -> Target:
    """A question that any output has an answer to: the predicted class, or the last class over all voxels."""
    if output.ndim == 2:
        return ClassScore()
    return RegionScore(max(1, output.shape[1] - 1), torch.ones(output.shape[2:], dtype=torch.bool))
