"""`lopsided report`: one page about finished runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS...", help="Run directories, lab and advise results, or folders of them."),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    watch: Annotated[bool, typer.Option("--watch", help="Serve it here, and refresh it as runs finish.")] = False,
    port: Annotated[int, typer.Option(help="For --watch; a free one by default.")] = 0,
    json: options.Json = False,
) -> None:
    """Put runs together into one HTML file that opens without a network."""
    if out.is_dir():
        raise BadInput(f"--out must be an HTML file, got the folder {out}; write --out {out / 'report.html'}")
    if watch and json:
        raise BadInput("--json prints once and --watch goes on, got both; leave one of them out")
    out.parent.mkdir(parents=True, exist_ok=True)
    if watch:
        _serve(runs, out, port)
        return
    from lopsided.report import write_report

    gathered = write_report(runs, out)
    if json:
        print_json(gathered.to_json())
    else:
        print(f"wrote {out}: {gathered.title}, {len(gathered.runs)} run{'s' * (len(gathered.runs) != 1)}")
        for run in (reported.run for reported in gathered.runs):
            if run.status == "running":
                print(f"{run.folder}: running, and in no table yet")
            elif not run.is_finished:
                again = shlex.join(["lopsided", "train", "--resume", "--out", str(run.folder)])
                print(f"{run.folder}: {run.status}, and in no table; go on with: {again}")


def _serve(runs: list[Path], out: Path, port: int) -> None:
    from lopsided.report.watch import HOST, Watched, server

    with server(Watched(runs, out), port) as serving:
        print(f"http://{HOST}:{serving.server_port}/ (also in {out}); stop with Ctrl-C", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()
