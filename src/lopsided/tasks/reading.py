"""How a data set's columns are read: one shape for all splits, and no column left out silently.

A column is text (strings, or anything else that is no number), numbers (including booleans), or empty. Text that the
shape does not use is an error that names the column; numbers, empty columns and names of rows are left out, and
`Reading` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from lopsided.errors import LopsidedError, suggestion
from lopsided.tasks.column_names import Fit, Shape, best_fit, check_label, fits

Row = Mapping[str, Any]
Where = Callable[[int], str]

# Columns that name rows: left out where they hold numbers, or short strings of which no two are equal.
ROW_NAMES = ("id", "idx", "index", "guid", "uid", "uuid")
ROW_NAME_ENDS = ("_id", "_idx", "-id")
ROW_NAME_LENGTH = 64


class Content(IntEnum):
    """What a value or a column holds; a column counts as the largest of its values' contents."""

    EMPTY = 0
    NUMBERS = 1
    TEXT = 2


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which column of a data set became what.

    Args:
        columns: by a task's column, the data set's columns that it was made of.
        left_out: by column, why it was not used.

    Example:
        >>> print(Reading(columns={"prompt": ("instruction", "input"), "completion": ("output",)}))
        prompt = instruction + input, completion = output
        >>> print(Reading(columns={"text": ("sentence",), "label": ("label",)}, left_out={"idx": "numbers"}))
        text = sentence, label = label; left out: idx (numbers)
    """

    columns: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The data set's columns that are read, in order, without the one that is learned."""
        return tuple(
            part for name, parts in self.columns.items() if name not in ("label", "completion") for part in parts
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data, for the record of a run."""
        return {
            "columns": {name: list(parts) for name, parts in self.columns.items()},
            "left_out": dict(self.left_out),
        }

    def __str__(self) -> str:
        used = ", ".join(f"{name} = {' + '.join(parts)}" for name, parts in self.columns.items())
        unused = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
        return f"{used}; left out: {unused}" if unused else used


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The shape of a data set, the column to learn ("" if the shape has none), and the reading that follows."""

    shape: Shape
    target: str
    reading: Reading


def choose(
    splits: Mapping[str, Sequence[Row]],
    *,
    source: str,
    label: str | None = None,
    ignore: Sequence[str] = (),
) -> Choice:
    """Return the shape that reads every column of all splits.

    Args:
        splits: the rows of each split; train decides.
        source: the folder or the data set's name, for errors.
        label: the column to learn, where the user named it.
        ignore: columns that the user leaves out.

    Raises:
        LopsidedError: if no shape fits, a column of text or labels would be left out, splits differ in their columns,
            or `label` or `ignore` name no column.
    """
    contents = {split: _contents(rows) for split, rows in splits.items()}
    _check_ignored(contents, ignore, label, source)
    contents = {split: {k: v for k, v in columns.items() if k not in ignore} for split, columns in contents.items()}
    columns = list(contents["train"])
    check_label(columns, label, source)
    candidates = [_fit(splits, contents, shape, targets, label) for shape, targets in fits(columns, label)]
    best = best_fit(candidates, columns, label, source)
    present = tuple(name for name in best.shape.inputs if name in columns)
    for split, others in contents.items():
        for name in present:
            if name not in others:
                raise LopsidedError(
                    f"{source}: expected the same columns in all splits; received {split} without '{name}', which "
                    f"train has; add it to {split}, or leave it out of all splits"
                )
    target = "".join(best.targets)
    ignored = dict.fromkeys(ignore, "as asked")
    reading = Reading(columns=_sources(best.shape, present, target), left_out={**best.left_out, **ignored})
    return Choice(shape=best.shape, target=target, reading=reading)


def _sources(shape: Shape, present: tuple[str, ...], target: str) -> dict[str, tuple[str, ...]]:
    """Return the data set's columns for each of the task's."""
    if shape.form == "completion":
        return {"prompt": present, "completion": (target,)}
    if shape.form == "label":
        pair = {"text_pair": present[1:]} if present[1:] else {}
        return {"text": present[:1], **pair, "label": (target,)}
    return {shape.form: present}


def _contents(rows: Sequence[Row]) -> dict[str, Content]:
    """Return what each column holds."""
    contents: dict[str, Content] = {}
    for row in rows:
        for name, value in row.items():
            # Text is the most that there is, so the rest of its column is not looked at.
            if contents.get(name) != Content.TEXT:
                contents[name] = max(contents.get(name, Content.EMPTY), content_of(value))
    return contents


def content_of(value: Any) -> Content:
    """Return what a value holds; one that is neither a number nor empty counts as text, even an image or a list."""
    if value is None or (isinstance(value, (str, list, tuple, dict)) and not value):
        return Content.EMPTY
    if isinstance(value, str):
        return Content.TEXT if value.strip() else Content.EMPTY
    return Content.NUMBERS if isinstance(value, (bool, int, float)) else Content.TEXT


def _fit(
    splits: Mapping[str, Sequence[Row]],
    contents: Mapping[str, Mapping[str, Content]],
    shape: Shape,
    targets: tuple[str, ...],
    label: str | None,
) -> Fit:
    """Return what a shape leaves out, and why: each column that it does not use, from the surest reason to the last."""
    unused: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    # An optional input that train lacks must not be in another split either.
    used = {*targets, *(name for name in shape.inputs if name in contents["train"])}
    for name in dict.fromkeys(name for columns in contents.values() for name in columns):
        if name in used:
            continue
        by_split = {split: columns.get(name, Content.EMPTY) for split, columns in contents.items()}
        holders = [split for split, content in by_split.items() if content != Content.EMPTY]
        most = max(by_split.values())
        if most == Content.EMPTY:
            left_out[name] = "empty"
        elif label is not None and (name in shape.targets or (most == Content.NUMBERS and _is_label(name))):
            left_out[name] = "not the label asked for"
        elif name in shape.leaves:
            left_out[name] = "not for learning in such data sets"
        elif all(_names_rows(name, splits[split]) for split in holders):
            left_out[name] = "a name per row"
        # Where text alone would be learned, a number may be a label under another name.
        elif most == Content.TEXT or _is_label(name) or shape.form == "text":
            unused[name] = tuple(holders)
        else:
            left_out[name] = "numbers"
    return Fit(shape=shape, targets=targets, unused=unused, left_out=left_out)


def _is_label(name: str) -> bool:
    return name.lower() in ("labels", "target") or name.lower().endswith("label")


def _names_rows(name: str, rows: Sequence[Row]) -> bool:
    """Return whether a column names rows: by its own name, and by what it holds."""
    if name.lower() not in ROW_NAMES and not name.lower().endswith(ROW_NAME_ENDS):
        return False
    values = [row[name] for row in rows if row.get(name) is not None]
    if not all(isinstance(value, str) for value in values):
        return all(isinstance(value, int) for value in values)
    short = all(len(value) <= ROW_NAME_LENGTH and len(value.split()) == 1 for value in values)
    return short and len(set(values)) == len(values)


def _check_ignored(
    contents: Mapping[str, Mapping[str, Content]], ignore: Sequence[str], label: str | None, source: str
) -> None:
    """Raise for an ignored column that is not there, or is the label."""
    known = list(dict.fromkeys(name for columns in contents.values() for name in columns))
    for name in ignore:
        if name not in known:
            raise LopsidedError(
                f"{source}: ignore_columns expects columns of the data, {', '.join(known) or 'none'}; received "
                f"'{name}'{suggestion(name, known, 'leave it out')}"
            )
        if name == label:
            raise LopsidedError(
                f"{source}: expected one role per column; received '{name}' as label and in ignore_columns; drop one"
            )
