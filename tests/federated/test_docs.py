"""The commands of docs/federated.md are commands that the program takes."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from lopsided_cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "federated.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(lopsided federate .*|flower-\w+ (?:.*\\\n)*.*|flwr run .*)$", PAGE, re.M)


def test_the_page_has_commands_of_each_program():
    assert {command.split()[0] for command in COMMANDS} == {"lopsided", "flower-superlink", "flower-supernode", "flwr"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("lopsided")])
def test_every_command_of_lopsided_is_one(command):
    _, verb, *arguments = shlex.split(command)
    context = get_command(app).commands[verb].make_context(verb, arguments)
    assert context.params["rounds"] == 10


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("flower")])
def test_every_command_of_flower_has_options_that_it_knows(command):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    parsers = {"flower-superlink": "superlink", "flower-supernode": "supernode"}
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    kind = parsers[program]
    module = import_module(f"flwr.{kind}.cli.flower_{kind}")
    parser = getattr(module, f"_parse_args_run_{kind}")()
    parsed, unknown = parser.parse_known_args(arguments)
    assert not unknown
    assert parsed.insecure is None or not parsed.insecure
