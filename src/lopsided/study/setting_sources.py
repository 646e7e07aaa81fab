"""Settings with their sources: where each value comes from."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from lopsided.errors import LopsidedError, unknown
from lopsided.runs import TrainConfig

Source = Literal["code", "readme", "paper", "default", "unknown"]
SOURCES: tuple[Source, ...] = get_args(Source)
# What a study says elsewhere: in its lists, or by the folder that it is run in.
ELSEWHERE = ("model", "task", "method", "seed", "out")
# Steps per link follow from it and from the number of rows, so that it is no field of a run.
LINK_EPOCHS = "link_epochs"


@dataclass(frozen=True, kw_only=True)
class Sourced:
    """A setting's value, and where it comes from.

    Args:
        source: "code" (released by the paper's authors), "readme" (the text next to it), "paper", "default" (of this
            library or of the study's author), or "unknown": the paper's own value is not known, this one is a guess.
    """

    value: Any
    source: Source


def read_settings(table: Mapping[str, Any], where: str, source: Source = "default") -> dict[str, Sourced]:
    """Read the settings of a study file: `name = value`, or `name = {value = ..., source = "paper"}`.

    Args:
        table: by the name of a field of `TrainConfig`, or `link_epochs`: passes over the training rows per link.
        where: file and key, for errors.
        source: of those that do not say.

    Raises:
        LopsidedError: for an unknown name, a value of another type, or an unknown source.

    Example:
        >>> read_settings({"rank": {"value": 8, "source": "paper"}, "steps": 20}, "study.toml: settings")
        {'rank': Sourced(value=8, source='paper'), 'steps': Sourced(value=20, source='default')}
    """
    settings = {}
    for name, entry in table.items():
        own = isinstance(entry, Mapping) and set(entry) == {"value", "source"}
        value, said = (entry["value"], entry["source"]) if own else (entry, source)
        _check_type(name, value, f"{where}.{name}")
        settings[name] = Sourced(value=value, source=as_source(said, f"{where}.{name}"))
    return settings


def as_source(word: Any, where: str) -> Source:
    """Return a source's word, checked.

    Raises:
        LopsidedError: for another one.
    """
    if word not in SOURCES:
        raise LopsidedError(f"{where}: {unknown('source', str(word), SOURCES)}")
    return cast(Source, word)


def _check_type(name: str, value: Any, where: str) -> None:
    hints = _hints()
    if name not in hints:
        raise LopsidedError(f"{where}: {unknown('setting', name, hints)}")
    hint = hints[name]
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(typing.get_origin(option) or option for option in options)
    # A whole number does where a number is expected, and a truth value is no number.
    fits = isinstance(value, kinds) or (float in kinds and type(value) is int)
    if not fits or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise LopsidedError(
            f"{where}: expected {expected}, received {type(value).__name__} {str(value)[:40]!r}; correct the value"
        )


def _hints() -> dict[str, Any]:
    hints = typing.get_type_hints(TrainConfig)
    names = [each.name for each in dataclasses.fields(TrainConfig) if each.name not in ELSEWHERE]
    return {**{name: hints[name] for name in names}, LINK_EPOCHS: float | None}
