"""Labels as classes or as scores: an error names rows without a label, and labels that could be either.

A label is text, a boolean or a number. Fractions make scores; text, booleans and integers make classes. Whole numbers
written as floats (0.0, 1.0, 2.0) can be either, so the metric decides. Classes that the user names in `rename_labels`
are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.tasks.reading import Where
from lopsided.tasks.score_functions import SCORES

# The labels of each split.
Labels = Mapping[str, Sequence[Any]]

# What programs write where a row has no label.
BLANKS = ("", "nan", "null", "<na>")


def read_labels(
    name: str, labels: Labels, places: Mapping[str, Where], *, metric: str | None = None, named: Collection[str] = ()
) -> tuple[str, dict[str, list[Any]]]:
    """Return the kind of task that labels make, and the labels as class names or scores.

    Args:
        name: the task, for errors.
        labels: those of each split; train decides the kind.
        places: of each split, the place of row i.
        metric: the figure that the user asked for; it says what whole floats are.
        named: classes that the user renames, by their names in the data.

    Returns:
        "classification" with strings, or "regression" with floats.

    Raises:
        LopsidedError: if a row has no label, types are mixed, or numbers could be classes as well as scores.
    """
    kind = _kind(name, labels["train"], places["train"], metric)
    for split, values in labels.items():
        _refuse_blank(split, values, places[split], named)
    if kind == "regression":
        for split, values in labels.items():
            _refuse_words(name, split, values, places[split])
        _refuse_minus_one_as_score(labels, places)
        return kind, {split: [float(value) for value in values] for split, values in labels.items()}
    for split, values in labels.items():
        _refuse_minus_one(split, values, places[split], named)
    if kinds_of(metric) != ("classification",):
        _refuse_scores_as_text(labels["train"], places["train"])
    names = {split: [class_name(value) for value in values] for split, values in labels.items()}
    _refuse_twins(names, places, named)
    return kind, names


def kinds_of(metric: str | None) -> tuple[str, ...]:
    """Return the kinds of labels that a metric is for; none for no metric, or an unknown one (an error elsewhere)."""
    kinds = SCORES[metric].kinds if metric in SCORES else ()
    return tuple(kind for kind in ("classification", "regression") if kind in kinds)


def class_name(value: Any) -> str:
    """Return a class's name; 1.0 is the same class as 1.

    Example:
        >>> [class_name(value) for value in (2, 2.0, 2.5, True, "two")]
        ['2', '2', '2.5', 'True', 'two']
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _type(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "booleans" if isinstance(value, bool) else "numbers"


def _kind(name: str, values: Sequence[Any], where: Where, metric: str | None) -> str:
    """Return the kind of task that the labels of train make."""
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        first.setdefault(_type(value), i)
    if len(first) > 1:
        types = sorted(first, key=("text", "booleans", "numbers").index)
        rows = ", ".join(f"{where(first[kind])} has {values[first[kind]]!r}" for kind in types)
        raise LopsidedError(
            f"task {name}: expected train's labels in one type; received {' and '.join(types)} ({rows}); "
            "write them one way"
        )
    floats = [i for i, value in enumerate(values) if isinstance(value, float)]
    if not floats:
        return "classification"
    if any(not values[i].is_integer() for i in floats):
        return "regression"
    for kind in ("classification", "regression"):
        if kinds_of(metric) == (kind,):
            return kind
    listed = ", ".join(str(value) for value in sorted(set(values))[:5])
    raise LopsidedError(
        f"{where(floats[0])}: expected labels of train that say whether they are classes or scores; received "
        f"{values[floats[0]]!r}, a float, and whole numbers alone in all rows ({listed}); pass --metric accuracy if "
        "they are classes, --metric pearson if they are scores"
    )


def _rows(values: Sequence[Any], is_meant: Callable[[Any], bool]) -> list[int]:
    return [i for i, value in enumerate(values) if is_meant(value)]


def _refuse_blank(split: str, values: Sequence[Any], where: Where, named: Collection[str]) -> None:
    rows = _rows(values, lambda v: isinstance(v, str) and v.strip().lower() in BLANKS and v not in named)
    if rows:
        value = values[rows[0]]
        raise LopsidedError(
            f"{where(rows[0])}: expected a label; received {value!r}, which stands for none ({len(rows)} of "
            f"{len(values)} rows of {split}); take the rows out, or, if it is a class, name it: rename_labels="
            f"{{{value!r}: ...}}"
        )


def _is_minus_one(value: Any) -> bool:
    return _type(value) == "numbers" and value == -1


def _refuse_minus_one(split: str, values: Sequence[Any], where: Where, named: Collection[str]) -> None:
    rows = _rows(values, _is_minus_one)
    if rows and "-1" not in named:
        raise LopsidedError(
            f"{where(rows[0])}: expected a class; received -1, which stands for no label ({len(rows)} of "
            f"{len(values)} rows of {split}); {_without(rows, values, split)}, or, if it is a class, name it: "
            "rename_labels={'-1': ...} (--rename-labels -1=NAME)"
        )


def _refuse_minus_one_as_score(labels: Labels, places: Mapping[str, Where]) -> None:
    """Raise where -1 is the only score below 0: it then stands for no label."""
    negative = any(value < 0 and value != -1 for values in labels.values() for value in values)
    for split, values in labels.items():
        rows = _rows(values, _is_minus_one)
        # A split in which every score is -1 measures nothing, whatever -1 stands for.
        if rows and (not negative or 1 < len(values) == len(rows)):
            raise LopsidedError(
                f"{places[split](rows[0])}: expected a score; received -1 where no other score is below 0, which "
                f"stands for no label ({len(rows)} of {len(values)} rows of {split}); {_without(rows, values, split)}, "
                "or, if it is a score, add 1 to all of them"
            )


def _without(rows: Sequence[int], values: Sequence[Any], split: str) -> str:
    """Say how to take the rows out."""
    if len(rows) == len(values) and split != "train":
        return f"leave {split} out and pass --make-split to cut one from train"
    return "take the rows out"


def _refuse_words(name: str, split: str, values: Sequence[Any], where: Where) -> None:
    rows = _rows(values, lambda value: _type(value) != "numbers")
    if rows:
        raise LopsidedError(
            f"task {name}: expected numbers as labels of {split}, as in train; received '{values[rows[0]]}' at "
            f"{where(rows[0])}; correct the rows"
        )


def _refuse_scores_as_text(values: Sequence[Any], where: Where) -> None:
    """Raise for numbers with fractions that are written as text: each would become a class of its own."""
    fractions = []
    for i, value in enumerate(values):
        try:
            number = float(value)
        except ValueError:
            return
        if isinstance(value, str) and not number.is_integer():
            fractions.append(i)
    if fractions:
        raise LopsidedError(
            f"{where(fractions[0])}: expected numbers as numbers; received the text {values[fractions[0]]!r} as label; "
            "write scores without quotation marks, or pass --metric accuracy if they are classes"
        )


def _refuse_twins(names: Mapping[str, Sequence[str]], places: Mapping[str, Where], named: Collection[str]) -> None:
    """Raise for classes that differ only in letter case or in blanks around them: one class, written in two ways."""
    first: dict[str, tuple[str, str]] = {}
    for split, values in names.items():
        for i, value in enumerate(values):
            if value in named:
                continue
            key = value.strip().casefold()
            if key not in first:
                first[key] = (value, places[split](i))
            before, place = first[key]
            if before != value:
                raise LopsidedError(
                    f"{places[split](i)}: expected each class written one way; received {value!r}, and {before!r} at "
                    f"{place}; write them alike, or pass rename_labels={{{value!r}: {before!r}}}"
                )
