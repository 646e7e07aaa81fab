"""Scores of a model's answers: the table of them, and the functions that compute them.

Notation: `n` rows; `L_i` the mean token loss of row i over `T_i` tokens. A score reads arrays of length `n`:

    "prediction"     class index, or float for regression
    "label"          class index, or float for regression
    "loss"           L_i, nats per token
    "tokens"         T_i, a count
    "right_tokens"   how many of the T_i were the most likely ones, each after the right tokens before it
    "first_right"    whether the first of them was: 0 or 1
    "prompt"         which prompt of the split the row has, an index; rows that share one have one answer
    "answer"         the text that the model wrote to the prompt
    "reference"      the text that it should have written
    "chosen"         which of the split's distinct completions is the likeliest after the prompt, an index
    "right_option"   which of them is the row's own

so it can be resampled without running the model again. What is resampled are units: rows, or prompts with all their
rows where the score is of answers. One more score is a function and an entry in `SCORES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.finite import rows_not_finite
from lopsided.stats import ranks
from lopsided.tasks import text_scores

Answers = Mapping[str, np.ndarray]
# Keys of `lopsided.runs.further_rows.FURTHER`, which makes them.
FURTHER = ("answer", "chosen")

# exp of more is infinite in float64.
LARGEST_EXPONENT = math.log(np.finfo(np.float64).max)


class Undefined(Exception):
    """The rows do not define the score; the text says why."""


def _accuracy(rows: Answers) -> float:
    return float(np.mean(rows["prediction"] == rows["label"]))


def _confusion(rows: Answers) -> np.ndarray:
    """Count C[i, j], the rows of class i that were called j."""
    label, prediction = rows["label"].astype(np.int64), rows["prediction"].astype(np.int64)
    classes = int(max(label.max(), prediction.max())) + 1
    # One count over pairs, and no loop over classes: a bootstrap asks hundreds of times.
    return np.bincount(label * classes + prediction, minlength=classes**2).reshape(classes, classes)


def _f1_by_class(confusion: np.ndarray) -> np.ndarray:
    """Compute 2 hits / (rows of the class + rows called so), for the classes that occur on either side."""
    occurrences = confusion.sum(0) + confusion.sum(1)
    return 2 * np.diag(confusion)[occurrences > 0] / occurrences[occurrences > 0]


def _f1(rows: Answers) -> float:
    confusion = _confusion(rows)
    if len(confusion) > 2:
        raise LopsidedError(
            f"f1 is for two classes, 0 and 1: received class {len(confusion) - 1}; use metric='f1_macro'"
        )
    if len(confusion) == 1:
        raise Undefined("no row has or was given class 1, so that there is nothing to find")
    return float(_f1_by_class(confusion)[-1])


def _f1_macro(rows: Answers) -> float:
    return float(_f1_by_class(_confusion(rows)).mean())


def _matthews(rows: Answers) -> float:
    """Compute Matthews' coefficient for any number of classes; undefined where one side is constant.

    Source:
        Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    confusion = _confusion(rows).astype(np.float64)
    n, truth, called = confusion.sum(), confusion.sum(1), confusion.sum(0)
    spread = (n**2 - called @ called) * (n**2 - truth @ truth)
    if not spread > 0:
        raise Undefined(_constant(len(np.flatnonzero(called)) == 1))
    return float((np.trace(confusion) * n - truth @ called) / np.sqrt(spread))


def _constant(predictions: bool) -> str:
    return f"all {'predictions' if predictions else 'labels'} are equal, and nothing correlates with a constant"


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Compute Pearson's r of predictions and labels; undefined where one side is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise Undefined(_constant(bool(np.ptp(x) == 0)))
    x, y = x - x.mean(), y - y.mean()
    # Each side is divided by its own norm: the product of two small norms could be zero.
    r = float((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)))
    if not math.isfinite(r):
        raise Undefined("predictions or labels are too large or too near to each other for a correlation")
    return min(1.0, max(-1.0, r))


def _pearson(rows: Answers) -> float:
    return _correlation(rows["prediction"], rows["label"])


def _spearman(rows: Answers) -> float:
    return _correlation(ranks(rows["prediction"]), ranks(rows["label"]))


def _perplexity(rows: Answers) -> float:
    tokens = np.asarray(rows["tokens"], np.float64)
    if tokens.sum() == 0:
        raise LopsidedError("perplexity needs at least one token: received 0 over all rows; check the labels")
    # A row without tokens has no mean loss (often NaN), and no weight either.
    loss = np.where(tokens > 0, rows["loss"], 0.0)
    if reason := rows_not_finite("loss", loss):
        raise Undefined(reason)
    mean = float(loss @ tokens / tokens.sum())
    if mean > LARGEST_EXPONENT:
        raise Undefined(f"the mean loss of {mean:.4g} nats is too large for a perplexity")
    return math.exp(mean)


def _token_accuracy(rows: Answers) -> float:
    """Compute the share of tokens that are the most likely ones, each after the right tokens before it."""
    return float(rows["right_tokens"].sum() / _at_least_one(rows["tokens"].sum(), "token_accuracy"))


