"""The page on the methods, made from what their classes say of themselves.

python docs/make_methods.py
"""

import inspect
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from methods3d import FAMILIES, Method, ModelInfo, method, methods
from methods3d.method import recorded

PAGE = Path(__file__).parent / "methods.md"
SHAPE = (96, 96, 96)
MODEL: Any = SimpleNamespace(info=ModelInfo(spacing=(2.0, 2.0, 2.0)), passes=lambda shape, target=None: 1)

HEAD = f"""# Methods

Made from the methods' own docstrings by `python docs/make_methods.py`; `napari-xai methods` lists them, and
`napari-xai explain --method NAME --help` has their settings as flags. How they do on lesions with a known place is in
[results.md](results.md); rules and composites of LRP are on [a page of their own](lrp.md).

T is the score that is explained, x the scan, x0 a baseline, A_c a layer's channels, g the gradient of T there. Costs
are passes through the network at the default settings, for one channel of {" x ".join(map(str, SHAPE))} voxels of 2 mm
without windows; a backward pass counts as one. In windows each pass is one over all windows that the question reads.

**Baselines** (`baseline`, `fill`): a number on the model's intensity scale; `tissue` (all tissue at its mean, air as it
is); `air`; `blur(SIGMA)` in mm; `scan:PATH` (another scan, through the same transforms); `inpaint:MASK`,
`neighbours:MASK`, `complement:MASK` (the scan but for what lies in a mask: filled smoothly from its surroundings, with
the mean of the tissue next to it, or with flat tissue). What a method takes out can be filled by `inpaint` and
`neighbours` as well. Sets have ; in between.

**Features** (`features`): `supervoxels(N)` (SLIC, in mm), `grid(MM)`, `channels`, `labels:PATH` (a label map on the
scan).

**Layers** (`layer`): a name, `last` before the head, `8 mm` for cells of that size; for most CAMs several with commas;
empty: chosen.

**Other methods** (`of`): by name, their settings after a dot: `--method smoothgrad --of lrp --of.composite epsilon`.
"""


def page() -> str:
    parts = [HEAD]
    for family, members in FAMILIES.items():
        names = ", ".join(f"[{cls.title}](#{ANCHORS[cls.name]})" for cls in members)
        parts.append(f"## {family[:1].upper()}{family[1:]}\n\n{names}\n")
        parts += [section(cls) for cls in members]
    return "\n".join(parts)


def anchors() -> dict[str, str]:
    """Method name -> what GitHub makes of its heading: the second of the same letters gets -1."""
    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for name in methods():
        plain = name.replace("+", "")
        found[name] = f"{plain}-{seen[plain]}" if seen[plain] else plain
        seen[plain] += 1
    return found


ANCHORS = anchors()


def section(cls: type[Method]) -> str:
    """One method: what it computes, when to use it, what it costs, source, settings."""
    what, _, when = (inspect.getdoc(cls) or "").partition("When: ")
    work = cls.__dict__.get("explain") or cls.__dict__.get("attribute") or cls.__dict__.get("_weights")
    work = work or cls.__dict__.get("_map") or cls.__dict__.get("_weighted") or cls.__dict__.get("control")
    formula = inspect.cleandoc((work and work.__doc__) or "").partition("\n")[0]
    cost, spent = first_line(cls.cost), cls().cost(MODEL, SHAPE)
    lines = [f"### {cls.name}\n", f"*{cls.title}*. " + one_line_a_paragraph(what), f"- *When*: {one_line(when)}"]
    lines += [f"- *Computes*: {formula}" if formula else ""]
    lines += [f"- *Costs*: {cost} At its defaults {spent.forward} forward, {spent.backward} backward."]
    lines += [f"- *Source*: {cls.source}", f"- *In Python*: `methods3d.{cls.__name__}`"]
    return "\n".join(line for line in lines if line) + "\n" + settings(cls)


def settings(cls: type[Method]) -> str:
    if not fields(cls):
        return ""
    defaults = recorded(cls())
    rows = [f"| `{f.name}` | {shown(defaults[f.name])} | {f.metadata['help']} |" for f in fields(cls)]
    return "\n".join(["", "| setting | default | |", "| --- | --- | --- |", *rows, ""])


def shown(value: Any) -> str:
    if isinstance(value, dict):
        own = recorded(method(value["method"])())
        other = [f"{name}={given}" for name, given in value.items() if name != "method" and given != own[name]]
        return f"`{', '.join((value['method'], *other))}`"
    return "" if value in ("", None) else f"`{value}`"


def first_line(function: Any) -> str:
    return inspect.cleandoc(function.__doc__ or "").partition("\n")[0]


def one_line(text: str) -> str:
    return " ".join(text.split())


def one_line_a_paragraph(text: str) -> str:
    return "\n\n".join(one_line(paragraph) for paragraph in text.strip().split("\n\n")) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
