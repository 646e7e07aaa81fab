"""`lopsided costs`: what a training step of each method costs here, next to the frozen model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.printing import figure, print_json, print_table
from lopsided_settings.train import TrainSettings

if TYPE_CHECKING:
    from lopsided.stats import Median
    from lopsided.study.costs import CostTable

# Of a run's settings, those that decide what a step costs.
SHAPE = (
    *("model", "task", "rank", "batch_size", "target_modules", "max_length", "bf16"),
    *("data", "label", "make_split", "rename_labels", "ignore_columns", "train_size"),
)


@options.options_of(TrainSettings, only=SHAPE)
def costs(
    settings: options.Values,
    methods: options.Methods = "all",
    rounds: Annotated[int, typer.Option(help="Rounds of measurement; in each, every method takes one step.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the turns' order, the head and the batch.")] = 0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Measure time and memory of a training step, method by method, next to the frozen model.

    All methods sit on one base model and take turns in shuffled rounds, so that what slows the machine down slows all
    of them. Writes costs.json.
    """
    from lopsided.files.atomic import atomic_folder, write_json
    from lopsided.method import METHODS
    from lopsided.runs import TrainConfig
    from lopsided.study.costs import measure_costs

    folder = out or options.free_folder("lopsided-costs")
    config = TrainConfig(**settings, seed=seed, out=folder)
    names = options.method_names(methods)
    table = measure_costs(
        config,
        list(METHODS) if names is None else names,
        rounds=rounds,
        seed=seed,
        note=lambda text: typer.echo(f"costs: {text}", err=True),
    )
    with atomic_folder(folder) as new:
        write_json(new / "costs.json", table.to_json())
    if json:
        print_json(table.to_json())
        return
    _print_costs(table)
    print(f"wrote {folder}")


def _print_costs(table: CostTable) -> None:
    length = "" if table.tokens is None else f" of {table.tokens} tokens"
    print_table(
        ("method", "step x frozen", "kept x frozen", "peak MB (CUDA)", "s per epoch (CUDA)"),
        [
            (
                line.method,
                _interval(line.step_time),
                f"{line.kept:.2f}",
                figure(None if line.peak_bytes is None else line.peak_bytes / 1e6, ".0f"),
                figure(line.seconds_per_epoch, ".1f"),
            )
            for line in table.methods
        ],
        title=f"A step on {table.task} with {table.model}, {table.rows} rows{length}; {table.rounds} rounds; the "
        f"frozen model's twin: {_interval(table.twin)}",
    )


def _interval(median: Median) -> str:
    return f"{median.value:.2f} [{median.low:.2f}, {median.high:.2f}]"
