"""Published figures next to ours: those of a leaderboard's row, and how its runs differ from the paper's."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from lopsided.method.profiles import VARIANTS
from lopsided.models.registry import TWIN, known_model
from lopsided.runs import Run
from lopsided.study.board_rows import Row
from lopsided.study.columns import SCORE
from lopsided.study.setting_sources import Source
from lopsided.tasks.task import LOCAL_NOTE

# The key of its column, and what the data calls it.
GAP = "generalization_error"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A published table.

    Args:
        title: for readers.
        note: why its figures differ from ours, whatever the run; "" if they do not.
    """

    title: str
    note: str = ""


TABLES = {
    "beyond_lora_2": Table(title="Beyond LoRA, table 2"),
    "beyond_lora_3": Table(
        title="Beyond LoRA, table 3",
        note="another definition: no code of it is released, and ours is of evaluation mode, with means over rows",
    ),
    "asymmetry_glue": Table(title="Asymmetry, GLUE with RoBERTa-large"),
}


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """A figure of a paper.

    Args:
        table: a key of `TABLES`.
        model, task, method: as this library names them.
        rank: None where the table has none.
        metric: of the task, or "generalization_error".
        figure: percentages as fractions.
    """

    table: str
    model: str
    task: str
    method: str
    rank: int | None
    metric: str
    figure: float


@dataclass(frozen=True, kw_only=True)
class PublishedComparison:
    """A published figure next to a row of ours.

    Args:
        column: the key of the leaderboard's column that it stands next to.
        differences: between our runs and the paper's, in words; none where no difference is known.
    """

    published: PublishedFigure
    column: str
    differences: tuple[str, ...]


@cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """Return all of the papers' figures that this library has."""
    text = resources.files(__package__).joinpath("published_figures", "figures.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedFigure(
            table=line["table"],
            model=line["model"],
            task=line["task"],
            method=line["method"],
            rank=int(line["rank"]) if line["rank"] else None,
            metric=line["metric"],
            figure=float(line["figure"]),
        )
        for line in csv.DictReader(text.splitlines())
    )


def compared(row: Row, model: str, task: str, sources: Mapping[str, Source] | None = None) -> list[PublishedComparison]:
    """Return the published figures of a row's model, task and method, and what differs.

    Nothing is compared with a tiny twin.

    Args:
        row: of a leaderboard.
        model, task: of that leaderboard.
        sources: of its settings; None where they are not known, as of runs that no study made.
    """
    if model.startswith(TWIN):
        return []
    profile, _, own = row.method.name.rpartition(":")
    name = own if profile in VARIANTS else row.method.name
    entry = known_model(model)
    return [
        PublishedComparison(
            published=each,
            column=GAP if each.metric == GAP else SCORE,
            differences=tuple(_differences(row.runs[0], each, profile, sources)),
        )
        for each in published_figures()
        if (each.task, each.method) == (task, name)
        and entry is not None
        and entry is known_model(each.model)
        and each.rank in (None, row.runs[0].settings["rank"])
    ]


def _differences(
    run: Run, published: PublishedFigure, profile: str, sources: Mapping[str, Source] | None
) -> Iterator[str]:
    if TABLES[published.table].note:
        yield TABLES[published.table].note
    elif run.task.metric != published.metric:
        yield f"the paper's metric is {published.metric}, ours {run.task.metric}"
    if profile in VARIANTS:
        yield f"the method as {profile.replace('_', ' ')}"
    if LOCAL_NOTE in run.task.note:
        yield "rows of a local folder"
    for setting, words in (("train_size", "training rows"), ("test_rows", "test rows")):
        if run.settings.get(setting) is not None:
            yield f"at most {run.settings[setting]:,} {words}"
    if sources is None:
        yield "a run does not say where its settings come from"
        return
    theirs = ("code", "readme", "paper")
    if others := [name for name, source in sources.items() if source not in theirs and name not in _INDIFFERENT]:
        yield f"not known from the paper: {', '.join(sorted(others))}"


# Settings that do not move a figure, or by which splits and checkpoints alone are looked at.
_INDIFFERENT = ("trajectory", "data", "evaluations", "train_rows", "report_to", "test")
