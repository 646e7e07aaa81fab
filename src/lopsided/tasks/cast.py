"""Casting of a data set's rows to a task's columns, by the shape that was chosen for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.tasks.chat import conversation
from lopsided.tasks.reading import Choice, Row, Where

# One split by column: "text", "text_pair" and "label", or "prompt" and "completion", or "messages", or "text".
TaskColumns = dict[str, list[Any]]


def lettered(options: Sequence[str]) -> str:
    """Return the options of a multiple choice, one per line.

    Example:
        >>> print(lettered(["yes", "no"]))
        A. yes
        B. no
    """
    return "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))


# Every other field holds one string.
LIST_FIELDS: dict[str, Callable[[Sequence[str]], str]] = {
    "premises": " ".join,
    "options": lettered,
    "choices": lettered,
}


def cast(rows: Sequence[Row], choice: Choice, where: Where) -> TaskColumns:
    """Return a split's columns as `Task` has them, labels as they stand.

    Args:
        rows: those of the split.
        choice: how they are read.
        where: the place of row i, such as "train.jsonl:7".

    Raises:
        LopsidedError: if a row lacks a field, its prompt would be empty, or a field holds something else than expected.
    """
    form, target = choice.shape.form, choice.target
    if form == "messages":
        [name] = choice.shape.inputs
        return {form: [conversation(_field(row, name, where, i), where(i), name) for i, row in enumerate(rows)]}
    if form == "text":
        [name] = choice.shape.inputs
        return {form: [_text(row, name, where, i) for i, row in enumerate(rows)]}
    if form == "completion":
        return {
            "prompt": [_prompt(row, choice, where, i) for i, row in enumerate(rows)],
            "completion": [_text(row, target, where, i) for i, row in enumerate(rows)],
        }
    [first], pair = choice.reading.columns["text"], choice.reading.columns.get("text_pair")
    columns: TaskColumns = {"text": [_text(row, first, where, i) for i, row in enumerate(rows)]}
    if pair:
        columns["text_pair"] = ["\n".join(_text(row, name, where, i) for name in pair) for i, row in enumerate(rows)]
    columns["label"] = [_label(row, target, where, i) for i, row in enumerate(rows)]
    return columns


def _prompt(row: Row, choice: Choice, where: Where, i: int) -> str:
    """Return the inputs joined by line breaks; an empty input leaves no empty line."""
    names = choice.reading.columns["prompt"]
    present = [name for name in names if row.get(name) is not None or name not in choice.shape.optional]
    parts = [_text(row, name, where, i) for name in present]
    prompt = "\n".join(part for part in parts if part.strip())
    if not prompt:
        raise LopsidedError(
            f"{where(i)}: expected text in {' + '.join(names)}, which the prompt is made of; received none; "
            "fill it in, or take the row out"
        )
    return prompt


def _field(row: Row, name: str, where: Where, i: int) -> Any:
    if name not in row or row[name] is None:
        filled = ", ".join(key for key in row if row[key] is not None)
        raise LopsidedError(
            f"{where(i)}: expected field '{name}'; received fields {filled or 'none'}"
            f"{f' and null as {name!r}' if name in row else ''}; add the field, or take the row out"
        )
    return row[name]


def _text(row: Row, name: str, where: Where, i: int) -> str:
    value = _field(row, name, where, i)
    if name in LIST_FIELDS and isinstance(value, list) and all(isinstance(part, str) for part in value):
        return LIST_FIELDS[name](value)
    if name not in LIST_FIELDS and isinstance(value, str):
        return value
    raise LopsidedError(
        f"{where(i)}: expected {'a list of strings' if name in LIST_FIELDS else 'a string'} in '{name}'; "
        f"received {type(value).__name__} {str(value)[:40]!r}; correct the row"
    )


def _label(row: Row, name: str, where: Where, i: int) -> str | int | float:
    value = _field(row, name, where, i)
    if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise LopsidedError(
            f"{where(i)}: expected a string or a finite number in '{name}'; "
            f"received {type(value).__name__} {str(value)[:40]!r}; correct the row"
        )
    return value
