"""`lopsided train`: one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.progress import read_as

if TYPE_CHECKING:
    from lopsided.runs import Run

# Options that do not go into the run's configuration as they stand.
NOT_SETTINGS = ("rename_labels", "ignore_columns", "resume", "out", "json")


def train(
    model: options.Model = "embedded",
    task: options.Task = "vader/movie",
    method: Annotated[str, typer.Option(help="A method of `lopsided methods`.")] = "c3la",
    rank: options.Rank = 16,
    alpha: options.Alpha = None,
    links: options.Links = None,
    every: options.Every = None,
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = 32,
    accumulate: options.Accumulate = 1,
    lr: options.LearningRate = None,
    schedule: Annotated[str, typer.Option(help="linear, cosine, constant or constant_with_warmup.")] = "linear",
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the learning rate climbs.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the trained matrices.")] = 0.0,
    dropout: Annotated[float, typer.Option(help="Dropout on the adapters' inputs.")] = 0.0,
    max_length: options.MaxLength = 128,
    evaluations: Annotated[int, typer.Option(help="How often the run is evaluated and saved.")] = 4,
    eval_rows: options.EvalRows = None,
    target_modules: options.TargetModules = "all-linear",
    label: options.Label = None,
    metric: options.Metric = None,
    make_split: options.MakeSplit = False,
    rename_labels: options.RenameLabels = None,
    ignore_columns: options.IgnoreColumns = None,
    trajectory: options.Trajectory = None,
    bf16: options.Bf16 = False,
    report_to: Annotated[str, typer.Option(help="A tracker that transformers knows, or none.")] = "none",
    seed: Annotated[int, typer.Option(help="Of the head, the rows' order, dropout and the sketches.")] = 0,
    resume: options.Resume = False,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Fine-tune one model on one task with one method, into a run directory."""
    settings = {k: v for k, v in locals().items() if k not in NOT_SETTINGS}
    from lopsided_cli.shared import names, print_json, renames, verb

    with verb():
        from rich.console import Console

        from lopsided.runs import TrainConfig
        from lopsided.runs import train as run
        from lopsided_cli.progress import bar, early

        config = TrainConfig(
            **settings,
            rename_labels=renames(rename_labels) if rename_labels else None,
            ignore_columns=names(ignore_columns, "--ignore-columns") if ignore_columns else None,
            out=out or options.free_folder("lopsided-run"),
        )
        console = Console(stderr=True)
        with bar(console) as callbacks:
            finished = run(config, resume=resume, callbacks=callbacks(method, seed), note=early(console))
        if json:
            print_json(finished.to_json())
            return
        for line in summary(finished):
            print(line)
        print(f"wrote {config.out}")


def summary(run: Run) -> list[str]:
    """Return a run's figures in a few lines; a dash for what could not be computed, and the reasons last."""
    from lopsided_cli.shared import figure

    name = run.task.metric.replace("_", " ")
    lines = [
        f"{split:>14}  {name} {figure(figures.score.value, '.4f')} ± {figure(figures.score.se, '.4f')}"
        f"  loss {figure(figures.loss.value, '.4f')}"
        f"  ({figures.rows} rows)"
        for split, figures in run.metrics.items()
    ]
    gap = run.generalization_error
    if gap is not None:
        lines.append(f"{'G(W)':>14}  {figure(gap.value, '.4f')} ± {figure(gap.se, '.4f')}")
    lines.append(
        f"{'cost':>14}  {run.trained_parameters:,} trained numbers, "
        f"{figure(run.step_ms.value, '.0f')} ms a step, "
        f"{run.kept_bytes / 2**20:.1f} MiB kept for backward, {run.adapter_bytes / 2**10:.0f} KiB file"
    )
    # Of the figures above: a step's standard error is not among them.
    sections = ["metrics", "generalization_error"] + (["timings"] if run.step_ms.value is None else [])
    lines += [f"– {place}: {reason}" for place, reason in run.reasons(*sections).items()]
    # A run of an earlier version has no shape.
    notes = [run.task.note, read_as(run.task.shape)]
    return [*lines, "; ".join(filter(None, notes))] if any(notes) else lines
