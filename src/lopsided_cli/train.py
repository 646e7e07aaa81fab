"""`lopsided train`: one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lopsided_cli import options
from lopsided_cli.failures import interruptible
from lopsided_cli.printing import MISSING, figure, print_json
from lopsided_cli.progress import bar, early, read_as
from lopsided_settings.plugins import PluginSettings
from lopsided_settings.train import TrainSettings

if TYPE_CHECKING:
    from lopsided.runs import Run


@options.options_of(TrainSettings, PluginSettings)
def train(
    settings: options.Values, own: options.Values, resume: options.Resume = False, json: options.Json = False
) -> None:
    """Fine-tune one model on one task with one method, into a run directory."""
    from rich.console import Console

    from lopsided.plugins import load_plugin
    from lopsided.runs import RECORD, TrainConfig, resumed_config
    from lopsided.runs import train as run

    if own["plugin"] is not None:
        load_plugin(own["plugin"])
    if resume and options.resumes(settings["out"], [RECORD], settings.given):
        config = resumed_config(settings["out"], settings.given)
    else:
        config = TrainConfig(**{**settings, "out": settings["out"] or options.free_folder("lopsided-run")})
    console = Console(stderr=True)
    with interruptible("train", config.out, own["plugin"]), bar(console) as callbacks:
        finished = run(
            config,
            resume=resume,
            callbacks=callbacks(config.method, config.seed),
            note=early(console),
            command=options.command_line(),
        )
    if json:
        print_json(finished.to_json())
        return
    for line in summary(finished):
        print(line)
    print(f"wrote {config.out}")


def summary(run: Run) -> list[str]:
    """Return a run's figures in a few lines; a dash for what could not be computed, and the reasons last."""

    name = run.task.metric.replace("_", " ")
    lines = [
        f"{split:>14}  {name} {figure(figures.score.value, '.4f')} ± {figure(figures.score.se, '.4f')}"
        f"  loss {figure(figures.loss.value, '.4f')}"
        f"  ({figures.rows} rows)"
        for split, figures in run.metrics.items()
    ]
    lines += [
        f"{split:>14}  {other.replace('_', ' ')} {figure(also.score.value, '.4f')} ± {figure(also.score.se, '.4f')}"
        for split, figures in run.metrics.items()
        for other, also in figures.also.items()
    ]
    gap = run.generalization_error
    if gap is not None:
        lines.append(f"{'G(W)':>14}  {figure(gap.value, '.4f')} ± {figure(gap.se, '.4f')}")
    # A federation's server takes no step.
    step = [f"{figure(run.step_ms.value, '.0f')} ms a step"] if run.timed_steps else []
    costs = [f"{run.trained_parameters:,} trained numbers", *step]
    costs += [f"{run.kept_bytes / 2**20:.1f} MiB kept for backward", f"{run.adapter_bytes / 2**10:.0f} KiB file"]
    lines.append(f"{'cost':>14}  {', '.join(costs)}")
    # Of the figures above: a step's standard error is not among them.
    reasons = run.reasons("metrics", "generalization_error")
    lines += [f"{MISSING} {place}: {reason}" for place, reason in reasons.items()]
    # A run of an earlier version has no shape.
    notes = [run.task.note, read_as(run.task.shape)]
    return [*lines, "; ".join(filter(None, notes))] if any(notes) else lines
