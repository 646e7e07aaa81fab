"""What a model's answers are worth, and how sure that figure is.

Notation: `n` rows; `p` a proportion of rows; `L_i` the mean token loss of row i over `T_i` tokens.
A metric reads arrays of length `n`, one entry a row:

    "prediction"   class index, or float for regression
    "label"        class index, or float for regression
    "loss"         L_i, nats per token
    "tokens"       T_i, a count

so it can be resampled over rows without running the model again. A score that the rows do not define is NaN and never
a number in its place; `Metric.measure` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lopsided.errors import LopsidedError, suggestion

Rows = Mapping[str, np.ndarray]


class _Undefined(Exception):
    """These rows do not define the score; the text says why."""


def _accuracy(rows: Rows) -> float:
    return float(np.mean(rows["prediction"] == rows["label"]))


def _confusion(rows: Rows) -> np.ndarray:
    """C[i, j] rows of class i were called j. Counted once: a bootstrap asks hundreds of times."""
    label, prediction = rows["label"].astype(np.int64), rows["prediction"].astype(np.int64)
    classes = int(max(label.max(), prediction.max())) + 1
    return np.bincount(label * classes + prediction, minlength=classes**2).reshape(classes, classes)


def _f1_by_class(confusion: np.ndarray) -> np.ndarray:
    """2 hits / (rows of the class + rows called so), for the classes that occur on either side."""
    occurs = confusion.sum(0) + confusion.sum(1)
    return 2 * np.diag(confusion)[occurs > 0] / occurs[occurs > 0]


def _f1(rows: Rows) -> float:
    confusion = _confusion(rows)
    if len(confusion) > 2:
        raise LopsidedError(
            f"f1 is for two classes, 0 and 1: received class {len(confusion) - 1}; use metric='f1_macro'"
        )
    if len(confusion) == 1:
        raise _Undefined("no row has or was given class 1, so that there is nothing to find")
    return float(_f1_by_class(confusion)[-1])


def _f1_macro(rows: Rows) -> float:
    return float(_f1_by_class(_confusion(rows)).mean())


def _matthews(rows: Rows) -> float:
    """Matthews' coefficient for any number of classes; undefined where one side is constant.

    Source:
        Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    confusion = _confusion(rows).astype(np.float64)
    n, truth, called = confusion.sum(), confusion.sum(1), confusion.sum(0)
    spread = (n**2 - called @ called) * (n**2 - truth @ truth)
    if not spread > 0:
        raise _Undefined(_constant(len(np.flatnonzero(called)) == 1))
    return float((np.trace(confusion) * n - truth @ called) / np.sqrt(spread))


def _constant(predictions: bool) -> str:
    return f"all {'predictions' if predictions else 'labels'} are equal, and nothing correlates with a constant"


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of predictions and labels; undefined where one side is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise _Undefined(_constant(bool(np.ptp(x) == 0)))
    x, y = x - x.mean(), y - y.mean()
    # One after the other: the product of two small norms would be zero.
    found = float((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)))
    if not math.isfinite(found):
        raise _Undefined("predictions or labels are too large or too near to each other for a correlation")
    return min(1.0, max(-1.0, found))


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties share their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _pearson(rows: Rows) -> float:
    return _correlation(rows["prediction"], rows["label"])


def _spearman(rows: Rows) -> float:
    return _correlation(_ranks(rows["prediction"]), _ranks(rows["label"]))


def _perplexity(rows: Rows) -> float:
    tokens = np.asarray(rows["tokens"], np.float64)
    if tokens.sum() == 0:
        raise LopsidedError("perplexity needs at least one token: received 0 over all rows; check the labels")
    # A row without tokens has no mean loss (often NaN), and no weight either.
    loss = np.where(tokens > 0, rows["loss"], 0.0)
    if bad := int((~np.isfinite(loss)).sum()):
        raise _Undefined(f"the loss of {bad} of {len(loss)} rows is not finite")
    mean = float(loss @ tokens / tokens.sum())
    if mean > LARGEST_EXPONENT:
        raise _Undefined(f"the mean loss of {mean:.4g} nats is too large for a perplexity")
    return math.exp(mean)


