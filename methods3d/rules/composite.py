"""Composites: which rule serves which function of the network, as data to print and to edit.

>>> print(composite("epsilon-plus"))
linear: epsilon; conv: z-plus
>>> print(composite("epsilon-plus") | composite("first: flat; decoder.*: gamma(0.1)"))
decoder.*: gamma(0.1); first: flat; linear: epsilon; conv: z-plus
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from methods3d.errors import LayerError, Methods3dError, RuleError
from methods3d.rules.linear import (
    Absolute,
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    LinearRule,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
)
from methods3d.rules.norms import Fixed, Pass
from methods3d.rules.pooling import Proportional, Winner
from methods3d.rules.products import AttnLRP

__all__ = ["COMPOSITES", "Composite", "Rule", "composite"]

Rule: TypeAlias = LinearRule | Fixed | Pass | AttnLRP | Winner | Proportional
RULES: tuple[type[Rule], ...] = (
    *(Zero, Epsilon, Gamma, ZPlus, AlphaBeta, Absolute, WSquare, Flat, ZBox),
    *(Fixed, Pass, AttnLRP, Winner, Proportional),
)
KINDS = {
    "linear": "linear layers",
    "conv": "convolutions, also transposed ones",
    "norm": "normalisations",
    "pool": "max pooling",
    "softmax": "attention",
    "gate": "sigmoid gates",
}
GROUPS = {"first": "the linear functions that read the scan", "*": "everything else"}
DEFAULTS: dict[str, Rule] = {
    **dict.fromkeys(("linear", "conv"), Epsilon()),
    **dict.fromkeys(("norm", "softmax", "gate"), Fixed()),
    "pool": Winner(),
}


@dataclass(frozen=True)
class Composite:
    """Rules by place: layer names before "first" before a kind of function before "*".

    Attributes
    ----------
    entries : (place, rule); a place is a layer's name or pattern (`encoder.*`, with everything inside it),
        "first" (linear functions that read the scan), a kind (linear, conv, norm, pool, softmax, gate), or "*".
    reason : when to use it.
    """

    entries: tuple[tuple[str, Rule], ...]
    reason: str = ""

    def __post_init__(self) -> None:
        """Refuse a rule where it cannot serve."""
        for place, rule in self.entries:
            if place in KINDS and place not in rule.kinds:
                raise RuleError(f"The rule {rule.name!r} serves {', '.join(sorted(rule.kinds))}, not {place}.")
            if place == "first" and not isinstance(rule, LinearRule):
                raise RuleError(f"The rule {rule.name!r} cannot read the scan: give first a rule for linear functions.")

    def __str__(self) -> str:
        """As it is written and read."""
        return "; ".join(f"{place}: {_written(rule)}" for place, rule in sorted(self.entries, key=_rank))

    def __or__(self, other: "Composite") -> "Composite":
        """This composite with the other's entries in place of, or beside, its own."""
        return Composite(tuple((dict(self.entries) | dict(other.entries)).items()), self.reason)

    def rule(self, kind: str, layers: Sequence[str], *, first: bool = False) -> Rule:
        """The rule for a function of this kind, inside these layers (outermost first)."""
        for place, rule in sorted(self.entries, key=_rank):
            if kind not in rule.kinds:
                continue
            if place in (kind, "*") or (place == "first" and first):
                return rule
            if _is_layer(place) and any(fnmatchcase(layer, place) for layer in layers):
                return rule
        return DEFAULTS[kind]

    def check(self, layers: Sequence[str]) -> None:
        """Raise LayerError if an entry names a layer that the network does not have."""
        for place, _ in self.entries:
            if _is_layer(place) and not any(fnmatchcase(layer, place) for layer in layers):
                some = ", ".join([name for name in layers if name][:4])
                raise LayerError(
                    f"The composite names the layer {place!r}, which the network does not have: name one of its "
                    f"layers ({some} ...) or a kind of function ({', '.join(KINDS)})."
                )


def _is_layer(place: str) -> bool:
    return place not in KINDS and place not in GROUPS


def _rank(entry: tuple[str, Rule]) -> int:
    place = entry[0]
    return {"first": 1, "*": 3}.get(place, 2 if place in KINDS else 0)


