"""`lopsided`: one thin file per verb."""

from __future__ import annotations

import functools
import sys
from typing import Annotated

import typer

from lopsided_cli import (
    advise,
    bench,
    bounds,
    compare,
    costs,
    diagnose,
    doctor,
    export,
    federate,
    lab,
    methods,
    models,
    probe,
    report,
    tasks,
    train,
    verify,
)
from lopsided_cli.argument_help import CommandWithArgumentHelp
from lopsided_cli.failures import BadInput, ErrorsAsLines
from lopsided_cli.options import Verb
from lopsided_cli.quiet import quiet_libraries

# In the order of the help.
VERBS: dict[str, Verb] = {
    "methods": methods.methods,
    "models": models.models,
    "tasks": tasks.tasks,
    "compare": compare.compare,
    "bench": bench.bench,
    "train": train.train,
    "federate": federate.federate,
    "export": export.export,
    "probe": probe.probe,
    "verify": verify.verify,
    "bounds": bounds.bounds,
    "advise": advise.advise,
    "costs": costs.costs,
    "lab": lab.lab,
    "diagnose": diagnose.diagnose,
    "report": report.report,
    "doctor": doctor.doctor,
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"lopsided {version('lopsided')}")
        raise typer.Exit


@app.callback()
def _lopsided(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune with single-factor, randomized, chained and sparse low-rank adapters, and compare them."""


def _quietly(verb: Verb) -> Verb:
    @functools.wraps(verb)
    def command(*args: object, **kwargs: object) -> None:
        # A plan fetches nothing: what is not here is planned from what the tables of models and tasks say of it.
        quiet_libraries(offline=kwargs.get("plan") is True)
        verb(*args, **kwargs)

    return command


for _name, _verb in VERBS.items():
    app.command(_name, cls=CommandWithArgumentHelp)(_quietly(_verb))


def main() -> None:
    """Run the command line; bad input is a line on stderr for each thing that is wrong, and exit status 2."""
    try:
        with ErrorsAsLines():
            app(prog_name="lopsided")
    except BadInput as error:
        for line in str(error).splitlines():
            print(f"lopsided: {line}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
