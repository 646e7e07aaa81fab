"""The information bound, and the gap that a run measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.models.skeleton import skeleton
from lopsided.runs.run import read_run
from lopsided.runs.scores import row_losses
from lopsided.theory.information import InformationBound, generalization_bound, sigma_estimated


@dataclass(frozen=True, kw_only=True)
class RunBound:
    """A finished run's measured gap and its bound, both in nats per sample (squared units for regression).

    Args:
        folder: the run.
        measured, se: |test loss - train loss| at the best checkpoint, and its standard error; None where the run could
            not compute them, and `why` has the reason by "measured" or "se".
        bound: with σ estimated from the run's own test losses, so it is no guarantee: a cross-entropy has no range.
    """

    folder: Path
    seed: int
    measured: float | None
    se: float | None
    bound: InformationBound
    why: dict[str, str] = field(default_factory=dict)


def bound_of_run(folder: Path, bits: float = 32) -> RunBound:
    """Compute the bound of a run of `lopsided train` or `compare`.

    Raises:
        LopsidedError: if there is no finished run with test figures in the folder, or its test losses allow no σ.
    """
    run = read_run(folder)
    if run is None or not run.is_finished or run.generalization_error is None:
        state = "no run" if run is None else f"a run that is {run.status}, or without test figures"
        raise LopsidedError(f"expected a finished run with test figures in {folder}, got {state}; finish it first")
    config, gap = run.config, run.generalization_error
    bound = generalization_bound(
        skeleton(config.model, run.task.kind, labels=max(1, len(run.task.labels))),
        config.resolve_method(),
        config.rank,
        run.task.rows["train"],
        sigma_estimated(row_losses(run.predictions["test"]).tolist()),
        bits,
        None if run.chain is None else run.links,
        target_modules="all-linear" if config.targets is None else config.targets,
    )
    figures = {"measured": ("value", gap.value), "se": ("se", gap.se)}
    why = {name: gap.why.get(part, "not in its record") for name, (part, figure) in figures.items() if figure is None}
    return RunBound(folder=folder, seed=config.seed, measured=gap.value, se=gap.se, bound=bound, why=why)
