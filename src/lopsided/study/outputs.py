"""What a study writes when its cells have ended: leaderboards, and the form of PEFT's method comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopsided.files.atomic import write_json, write_text
from lopsided.finite import is_finite
from lopsided.formatting import estimate_text
from lopsided.study.board_html import board_html
from lopsided.study.board_rows import Absence, Entry, Row
from lopsided.study.columns import Column
from lopsided.study.costs import CostTable
from lopsided.study.leaderboard import Leaderboard, leaderboard
from lopsided.study.markdown import markdown_table
from lopsided.study.plan import PlannedCell, StudyPlan
from lopsided.study.published import TABLES, compared
from lopsided.study.results import Result
from lopsided.study.setting_sources import Source
from lopsided.study.study_costs import COSTS, costs_text, read_costs
from lopsided.study.task_ranks import ranks_over_tasks
from lopsided.study.tried_rates import rates_note, searches_of

# Where the settings of a row come from, by model, task and label.
Sources = Mapping[tuple[str, str, str], Mapping[str, Source]]
PUBLISHED_HEAD = ("method", "figure", "ours", "published", "table", "what differs")
BOARDS_CSV, BOARDS_MARKDOWN, COMPARISON = "leaderboards.csv", "leaderboards.md", "method_comparison"


@dataclass(frozen=True, kw_only=True)
class StudyBoard:
    """The leaderboard of one model and task of a study."""

    title: str
    leaderboard: Leaderboard
    seeds: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def entries(self) -> list[Row | Absence]:
        """The rows in their order, and after them what has none."""
        return [*self.leaderboard.rows, *self.leaderboard.absent]

    def __repr__(self) -> str:
        return f"StudyBoard({self.title}: {self.leaderboard!r})"

    def _repr_html_(self) -> str:
        return board_html(self.leaderboard, self.entries, title=self.title, notes=self.notes)


def study_boards(plan: StudyPlan, results: Mapping[str, Result]) -> list[StudyBoard]:
    """Return the leaderboards of a study, with what stands above each."""
    return [
        StudyBoard(
            title=f"{len(board.rows)} methods on {task} with {model}",
            leaderboard=board,
            seeds=tuple(sorted({run.seed for row in board.rows for run in row.runs})),
            notes=(_rates_note(plan),),
        )
        for (model, task), board in boards_of(plan, results).items()
    ]


def boards_of(plan: StudyPlan, results: Mapping[str, Result]) -> dict[tuple[str, str], Leaderboard]:
    """Return the leaderboard of each model and task: a method has a row if all of its seeds finished."""
    groups: dict[tuple[str, str], dict[str, list[PlannedCell]]] = {}
    for planned in plan.cells:
        if planned.cell.role == "run":
            methods = groups.setdefault(planned.cell.board, {})
            methods.setdefault(planned.cell.entry, []).append(planned)
    return {board: _board(methods, results, plan.study.margin) for board, methods in groups.items()}


def _board(methods: Mapping[str, Sequence[PlannedCell]], results: Mapping[str, Result], margin: float) -> Leaderboard:
    entries, absent = [], []
    for name, cells in methods.items():
        lacking = [each for each in cells if each.state != "finished"]
        if lacking:
            why = f"{lacking[0].state}: {lacking[0].why}" if lacking[0].why else lacking[0].state
            several = f"{len(lacking)} of {len(cells)} seeds are not finished; " if len(cells) > 1 else ""
            absent.append(Absence(label=name, why=several + why))
        else:
            entries.append(Entry(label=name, runs=tuple(results[each.cell.key].run for each in cells)))
    return leaderboard(entries, absent, margin=margin)


def write_outputs(folder: Path, plan: StudyPlan, results: Mapping[str, Result]) -> None:
    """Write leaderboards as CSV and Markdown, and one file per run in the form of PEFT's method comparison."""
    boards = boards_of(plan, results)
    write_text(folder / BOARDS_CSV, csv_of(boards, sources_of(plan)))
    write_text(folder / BOARDS_MARKDOWN, markdown_of(plan, boards, results, read_costs(folder / COSTS)))
    for result in results.values():
        if result.is_finished and result.data["role"] == "run":
            write_json(folder / COMPARISON / f"{result.key}.json", peft_form(result))


def sources_of(plan: StudyPlan) -> Sources:
    """Return where the settings of each row come from, by model, task and label."""
    return {(*each.cell.board, each.cell.entry): each.cell.sources for each in plan.cells}


