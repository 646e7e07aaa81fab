"""A task's metric: a named score of a model's answers, and how sure that figure is.

Notation: `n` rows; `p` a proportion of rows. The arrays that a metric reads are those of `score_functions`. A score
that the rows do not define is NaN and never a number in its place; `Metric.measure` says why.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lopsided.errors import LopsidedError, suggestion
from lopsided.finite import rows_not_finite
from lopsided.stats import row_draws
from lopsided.tasks.score_functions import ANSWERED, SCORES, Answers, Score, Undefined

# What the rows of two models have in common if they are the same rows.
SHARED = ("tokens", "label", "prompt", "reference", "right_option")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A score with its standard error, each None where it cannot be computed.

    Args:
        score: over all rows.
        se: its standard error under resampling of the rows.
        why: the reason for each that is None, by "score" or "se".
        signature: how a library computed the score: its version and settings; "" for scores of this module.
    """

    score: float | None
    se: float | None
    why: dict[str, str] = field(default_factory=dict)
    signature: str = ""


@dataclass(frozen=True)
class Metric:
    """A named score of a model's answers; `get_metric` makes one.

    Args:
        name: a key of `SCORES`.
        greater_is_better: the direction in which a model improves.

    Raises:
        LopsidedError: if the name is unknown, or the direction is not the score's.

    Example:
        >>> rows = {"prediction": np.array([1, 0, 1, 1]), "label": np.array([1, 0, 0, 1])}
        >>> get_metric("accuracy").value(rows)
        0.75
        >>> round(get_metric("accuracy").standard_error(rows), 4)
        0.2165
    """

    name: str
    greater_is_better: bool

    def __post_init__(self) -> None:
        if self.name not in SCORES:
            raise LopsidedError(
                f"unknown metric: expected one of {', '.join(SCORES)}; "
                f"received '{self.name}'{suggestion(self.name, SCORES, 'choose one of them')}"
            )
        if self.greater_is_better != self.entry.greater_is_better:
            raise LopsidedError(
                f"metric {self.name} has greater_is_better={self.entry.greater_is_better}: "
                f"received {self.greater_is_better}; use get_metric('{self.name}')"
            )

    @property
    def entry(self) -> Score:
        """The metric's entry in `SCORES`."""
        return SCORES[self.name]

    def units(self, rows: Answers) -> dict[str, np.ndarray]:
        """Return what is resampled: one entry per row, or per prompt for a score of written answers.

        Computed once, since it may be slow; `of_units` of any draw of them is fast.

        Raises:
            LopsidedError: as `value` does.
            Undefined: if the model gave some row no finite answer.
        """
        arrays = _checked(self, rows)
        _check_answers(rows, arrays)
        return self.entry.units(arrays)

    def of_units(self, units: Answers) -> float:
        """Compute the score of units, or of a draw of them.

        Raises:
            Undefined: if they do not define it.
        """
        return self.entry.function(units)

    def value(self, rows: Answers) -> float:
        """Compute the score over all rows; NaN where they do not define it.

        perplexity = exp(sum_i L_i T_i / sum_i T_i). These are undefined: a correlation with a constant side, F1 where
        neither side has class 1, a score of rows that the model gave no finite answer to, and a perplexity that is too
        large for a float.

        Raises:
            LopsidedError: if an array that the metric reads is missing, empty or of another length.
        """
        score = self.measure(rows, resamples=0).score
        return math.nan if score is None else score

    def standard_error(self, rows: Answers, *, seed: int = 0, resamples: int = 300) -> float:
        """Compute the standard error of `value` under resampling of the rows; NaN where there is none.

        accuracy: sqrt(p (1 - p) / n). Every other metric: the standard deviation of `value` over
        `resamples` bootstrap samples of the rows (of the prompts, with all rows of each, for a score of written
        answers), drawn from `seed`. One row has none, and neither has a score that some of the samples do not define.
        """
        _check_resamples(resamples)
        se = self.measure(rows, seed=seed, resamples=resamples).se
        return math.nan if se is None else se

    def measure(self, rows: Answers, *, seed: int = 0, resamples: int = 300) -> Scored:
        """Compute `value` and `standard_error`, or say why there is none.

        Args:
            rows: a model's answers.
            seed: of the bootstrap.
            resamples: of the bootstrap; 0 leaves the standard error out.

        Raises:
            LopsidedError: as `value` does.

        Example:
            >>> rows = {"prediction": np.array([1, 1]), "label": np.array([1, 0])}
            >>> get_metric("matthews_correlation").measure(rows).why["score"]
            'all predictions are equal, and nothing correlates with a constant'
        """
        try:
            units = self.units(rows)
            score = self.of_units(units)
        except Undefined as error:
            return Scored(score=None, se=None, why={"score": str(error), "se": str(error)})
        signature = "" if self.entry.signature is None else self.entry.signature(rows)
        if resamples == 0:
            return Scored(score=score, se=None, signature=signature)
        try:
            se = _standard_error(self, score, units, seed, resamples)
        except Undefined as error:
            return Scored(score=score, se=None, why={"se": str(error)}, signature=signature)
        return Scored(score=score, se=se, signature=signature)


