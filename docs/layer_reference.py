"""Writes `docs/layers.md`, the reference of the layer set, from the docstrings of the registered classes.

`PYTHONPATH=. .venv/bin/python docs/layer_reference.py` writes it; a test says that the page is current.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras

import training

PAGE = Path(__file__).with_name("layers.md")
PACKAGE = "convex_scoring"

HEAD = """# The layer set

Written from the docstrings of the registered classes by `docs/layer_reference.py`: change a docstring, then run that.

What is convex stays convex through these layers, in four places:
"""

PLACES = (
    ("place", "what stands there", "why the score stays convex"),
    ("---", "---", "---"),
    (
        "in front, on the row",
        "`Standardization`, `OrthogonalProjection`, `ActNorm`, `ConvexBatchNormalization`, any Dense layer",
        "affine: a convex function of it is convex in the row",
    ),
    (
        "first, on what is affine in the row",
        (
            "a Dense layer with a convex activation, `Maxout` and `LogSumExp` of x alone, `Quadratic`, "
            "`QuadraticForm`, "
            "`DiagonalQuadratic`, `LowRankQuadratic`"
        ),
        "convex functions of an affine argument",
    ),
    (
        "between, on the pair [z, x]",
        "`DensePartiallyConstrained`, `Maxout`, `LogSumExp`",
        "non-negative on z, free on x, then convex and non-decreasing",
    ),
    (
        "between, on z alone",
        (
            "`ActNorm`, `ConvexBatchNormalization`, `FeaturePooling`, `TargetScaling`, and Keras' concatenation, "
            "addition, "
            "dropout, average and maximum pooling"
        ),
        "convex and non-decreasing in every feature",
    ),
)

REST = """
Layer normalisation, RMS normalisation, softmax and attention have no place behind the first convex layer: they divide
or multiply functions of the row. Every class is registered with the package `convex_scoring`, and refuses, when it is
made, an argument with which it would not be convex; what is served is proved once more from the exported files.
"""

KINDS: Mapping[str, type] = {
    "Layers": keras.layers.Layer,
    "Initialisers": keras.initializers.Initializer,
    "Constraints": keras.constraints.Constraint,
    "Regularisers": keras.regularizers.Regularizer,
}
"""Headings of the page; what is of no such kind comes last. Networks are layers too, and come first."""


def registered() -> dict[str, type]:
    """Return the classes that `training` registers with Keras, by their registered name, sorted."""
    for module in pkgutil.walk_packages(training.__path__, "training."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = keras.saving.get_custom_objects()
    ours = {key: value for key, value in found.items() if key.startswith(f"{PACKAGE}>") and inspect.isclass(value)}
    return {key: ours[key] for key in sorted(ours) if ours[key].__module__.startswith("training.")}


def document() -> str:
    """Return the page."""
    classes = list(registered().values())
    parts = [HEAD, *(f"| {' | '.join(row)} |" for row in PLACES), REST]
    for heading, chosen in _sorted(classes):
        lines = [f"| [`{name(found)}`](#{name(found).lower()}) | {_first_line(found)} |" for found in chosen]
        parts.append("\n".join([f"## {heading}", "", "| class | what it is |", "|---|---|", *lines, ""]))
        parts.extend(_section(found) for found in chosen)
    return "\n".join(parts)


def name(found: type) -> str:
    """Return what a class is called on the page."""
    return found.__name__


def _sorted(classes: list[type]) -> Iterator[tuple[str, list[type]]]:
    """Yield the headings with their classes."""
    left = list(classes)
    kinds = {"Networks": keras.Model, **KINDS, "Others": object}
    for heading, kind in kinds.items():
        chosen = [found for found in left if issubclass(found, kind)]
        left = [found for found in left if found not in chosen]
        if chosen:
            yield heading, chosen


def _docstring(found: type) -> str:
    """Return the class's own docstring."""
    text = found.__dict__.get("__doc__") or ""
    return inspect.cleandoc(text)


def _first_line(found: type) -> str:
    return _docstring(found).partition("\n\n")[0].replace("\n", " ")


def _section(found: type) -> str:
    """Return the section of one class."""
    place = found.__module__.replace(".", "/") + ".py"
    signature = inspect.signature(found)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    shown = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    head = f"### {name(found)}\n\n`{name(found)}{shown}`, in [`{place}`](../{place})\n"
    return "\n".join([head, *_blocks(_docstring(found))])


def _blocks(text: str) -> Iterator[str]:
    """Yield a Google docstring as Markdown: formulas in fences, sections as headed lists."""
    for paragraph in re.split(r"\n\n(?=\S)", text):
        math = re.match(r"\.\. math::\s*(.*)", paragraph, re.DOTALL)
        section = re.match(r"([A-Z][A-Za-z ]+):\n(?=    )(.*)", paragraph, re.DOTALL)
        if math:
            yield f"```math\n{inspect.cleandoc(math[1])}\n```\n"
        elif section:
            yield _listed(section[1], inspect.cleandoc(section[2]))
        else:
            yield paragraph + "\n"


def _listed(title: str, body: str) -> str:
    """Return a section of a docstring."""
    if body.startswith(">>>"):
        return f"**{title}**\n\n```python\n{body}\n```\n"
    if title not in {"Args", "Raises"}:
        return f"**{title}**: {' '.join(body.split())}\n"
    items = re.split(r"\n(?=\S)", body)
    lines = (re.sub(r"^([\w*]+):", r"- `\1`:", " ".join(item.split())) for item in items)
    return "\n".join([f"**{title}**", "", *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(document())
