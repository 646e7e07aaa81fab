"""The sentences of a decision: the only place that words it, for the terminal, the page and JSON."""

from __future__ import annotations

from collections.abc import Sequence

from lopsided.formatting import estimate_text
from lopsided.study.board_rows import Row
from lopsided.study.columns import SCORE, Column
from lopsided.study.decision import Decision, has_figure, mean_of
from lopsided.study.needed import MOST_ROWS, MOST_SEEDS
from lopsided.study.paired_scores import Points, points_of


def sentences(columns: Sequence[Column], rows: Sequence[Row], decision: Decision) -> tuple[str, ...]:
    """Say which method to take, how much worse than the best it may be, and how far the figures carry.

    Where no method beats the floor, that is the only sentence.
    """
    competing = [row for row in rows if not row.floor]
    if not competing:
        return ("No method finished, so there is nothing to choose from.",)
    column = next((column for column in columns if column.key == SCORE), None)
    scored = [row for row in competing if has_figure(row, SCORE)]
    if column is None or not scored:
        title = "test score" if column is None else column.title
        return (f"No method has a {title}, so there is nothing to choose from.",)
    if decision.beats_floor is False:
        return (_below(column, rows, decision),)
    lacking = [row.label for row in competing if row not in scored]
    left_out = f" Without a {column.title}, and left out: {', '.join(lacking)}." if lacking else ""
    if len(scored) == 1:
        what = "competed and finished" if len(competing) == 1 else f"finished with a {column.title}"
        return (f"{scored[0].label} is the only method that {what}, so there is nothing to choose from.{left_out}",)
    if decision.why:
        return (f"There is no choice without a bound, and none can be given: {decision.why}.{left_out}",)
    return _choice(column.title, scored, decision) + left_out, _reach(decision)


def tied_meaning(decision: Decision | None, seeds: int) -> str:
    """Say what the mark "tied" means: in the column of the score by the decision, in the others for each pair alone."""
    pairs = "the paired differences over seeds have an interval that holds zero"
    if seeds == 1:
        pairs = "within two standard errors of the paired difference, with one seed"
    if decision is None or not decision.possible:
        return pairs
    margin = _points(decision).text(decision.margin)
    return f"for the score, not shown to be worse than the best at 95 %, or at most {margin} worse; elsewhere, {pairs}"


def _points(decision: Decision) -> Points:
    return points_of(decision.metric)


def _below(column: Column, rows: Sequence[Row], decision: Decision) -> str:
    floor = next(row for row in rows if row.label == decision.floor)
    score = estimate_text(mean_of(floor, SCORE), None, column.unit)
    return f"No method beats the floor: none is shown to have a better {column.title} than {floor.label} ({score})."


def _choice(title: str, scored: Sequence[Row], decision: Decision) -> str:
    assert decision.u is not None, "a choice among several methods has a bound"
    points = _points(decision)
    bound, margin = f"at most {points.text(decision.u)} worse than the best, at 95 %", points.text(decision.margin)
    if not decision.decided:
        best = f"{decision.chosen} has the best {title} of these runs, and is {bound}"
        return f"Not decided within the margin of {margin}: {best}. {_needed(decision)}"
    reason = f"the margin is {margin}" if decision.u else "every other method is shown to be worse"
    text = f"Take {decision.chosen}: its {title} is {bound}, and {reason}."
    if len(decision.within) == 1:
        return text
    take = next(row for row in scored if row.label == decision.chosen)
    costs = [f"{mean_of(take, 'trained_parameters'):,.0f} trained numbers"]
    if has_figure(take, "kept_bytes"):
        costs.append(f"{mean_of(take, 'kept_bytes') / 2**20:.0f} MiB kept for backward")
    return (
        f"{text} Of the {len(decision.within)} methods within the margin, it is the cheapest to train: "
        f"{' and '.join(costs)}."
    )


def _needed(decision: Decision) -> str:
    """About how many seeds or rows would decide."""
    seeds = len(decision.seeds)
    if not decision.needed:
        return f"More than {MOST_SEEDS} seeds or {MOST_ROWS:,} test rows would be needed to decide it."
    by_rows = next((option for option in decision.needed if option.seeds == seeds), None)
    by_seeds = next((option for option in decision.needed if option.rows == decision.rows), None)
    if seeds == 1 and by_rows is not None:
        return f"About {by_rows.rows:,} test rows would decide it for these runs."
    if by_rows is None and by_seeds is None:
        both = decision.needed[0]
        return f"About {both.seeds} seeds with {both.rows:,} test rows would decide it."
    if by_rows is None or by_seeds is None:
        rows = "" if by_rows is None else f"{by_rows.rows:,} test rows"
        enough, idle = (rows, "seeds") if by_seeds is None else (f"{by_seeds.seeds} seeds", "rows")
        return f"About {enough} would decide it; more {idle} alone would not."
    return f"About {by_seeds.seeds} seeds on these rows would decide it, or {by_rows.rows:,} rows with as many seeds."


def _reach(decision: Decision) -> str:
    only = ""
    if decision.left_out:
        only = f" Only seeds that all methods have were used: {', '.join(map(str, decision.seeds))}."
    if len(decision.seeds) == 1:
        return (
            "This is one seed: the bound is about these very runs on other rows, and another seed may order the "
            f"methods differently; --seeds 0,1,2 tells more.{only}"
        )
    counted = f"{len(decision.seeds)} seeds and {decision.rows:,} test rows"
    return f"The bound allows for other seeds and other rows, and comes from {counted}.{only}"
