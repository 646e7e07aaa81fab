"""The column names that data sets use, as one table: which columns become which of a task's.

A new data set with other column names is one more line in `SHAPES`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from lopsided.errors import LopsidedError, suggestion

Form = Literal["label", "completion", "text", "messages"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """An entry of `SHAPES`: the columns that data sets of one shape have, and how they are read.

    Args:
        inputs: the columns to read, in the order in which they are joined. With a label, the first becomes `text`, and
            the others, joined by line breaks, `text_pair`; with a completion, all of them, joined by line breaks,
            become `prompt`; else the one input keeps its name.
        optional: the inputs that may be missing, or empty in some rows.
        targets: the columns that can be the label, or the completion.
        form: "label" (classification, regression), "completion" (a prompt is answered), "text" (language modelling) or
            "messages" (a conversation).
        leaves: columns with text that data sets of this shape are known to have and that are not for learning.
    """

    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("label",)
    form: Form = "label"
    leaves: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The inputs that every data set of this shape has."""
        return tuple(name for name in self.inputs if name not in self.optional)

    def __str__(self) -> str:
        inputs = " + ".join(f"[{name}]" if name in self.optional else name for name in self.inputs)
        if not self.targets:
            return f"{inputs} alone"
        return inputs + (" + " if self.form == "label" else " -> ") + "/".join(self.targets)


def _answered(*inputs: str, to: tuple[str, ...], optional: tuple[str, ...] = ()) -> Shape:
    return Shape(inputs=inputs, optional=optional, targets=to, form="completion")


# Of the shapes that fit, the first that uses every column is taken. Where none does, the error names the first of those
# that leave out the fewest columns.
SHAPES = (
    Shape(inputs=("context", "question", "options")),
    Shape(inputs=("article", "question", "options"), targets=("label", "answer")),
    Shape(inputs=("question", "options"), targets=("label", "answer")),
    Shape(inputs=("question", "choices"), targets=("label", "answer")),
    Shape(inputs=("premise", "question", "choice1", "choice2")),
    Shape(inputs=("premises", "conclusion")),
    Shape(inputs=("story", "query"), targets=("target",), leaves=("target_text", "task_name")),
    Shape(inputs=("sentence1", "sentence2"), targets=("label", "score")),
    Shape(inputs=("question1", "question2"), targets=("label", "is_duplicate")),
    Shape(inputs=("premise", "hypothesis")),
    Shape(inputs=("question", "sentence")),
    Shape(inputs=("passage", "question"), targets=("label", "answer")),
    Shape(inputs=("context", "question")),
    Shape(inputs=("text", "text_pair")),
    Shape(inputs=("title", "content")),
    Shape(inputs=("title", "text")),
    Shape(inputs=("sentence",)),
    Shape(inputs=("question",)),
    Shape(inputs=("text",), targets=("label", "coarse_label", "fine_label")),
    Shape(inputs=("messages",), targets=(), form="messages"),
    _answered("system", "instruction", "input", optional=("system", "input"), to=("output", "response", "completion")),
    _answered("instruction", "context", optional=("context",), to=("response", "output")),
    _answered("system_prompt", "question", optional=("system_prompt",), to=("response", "answer")),
    _answered("system", "prompt", optional=("system",), to=("completion", "response")),
    _answered("context", "question", to=("answer",)),
    _answered("query", to=("response", "answer")),
    _answered("meaning_representation", to=("human_reference",)),
    _answered("annotation", to=("code",)),
    _answered("input", to=("output", "target")),
    _answered("inputs", to=("targets",)),
    _answered("source", to=("target",)),
    _answered("input_text", to=("target_text",)),
    _answered("document", to=("summary",)),
    _answered("dialogue", to=("summary",)),
    _answered("article", to=("highlights", "summary")),
    _answered("text", to=("summary",)),
    Shape(inputs=("text",), targets=(), form="text"),
)


# The inputs of the shapes that version 0.1.0 knew.
FIRST_INPUTS = (
    ("context", "question", "options"),
    ("premises", "conclusion"),
    ("story", "query"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
    *((name,) for name in ("sentence", "text", "meaning_representation", "annotation", "prompt", "input")),
)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A shape that a data set's columns fit.

    Args:
        shape: the shape.
        targets: the columns that can be its target.
        unused: columns that the shape does not use although they may be for learning, with the splits that have them.
        left_out: the other columns that it does not use, with the reason.
    """

    shape: Shape
    targets: tuple[str, ...]
    unused: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]


def fits(columns: Collection[str], label: str | None) -> list[tuple[Shape, tuple[str, ...]]]:
    """Return the shapes whose columns are there, each with the columns that can be its target.

    Args:
        columns: those of train, without the ones that are to be left out.
        label: the column to learn, where the user named it: any column that is no input, or one of the targets that a
            completion has in `SHAPES`.
    """
    fitting_shapes = []
    for shape in SHAPES:
        if not set(shape.required) <= set(columns):
            continue
        if not shape.targets:
            targets: tuple[str, ...] = ()
            fitting = label is None
        elif label is None:
            targets = tuple(name for name in shape.targets if name in columns)
            fitting = bool(targets)
        else:
            targets = (label,)
            fitting = label in shape.targets or (shape.form == "label" and label not in shape.inputs)
        if fitting:
            fitting_shapes.append((shape, targets))
    return fitting_shapes


def check_label(columns: Collection[str], label: str | None, source: str) -> None:
    """Raise for a label that is no column."""
    if label is not None and label not in columns:
        raise LopsidedError(
            f"{source}: expected label field '{label}'; received fields {', '.join(columns) or 'none'}"
            f"{suggestion(label, columns, 'pass one of them')}"
        )


def best_fit(candidates: Collection[Fit], columns: Collection[str], label: str | None, source: str) -> Fit:
    """Return the fit to use, which has at most one target.

    Raises:
        LopsidedError: if no shape fits, the best one leaves a column out, or several columns could be its label.
    """
    if not candidates:
        raise LopsidedError(
            f"{source}: expected the fields of one of these shapes: {'; '.join(map(str, SHAPES))}; "
            f"received {', '.join(columns) or 'none'}{f' with label={label!r}' if label else ''}; "
            "rename the fields"
        )
    best = min(candidates, key=lambda fit: len(fit.unused))
    if best.unused:
        raise LopsidedError(_unused(best, source))
    if len(best.targets) > 1:
        raise LopsidedError(
            f"{source}: expected one label field; received several, {', '.join(best.targets)}; "
            f"choose one with label='{best.targets[0]}' (--label {best.targets[0]})"
        )
    return best


def _unused(fit: Fit, source: str) -> str:
    """Say which columns the fit leaves out, and how to use them."""
    names = list(fit.unused)
    listed = ", ".join(f"{name!r} of {', '.join(splits)}" for name, splits in fit.unused.items())
    # A label under another name would otherwise be left out, and the text alone be learned.
    label = f", learn one with label='{names[0]}' (--label {names[0]})" if fit.shape.form == "text" else ""
    return (
        f"{source}: expected every column of text or labels to be used; received {listed}, which the shape "
        f"'{fit.shape}' does not use; leave out by name what is not for learning with ignore_columns={names} "
        f"(--ignore-columns {','.join(names)}){label}, or rename the columns to fit another shape"
    )