def get_metric(name: str) -> Metric:
    """Return the metric of that name, with the direction that goes with it.

    Raises:
        LopsidedError: if the name is unknown (the message lists the known ones), or its library is not installed.
    """
    metric = Metric(name, SCORES[name].greater_is_better if name in SCORES else True)
    package = metric.entry.package
    if package and importlib.util.find_spec(package) is None:
        raise LopsidedError(
            f"metric {name} needs the package {package.replace('_', '-')}, which is not installed; expected the extra "
            "'metrics'; pip install lopsided[metrics]"
        )
    return metric


def difference_standard_error(
    metric: Metric, rows_a: Answers, rows_b: Answers, *, seed: int = 0, resamples: int = 300
) -> float:
    """Compute the standard error of `metric.value(rows_a) - metric.value(rows_b)` on the same rows; NaN for none.

    Pairing takes out the difficulty that the rows have in common, so this is usually much smaller
    than the two separate errors added in quadrature.

    accuracy: with d_i in {-1, 0, 1} the difference of correctness in row i, std(d) / sqrt(n).
    Every other metric: a bootstrap that draws the same rows for both sides.

    Raises:
        LopsidedError: if the two sides do not hold the same labels (or token counts) in the same order.
    """
    a, b = _checked(metric, rows_a), _checked(metric, rows_b)
    for shared in SHARED:
        if shared in a and not np.array_equal(a[shared], b[shared]):
            raise LopsidedError(
                f"a paired comparison needs the same rows on both sides: '{shared}' differs "
                f"({_length(a)} and {_length(b)} rows); evaluate both on one split, in one order"
            )
    try:
        a, b = metric.units(rows_a), metric.units(rows_b)
        _check_two(_length(a))
        if metric.entry.is_share:
            right_a, right_b = a["prediction"] == a["label"], b["prediction"] == b["label"]
            return float(np.std(right_a.astype(float) - right_b.astype(float)) / np.sqrt(_length(a)))
        function, draws = metric.of_units, _resamples(_length(a), seed, resamples)
        return _spread(lambda index: function(_take(a, index)) - function(_take(b, index)), draws)
    except Undefined:
        return math.nan


# -- standard errors ---------------------------------------------------------------------------------------------


def _standard_error(metric: Metric, score: float, units: dict[str, np.ndarray], seed: int, resamples: int) -> float:
    n = _length(units)
    _check_two(n, "prompt" in metric.entry.reads)
    if metric.entry.is_share:
        return float(np.sqrt(score * (1 - score) / n))
    return _spread(lambda index: metric.of_units(_take(units, index)), _resamples(n, seed, resamples))


def _resamples(n: int, seed: int, resamples: int) -> list[np.ndarray]:
    _check_resamples(resamples)
    return list(row_draws(n, resamples, seed=seed))


def _spread(figure: Callable[[np.ndarray], float], draws: Sequence[np.ndarray]) -> float:
    """Compute the standard deviation of a figure over draws of rows, all of which must define it.

    The spread of the other draws alone would be too small: the undefined ones are the extreme ones.
    """
    values, undefined = [], 0
    for index in draws:
        try:
            values.append(figure(index))
        except Undefined:
            undefined += 1
    if undefined:
        raise Undefined(f"the score is undefined in {undefined} of {len(draws)} samples of the rows")
    return float(np.std(values, ddof=1))


def _take(rows: Answers, index: np.ndarray) -> dict[str, np.ndarray]:
    return {key: array[index] for key, array in rows.items()}


def _length(rows: Answers) -> int:
    return len(next(iter(rows.values())))


# -- checks ------------------------------------------------------------------------------------------------------


def _check_resamples(resamples: int) -> None:
    if resamples < 2:
        raise LopsidedError(f"a bootstrap needs at least 2 resamples: received {resamples}; 300 is usual")


def _check_two(n: int, of_prompts: bool = False) -> None:
    if n < 2:
        raise Undefined(f"one {'prompt' if of_prompts else 'row'} has no standard error")


def _check_answers(rows: Answers, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise `Undefined` unless the model answered every row: the largest of logits that are NaN is still some class."""
    # A row's loss is NaN where its outputs are, and is kept next to its answer.
    checked = {"loss": rows["loss"]} if "loss" in rows and "loss" not in arrays else {}
    for name, array in {**checked, **{key: arrays[key] for key in ANSWERED if key in arrays}}.items():
        # An infinite loss may belong to a finite answer: one that the model holds for impossible.
        if reason := rows_not_finite(name, np.asarray(array, np.float64), allow_infinite=name == "loss"):
            raise Undefined(reason)


def _checked(metric: Metric, rows: Answers) -> dict[str, np.ndarray]:
    """Return the arrays that the metric reads, all of one length."""
    reads = metric.entry.reads
    missing = [key for key in reads if key not in rows]
    if missing:
        raise LopsidedError(
            f"metric {metric.name} reads {', '.join(reads)}: received {', '.join(rows) or 'nothing'}; "
            f"add {', '.join(missing)}"
        )
    arrays = {key: np.asarray(rows[key]) for key in reads}
    shapes = {key: array.shape for key, array in arrays.items()}
    if len(set(shapes.values())) != 1 or arrays[reads[0]].ndim != 1 or arrays[reads[0]].size == 0:
        raise LopsidedError(
            f"metric {metric.name} expects one entry per row, at least one row: received shapes {shapes}; "
            "pass class indices rather than logits, and evaluate at least one row"
        )
    return arrays
