"""`lopsided probe`: whether an exported adapter takes effect, in stock PEFT or in a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json


def probe(
    target: Annotated[str, typer.Argument(help="An export's folder, or the URL of an OpenAI-compatible server.")],
    of: Annotated[Path | None, typer.Option(help="With a URL: the export's folder, which holds the probe.")] = None,
    model: Annotated[str | None, typer.Option(help="With a URL: the name that the adapter is served under.")] = None,
    base: Annotated[str | None, typer.Option(help="With a folder: the base model, if not the probe's own.")] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Send the prompts to another machine than this one.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say whether answers to an export's probe are the adapter's; exits with 1 if they are not.

    The answer is adapter, base, undecided (they differ by no more than the server's own noise) or neither (as with
    another base).
    """
    from lopsided.serving import probe_folder, probe_server
    from lopsided.serving.completions import is_url

    if is_url(target):
        if of is None:
            raise BadInput(
                f"expected the export to probe {target} with, got no --of; name the export's folder with --of"
            )
        if base is not None:
            raise BadInput(f"a server has its own base, got --base {base}; leave --base out")
        verdict = probe_server(target, of, model=model, remote=remote)
    else:
        unused = {"--of": of, "--model": model, "--remote": remote or None}
        given = [name for name, value in unused.items() if value is not None]
        if given:
            raise BadInput(f"{given[0]} is for the URL of a server, got the folder {target}; leave it out")
        verdict = probe_folder(Path(target), base)
    if json:
        print_json(
            {
                "verdict": verdict.word,
                "why": verdict.why,
                "distances": dict(verdict.distances),
                "difference": verdict.difference,
                "noise": verdict.noise,
            }
        )
    else:
        print(f"{verdict.word}: {verdict.why}")
    if verdict.word != "adapter":
        raise typer.Exit(1)
