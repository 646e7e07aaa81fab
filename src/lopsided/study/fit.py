"""The check before a study's first cell is made, as for a causal task on an encoder or a rank that does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from lopsided.runs.model_cache import ModelCache
from lopsided.runs.preflight import Unfit, preflight
from lopsided.study.cell import Cell


def check_fit(cells: Sequence[Cell], cache: ModelCache) -> None:
    """Raise for all that keeps cells from being made; seeds make no difference to what can work.

    Args:
        cache: loads the model and the rows of each pair once.

    Raises:
        Unfit: with a line per problem, which names the model and the task.
    """
    groups: dict[tuple[str, str, int, str], dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault((*cell.board, cell.block, cell.swept), {}).setdefault(cell.config.method, cell)
    problems: dict[str, None] = {}
    for (model, task, _, _), methods in groups.items():
        configs = [cell.config for cell in methods.values()]
        try:
            preflight(configs, cache.inputs(configs[0]))
        except Unfit as error:
            problems |= dict.fromkeys(f"{task} with {model}: {problem}" for problem in error.problems)
    if problems:
        raise Unfit(list(problems))
