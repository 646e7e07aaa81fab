"""Options: those that a configuration type's fields declare, and the few that belong to no configuration."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lopsided_cli.failures import BadInput
from lopsided_settings import Setting, settings_of
from lopsided_settings.texts import NAMES, CommaSeparated

Verb = Callable[..., None]


class Values(dict[str, Any]):
    """The values of a configuration's fields, by name.

    Args:
        values: all of them.
        given: the names of those that the command line gave, whether or not they are the defaults.
    """

    def __init__(self, values: Mapping[str, Any], given: Collection[str]) -> None:
        super().__init__(values)
        self._given = frozenset(given)

    @property
    def given(self) -> dict[str, Any]:
        """The values that the command line gave, except the output folder."""
        return {name: value for name, value in self.items() if name in self._given and name != "out"}


Resume = Annotated[bool, typer.Option(help="Go on with what the folder of --out holds, by its own options.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write; a new one by default.")]
Methods = Annotated[str, typer.Option(help="Names separated by commas, or all.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def options_of(
    *kinds: type, only: Collection[str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb an option for every field of these configuration types that declares one.

    The verb is a function whose name is the verb's, and whose first parameters take one `Values` per configuration
    type. Its other parameters are its own options.

    Args:
        kinds: the configuration types.
        only: the fields that the verb has options for; None for all that are declared for it.

    Returns:
        A decorator. The decorated function has the signature that typer makes the command line of.
    """

    def decorate(verb: Verb) -> Verb:
        tables = [_options(kind, verb.__name__, only) for kind in kinds]
        own = list(inspect.signature(verb).parameters.values())[len(kinds) :]
        hints = typing.get_type_hints(verb, include_extras=True)

        @functools.wraps(verb)
        def command(context: typer.Context, **given: Any) -> None:
            sources = {name: context.get_parameter_source(name) for name in given}
            stated = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
            values = []
            for kind, table in zip(kinds, tables):
                read = {name: option.read(given.pop(name)) for name, option in table.items()}
                values.append(Values(_fixed(kind, verb.__name__) | read, stated))
            verb(*values, **given)

        # typer gives the command its context by this type.
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [context, *(option.parameter for table in tables for option in table.values())]
        # A signature has its keyword-only parameters last, so all of them are.
        parameters += [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        # typer reads both.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Option:
    """A field as an option of one verb."""

    name: str
    kind: Any
    default: Any
    setting: Setting

    @property
    def parameter(self) -> inspect.Parameter:
        """The parameter that typer makes the option of."""
        shown, kind = self.default, self.kind
        if self.setting.text is not None:
            shown = self.setting.text.write(self.default) if self.default else None
            kind = str if shown else str | None
        flags = () if self.setting.flags is None else (self.setting.flags,)
        annotation = Annotated[kind, typer.Option(*flags, help=self.setting.help)]  # type: ignore[valid-type]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=shown, annotation=annotation)

    def read(self, given: Any) -> Any:
        """Return the field's value.

        Raises:
            BadInput: for a text that does not write one.
        """
        if self.setting.text is None:
            return given
        if not given and not self.default:
            return self.default
        return _read(self.setting.text, "--" + self.name.replace("_", "-"), given)


def _options(kind: type, verb: str, only: Collection[str] | None) -> dict[str, _Option]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    table = {}
    for name, setting in settings_of(kind).items():
        if (name not in only) if only is not None else not setting.is_option_of(verb):
            continue
        default, hint = setting.defaults.get(verb, fields[name].default), hints[name]
        # What a configuration needs, and the command line chooses where it is not given.
        if default is dataclasses.MISSING:
            default, hint = None, hint | None
        table[name] = _Option(name=name, kind=hint, default=default, setting=setting)
    return table


def _fixed(kind: type, verb: str) -> dict[str, Any]:
    """Return what a verb sets and has no option for."""
    declared = settings_of(kind).items()
    return {
        name: each.defaults[verb] for name, each in declared if verb in each.defaults and not each.is_option_of(verb)
    }


def _read(text: CommaSeparated, flag: str, given: str) -> Any:
    try:
        return text.read(given)
    except ValueError as error:
        raise BadInput(
            f"{flag} must be {text.parts} separated by commas, got {given!r}; write {flag} {text.example}"
        ) from error


def method_names(methods: str) -> list[str] | None:
    """Return the names of an option `Methods`, or None for all.

    Raises:
        BadInput: if there is none between two commas.
    """
    return None if methods == "all" else _read(NAMES, "--methods", methods)


def free_folder(base: str) -> Path:
    """Return the first of base, base-2, base-3, … that does not exist."""
    number, path = 1, Path(base)
    while path.exists():
        number += 1
        path = Path(f"{base}-{number}")
    return path


def command_line() -> str:
    """Return the command that runs, as a shell takes it, for the records of what it makes."""
    import shlex

    return shlex.join(["lopsided", *sys.argv[1:]])


def resumes(out: Path | None, holds: Collection[str], given: Mapping[str, Any]) -> bool:
    """Return whether `--resume` continues what a folder holds; if not, the given options start a new run in it.

    Args:
        out: the folder; None where the command line names none.
        holds: the names that a folder to go on with has one of.
        given: the other options.

    Raises:
        BadInput: if no folder is named.
    """
    if out is None:
        raise BadInput("--resume goes on with what a folder holds, and none is named; pass --out")
    return not given or any((out / name).exists() for name in holds)
