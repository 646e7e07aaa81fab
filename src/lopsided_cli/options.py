"""Options that mean the same in every verb that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="embedded, smollm2, a folder, or a Hugging Face name.")]
Task = Annotated[
    str, typer.Option(help="vader/movie|amazon|nyt|tweets, a folder of JSON lines, or a Hugging Face name.")
]
Rank = Annotated[int, typer.Option(help="Rank r.")]
Alpha = Annotated[float | None, typer.Option(help="Numerator of the scale alpha/r; 2r by default.")]
Links = Annotated[int | None, typer.Option(help="Number of links of a chained method.")]
Every = Annotated[int | None, typer.Option(help="Steps in a link, instead of --links.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the training rows, instead of --steps.")]
BatchSize = Annotated[int, typer.Option(help="Rows in one forward pass.")]
Accumulate = Annotated[int, typer.Option(help="Forward passes in one optimizer step.")]
LearningRate = Annotated[float | None, typer.Option(help="Learning rate; the method's own by default.")]
TargetModules = Annotated[
    str | None, typer.Option(help="Names separated by commas, a regular expression, or all-linear.")
]
Label = Annotated[
    str | None, typer.Option(help="The column to learn, where there are several, or it has another name.")
]
Metric = Annotated[str | None, typer.Option(help="The figure that counts; the task's own by default.")]
MakeSplit = Annotated[bool, typer.Option(help="Cut a missing validation or test split from train.")]
RenameLabels = Annotated[
    str | None, typer.Option(help="Classes to read under another name: OLD=NEW, separated by commas.")
]
IgnoreColumns = Annotated[
    str | None, typer.Option(help="Columns that are not for learning, separated by commas; no other may go unused.")
]
MaxLength = Annotated[int, typer.Option(help="Most tokens of a row.")]
EvalRows = Annotated[int | None, typer.Option(help="Most validation rows that checkpoints are chosen on.")]
Bf16 = Annotated[bool, typer.Option(help="Autocast to bfloat16.")]
Trajectory = Annotated[
    bool | None,
    typer.Option(
        "--trajectory/--no-trajectory", help="Keep what was learned at each evaluation; adapters' by default."
    ),
]
Resume = Annotated[bool, typer.Option(help="Go on with what the folder holds.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write; a new one by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def free_folder(base: str) -> Path:
    """The first of base, base-2, base-3, … that is not there."""
    number, path = 1, Path(base)
    while path.exists():
        number += 1
        path = Path(f"{base}-{number}")
    return path
