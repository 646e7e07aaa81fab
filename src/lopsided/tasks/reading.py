"""How a data set's columns are read: one shape for all splits, and no column passed over in silence.

A column is text (strings, or anything else that is no number), numbers (booleans, too), or empty. Text that the shape
does not use is refused by name; numbers, empty columns and names of rows are left out, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lopsided.errors import LopsidedError, suggestion
from lopsided.tasks.column_names import Fit, Shape, best_fit, check_label, fits

Row = Mapping[str, Any]
Where = Callable[[int], str]

EMPTY, NUMBERS, TEXT = range(3)
# Names of rows: left out where they are numbers, or short strings of which no two are equal.
ROW_NAMES = ("id", "idx", "index", "guid", "uid", "uuid")
ROW_NAME_ENDS = ("_id", "_idx", "-id")
ROW_NAME_LENGTH = 64


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
        """The data set's columns that are read, in order, without what is learned from them."""
        return tuple(
            part for name, parts in self.columns.items() if name not in ("label", "completion") for part in parts
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `run.json`."""
        return {
            "columns": {name: list(parts) for name, parts in self.columns.items()},
            "left_out": dict(self.left_out),
        }

    def __str__(self) -> str:
        used = ", ".join(f"{name} = {' + '.join(parts)}" for name, parts in self.columns.items())
        left = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
        return f"{used}; left out: {left}" if left else used


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The shape of a data set, the column to learn ("" where the shape has none), and the reading that follows."""

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
    """The shape that reads every column of all splits.

    Args:
        splits: the rows of each split; train decides.
        source: the folder or the data set's name, for errors.
        label: the column to learn, where the user said so.
        ignore: columns that the user leaves out.

    Raises:
        LopsidedError: if no shape fits, a column of text or labels would be passed over, splits differ in what they
            are read from, or `label` or `ignore` name no column.
    """
    held = {split: _contents(rows) for split, rows in splits.items()}
    _check_ignored(held, ignore, label, source)
    held = {split: {k: v for k, v in columns.items() if k not in ignore} for split, columns in held.items()}
    columns = list(held["train"])
    check_label(columns, label, source)
    found = [_fit(splits, held, shape, targets, label) for shape, targets in fits(columns, label)]
    best = best_fit(found, columns, label, source)
    present = tuple(name for name in best.shape.inputs if name in columns)
    for split, others in held.items():
        for name in present:
            if name not in others:
                raise LopsidedError(
                    f"{source}: expected the same columns in all splits; received {split} without '{name}', which "
                    f"train has; add it to {split}, or leave it out of all splits"
                )
    target = "".join(best.targets)
    asked = dict.fromkeys(ignore, "as asked")
    reading = Reading(columns=_becomes(best.shape, present, target), left_out={**best.left_out, **asked})
    return Choice(shape=best.shape, target=target, reading=reading)


def _becomes(shape: Shape, present: tuple[str, ...], target: str) -> dict[str, tuple[str, ...]]:
    if shape.form == "completion":
        return {"prompt": present, "completion": (target,)}
    if shape.form == "label":
        pair = {"text_pair": present[1:]} if present[1:] else {}
        return {"text": present[:1], **pair, "label": (target,)}
    return {shape.form: present}


def _contents(rows: Sequence[Row]) -> dict[str, int]:
    """By column, the most that one of its rows holds: TEXT, NUMBERS or EMPTY."""
    held: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            if held.get(name) != TEXT:
                held[name] = max(held.get(name, EMPTY), content(value))
    return held


def content(value: Any) -> int:
    """TEXT, NUMBERS or EMPTY; what is neither a number nor empty counts as text, an image or a list of numbers too."""
    if value is None or (isinstance(value, (str, list, tuple, dict)) and not value):
        return EMPTY
    if isinstance(value, str):
        return TEXT if value.strip() else EMPTY
    return NUMBERS if isinstance(value, (bool, int, float)) else TEXT


def _fit(
    splits: Mapping[str, Sequence[Row]],
    held: Mapping[str, Mapping[str, int]],
    shape: Shape,
    targets: tuple[str, ...],
    label: str | None,
) -> Fit:
    unused: dict[str, tuple[str, ...]] = {}
    left: dict[str, str] = {}
    # An optional input that train lacks is none that another split may have.
    used = {*targets, *(name for name in shape.inputs if name in held["train"])}
    for name in dict.fromkeys(name for columns in held.values() for name in columns):
        if name in used:
            continue
        having = [split for split, columns in held.items() if columns.get(name, EMPTY) != EMPTY]
        most = max(columns.get(name, EMPTY) for columns in held.values())
        if most == EMPTY:
            left[name] = "empty"
        elif label is not None and (name in shape.targets or (most == NUMBERS and _is_label(name))):
            left[name] = "not the label asked for"
        elif name in shape.leaves:
            left[name] = "not for learning in such data sets"
        elif all(_names_rows(name, splits[split]) for split in having):
            left[name] = "a name per row"
        # Text alone is learned where there is nothing else to learn: a number may be a label by another name.
        elif most == TEXT or _is_label(name) or shape.form == "text":
            unused[name] = tuple(having)
        else:
            left[name] = "numbers"
    return Fit(shape=shape, targets=targets, unused=unused, left_out=left)


def _is_label(name: str) -> bool:
    return name.lower() in ("labels", "target") or name.lower().endswith("label")


def _names_rows(name: str, rows: Sequence[Row]) -> bool:
    if name.lower() not in ROW_NAMES and not name.lower().endswith(ROW_NAME_ENDS):
        return False
    values = [row[name] for row in rows if row.get(name) is not None]
    if not all(isinstance(value, str) for value in values):
        return all(isinstance(value, int) for value in values)
    short = all(len(value) <= ROW_NAME_LENGTH and len(value.split()) == 1 for value in values)
    return short and len(set(values)) == len(values)


def _check_ignored(
    held: Mapping[str, Mapping[str, int]], ignore: Sequence[str], label: str | None, source: str
) -> None:
    known = list(dict.fromkeys(name for columns in held.values() for name in columns))
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
