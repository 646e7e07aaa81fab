"""Which method to take, in two sentences, from the rows of a leaderboard."""

from __future__ import annotations

from collections.abc import Sequence

from lopsided.study.board_rows import Row
from lopsided.study.columns import SCORE, Column

# Among equals the cheapest is taken: fewest trained numbers, then least memory, then the faster step.
COSTS = ("trained_parameters", "kept_bytes", "step_ms")


def sentences(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[str, ...]:
    """Say which method to take, and how far the figures carry."""
    competing = [row for row in rows if not row.floor]
    if not competing:
        return ("No method finished, so there is nothing to choose from.",)
    title = next((column.title for column in columns if column.key == SCORE), "test score")
    scored = [row for row in competing if has_figure(row, SCORE)]
    if not scored:
        return (f"No method has a {title}, so there is nothing to choose from.",)
    recommendation = _recommendation(title, competing, scored)
    if lacking := [row.label for row in competing if row not in scored]:
        recommendation += f" Without a {title}, and left out: {', '.join(lacking)}."
    return recommendation, _reach(min(len(row.runs) for row in rows))


def has_figure(row: Row, key: str) -> bool:
    """Whether a row has a mean in a column."""
    return key in row.cells and row.cells[key].mean is not None


def _recommendation(title: str, competing: Sequence[Row], scored: Sequence[Row]) -> str:
    front = [row for row in scored if row.cells[SCORE].mark is not None]
    best = next(row for row in front if row.cells[SCORE].mark == "best")
    take = _cheapest(front)
    if len(scored) == 1:
        what = "competed and finished" if len(competing) == 1 else f"finished with a {title}"
        return f"{take.label} is the only method that {what}, so there is nothing to choose from."
    if len(front) == 1:
        return f"Take {take.label}: its {title} is the best, and the data tell every other method from it."
    standing = "is the best" if take is best else f"can't be told from the best ({best.label})"
    return (
        f"Take {take.label}: its {title} {standing}, and of the {len(front)} methods of which that holds it is "
        f"the cheapest to train: {_mean(take, 'trained_parameters'):,.0f} numbers, and "
        f"{_mean(take, 'kept_bytes') / 2**20:.0f} MiB kept for backward."
    )


def _cheapest(front: Sequence[Row]) -> Row:
    # Costs are compared as far as all of these methods have the figure.
    costs = [key for key in COSTS if all(has_figure(row, key) for row in front)]
    # Of methods with equal parts the first: the noise of their step times is no reason to take another.
    first_of_equals = [row for row in front if row.same_as is None] or front
    return min(first_of_equals, key=lambda row: [_mean(row, key) for key in costs])


def _mean(row: Row, key: str) -> float:
    mean = row.cells[key].mean
    assert mean is not None, f"{row.label} has no {key}"
    return mean


def _reach(seeds: int) -> str:
    if seeds == 1:
        return (
            "This is one seed: ties come from the sampling error of the test rows alone, and another seed may "
            "order the tied methods differently; --seeds 0,1,2 tells more."
        )
    return f"Ties come from paired intervals over {seeds} seeds."