def csv_of(boards: Mapping[tuple[str, str], Leaderboard], sources: Sources) -> str:
    """Return all leaderboards as one table: a line per figure of a method, next to the paper's where there is one."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "model",
            "task",
            "method",
            "seeds",
            "learning_rate",
            "column",
            "unit",
            "mean",
            "se",
            "half_interval",
            "published",
        ]
    )
    for (model, task), board in boards.items():
        for row in board.rows:
            theirs = {each.column: each for each in compared(row, model, task, sources[model, task, row.label])}
            for column in board.columns:
                cell = row.cells[column.key]
                figures = (cell.mean, cell.se, cell.half)
                numbers = ["" if value is None else repr(value) for value in figures]
                numbers.append(repr(theirs[column.key].published.figure) if column.key in theirs else "")
                table.writerow(
                    [model, task, row.label, len(row.seeds), row.learning_rate, column.key, column.unit, *numbers]
                )
    return text.getvalue()


def markdown_of(
    plan: StudyPlan,
    boards: Mapping[tuple[str, str], Leaderboard],
    results: Mapping[str, Result],
    costs: Sequence[CostTable] = (),
) -> str:
    """Return the leaderboards with their decisions, and each method's scores over the rates that were tried."""
    parts = [f"# {plan.study.title}\n"]
    for (model, task), board in boards.items():
        parts.append(f"## {task} with {model}\n")
        parts += [f"{sentence}\n" for sentence in board.sentences]
        heads = ["method", "seeds", "rate", *(column.title for column in board.columns)]
        rows = [
            [
                row.label,
                str(len(row.seeds)),
                f"{row.learning_rate:.3g}",
                *(_figure(row, column) for column in board.columns),
            ]
            for row in board.rows
        ]
        rows += [[absence.label, absence.why, *[""] * (len(heads) - 2)] for absence in board.absent]
        parts += [markdown_table(heads, rows), f"{_rates_note(plan)}\n"]
        if theirs := published_rows(board, model, task, sources_of(plan)):
            parts += ["### Next to the paper's figures\n", markdown_table(PUBLISHED_HEAD, theirs)]
    if len(boards) > 1:
        parts.append(f"## Over {len(boards)} tasks\n\n{ranks_over_tasks(list(boards.values())).sentence}\n")
    return "\n".join([*parts, *_rates_of(plan, results), costs_text(costs)])


def _rates_note(plan: StudyPlan) -> str:
    tuning = plan.study.tuning
    return rates_note(None if tuning is None else tuning.trials, tune="[tuning] in the study file")


def _figure(row: Row, column: Column) -> str:
    """Return a figure with half its 95 % interval."""
    cell = row.cells[column.key]
    return str(estimate_text(cell.mean, cell.half, column.unit))


def published_rows(board: Leaderboard, model: str, task: str, sources: Sources | None = None) -> list[tuple[str, ...]]:
    """Return the published figures that a leaderboard has rows for, as `PUBLISHED_HEAD` says.

    Args:
        sources: of the rows' settings; None where they are not known.
    """
    columns = {column.key: column for column in board.columns}
    return [
        (
            row.label,
            columns[each.column].title,
            _figure(row, columns[each.column]),
            str(estimate_text(each.published.figure, None, columns[each.column].unit)),
            TABLES[each.published.table].title,
            "; ".join(each.differences) or "nothing that is known",
        )
        for row in board.rows
        for each in compared(row, model, task, None if sources is None else sources[model, task, row.label])
        if each.column in columns
    ]


def _rates_of(plan: StudyPlan, results: Mapping[str, Result]) -> list[str]:
    """Return a table of what each rate came to, the rates of the runs marked."""
    if plan.study.tuning is None:
        return []
    ended = [(each.cell, results[each.cell.key]) for each in plan.cells if each.cell.key in results]
    rows = []
    for (model, task), search in searches_of(plan.study.tuning, ended).items():
        for method, trials in search.tried.items():
            for trial in trials:
                mark = " (chosen)" if trial.rate == search.chosen.get(method) else ""
                score = f"{trial.score:.4g}" if is_finite(trial.score) else trial.why or "–"
                rows.append([model, task, method, f"{trial.rate:.3g}{mark}", score])
    heads = ["model", "task", "method", "rate tried", "validation score"]
    return ["## Rates that were tried\n", markdown_table(heads, rows)]


def peft_form(result: Result) -> dict[str, Any]:
    """Return a run as PEFT's method comparison writes one: `run_info`, `train_info`, `meta_info`.

    What that form has and a run of ours has not is left out.
    """
    run = result.run
    return {
        "run_info": {
            "created_at": result.data["ended"],
            "total_time": run.wall_seconds,
            "experiment_name": f"{run.method.name}/{run.task.name}",
            "peft_branch": "",
            "train_config": {**result.data["settings"], "model_id": run.settings["model"], "seed": run.seed},
            "peft_config": run.method.parts() if run.method.is_adapter else None,
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": None,
            "train_time": run.wall_seconds,
            "file_size": run.adapter_bytes,
            "num_trainable_params": run.trained_parameters,
            "num_total_params": run.model.parameters,
            "status": "success",
            "metrics": [
                {
                    "step": run.steps,
                    "train loss": run.metrics["train"].loss.value,
                    "valid score": run.metrics["validation"].score.value,
                    "test score": run.metrics["test"].score.value if "test" in run.metrics else None,
                }
            ],
        },
        "meta_info": {
            "model_info": {"sha": result.data["model_fingerprint"]},
            "dataset_info": {"name": run.task.name, "sha": result.data["task_fingerprint"]},
            "package_info": {f"{name}-version": version for name, version in run.versions.items()},
            "system_info": dict(run.machine),
        },
    }
