"""A page per verb of the command line, from the options that the configuration types' fields declare."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from typer.main import get_command

import lopsided_settings
from docs_site.page_parts import code, page, section
from docs_site.staged_tree import StagedTree
from lopsided.study.markdown import markdown_table
from lopsided_cli.main import VERBS, app
from lopsided_settings import Setting, settings_of
from lopsided_settings.checks import Check

FOLDER = "commands"
OPTION = re.compile(r"(?<![\w`])(--[a-z][\w-]*)")
# Where a verb is explained at length.
GUIDES = {
    "bench": "studies.md",
    "compare": "compare.md",
    "report": "compare.md",
    "export": "export.md",
    "probe": "export.md",
    "federate": "federated.md",
    "tasks": "data.md",
    "bounds": "theory.md",
    "advise": "advise.md",
    "lab": "lab.md",
    "methods": "methods/index.md",
    "train": "use.md",
    "diagnose": "use.md",
}


def put_commands(tree: StagedTree) -> None:
    """Put the pages of all verbs into a tree."""
    for verb in VERBS:
        tree.put(f"{FOLDER}/{verb}.md", verb_page(verb))
    tree.put(f"{FOLDER}/index.md", index_page())


def index_page() -> str:
    """Return the page that lists the verbs."""
    rows = [[f"[`{verb}`]({verb}.md)", about(verb).split("\n\n")[0]] for verb in VERBS]
    return page(
        "The command line",
        [
            "`lopsided VERB --help` says the same as these pages. Bad input is one line on stderr per thing that is "
            "wrong, and exit status 2.",
            markdown_table(["verb", "what it does"], rows),
            "```{toctree}\n:hidden:\n\n" + "\n".join(VERBS) + "\n```",
        ],
    )


def verb_page(verb: str) -> str:
    """Return the page about one verb."""
    arguments = [p for p in parameters(verb) if p.param_type_name == "argument"]
    options = [p for p in parameters(verb) if p.param_type_name == "option"]
    usage = " ".join(["lopsided", verb, *(_usage(argument) for argument in arguments), "[OPTIONS]" if options else ""])
    named = [[f"`{each.name.upper()}`", _help(each)] for each in arguments]
    guide = GUIDES.get(verb)
    return page(
        f"`lopsided {verb}`",
        [
            about(verb),
            code(usage, "text"),
            f"More: [](../{guide})." if guide else "",
            section("Arguments", markdown_table(["argument", "what it is"], named) if named else ""),
            section("Options", "\n\n".join(_definition(option) for option in options)),
        ],
    )


def about(verb: str) -> str:
    """Return what a verb does, as its help says it."""
    return OPTION.sub(r"`\1`", inspect.cleandoc(_commands()[verb].help or ""))


def parameters(verb: str) -> list[Any]:
    """Return the arguments and options of a verb, as the command line has them, without --help."""
    return [p for p in _commands()[verb].params if p.name != "help"]


@cache
def _commands() -> Mapping[str, Any]:
    group: Any = get_command(app)
    return dict(group.commands)


def _usage(argument: Any) -> str:
    name = argument.name.upper()
    dots = "..." if argument.nargs == -1 else ""
    return f"{name}{dots}" if argument.required else f"[{name}]{dots}"


def _definition(option: Any) -> str:
    """Return an option as an entry of a list, which fits a telephone where a table of three columns does not."""
    flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    kind = "" if option.is_flag else f" {option.type.name}"
    setting = _declaration(option.name, option.help)
    allowed = "" if setting is None or setting.check is None else allowed_words(setting.check)
    words = _help(option)
    # The help of a choice names the values already.
    if allowed and allowed.split(", ")[0] not in words:
        words += f" Allowed: {allowed}."
    return f"{flags}{kind}{_default(option)}\n: {words}"


def _default(option: Any) -> str:
    if option.required:
        return " (required)"
    if option.is_flag:
        return " (on by default)" if option.default else ""
    return "" if option.default in (None, ()) or callable(option.default) else f" (`{option.default}`)"


def _help(parameter: Any) -> str:
    """Return an option's help, with the options in it as code: as text, their hyphens would become a dash."""
    return OPTION.sub(r"`\1`", " ".join((parameter.help or "").split()))


def allowed_words(check: Check) -> str:
    """Return the values that a check allows, in the words of its error.

    Example:
        >>> from lopsided_settings.checks import at_least, one_of
        >>> allowed_words(at_least(1)), allowed_words(one_of(("a", "b")))
        ('at least 1', 'a, b')
    """
    if check.known:
        return ", ".join(check.known)
    words = re.search(r"must (?:be |lie )?(.*), got", check.words)
    return words[1].replace("not be", "not") if words else ""


@cache
def _declared() -> tuple[tuple[str, Setting], ...]:
    return tuple((name, setting) for kind in setting_types() for name, setting in settings_of(kind).items())


def _declaration(name: str, words: str | None) -> Setting | None:
    """Return the declaration of a field that an option was made of, by its name and its help."""
    return next((setting for own, setting in _declared() if own == name and setting.help == words), None)


def setting_types() -> Iterator[type]:
    """Yield the types of `lopsided_settings` that declare fields."""
    for found in pkgutil.iter_modules(lopsided_settings.__path__):
        module = importlib.import_module(f"lopsided_settings.{found.name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value):
                yield value
