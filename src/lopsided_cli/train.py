"""`lopsided train`: one run."""

from __future__ import annotations

from typing import Any

from lopsided_cli import options
from lopsided_cli.printing import MISSING, figure, print_json
from lopsided_cli.progress import bar, early, read_as
from lopsided_settings.train import TrainSettings


@options.options_of(TrainSettings)
def train(settings: options.Values, resume: options.Resume = False, json: options.Json = False) -> None:
    """Fine-tune one model on one task with one method, into a run directory."""
    from rich.console import Console

    from lopsided.runs import TrainConfig
    from lopsided.runs import train as run

    config = TrainConfig(**{**settings, "out": settings["out"] or options.free_folder("lopsided-run")})
    console = Console(stderr=True)
    with bar(console) as callbacks:
        record = run(
            config,
            resume=resume,
            callbacks=callbacks(config.method, config.seed),
            note=early(console),
            command=options.command_line(),
        )
    if json:
        print_json(record)
        return
    for line in summary(record):
        print(line)
    print(f"wrote {config.out}")


def summary(record: dict[str, Any]) -> list[str]:
    """Return a run's figures in a few lines; a dash for what could not be computed, and the reasons last."""
    from lopsided.files.strict_json import reasons

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
    why = reasons({key: record[key] for key in ("metrics", "generalization_error")})
    if record["timings"]["median_ms"] is None:
        why |= reasons({"timings": record["timings"]})
    lines += [f"{MISSING} {place}: {reason}" for place, reason in why.items()]
    # A run of an earlier version has no shape.
    notes = [record["task"]["note"], read_as(record["task"].get("shape", ""))]
    return [*lines, "; ".join(filter(None, notes))] if any(notes) else lines
