"""Section: how far a run's loss on rows that it did not train on lies from its training loss.

Notation: ℓ_s the loss of each row of split s at the checkpoint with the lowest validation loss, in nats per row
(squared units for regression). Intervals are the middle 95 % of a bootstrap over rows, each split drawn on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lopsided.diagnose.section import Headline, Need, Section
from lopsided.diagnose.section_inputs import SectionInputs
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import WHY
from lopsided.formatting import MISSING, number_text
from lopsided.plotting.figure import (
    Axis,
    Figure,
    FigureEntry,
    RunGroup,
    by_label,
    diagnosed,
    mean_interval,
    view,
)
from lopsided.plotting.words import without
from lopsided.runs.scores import row_losses
from lopsided.stats import bootstrap_means, percentile_interval

DRAWS = 2000


def generalization(
    rows: Mapping[str, Mapping[str, np.ndarray]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Compute the loss of every split, its distance from the training loss, and G(W), with bootstrap intervals.

    The gap of a split is mean(ℓ_split) - mean(ℓ_train), with its sign; G(W) = |mean(ℓ_test) - mean(ℓ_train)|. The
    interval of G folds that of the signed gap at zero, since the quantiles of an absolute value never reach it.

    Args:
        rows: by split, with "loss" per row; "train" among them. A run's `predictions`.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        "splits", "gaps", "G" (None without a test split) and "draws". One row has no interval: its ends are None, and
        `why` says so.

    Raises:
        LopsidedError: if there is no training split, or a split has a loss that is not finite.

    Source:
        Cadenhead et al. 2026, arXiv:2606.13767, for G(W); Efron 1979 for the bootstrap.

    Example:
        >>> generalization({"train": {"loss": np.zeros(4)}, "test": {"loss": np.ones(9)}})["G"]
        {'value': 1.0, 'low': 1.0, 'high': 1.0}
    """
    losses = _finite_losses(rows)
    single = [split for split, values in losses.items() if values.size == 1]
    # One stream for all splits, in their order: each draws its own rows.
    draw = np.random.RandomState(seed)
    means = {split: bootstrap_means(values, draws, draw) for split, values in losses.items()}
    splits = {
        split: {
            "loss": float(values.mean()),
            **_middle(means[split], [s for s in single if s == split]),
            "rows": int(values.size),
        }
        for split, values in losses.items()
    }
    gaps = {
        split: {
            "value": float(losses[split].mean() - losses["train"].mean()),
            **_middle(means[split] - means["train"], [s for s in single if s in (split, "train")]),
        }
        for split in losses
        if split != "train"
    }
    return {"splits": splits, "gaps": gaps, "G": folded(gaps["test"]) if "test" in gaps else None, "draws": draws}


def _finite_losses(rows: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The losses of each split's rows; raises where there are none, or one that is not finite."""
    if "train" not in rows:
        raise LopsidedError(f"expected the losses of a training split, got {', '.join(rows) or 'none'}; train again")
    losses = {split: row_losses(columns) for split, columns in rows.items()}
    for split, values in losses.items():
        if values.size == 0:
            raise LopsidedError(
                f"expected losses of rows, got no row to predict in {split!r}; train on rows with labels"
            )
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise LopsidedError(
                f"expected finite losses, got {bad} of {values.size} in {split!r}; train at a lower rate"
            )
    return losses


def folded(gap: Mapping[str, Any]) -> dict[str, Any]:
    """Return the absolute value of a figure, and of its interval where it has one."""
    if gap["low"] is None or gap["high"] is None:
        return {**gap, "value": abs(gap["value"])}
    ends = sorted((abs(gap["low"]), abs(gap["high"])))
    low = 0.0 if gap["low"] <= 0.0 <= gap["high"] else ends[0]
    return {"value": abs(gap["value"]), "low": low, "high": ends[1]}


def _middle(draws: np.ndarray, single: list[str]) -> dict[str, Any]:
    """The middle 95 % of draws. One row drawn again and again is no sample: splits that have one leave no interval."""
    if single:
        why = f"one row has no interval ({' and '.join(single)})"
        return {"low": None, "high": None, WHY: {"low": why, "high": why}}
    low, high = percentile_interval(draws)
    return {"low": low, "high": high}


# -- what the terminal and the page show ---------------------------------------------------------------------


def gap_cell(section: Mapping[str, Any]) -> str:
    """Return G(W) with its interval."""
    gap = section["G"]
    if gap is None:
        return MISSING
    return "{} [{}, {}]".format(*(number_text(gap[end], ".3f") for end in ("value", "low", "high")))


def draw_gaps(group: RunGroup) -> Figure | None:
    """Draw each split's loss minus the training loss."""
    members = by_label(diagnosed(group.runs, "generalization"))
    firsts = [runs[0].diagnosis["generalization"]["gaps"] for runs in members.values()]
    splits = list(dict.fromkeys(split for first in firsts for split in first))
    if not splits:
        return None
    values: dict[str, dict[str, float]] = {}
    views = []
    lacking: dict[str, None] = {}
    for split in splits:
        marks = []
        for label, runs in members.items():
            parts = [run.diagnosis["generalization"]["gaps"].get(split) for run in runs]
            mark = None if None in parts else mean_interval(label, parts)
            if mark is None:
                lacking[label] = None
            else:
                values.setdefault(split, {})[label] = mark["x"][0]
                marks.append(mark)
        views.append(view(split, Axis(title=f"loss on {split} minus loss on train"), Axis(title="method"), marks))
    views.sort(key=lambda each: each["name"] != "test")
    return Figure(
        key=f"{group.key}-gaps",
        kind="intervals",
        title="Generalization gaps",
        shows=without(
            "Each mark is the mean loss on a split minus that on the training rows, with a bootstrap 95 % interval.",
            list(lacking),
            "a gap on every split",
        ),
        means=gaps_meaning(values),
        choose="split",
        views=views,
    )


def gaps_meaning(values: Mapping[str, Mapping[str, float]]) -> str:
    """Return what the gaps mean for choosing a method, from each method's gap by split."""
    worst = {split: max(gaps.values(), key=abs) for split, gaps in values.items() if gaps}
    split = max(worst, key=lambda name: abs(worst[name]), default=None)
    if split is None:
        return "No run has a finite gap, so this figure does not help to choose."
    gaps = values[split]
    least, most = min(gaps, key=lambda k: gaps[k]), max(gaps, key=lambda k: gaps[k])
    if least == most:
        return f"The gap of {least} is widest on {split} ({gaps[least]:+.3f})."
    return (
        f"The gap is widest on {split}, where {least} has the least ({gaps[least]:+.3f}) and {most} the most "
        f"({gaps[most]:+.3f}); where intervals overlap, the runs don't tell the methods apart."
    )


def _compute(inputs: SectionInputs) -> dict[str, Any]:
    return generalization(inputs.run.predictions, seed=inputs.config.seed)


SECTION = Section(
    name="generalization",
    about="the loss on rows outside of training minus the training loss, and G(W), with bootstrap intervals",
    needs=frozenset({Need.PREDICTIONS}),
    compute=_compute,
    headlines=(Headline(heading="G(W)", cell=gap_cell, place=10),),
    figures=(FigureEntry(draw=draw_gaps, place=30),),
    place=10,
)