def _greedy_match(rows: Answers) -> float:
    """Compute the share of rows of which every token is the most likely one.

    Greedy decoding writes a row's tokens if and only if each is the most likely one after those before it, so this is
    the exact match of tokens without decoding.
    """
    learned = rows["tokens"] > 0
    whole = learned & (rows["right_tokens"] == rows["tokens"])
    return float(whole.sum() / _at_least_one(learned.sum(), "greedy_match"))


def _top1_token(rows: Answers) -> float:
    """Compute the share of rows whose first token is the most likely one after the prompt.

    Source:
        MMLU as Zhu et al. 2024, arXiv:2402.16842, score it: one token, greedily, against the option's letter.
    """
    learned = rows["tokens"] > 0
    return float(rows["first_right"][learned].sum() / _at_least_one(learned.sum(), "top1_token"))


def _at_least_one(count: int, name: str) -> int:
    if count == 0:
        raise LopsidedError(f"{name} needs at least one token: received 0 over all rows; check the labels")
    return count


def _rows(rows: Answers) -> dict[str, np.ndarray]:
    return dict(rows)


@dataclass(frozen=True, kw_only=True)
class Score:
    """An entry of `SCORES`.

    Args:
        function: computes the score of units, or raises `Undefined`.
        reads: the arrays that it is computed from.
        units: makes the units of these arrays; the rows themselves by default. What is slow is done here, once, and
            `function` adds up: a bootstrap calls it hundreds of times.
        kinds: the kinds of task that it is for.
        greater_is_better: the direction in which a model improves.
        unit: how the score is written, a key of `lopsided.formatting.UNITS`.
        is_share: whether it is the share of rows whose prediction is the label, of which standard errors have a closed
            form; those of other scores are resampled.
        package: the library that computes it, of the extra `metrics`; "" for none.
        signature: returns, for some rows, how the library computes the score: its version and settings.
    """

    function: Callable[[Answers], float]
    reads: tuple[str, ...]
    kinds: tuple[str, ...]
    greater_is_better: bool = True
    unit: str = "score"
    is_share: bool = False
    units: Callable[[Answers], dict[str, np.ndarray]] = _rows
    package: str = ""
    signature: Callable[[Answers], str] | None = None

    @property
    def further(self) -> tuple[str, ...]:
        """Those of its arrays that take further passes of the model, after training."""
        return tuple(name for name in FURTHER if name in self.reads)


def _rouge(name: str) -> Score:
    return Score(
        function=text_scores.mean_over_rows,
        units=lambda rows: text_scores.rouge_of_prompts(name, rows),
        reads=text_scores.READS,
        kinds=("generation",),
        unit="points",
        package="rouge_score",
        signature=text_scores.rouge_signature,
    )


ANSWERED = ("prediction", "label")
# "tokens" is read where the rows of two models are compared, and tells the rows without any.
COUNTED = ("tokens", "right_tokens")
SCORES: dict[str, Score] = {
    "accuracy": Score(
        function=_accuracy, reads=ANSWERED, kinds=("classification", "choice"), unit="percent", is_share=True
    ),
    "f1": Score(function=_f1, reads=ANSWERED, kinds=("classification",), unit="percent"),
    "f1_macro": Score(function=_f1_macro, reads=ANSWERED, kinds=("classification",), unit="percent"),
    "matthews_correlation": Score(function=_matthews, reads=ANSWERED, kinds=("classification",)),
    "pearson": Score(function=_pearson, reads=ANSWERED, kinds=("regression",)),
    "spearman": Score(function=_spearman, reads=ANSWERED, kinds=("regression",)),
    "perplexity": Score(
        function=_perplexity,
        reads=("loss", "tokens"),
        kinds=("generation",),
        greater_is_better=False,
        unit="perplexity",
    ),
    "token_accuracy": Score(function=_token_accuracy, reads=COUNTED, kinds=("generation",), unit="percent"),
    "greedy_match": Score(function=_greedy_match, reads=COUNTED, kinds=("generation",), unit="percent"),
    "top1_token": Score(function=_top1_token, reads=("tokens", "first_right"), kinds=("generation",), unit="percent"),
    "option_accuracy": Score(
        function=_accuracy,
        units=lambda rows: {"prediction": rows["chosen"], "label": rows["right_option"]},
        reads=("chosen", "right_option"),
        kinds=("generation",),
        unit="percent",
        is_share=True,
    ),
    "exact_match": Score(
        function=text_scores.mean_over_rows,
        units=text_scores.matches_of_prompts,
        reads=text_scores.READS,
        kinds=("generation",),
        unit="percent",
    ),
    "bleu": Score(
        function=text_scores.bleu,
        units=text_scores.ngrams_of_prompts,
        reads=text_scores.READS,
        kinds=("generation",),
        unit="points",
        package="sacrebleu",
        signature=text_scores.bleu_signature,
    ),
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
}