# exp of more is infinite in float64.
LARGEST_EXPONENT = math.log(np.finfo(np.float64).max)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One entry of the registry: a function of rows, what it reads, and where it applies."""

    function: Callable[[Rows], float]
    reads: tuple[str, ...]
    kinds: tuple[str, ...]
    greater_is_better: bool = True


_ANSWERS = ("prediction", "label")
SCORES: dict[str, Score] = {
    "accuracy": Score(function=_accuracy, reads=_ANSWERS, kinds=("classification",)),
    "f1": Score(function=_f1, reads=_ANSWERS, kinds=("classification",)),
    "f1_macro": Score(function=_f1_macro, reads=_ANSWERS, kinds=("classification",)),
    "matthews_correlation": Score(function=_matthews, reads=_ANSWERS, kinds=("classification",)),
    "pearson": Score(function=_pearson, reads=_ANSWERS, kinds=("regression",)),
    "spearman": Score(function=_spearman, reads=_ANSWERS, kinds=("regression",)),
    "perplexity": Score(function=_perplexity, reads=("loss", "tokens"), kinds=("generation",), greater_is_better=False),
}

DEFAULT = {"classification": "accuracy", "regression": "pearson", "generation": "perplexity"}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A score with its standard error, each None where it can't be computed.

    Args:
        why: the reason for each that is None, by "score" or "se".
    """

    score: float | None
    se: float | None
    why: dict[str, str] = field(default_factory=dict)


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
        if self.greater_is_better != SCORES[self.name].greater_is_better:
            raise LopsidedError(
                f"metric {self.name} has greater_is_better={SCORES[self.name].greater_is_better}: "
                f"received {self.greater_is_better}; use get_metric('{self.name}')"
            )

    def value(self, rows: Rows) -> float:
        """The score over all rows; NaN where they do not define it.

        perplexity = exp(sum_i L_i T_i / sum_i T_i). A correlation with a constant side is undefined, and so is F1 where
        neither side has class 1, a score of rows that the model gave no finite answer to, and a perplexity that is
        too large for a float.

        Raises:
            LopsidedError: if an array that the metric reads is missing, empty or of another length.
        """
        score = self.measure(rows, resamples=0).score
        return math.nan if score is None else score

    def standard_error(self, rows: Rows, *, seed: int = 0, resamples: int = 300) -> float:
        """The standard error of `value` under resampling of the rows; NaN where there is none.

        accuracy: sqrt(p (1 - p) / n). Every other metric: the standard deviation of `value` over
        `resamples` bootstrap samples of the rows, drawn from `seed`. One row has none, nor has a score that some of
        the samples do not define.
        """
        if resamples < 2:
            raise LopsidedError(f"a bootstrap needs at least 2 resamples: received {resamples}; 300 is usual")
        se = self.measure(rows, seed=seed, resamples=resamples).se
        return math.nan if se is None else se

    def measure(self, rows: Rows, *, seed: int = 0, resamples: int = 300) -> Scored:
        """`value` and `standard_error`, or why there is none.

        Args:
            resamples: of the bootstrap; 0 leaves the standard error out.

        Raises:
            LopsidedError: as `value` does.

        Example:
            >>> rows = {"prediction": np.array([1, 1]), "label": np.array([1, 0])}
            >>> get_metric("matthews_correlation").measure(rows).why["score"]
            'all predictions are equal, and nothing correlates with a constant'
        """
        arrays = _checked(self, rows)
        try:
            _check_answers(rows, arrays)
            score = SCORES[self.name].function(arrays)
        except _Undefined as error:
            return Scored(score=None, se=None, why={"score": str(error), "se": str(error)})
        if resamples == 0:
            return Scored(score=score, se=None)
        try:
            return Scored(score=score, se=_standard_error(self, score, arrays, seed, resamples))
        except _Undefined as error:
            return Scored(score=score, se=None, why={"se": str(error)})


def _standard_error(metric: Metric, score: float, rows: dict[str, np.ndarray], seed: int, resamples: int) -> float:
    n = _length(rows)
    _check_two(n)
    if metric.name == "accuracy":
        return float(np.sqrt(score * (1 - score) / n))
    function = SCORES[metric.name].function
    return _spread(lambda index: function(_take(rows, index)), _resamples(n, seed, resamples))


