"""A federation's settings as flat names and plain values, as the configuration of a Flower app has them.

Names are those of the command line, without the two dashes: `local-epochs`, `target-modules`.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path

from lopsided.errors import LopsidedError, unknown
from lopsided.federated.federation import FederationConfig
from lopsided.runs.config import TrainConfig
from lopsided_settings import Setting, settings_of
from lopsided_settings.federate import FederateSettings
from lopsided_settings.train import TrainSettings

Plain = bool | int | float | str
VERB = "federate"


def flat(config: FederationConfig) -> dict[str, Plain]:
    """Return the settings that are not None or empty, by their flat names."""
    values: dict[str, Plain] = {}
    for holder, kind in ((config.run, TrainSettings), (config, FederateSettings)):
        for name, setting in _settings(kind).items():
            value = getattr(holder, name)
            if setting.text is not None:
                # An empty one is none: a text without parts could not be read.
                value = setting.text.write(value) if value else None
            if isinstance(value, Path):
                value = str(value)
            if value is not None:
                values[name.replace("_", "-")] = value
    return values


def from_flat(values: Mapping[str, Plain]) -> FederationConfig:
    """Return the configuration that flat settings say; one that is not among them has its field's own default.

    Raises:
        LopsidedError: for a name that is no setting, a value of another type, or as `FederationConfig` does.
    """
    tables = {kind: _settings(kind) for kind in (TrainSettings, FederateSettings)}
    known = {name.replace("_", "-") for table in tables.values() for name in table}
    if foreign := sorted(set(values) - known):
        raise LopsidedError(unknown("setting", foreign[0], sorted(known)))
    if "out" not in values:
        raise LopsidedError("expected the setting out, the folder of the server's run, got none; add it")
    parts = {kind: _read(kind, table, values) for kind, table in tables.items()}
    return FederationConfig(run=TrainConfig(**parts[TrainSettings]), **parts[FederateSettings])


def _read(kind: type, table: Mapping[str, Setting], values: Mapping[str, Plain]) -> dict[str, typing.Any]:
    hints = typing.get_type_hints(kind)
    read: dict[str, typing.Any] = {}
    for name, setting in table.items():
        flat_name = name.replace("_", "-")
        if flat_name not in values:
            continue
        value = values[flat_name]
        try:
            read[name] = _as(hints[name], setting, value)
        except ValueError as error:
            raise LopsidedError(f"{flat_name}: expected {hints[name]}, got {value!r:.80}; correct it") from error
    return read


def _as(hint: typing.Any, setting: Setting, value: Plain) -> typing.Any:
    """Return a plain value as a field's.

    Raises:
        ValueError: if it is of another type.
    """
    if setting.text is not None:
        return setting.text.read(str(value))
    kinds = [each for each in (typing.get_args(hint) or (hint,)) if each is not type(None)]
    if Path in kinds:
        return Path(str(value))
    # A whole number is a float, too, and a bool is no number.
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not any(type(value) is each for each in kinds):
        raise ValueError
    return value


def _settings(kind: type) -> dict[str, Setting]:
    return {name: each for name, each in settings_of(kind).items() if each.is_option_of(VERB)}
