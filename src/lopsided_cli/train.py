"""`lopsided train`: one run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lopsided_cli import options
from lopsided_cli.progress import read_as

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
            record = run(config, resume=resume, callbacks=callbacks(method, seed), note=early(console))
        if json:
            print_json(record)
            return
        for line in summary(record):
            print(line)
        print(f"wrote {config.out}")


def summary(record: dict[str, Any]) -> list[str]:
    """What a run came to, in a few lines; a dash for what could not be computed, and the reasons last."""
    from lopsided.files.strict_json import reasons
    from lopsided_cli.shared import figure

    name = record["task"]["metric"]["name"].replace("_", " ")
    lines = [
        f"{split:>14}  {name} {figure(figures['score'], '.4f')} ± {figure(figures['se'], '.4f')}"
        f"  loss {figure(figures['loss'], '.4f')}"
        f"  ({figures['rows']} rows)"
        for split, figures in record["metrics"].items()
    ]
    gap = record["generalization_error"]
    lines.append(f"{'G(W)':>14}  {figure(gap['value'], '.4f')} ± {figure(gap['se'], '.4f')}")
    lines.append(
        f"{'cost':>14}  {record['trained_parameters']:,} trained numbers, "
        f"{figure(record['timings']['median_ms'], '.0f')} ms a step, "
        f"{record['kept_bytes'] / 2**20:.1f} MiB kept for backward, {record['adapter_bytes'] / 2**10:.0f} KiB file"
    )
    # Of the figures above: a step's standard error is not among them.
    told = reasons({key: record[key] for key in ("metrics", "generalization_error")})
    if record["timings"]["median_ms"] is None:
        told |= reasons({"timings": record["timings"]})
    lines += [f"– {place}: {reason}" for place, reason in told.items()]
    # A run of an earlier version has no shape.
    notes = [record["task"]["note"], read_as(record["task"].get("shape", ""))]
    return [*lines, "; ".join(filter(None, notes))] if any(notes) else lines