def _written(rule: Rule) -> str:
    given = [(f.name, getattr(rule, f.name), f.default) for f in fields(rule)]
    while given and given[-1][1] == given[-1][2] and given[-1][0] in ("epsilon", "high", "low"):
        given.pop()
    values = ", ".join(f"{value:g}" for _, value, _ in given)
    return f"{rule.name}({values})" if values else rule.name


def _read(text: str) -> Rule:
    """`gamma(0.25)` as a rule."""
    match = re.fullmatch(r"\s*([\w^-]+)\s*(?:\(([^()]*)\))?\s*", text)
    named = {rule.name: rule for rule in RULES}
    if match is None or match[1] not in named:
        raise RuleError(f"There is no rule {text.strip()!r}: choose one of {', '.join(named)}.")
    kind = named[match[1]]
    try:
        values = [float(part) for part in match[2].split(",")] if match[2] and match[2].strip() else []
        rule: Any = kind(*values)
    except Methods3dError:
        raise
    except (ValueError, TypeError):
        names = ", ".join(f.name for f in fields(kind)) or "nothing"
        raise RuleError(f"{text.strip()!r} is not understood: {kind.name} takes {names} as numbers.") from None
    return rule  # type: ignore[no-any-return]


def composite(text: str) -> Composite:
    """A composite by its name, or written out: "first: flat; linear: epsilon; conv: gamma(0.25)".

    A rule alone ("gamma(0.25)") serves everything. An entry that names a known composite is taken as it is,
    so that "epsilon-plus; first: flat" edits it.

    Raises
    ------
    RuleError : a rule or a composite does not exist, or cannot serve there.
    """
    found: Composite | None = None
    for part in (p.strip() for p in text.split(";")):
        if not part:
            continue
        place, colon, rule = part.rpartition(":")
        if not colon and part in COMPOSITES:
            more = COMPOSITES[part]
        else:
            try:
                more = Composite(((place.strip() or "*", _read(rule)),))
            except RuleError as error:
                if colon:
                    raise
                raise RuleError(f"{error} Composites: {', '.join(COMPOSITES)}.") from None
        found = more if found is None else found | more
    if found is None:
        raise RuleError(f"The composite is empty: name one of {', '.join(COMPOSITES)}, or write its rules.")
    return found


COMPOSITES: dict[str, Composite] = {}
COMPOSITES |= {
    name: Composite(composite(rules).entries, reason)
    for name, rules, reason in (
        ("gamma", "gamma(0.25)", "one rule for all: conserves, never explodes, keeps the sign of evidence"),
        ("epsilon", "epsilon", "input x gradient with the norms held fixed; cheapest, and as noisy as gradients are"),
        ("z-plus", "z-plus", "positive contributions alone: smooth, hardly tells one class from another"),
        ("epsilon-plus", "linear: epsilon; conv: z-plus", "classifiers: a signed head over a smooth body"),
        (
            "epsilon-plus-flat",
            "first: flat; linear: epsilon; conv: z-plus",
            "the same, blind to the voxels' own values",
        ),
        ("epsilon-alpha2-beta1", "linear: epsilon; conv: alpha-beta(2, 1)", "evidence against is shown too; grainy"),
        (
            "epsilon-alpha2-beta1-flat",
            "first: flat; linear: epsilon; conv: alpha-beta(2, 1)",
            "the same, blind to the voxels' own values",
        ),
        (
            "epsilon-gamma-box",
            "first: z-box; linear: epsilon; conv: gamma(0.25)",
            "classifiers of scans whose intensities have bounds, such as windowed CT (Montavon et al. 2019)",
        ),
        (
            "lrp-cmp",
            "first: flat; linear: epsilon; conv: z-plus",
            "LRP-CMP (alpha 1, flat) of Kohlbrenner et al. 2020, by its name there: the rules of epsilon-plus-flat",
        ),
        (
            "excitation-backprop",
            "z-plus; pool: winner",
            "winner-take-all probabilities (Zhang et al. 2018); where something is, not for or against what",
        ),
        (
            "deep-taylor",
            "first: z-box; z-plus; pool: proportional",
            "deep Taylor decomposition (Montavon et al. 2017): positive for networks of ReLUs",
        ),
        (
            "attnlrp",
            "linear: gamma(0.25); conv: gamma(0.25); softmax: attnlrp",
            "transformers, where what attention looked for matters too; softmax absorbs its part",
        ),
    )
}
