"""`lopsided compare`: every method, one model, one task, one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from lopsided_cli import options
from lopsided_cli.failures import interruptible
from lopsided_cli.printing import print_json, terminal
from lopsided_cli.progress import early, read_as
from lopsided_settings.compare import CompareSettings
from lopsided_settings.plugins import PluginSettings
from lopsided_settings.train import TrainSettings

if TYPE_CHECKING:
    from lopsided.runs import TrainConfig
    from lopsided.study import CompareConfig


@options.options_of(TrainSettings, CompareSettings, PluginSettings)
def compare(
    run: options.Values,
    comparison: options.Values,
    own: options.Values,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Fine-tune a model with every method, and show which one to take.

    Writes the run directories, results.json and report.html. Exits with 1 if a method failed.
    """
    from rich.console import Console

    from lopsided.plugins import load_plugin
    from lopsided.report import check_renderable, write_report
    from lopsided.report.terminal import print_table
    from lopsided.study import CompareConfig
    from lopsided.study import compare as run_all
    from lopsided.study.comparison import RESULTS
    from lopsided.study.comparison_settings import SETTINGS, resumed_settings
    from lopsided.study.what_next import what_next
    from lopsided_cli.study_progress import comparing

    if own["plugin"] is not None:
        load_plugin(own["plugin"])
    check_renderable()
    if resume and options.resumes(run["out"], [SETTINGS, RESULTS], {**run.given, **comparison.given}):
        fixed = {**run.given, **{name: value for name, value in comparison.given.items() if name == "tune"}}
        config = CompareConfig(**{**resumed_settings(run["out"], fixed), **comparison.given})
    else:
        config = _asked(run, comparison)
    folder = config.run.out
    console = Console(stderr=True)
    with (
        interruptible("compare", folder, own["plugin"]),
        comparing(console, f"{config.run.task} with {config.run.model}", config.names) as shown,
    ):
        outcome = run_all(
            config,
            resume=resume,
            callbacks=shown.callbacks_of,
            note=early(console),
            start=shown.start,
            tell=shown.tell,
        )
    write_report([folder], folder / "report.html")
    if json:
        print_json(outcome.to_json())
    else:
        print_table(outcome, terminal())
        if outcome.task_shape:
            print(read_as(outcome.task_shape))
        print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")
        for line in what_next(outcome):
            print(line)
    if outcome.failed:
        raise typer.Exit(1)


def _asked(run: options.Values, comparison: options.Values) -> CompareConfig:
    from lopsided.study import CompareConfig

    folder = run["out"] or options.free_folder("lopsided-compare")
    shared = {name: value for name, value in run.items() if name not in ("links", "out")}
    if run["epochs"] is not None:
        shared["steps"] = None
    return CompareConfig(
        run=_shared_run(**shared, out=folder), links=run["links"], **comparison, command=options.command_line()
    )


def _shared_run(**shared: Any) -> TrainConfig:
    """Return what all runs share, as a run of a method without a chain, which fits any number of steps.

    Each run puts its own method in that method's place.
    """
    from lopsided import METHODS
    from lopsided.runs import TrainConfig

    return TrainConfig(**shared, method=next(name for name, method in METHODS.items() if method.chain is None))
