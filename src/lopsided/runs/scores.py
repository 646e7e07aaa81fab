"""What a run came to on each split: its score, its loss and the gap, with standard errors or the reason for none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lopsided.finite import rows_not_finite
from lopsided.runs.facts import Estimate, Predictions, ScoreFigure, SplitFigures
from lopsided.stats import difference_of_means_error
from lopsided.tasks import Metric, get_metric

NOT_ASKED = "the model was not asked for the answers that the score reads"


def split_figures(metric: Metric, rows: Predictions, also: Sequence[str] = ()) -> SplitFigures:
    """Compute the scores and the mean loss of one split; what can't be computed is None, with the reason.

    Where some rows have no token to predict, `rows_with_loss` counts those that the loss is the mean of.

    Args:
        metric: of the score that counts.
        rows: the model's answers to the split.
        also: further scores; those of answers that the model was not asked for on this split are left out.

    Example:
        >>> from lopsided.tasks import get_metric
        >>> one = {"prediction": np.array([1]), "label": np.array([1]), "loss": np.array([0.5])}
        >>> split_figures(get_metric("accuracy"), one).to_json()
        {'score': 1.0, 'se': None, 'loss': 0.5, 'rows': 1, 'why': {'se': 'one row has no standard error'}}
    """
    scored = _scored(metric, rows)
    others = {name: get_metric(name) for name in also}
    losses, count = row_losses(rows), int(rows["loss"].size)
    return SplitFigures(
        score=scored.score,
        loss=mean_loss(losses),
        rows=count,
        rows_with_loss=int(losses.size) if losses.size < count else None,
        signature=scored.signature,
        also={name: _scored(other, rows) for name, other in others.items() if _has_rows(other, rows)},
    )


def _has_rows(metric: Metric, rows: Predictions) -> bool:
    return all(name in rows for name in metric.entry.further)


def _scored(metric: Metric, rows: Predictions) -> ScoreFigure:
    if not _has_rows(metric, rows):
        return ScoreFigure(score=Estimate(value=None, why={"value": NOT_ASKED, "se": NOT_ASKED}))
    scored = metric.measure(rows)
    why = {{"score": "value", "se": "se"}[name]: reason for name, reason in scored.why.items()}
    return ScoreFigure(score=Estimate(value=scored.score, se=scored.se, why=why), signature=scored.signature)


def row_losses(rows: Predictions) -> np.ndarray:
    """Return the losses of the rows that have one: a row without a token to predict has no mean over its tokens.

    Example:
        >>> row_losses({"loss": np.array([0.5, 0.0]), "tokens": np.array([3, 0])})
        array([0.5])
    """
    losses = np.asarray(rows["loss"], dtype=np.float64)
    return losses[np.asarray(rows["tokens"]) > 0] if "tokens" in rows else losses


def mean_loss(losses: np.ndarray) -> Estimate:
    """Compute the mean of the rows' losses, without a standard error."""
    if reason := rows_not_finite("loss", losses):
        return Estimate(value=None, why={"value": reason})
    if losses.size == 0:
        return Estimate(value=None, why={"value": "there are no rows to predict"})
    return Estimate(value=float(losses.mean()))


def generalization_error(rows: Mapping[str, Predictions]) -> Estimate:
    """Compute G(W) = |test loss − training loss| at the checkpoint with the lowest validation loss.

    Returns:
        The value in nats (squared units for regression), and the standard error of the difference of two means of
        independent rows. Each is None where it can't be computed, with the reason.

    Source:
        Cadenhead et al. 2026, arXiv:2606.13767; the checkpoint is inferred from the text.
    """
    losses = {split: row_losses(rows[split]) for split in ("train", "test")}
    means = {split: mean_loss(values) for split, values in losses.items()}
    for split, mean in means.items():
        if mean.value is None:
            reason = f"{split}: {mean.why['value']}"
            return Estimate(value=None, why={"value": reason, "se": reason})
    train, test = (float(losses[split].mean()) for split in ("train", "test"))
    single = [split for split, values in losses.items() if values.size < 2]
    if single:
        reason = f"one row has no standard error ({' and '.join(single)})"
        return Estimate(value=abs(test - train), why={"se": reason})
    return Estimate(value=abs(test - train), se=difference_of_means_error(*losses.values()))