def _check_two(n: int) -> None:
    if n < 2:
        raise _Undefined("one row has no standard error")


def _spread(figure: Callable[[np.ndarray], float], draws: Sequence[np.ndarray]) -> float:
    """The standard deviation over draws of rows. One that is undefined would leave the spread of the others alone."""
    found, undefined = [], 0
    for index in draws:
        try:
            found.append(figure(index))
        except _Undefined:
            undefined += 1
    if undefined:
        raise _Undefined(f"the score is undefined in {undefined} of {len(draws)} samples of the rows")
    return float(np.std(found, ddof=1))


def _check_answers(rows: Rows, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise unless the model answered every row: the largest of logits that are NaN is some class all the same."""
    # A row's loss is NaN where its outputs are, and is kept next to its answer.
    looked_at = {"loss": rows["loss"]} if "prediction" in arrays and "loss" in rows else {}
    for name, array in {**looked_at, **{key: arrays[key] for key in _ANSWERS if key in arrays}}.items():
        values = np.asarray(array, np.float64)
        bad = int((np.isnan(values) if name == "loss" else ~np.isfinite(values)).sum())
        if bad:
            raise _Undefined(f"the {name} of {bad} of {len(values)} rows is not finite")


def get_metric(name: str) -> Metric:
    """The metric of that name, with the direction that goes with it.

    Raises:
        LopsidedError: if the name is unknown; the message lists the known ones.
    """
    return Metric(name, SCORES[name].greater_is_better if name in SCORES else True)


def difference_standard_error(
    metric: Metric, rows_a: Rows, rows_b: Rows, *, seed: int = 0, resamples: int = 300
) -> float:
    """The standard error of `metric.value(rows_a) - metric.value(rows_b)` on the same rows; NaN where there is none.

    Pairing takes out the difficulty that the rows have in common, so this is usually much smaller
    than the two separate errors added in quadrature.

    accuracy: with d_i in {-1, 0, 1} the difference of correctness in row i, std(d) / sqrt(n).
    Every other metric: a bootstrap that draws the same rows for both sides.

    Raises:
        LopsidedError: if the two sides do not hold the same labels (or token counts) in the same order.
    """
    a, b = _checked(metric, rows_a), _checked(metric, rows_b)
    shared = "tokens" if "tokens" in a else "label"
    if not np.array_equal(a[shared], b[shared]):
        raise LopsidedError(
            f"a paired comparison needs the same rows on both sides: '{shared}' differs "
            f"({_length(a)} and {_length(b)} rows); evaluate both on one split, in one order"
        )
    try:
        _check_two(_length(a))
        _check_answers(rows_a, a)
        _check_answers(rows_b, b)
        if metric.name == "accuracy":
            right_a, right_b = a["prediction"] == a["label"], b["prediction"] == b["label"]
            return float(np.std(right_a.astype(float) - right_b.astype(float)) / np.sqrt(_length(a)))
        function = SCORES[metric.name].function
        draws = _resamples(_length(a), seed, resamples)
        return _spread(lambda index: function(_take(a, index)) - function(_take(b, index)), draws)
    except _Undefined:
        return math.nan


def _checked(metric: Metric, rows: Rows) -> dict[str, np.ndarray]:
    reads = SCORES[metric.name].reads
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
            f"metric {metric.name} expects one entry a row, at least one row: received shapes {shapes}; "
            "pass class indices rather than logits, and evaluate at least one row"
        )
    return arrays


def _length(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def _take(rows: Rows, index: np.ndarray) -> dict[str, np.ndarray]:
    return {key: array[index] for key, array in rows.items()}


def _resamples(n: int, seed: int, resamples: int) -> list[np.ndarray]:
    if resamples < 2:
        raise LopsidedError(f"a bootstrap needs at least 2 resamples: received {resamples}; 300 is usual")
    generator = np.random.RandomState(seed)
    return [generator.randint(0, n, size=n) for _ in range(resamples)]
