"""`lopsided advise`: which side to train, from a few batches and before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options

if TYPE_CHECKING:
    from lopsided.advise import Advice


def advise(
    model: options.Model = "embedded",
    task: options.Task = "vader/movie",
    methods: Annotated[str, typer.Option(help="Names separated by commas, or all.")] = "all",
    rank: options.Rank = 16,
    batches: Annotated[int, typer.Option(help="Batches that the estimate comes from.")] = 4,
    batch_size: options.BatchSize = 32,
    head_steps: Annotated[int, typer.Option(help="Steps that train a task's new head first; 0 for none.")] = 60,
    damping: Annotated[float, typer.Option(help="Added to the moments, as a share of their mean eigenvalue.")] = 0.1,
    seeds: Annotated[int, typer.Option(help="Draws of a random sketch that are averaged.")] = 4,
    target_modules: options.TargetModules = "all-linear",
    max_length: options.MaxLength = 128,
    label: options.Label = None,
    make_split: options.MakeSplit = False,
    rename_labels: options.RenameLabels = None,
    ignore_columns: options.IgnoreColumns = None,
    seed: Annotated[int, typer.Option(help="Of the head and the rows.")] = 0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Estimate each method's loss reduction at equal numbers of trained parameters, layer by layer.

    Writes advice.json and two plots. Nothing is trained but a task's head, so this is a look before a comparison. Held
    against short runs, its order of layers was right more often than not, its order of methods was not.
    """
    from lopsided_cli.shared import names, print_json, renames, verb

    with verb():
        from lopsided.advise import advise_task, write_advice
        from lopsided.plotting.svg import check_drawable
        from lopsided.runs import TrainConfig

        check_drawable()
        folder = out or options.free_folder("lopsided-advice")
        config = TrainConfig(
            model=model,
            task=task,
            rank=rank,
            batch_size=batch_size,
            target_modules=target_modules,
            max_length=max_length,
            label=label,
            make_split=make_split,
            rename_labels=renames(rename_labels) if rename_labels else None,
            ignore_columns=names(ignore_columns, "--ignore-columns") if ignore_columns else None,
            seed=seed,
            out=folder,
        )
        advice = advise_task(
            config,
            methods=None if methods == "all" else methods.split(","),
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
        _print_advice(advice, config.task)
        print(f"wrote {folder}")


def _print_advice(advice: Advice, task: str) -> None:
    from lopsided_cli.shared import figure
    from lopsided_cli.wide_table import print_table

    rows = []
    for total in advice.totals():
        low, high = total.ranks
        rows.append(
            (
                total.method,
                f"{total.side} (upper bound)" if total.side == "AB" else total.side,
                str(low) if low == high else f"{low} to {high}",
                f"{total.trained:,}",
                figure(total.reduction, ".4g"),
                figure(total.fitted, ".4g"),
            )
        )
    print_table(
        ("method", "trains", "rank", "trained numbers", "expected reduction", "on the rows seen"),
        rows,
        title=f"Estimated reduction of the loss on {task}, each layer alone and added up: {advice.predictions} "
        f"predictions, budget of training B at r={advice.r}. Read the order, not the size",
    )
    print_table(
        ("layer", "method", "trains", "rank", "expected reduction"),
        [
            (module, row.method, row.side, str(row.rank), f"{row.reduction:.4g}")
            for module, row in advice.best().items()
        ],
        title="The best single side of each layer",
    )
    if advice.unseen:
        print(f"the loss does not depend on {', '.join(advice.unseen)}")
