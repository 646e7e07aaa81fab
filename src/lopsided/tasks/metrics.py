"""What a model's answers are worth, and how sure that figure is.

Notation: `n` rows; `p` a proportion of rows; `L_i` the mean token loss of row i over `T_i` tokens.
A metric reads arrays of length `n`, one entry a row:

    "prediction"   class index, or float for regression
    "label"        class index, or float for regression
    "loss"         L_i, nats per token
    "tokens"       T_i, a count

so it can be resampled over rows without running the model again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lopsided.errors import LopsidedError, nearest

Rows = Mapping[str, np.ndarray]


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
    # Without any 1 on either side there is nothing to find: 0, as scikit-learn has it.
    return float(_f1_by_class(confusion)[-1]) if len(confusion) == 2 else 0.0


def _f1_macro(rows: Rows) -> float:
    return float(_f1_by_class(_confusion(rows)).mean())


def _matthews(rows: Rows) -> float:
    """Matthews' coefficient for any number of classes; 0 where one side is constant.

    Source:
        Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    confusion = _confusion(rows).astype(np.float64)
    n, truth, called = confusion.sum(), confusion.sum(1), confusion.sum(0)
    spread = (n**2 - called @ called) * (n**2 - truth @ truth)
    return float((np.trace(confusion) * n - truth @ called) / np.sqrt(spread)) if spread > 0 else 0.0


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r; 0 where one side is constant, as scikit-learn does for Matthews' coefficient."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1.0, 1.0))


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties share their mean rank."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _pearson(rows: Rows) -> float:
    return _correlation(rows["prediction"], rows["label"])


def _spearman(rows: Rows) -> float:
    # A diverged model's NaN must stay NaN, and a rank would hide it.
    if not np.isfinite(rows["prediction"]).all():
        return float("nan")
    return _correlation(_ranks(rows["prediction"]), _ranks(rows["label"]))


def _perplexity(rows: Rows) -> float:
    tokens = np.asarray(rows["tokens"], np.float64)
    if tokens.sum() == 0:
        raise LopsidedError("perplexity needs at least one token: received 0 over all rows; check the labels")
    # A row without tokens has no mean loss (often NaN), and no weight either.
    loss = np.where(tokens > 0, rows["loss"], 0.0)
    return float(np.exp(loss @ tokens / tokens.sum()))


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
                f"received '{self.name}';{nearest(self.name, SCORES) or ' choose one of them'}"
            )
        if self.greater_is_better != SCORES[self.name].greater_is_better:
            raise LopsidedError(
                f"metric {self.name} has greater_is_better={SCORES[self.name].greater_is_better}: "
                f"received {self.greater_is_better}; use get_metric('{self.name}')"
            )

    def value(self, rows: Rows) -> float:
        """The score over all rows.

        perplexity = exp(sum_i L_i T_i / sum_i T_i); a correlation with a constant side is 0.

        Raises:
            LopsidedError: if an array that the metric reads is missing, empty or of another length.
        """
        return SCORES[self.name].function(_checked(self, rows))

    def standard_error(self, rows: Rows, *, seed: int = 0, resamples: int = 300) -> float:
        """The standard error of `value` under resampling of the rows.

        accuracy: sqrt(p (1 - p) / n). Every other metric: the standard deviation of `value` over
        `resamples` bootstrap samples of the rows, drawn from `seed`.
        """
        rows = _checked(self, rows)
        if self.name == "accuracy":
            p = self.value(rows)
            return float(np.sqrt(p * (1 - p) / _length(rows)))
        function = SCORES[self.name].function
        return float(np.std([function(_take(rows, i)) for i in _resamples(_length(rows), seed, resamples)], ddof=1))


def get_metric(name: str) -> Metric:
    """The metric of that name, with the direction that goes with it.

    Raises:
        LopsidedError: if the name is unknown; the message lists the known ones.
    """
    return Metric(name, SCORES[name].greater_is_better if name in SCORES else True)


def difference_standard_error(
    metric: Metric, rows_a: Rows, rows_b: Rows, *, seed: int = 0, resamples: int = 300
) -> float:
    """The standard error of `metric.value(rows_a) - metric.value(rows_b)` on the same rows.

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
    if metric.name == "accuracy":
        right_a, right_b = a["prediction"] == a["label"], b["prediction"] == b["label"]
        return float(np.std(right_a.astype(float) - right_b.astype(float)) / np.sqrt(_length(a)))
    function = SCORES[metric.name].function
    draws = _resamples(_length(a), seed, resamples)
    return float(np.std([function(_take(a, i)) - function(_take(b, i)) for i in draws], ddof=1))


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
