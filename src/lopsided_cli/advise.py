"""`lopsided advise`: which layers to adapt, or with which learning rate to begin, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import figure, print_json, print_table
from lopsided_settings.train import TrainSettings

if TYPE_CHECKING:
    from lopsided.advise import Advice, Rate

# Of a run's settings, those that decide the estimate.
DECISIVE = (
    *("model", "task", "data", "rank", "batch_size", "target_modules", "max_length"),
    *("label", "make_split", "rename_labels", "ignore_columns", "train_size"),
)
# Defaults of --batches, --head-steps, --damping and --seeds, which say how layers are estimated.
BATCHES, HEAD_STEPS, DAMPING, SEEDS = LAYERS_ONLY = (4, 60, 0.1, 4)


@options.options_of(TrainSettings, only=DECISIVE)
def advise(
    settings: options.Values,
    methods: options.Methods = "all",
    rates: Annotated[bool, typer.Option("--rates", help="Guess first learning rates instead.")] = False,
    batches: Annotated[int, typer.Option(help="Batches that the estimate comes from.")] = BATCHES,
    head_steps: Annotated[int, typer.Option(help="Steps that train a task's new head first; 0 for none.")] = HEAD_STEPS,
    damping: Annotated[
        float, typer.Option(help="Damping of the moments, as a share of their mean eigenvalue.")
    ] = DAMPING,
    seeds: Annotated[int, typer.Option(help="Draws of a random sketch that are averaged.")] = SEEDS,
    seed: Annotated[int, typer.Option(help="Seed of the head and the rows.")] = 0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Estimate in which layers the loss can fall, or guess each method's first learning rate with --rates.

    Writes advice.json with a plot, or rates.json. Nothing is trained but a task's head. Held against short runs, the
    order of layers was right more often than not; how good a guessed rate is, docs/lab.md says.
    """
    if rates:
        _first_rates(settings, methods, (batches, head_steps, damping, seeds), seed, out, json)
        return
    from lopsided.advise import advise_task, write_advice
    from lopsided.plotting.svg import check_drawable
    from lopsided.runs import TrainConfig

    check_drawable()
    folder = out or options.free_folder("lopsided-advice")
    config = TrainConfig(**settings, seed=seed, out=folder)
    advice = advise_task(
        config,
        methods=options.method_names(methods),
        batches=batches,
        head_steps=head_steps,
        damping=damping,
        seeds=seeds,
        note=lambda text: typer.echo(f"advise: {text}", err=True),
    )
    result = write_advice(advice, folder, {"head_steps": head_steps, "batches": batches, **config.to_json()})
    if json:
        print_json(result)
        return
    _print_layers(advice, config.task)
    if advice.unseen:
        print(f"the loss does not depend on {', '.join(advice.unseen)}")
    print(f"wrote {folder}")


def _first_rates(
    settings: options.Values, methods: str, of_layers: tuple[float, ...], seed: int, out: Path | None, json: bool
) -> None:
    from lopsided.advise import first_rates, write_rates
    from lopsided.runs import TrainConfig

    if of_layers != LAYERS_ONLY:
        raise BadInput("--batches, --head-steps, --damping and --seeds are about layers, got --rates; leave them out")
    folder = out or options.free_folder("lopsided-rates")
    config = TrainConfig(**settings, seed=seed, out=folder)
    names = options.method_names(methods)
    rates = first_rates(config, names, note=lambda text: typer.echo(f"advise: {text}", err=True))
    result = write_rates(rates, folder, config.to_json())
    if json:
        print_json(result)
        return
    _print_rates(rates, config.task)
    print(f"wrote {folder}")


def _print_rates(rates: Sequence[Rate], task: str) -> None:
    from lopsided.method import method_named

    print_table(
        ("method", "first rate", "default"),
        [(rate.method, f"{rate.value:g}", f"{method_named(rate.method).lr:g}") for rate in rates],
        title=f"First learning rates on {task}, guessed from the {rates[0].how} at the start: begin a search here",
    )


def _print_layers(advice: Advice, task: str) -> None:
    best = sorted(advice.best().items(), key=lambda item: -item[1].reduction)
    print_table(
        ("layer", "method", "trains", "rank", "expected reduction", "on the rows seen"),
        [
            (module, row.method, row.side, str(row.rank), figure(row.reduction, ".4g"), figure(row.fitted, ".4g"))
            for module, row in best
        ],
        title=f"Layers of {task} by the estimated reduction of the loss, each alone with its best single side: "
        f"{advice.predictions} predictions, budget of training B at r={advice.r}. Read the order, not the size",
    )
