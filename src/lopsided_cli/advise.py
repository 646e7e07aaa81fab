"""`lopsided advise`: which side to train, from a few batches and before any training."""

from __future__ import annotations

from typing import Annotated

import typer

from lopsided_cli import options


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
        _tell(advice, config.task)
        print(f"wrote {folder}")


def _tell(advice, task: str) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    from lopsided_cli.shared import figure

    totals = advice.totals()
    table = Table(
        title=f"Estimated reduction of the loss on {task}, each layer alone and added up: {advice.predictions} "
        f"predictions, budget of training B at r={advice.r}. Read the order, not the size",
        title_justify="left",
    )
    for heading in ("method", "trains", "rank", "trained numbers", "expected reduction", "on the rows seen"):
        table.add_column(heading, overflow="fold")
    for total in totals:
        low, high = total.ranks
        table.add_row(
            total.method,
            f"{total.side} (upper bound)" if total.is_bound else total.side,
            str(low) if low == high else f"{low} to {high}",
            f"{total.trained:,}",
            figure(total.reduction, ".4g"),
            figure(total.fitted, ".4g"),
        )
    layers = Table(title="The best single side of each layer", title_justify="left")
    for heading in ("layer", "method", "trains", "rank", "expected reduction"):
        layers.add_column(heading, overflow="fold")
    for module, row in advice.best().items():
        layers.add_row(module, row.method, row.side, str(row.rank), f"{row.reduction:.4g}")
    # A pipe has no width: give the tables room there, and the terminal's width elsewhere.
    console = Console(width=None if Console().is_terminal else 150)
    console.print(table)
    console.print(layers)
    if advice.unseen:
        print(f"the loss does not depend on {', '.join(advice.unseen)}")
