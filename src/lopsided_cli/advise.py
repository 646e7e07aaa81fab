"""`lopsided advise`: which side to train, from a few batches and before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.printing import figure, print_json, print_table
from lopsided_settings.train import TrainSettings

if TYPE_CHECKING:
    from lopsided.advise import Advice

# Of a run's settings, those that decide the estimate.
DECISIVE = (
    *("model", "task", "data", "rank", "batch_size", "target_modules", "max_length"),
    *("label", "make_split", "rename_labels", "ignore_columns", "train_size"),
)


@options.options_of(TrainSettings, only=DECISIVE)
def advise(
    settings: options.Values,
    methods: options.Methods = "all",
    batches: Annotated[int, typer.Option(help="Batches that the estimate comes from.")] = 4,
    head_steps: Annotated[int, typer.Option(help="Steps that train a task's new head first; 0 for none.")] = 60,
    damping: Annotated[float, typer.Option(help="Added to the moments, as a share of their mean eigenvalue.")] = 0.1,
    seeds: Annotated[int, typer.Option(help="Draws of a random sketch that are averaged.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the head and the rows.")] = 0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Estimate each method's loss reduction at equal numbers of trained parameters, layer by layer.

    Writes advice.json and two plots. Nothing is trained but a task's head, so this is a look before a comparison. Held
    against short runs, its order of layers was right more often than not, its order of methods was not.
    """
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
    _print_methods(advice, config.task)
    _print_layers(advice)
    if advice.unseen:
        print(f"the loss does not depend on {', '.join(advice.unseen)}")
    print(f"wrote {folder}")


def _print_methods(advice: Advice, task: str) -> None:
    print_table(
        ("method", "trains", "rank", "trained numbers", "expected reduction", "on the rows seen"),
        [
            (
                total.method,
                f"{total.side} (upper bound)" if total.is_bound else total.side,
                " to ".join(map(str, dict.fromkeys(total.ranks))),
                f"{total.trained:,}",
                figure(total.reduction, ".4g"),
                figure(total.fitted, ".4g"),
            )
            for total in advice.totals()
        ],
        title=f"Estimated reduction of the loss on {task}, each layer alone and added up: {advice.predictions} "
        f"predictions, budget of training B at r={advice.r}. Read the order, not the size",
    )


def _print_layers(advice: Advice) -> None:
    print_table(
        ("layer", "method", "trains", "rank", "expected reduction"),
        [
            (module, row.method, row.side, str(row.rank), f"{row.reduction:.4g}")
            for module, row in advice.best().items()
        ],
        title="The best single side of each layer",
    )
