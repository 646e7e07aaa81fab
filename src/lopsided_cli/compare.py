"""`lopsided compare`: every method, one model, one task, one table."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lopsided_cli import options

# Options that do not go into every run's configuration as they stand.
NOT_SHARED = ("methods", "seeds", "links", "rename_labels", "ignore_columns", "resume", "out", "json")


def compare(
    model: options.Model = "embedded",
    task: options.Task = "vader/movie",
    methods: Annotated[
        str | None,
        typer.Option(help="Names separated by commas; the Beyond LoRA study's and the head by default."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Whole numbers separated by commas.")] = "0",
    rank: options.Rank = 16,
    alpha: options.Alpha = None,
    links: options.Links = None,
    steps: options.Steps = 60,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = 32,
    accumulate: options.Accumulate = 1,
    lr: options.LearningRate = None,
    max_length: options.MaxLength = 128,
    eval_rows: options.EvalRows = 400,
    target_modules: options.TargetModules = "all-linear",
    label: options.Label = None,
    metric: options.Metric = None,
    make_split: options.MakeSplit = False,
    rename_labels: options.RenameLabels = None,
    ignore_columns: options.IgnoreColumns = None,
    trajectory: options.Trajectory = None,
    bf16: options.Bf16 = False,
    resume: options.Resume = False,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Fine-tune a model with every method, and show which one to take.

    Writes the run directories, results.json and report.html. Exits with 1 if a method failed.
    """
    shared = {k: v for k, v in locals().items() if k not in NOT_SHARED}
    from lopsided_cli.shared import names, numbers, print_json, renames, verb

    with verb():
        from rich.console import Console

        from lopsided import METHODS
        from lopsided.report import check_renderable, write_report
        from lopsided.report.terminal import print_table
        from lopsided.runs import TrainConfig
        from lopsided.study import CompareConfig
        from lopsided.study import compare as run
        from lopsided_cli.progress import bar, early, read_as

        check_renderable()
        folder = out or options.free_folder("lopsided-compare")
        if epochs is not None:
            shared["steps"] = None
        chosen = tuple(name.strip() for name in methods.split(",")) if methods else ()
        shared["rename_labels"] = renames(rename_labels) if rename_labels else None
        shared["ignore_columns"] = names(ignore_columns, "--ignore-columns") if ignore_columns else None
        # Each run puts its own method here; one without a chain fits any number of steps.
        shared["method"] = next(name for name, method in METHODS.items() if method.chain is None)
        config = CompareConfig(
            run=TrainConfig(**shared, train_rows=400, out=folder),
            methods=chosen,
            seeds=numbers(seeds, "--seeds"),
            links=links,
            command=" ".join(["lopsided", *sys.argv[1:]]),
        )
        console = Console(stderr=True)
        with bar(console) as callbacks:
            comparison = run(config, resume=resume, callbacks=callbacks, note=early(console))
        write_report([folder], folder / "report.html")
        if json:
            print_json(comparison.to_json())
        else:
            print_table(comparison, Console())
            if comparison.task_shape:
                print(read_as(comparison.task_shape))
            print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")
        if comparison.failed:
            raise typer.Exit(1)
