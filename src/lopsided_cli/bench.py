"""`lopsided bench`: any study, planned, run, resumed and summed up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json, terminal
from lopsided_cli.printing import print_table as show

if TYPE_CHECKING:
    from lopsided.study.bench import Bench, Maker
    from lopsided.study.plan import StudyPlan
    from lopsided_cli.study_progress import StudyProgress


def bench(
    study: Annotated[Path, typer.Argument(help="A study file, such as studies/quick.toml.")],
    out: options.Out = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    json: options.Json = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="List finished cells from older numerics or versions.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed and skipped cells again.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Go on although the study file has changed.")] = False,
    shard: Annotated[str | None, typer.Option(help="i/n: the i-th of n parts of the cells, for clusters.")] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="Results of another machine: its finished cells are not run again.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A folder with the data sets of `lopsided tasks` in local form.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="A few steps on tiny random twins of the models, to see that all works.")
    ] = False,
    plugin: Annotated[Path | None, typer.Option(help="A Python file of your own, which is run first.")] = None,
    backend: Annotated[str, typer.Option(help="local: one cell after the other; or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster; by default, a local one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Cells at a time on Ray; one per processor or GPU.")] = None,
) -> None:
    """Run the study that a file describes: methods x models x tasks x seeds.

    Writes run directories, results.jsonl, leaderboards as CSV and Markdown, and the form of PEFT's method comparison. A
    study that was cut off goes on with the same command. Exits with 1 if a cell failed.
    """
    from rich.console import Console

    from lopsided.plugins import load_plugin
    from lopsided.study.bench import Bench, planned, run_bench
    from lopsided.study.outputs import BOARDS_CSV, BOARDS_MARKDOWN, COMPARISON
    from lopsided.study.results import RESULTS
    from lopsided_cli.plan_table import print_plan
    from lopsided_cli.study_progress import progress

    if plugin is not None:
        load_plugin(plugin)
    asked = Bench(
        path=study,
        out=out or Path(f"lopsided-{study.stem}{'-rehearsal' if rehearse else ''}"),
        shard=_shard(shard),
        results=tuple(results or ()),
        retry_failed=retry_failed,
        changed=changed,
        data=data,
        rehearse=rehearse,
    )
    if stale:
        _print_stale(asked, json)
        return
    if plan:
        outlook = planned(asked, probe=True)
        print_json(outlook.to_json()) if json else print_plan(outlook)
        return
    with progress(Console(stderr=True)) as display:
        maker = _maker(backend, display, address=address, workers=workers, plugin=plugin)
        outlook = run_bench(asked, backend=maker, begin=display.begin, start=display.start, tell=display.tell)
    if json:
        print_json(outlook.to_json())
    else:
        _print_boards(outlook, asked)
        print(f"wrote {asked.out}: {RESULTS}, {BOARDS_CSV}, {BOARDS_MARKDOWN}, runs, {COMPARISON}")
    if any(each.state == "failed" for each in outlook.cells):
        raise typer.Exit(1)


def _maker(
    name: str, display: StudyProgress, *, address: str | None, workers: int | None, plugin: Path | None
) -> Maker:
    command = options.command_line()
    if name == "ray":
        from lopsided.study.ray_backend import RayBackend

        return lambda plan, cache: RayBackend(
            address=address, workers=workers, memory=plan.memory_bytes, command=command, plugin=plugin
        )
    if name != "local":
        raise BadInput(f"--backend must be local or ray, got {name!r}; choose one of them")
    if address is not None or workers is not None:
        raise BadInput(
            "--address and --workers are for Ray; expected --backend ray with them; add it, or leave them out"
        )
    from lopsided.study.backend import Local

    return lambda plan, cache: Local(cache, callbacks=display.callbacks, command=command)


def _print_stale(asked: Bench, json: bool) -> None:
    from lopsided.study.stale import stale_results

    rows = [
        {"cell": result.key, **{name: result.data[name] for name in ("model", "task", "method")}, "why": why}
        for result, why in stale_results(asked.all_results())
    ]
    if json:
        print_json(rows)
        return
    show(["cell", "model", "task", "method", "why"], [list(row.values()) for row in rows])
    print(f"{len(rows)} stale cells; to make them again, take their lines out of the results")


def _print_boards(plan: StudyPlan, asked: Bench) -> None:
    from lopsided.report.terminal import print_table
    from lopsided.study.outputs import study_boards

    for board in study_boards(plan, asked.all_results()):
        print_table(board, terminal())


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
        raise BadInput(f"--shard must be i/n with 1 <= i <= n, got {text!r}; write --shard 1/4")
    return int(parts[0]), int(parts[1])
