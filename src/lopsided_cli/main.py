"""`lopsided`: one thin file a verb."""

from __future__ import annotations

import sys

import typer

from lopsided_cli import advise, bounds, compare, diagnose, export, lab, methods, report, train, verify

app = typer.Typer(
    help="Single-factor, randomized, chained and sparse low-rank adapters, and which of them to trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("methods")(methods.methods)
app.command("compare")(compare.compare)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("bounds")(bounds.bounds)
app.command("advise")(advise.advise)
app.command("lab")(lab.lab)
app.command("diagnose")(diagnose.diagnose)
app.command("report")(report.report)


def main() -> None:
    """Run the command line; bad input is a line on stderr for each thing that is wrong, and exit status 2."""
    from lopsided_cli.shared import BadInput

    try:
        app(prog_name="lopsided")
    except BadInput as error:
        for line in str(error).splitlines():
            print(f"lopsided: {line}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
