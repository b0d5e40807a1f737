"""What the widget says: labels, a model in one line, a result in a few, an error in a sentence."""

from collections.abc import Mapping

from methods3d import ShapeError
from napari_xai.errors import USER_ERRORS
from napari_xai.explanation import Explanation
from xai_io import LoadedModel

__all__ = ["about", "predicted", "sentence", "share", "summary", "words"]

MOST = 8  # classes that are named


def words(name: str) -> str:
    """A field's or a class's name as a label: "batch_size" is "Batch size", "GradCAM" is "Grad CAM"."""
    spaced = "".join(
        f" {a}" if a.isupper() and i and (name[i - 1].islower() or name[i + 1 : i + 2].islower()) else a
        for i, a in enumerate(name.replace("_", " "))
    ).split()
    first, *rest = spaced
    return " ".join([first[0].upper() + first[1:], *(w if len(w) > 1 and w.isupper() else w.lower() for w in rest)])


def about(model: LoadedModel) -> str:
    """What a model is, in one line."""
    kind = {"classification": "classifier", "segmentation": "segmenter"}.get(model.task, "model")
    parts = [f"{type(model.network).__name__}, a {kind}" if model.form != "torchscript" else f"TorchScript {kind}"]
    if model.in_channels is not None:
        parts.append("1 channel" if model.in_channels == 1 else f"{model.in_channels} channels")
    if model.windows is not None:
        size = model.windows.roi_size
        parts.append("in windows of " + (str(size) if isinstance(size, int) else " × ".join(map(str, size))))
    return ", ".join(parts)


def summary(explanation: Explanation) -> str:
    """What came out, in a few lines: question, score, gap, prediction, time, warnings."""
    found, said = explanation.attribution, explanation.prediction
    score = float(found.scores[0])
    numbers = [f"score {score:.4g}"]
    if found.gap is not None:
        gap = float(found.gap[0])
        numbers.append(f"gap {gap:.2g}" + (f" ({abs(gap / score):.1%})" if score else ""))
    numbers.append(f"{found.provenance.seconds:.1f} s")
    lines = [
        _upper(explanation.question),
        _upper(", ".join(numbers)),
        predicted(said.classes, segments=said.labels is not None),
    ]
    return "\n".join(lines + [f"⚠ {_upper(warning)}" for warning in explanation.warnings])


def predicted(classes: Mapping[str, float], *, segments: bool) -> str:
    """What a model predicts, the most first: probabilities of classes, or volumes (mm3) of what is not background."""
    if segments:
        classes = {name: volume for name, volume in classes.items() if name.casefold() != "background"}
    most = sorted(classes.items(), key=lambda one: -one[1])
    said = [f"{name} {number / 1000:.3g} ml" if segments else f"{name} {share(number)}" for name, number in most[:MOST]]
    more = f", and {len(most) - MOST} others" if len(most) > MOST else ""
    return f"Predicted: {', '.join(said)}{more}"


def sentence(error: Exception) -> str:
    """An error for a user of the window: its own sentence, or that it was not expected."""
    if isinstance(error, ShapeError):  # what PyTorch says of it helps nobody who has made neither scan nor model
        channels, *size = error.shape[1:]
        return (
            f"The model cannot run on this scan, of which it gets {channels} channel(s) of "
            f"{' × '.join(map(str, size))} voxels: it is too small, or of another size or other channels than the "
            "model was made for; choose another scan or model."
        )
    if isinstance(error, USER_ERRORS):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"Something went wrong that was not expected: {type(error).__name__}{': ' if first else ''}{first}"


def share(number: float) -> str:
    """A probability, which is never said to be certain."""
    return "> 99.9%" if number > 0.9995 else "< 0.1%" if number < 0.0005 else f"{number:.1%}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
