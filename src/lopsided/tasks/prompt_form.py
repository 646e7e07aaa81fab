"""How a row of a known data set becomes an example: templates over its fields.

A template is text with fields in braces, and after a colon how a field is written where it is no text:
`"Question: {question}\nOptions:\n{options:choices}\nAnswer:"`. `WRITERS` has the words after the colon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.tasks.reading import Reading, Row

SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*")


def choices(options: list[str]) -> str:
    """Return options on lines of their own, each with its letter.

    Example:
        >>> print(choices(["solar", "cold"]))
        A) solar
        B) cold
    """
    return "\n".join(f"{letter(i)}) {option}" for i, option in enumerate(options))


def letter(index: int) -> str:
    """Return the letter of an option: "A" for 0.

    Example:
        >>> letter(2)
        'C'
    """
    return chr(ord("A") + index)


def slots(meaning: str) -> str:
    """Return a meaning representation of E2E with its slots in alphabetical order, their names in lower case.

    Example:
        >>> slots("name[Alimentum], area[city centre], familyFriendly[no]")
        'area = city centre ; familyfriendly = no ; name = Alimentum'
    """
    pairs = sorted((name.strip().lower(), value.strip()) for name, value in SLOT.findall(meaning))
    return " ; ".join(f"{name} = {value}" for name, value in pairs)


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How a field is written into a template.

    Args:
        expects: what it must hold, for an error.
        takes: whether a value is that.
        write: makes the text.
    """

    expects: str
    takes: Callable[[Any], bool]
    write: Callable[[Any], str]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


WRITERS: dict[str, Writer] = {
    "": Writer(expects="a string", takes=_is_text, write=str),
    "choices": Writer(expects="a list of strings", takes=_is_texts, write=choices),
    "below": Writer(expects="a string", takes=_is_text, write=lambda text: f"\n{text}" if text.strip() else ""),
    "lines": Writer(expects="a list of strings", takes=_is_texts, write="\n".join),
    "letter": Writer(expects="a number from 0 to 25", takes=lambda v: type(v) is int and 0 <= v < 26, write=letter),
    "slots": Writer(
        expects="slots such as name[Alimentum], area[riverside]",
        takes=lambda v: _is_text(v) and SLOT.search(v) is not None,
        write=slots,
    ),
}


def fields_of(template: str) -> tuple[str, ...]:
    """Return the fields of a template, in order.

    Example:
        >>> fields_of("Question: {question} {options:choices}")
        ('question', 'options')
    """
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def filled(template: str, row: Row, where: str) -> str:
    """Return a template with a row's fields in it.

    Args:
        template: its braces hold fields.
        row: by field, its value.
        where: the row's place, for errors.

    Raises:
        LopsidedError: if a field is missing or holds something else than expected.

    Example:
        >>> filled("Story: {story}", {"story": "{x}"}, "row 0")
        'Story: {x}'
    """
    parts = []
    for literal, name, spec, _ in Formatter().parse(template):
        parts.append(literal)
        if name:
            writer = WRITERS[spec or ""]
            value = field(row, name, where)
            if not writer.takes(value):
                raise LopsidedError(
                    f"{where}: expected {writer.expects} in '{name}'; received {type(value).__name__} "
                    f"{str(value)[:40]!r}; correct the row"
                )
            parts.append(writer.write(value))
    return "".join(parts)


def field(row: Row, name: str, where: str) -> Any:
    """Return the value of a row's field.

    Raises:
        LopsidedError: if there is none.
    """
    if row.get(name) is None:
        raise LopsidedError(
            f"{where}: expected field '{name}'; received fields {', '.join(k for k in row if row[k] is not None)}; "
            "add it, or take the row out"
        )
    return row[name]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a row becomes an example.

    Args:
        kind: the kind of task.
        columns: by a task's column, the template that makes it; of a `label` the field that holds it, and of options
            the field with the list.
    """

    kind: str
    columns: Mapping[str, str]

    @property
    def reading(self) -> Reading:
        """Which fields become which of a task's columns."""
        return Reading(
            columns={name: fields_of(text) if "{" in text else (text,) for name, text in self.columns.items()}
        )

    def example(self, row: Row, where: str) -> dict[str, Any]:
        """Return a row's columns, the label as it stands in the row.

        Raises:
            LopsidedError: if a field is missing or holds something else than expected.
        """
        return {
            name: filled(text, row, where) if "{" in text else field(row, text, where)
            for name, text in self.columns.items()
        }


def pair(first: str, second: str) -> Form:
    """Return the form of two texts with a class."""
    return Form(kind="classification", columns={"text": f"{{{first}}}", "text_pair": f"{{{second}}}", "label": "label"})


def sentence(name: str, label: str = "label") -> Form:
    """Return the form of a text with a class."""
    return Form(kind="classification", columns={"text": f"{{{name}}}", "label": label})


def prompted(template: str, label: str = "label") -> Form:
    """Return the form of a prompt with a class: sequence classification, as the papers' code asks causal models."""
    return Form(kind="classification", columns={"text": template, "label": label})


def completed(prompt: str, completion: str) -> Form:
    """Return the form of a prompt that is answered."""
    return Form(kind="generation", columns={"prompt": prompt, "completion": completion})


def chosen(prompt: str) -> Form:
    """Return the form of a prompt with options, of which a causal model finds one the most likely."""
    return Form(kind="choice", columns={"prompt": prompt, "options": "options", "label": "label"})
