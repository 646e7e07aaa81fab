"""The field names that data sets use, as one table, and rows cast by it to a task's columns.

A new data set with other field names is one more line in `SHAPES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lopsided.errors import LopsidedError, nearest

Columns = dict[str, list[Any]]
Where = Callable[[int], str]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Which fields are read as what.

    Args:
        text: the field that becomes `text`, or `prompt` for generation.
        pair: the fields that become `text_pair`, one below the other; may be empty.
        targets: the fields that can be the label, or the `completion` for generation.
        generation: whether the target is text to write.
    """

    text: str
    pair: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("label",)
    generation: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.text, *self.pair)

    def __str__(self) -> str:
        return " + ".join(self.inputs) + (" -> " if self.generation else " + ") + "/".join(self.targets)


# The first shape whose fields are all there is taken, so the longer ones stand first.
SHAPES = (
    Shape(text="context", pair=("question", "options")),
    Shape(text="premises", pair=("conclusion",)),
    Shape(text="story", pair=("query",), targets=("target",)),
    Shape(text="sentence1", pair=("sentence2",)),
    Shape(text="question1", pair=("question2",)),
    Shape(text="premise", pair=("hypothesis",)),
    Shape(text="question", pair=("sentence",)),
    Shape(text="text", pair=("text_pair",)),
    Shape(text="sentence"),
    Shape(text="text", targets=("label", "coarse_label", "fine_label")),
    Shape(text="meaning_representation", targets=("human_reference",), generation=True),
    Shape(text="annotation", targets=("code",), generation=True),
    Shape(text="prompt", targets=("completion",), generation=True),
    Shape(text="input", targets=("output",), generation=True),
)


def lettered(options: Sequence[str]) -> str:
    """The options of a multiple choice, one a line.

    Example:
        >>> print(lettered(["yes", "no"]))
        A. yes
        B. no
    """
    return "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))


# Every other field holds one string.
LIST_FIELDS: dict[str, Callable[[Sequence[str]], str]] = {"premises": " ".join, "options": lettered}


def find_shape(fields: Iterable[str], *, label: str | None, where: str) -> tuple[Shape, str]:
    """The shape of rows with these fields, and the field to learn.

    Args:
        fields: the field names of a row.
        label: the field to learn, where the user said so.
        where: the file or data set, for errors.

    Raises:
        LopsidedError: if no shape fits, several fields could be the label, or `label` cannot be it.
    """
    fields = list(fields)
    if label is not None and label not in fields:
        raise LopsidedError(
            f"{where}: expected label field '{label}'; received fields {', '.join(fields)};"
            f"{nearest(label, fields) or ' pass one of them'}"
        )
    for shape in SHAPES:
        if not set(shape.inputs) <= set(fields):
            continue
        if label is not None and label not in shape.inputs and (not shape.generation or label in shape.targets):
            return shape, label
        found = [target for target in shape.targets if target in fields]
        if label is None and len(found) > 1:
            raise LopsidedError(
                f"{where}: expected one label field; received several, {', '.join(found)}; "
                f"choose one with label='{found[0]}' (--label {found[0]})"
            )
        if label is None and found:
            return shape, found[0]
    raise LopsidedError(
        f"{where}: expected the fields of one of these shapes: {'; '.join(map(str, SHAPES))}; "
        f"received {', '.join(fields) or 'none'}{f' with label={label!r}' if label else ''}; "
        "rename the fields"
    )


def cast(rows: Sequence[Mapping[str, Any]], shape: Shape, target: str, where: Where) -> Columns:
    """Columns `text`, maybe `text_pair`, and `label` as it stands; or `prompt` and `completion`.

    Args:
        where: the place of row i, such as "train.jsonl:7".

    Raises:
        LopsidedError: if a row lacks a field, or holds something else than text or a label in it.
    """
    first, second = ("prompt", "completion") if shape.generation else ("text", "label")
    read_target = _text if shape.generation else _label
    columns: Columns = {first: [_text(row, shape.text, where, i) for i, row in enumerate(rows)]}
    if shape.pair:
        columns["text_pair"] = [
            "\n".join(_text(row, name, where, i) for name in shape.pair) for i, row in enumerate(rows)
        ]
    columns[second] = [read_target(row, target, where, i) for i, row in enumerate(rows)]
    return columns


def _field(row: Mapping[str, Any], name: str, where: Where, i: int) -> Any:
    if name not in row or row[name] is None:
        filled = ", ".join(key for key in row if row[key] is not None)
        raise LopsidedError(
            f"{where(i)}: expected field '{name}'; received fields {filled or 'none'}; "
            "add the field, or take the row out"
        )
    return row[name]


def _text(row: Mapping[str, Any], name: str, where: Where, i: int) -> str:
    value = _field(row, name, where, i)
    if name in LIST_FIELDS and isinstance(value, list) and all(isinstance(part, str) for part in value):
        return LIST_FIELDS[name](value)
    if name not in LIST_FIELDS and isinstance(value, str):
        return value
    raise LopsidedError(
        f"{where(i)}: expected {'a list of strings' if name in LIST_FIELDS else 'a string'} in '{name}'; "
        f"received {type(value).__name__} {str(value)[:40]!r}; correct the row"
    )


def _label(row: Mapping[str, Any], name: str, where: Where, i: int) -> str | int | float:
    value = _field(row, name, where, i)
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise LopsidedError(
            f"{where(i)}: expected a string or a finite number in '{name}'; "
            f"received {type(value).__name__} {str(value)[:40]!r}; correct the row"
        )
    return value
