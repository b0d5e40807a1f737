"""The relevance of a scan under a composite: what every method of the LRP family starts from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from methods3d.method import Relevance
from methods3d.rewriting import Site
from methods3d.rules import Composite, Propagation
from methods3d.rules.linear import ZBox
from methods3d.types import Explainable, Gradient, Progress, Target, Volume5d, silent

__all__ = ["Leak", "leaks", "relevance_of"]


def relevance_of(
    model: Explainable, x: Volume5d, target: Target, rules: Propagation, progress: Progress = silent
) -> Relevance:
    """Input x gradient of the rewritten network, and the account: the gap is score - sum - absorbed."""
    found = _propagated(model, x, target, rules, progress)
    values = torch.cat([part * g.values + (0.0 if g.voxels is None else g.voxels) for part, g in found])
    scores = torch.cat([g.scores for _, g in found])
    causes = dict.fromkeys(cause for _, g in found for cause in g.absorbed)
    absorbed = {
        cause: torch.cat([g.absorbed.get(cause, torch.zeros_like(g.scores)) for _, g in found]) for cause in causes
    }
    gap = scores - values.flatten(1).sum(1) - sum(absorbed.values())
    warnings = tuple(dict.fromkeys(warning for _, g in found for warning in g.warnings))
    if not any(g.met for _, g in found):
        warnings += ("no rule met any function of the network, so that this is the plain gradient x input",)
    return Relevance(values, scores, extensive=True, absorbed=absorbed, gap=gap, warnings=warnings)


@dataclass(frozen=True, slots=True)
class Leak:
    """What became of the relevance that reached one function of the network, for one sample.

    Attributes
    ----------
    site : the layer and the function.
    rule : what served it.
    received, handed : relevance that arrived at its output, and that went on to its inputs.
    absorbed : cause -> relevance that it kept.
    """

    site: Site
    rule: str
    received: float
    handed: float
    absorbed: dict[str, float]


def leaks(model: Explainable, x: Volume5d, target: Target, rules: Propagation) -> tuple[Sequence[Leak], Relevance]:
    """Site by site in the order of a forward pass, what one sample's relevance did; and the relevance itself."""
    rules = replace(rules, measured=True)
    ((_, found),) = _propagated(model, x[:1], target, rules, silent)
    sites = dict.fromkeys((*found.flows, *(site for site, _ in found.leaks)))
    rows = []
    for site in sites:
        flow = found.flows.get(site)
        kept = {cause: float(kept[0]) for (at, cause), kept in found.leaks.items() if at == site}
        total = sum(kept.values())
        rows.append(
            Leak(
                site,
                flow.rule if flow else "",
                float(flow.received[0]) if flow else total,
                float(flow.handed[0]) if flow else 0.0,
                kept,
            )
        )
    return rows, relevance_of(model, x[:1], target, replace(rules, measured=False))


def _propagated(
    model: Explainable, x: Volume5d, target: Target, rules: Propagation, progress: Progress
) -> list[tuple[Volume5d, Gradient]]:
    """Sample by sample where a rule asks for the range of each scan; else all at once."""
    if not _unbounded(rules.composite):
        return [(x, model.gradient(x, target, rules=rules, progress=progress))]
    found = []
    for n in range(len(x)):
        part = x[n : n + 1]
        low, high = model.info.bounds or (float(part.min()), float(part.max()))
        bounded = replace(rules, composite=_within(rules.composite, low, high))
        found.append((part, model.gradient(part, target.sample(n, len(x)), rules=bounded, progress=progress)))
    return found


def _unbounded(composite: Composite) -> bool:
    return any(isinstance(rule, ZBox) and rule.low is None for _, rule in composite.entries)


def _within(composite: Composite, low: float, high: float) -> Composite:
    """The composite with bounds for the rules that have none of their own."""
    entries = tuple(
        (place, ZBox(low, high) if isinstance(rule, ZBox) and rule.low is None else rule)
        for place, rule in composite.entries
    )
    return replace(composite, entries=entries)
