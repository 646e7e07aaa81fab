"""Scores of written answers: exact match, BLEU and ROUGE, as sums over prompts.

Notation: `m` distinct prompts; `R_j` rows with prompt j, each with a reference of its own. All rows of a prompt have
the model's one answer to it, so rows are not independent of each other, and the unit that is resampled is the prompt.

sacrebleu and rouge-score count n-grams; they are of the extra `metrics`, and imported where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version

import numpy as np

READS = ("prompt", "answer", "reference")
ORDER = 4  # the longest n-grams of BLEU
STEMMER = True


def mean_over_rows(units: Mapping[str, np.ndarray]) -> float:
    """Compute sum_j total_j / sum_j R_j, the mean over all rows of these prompts."""
    return float(units["total"].sum() / units["rows"].sum())


def matches_of_prompts(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Count, by prompt, the rows whose answer is the reference, apart from blanks at either end.

    Example:
        >>> rows = {"prompt": np.array([0, 0, 1]), "answer": np.array(["a", "a", "b"])}
        >>> matches_of_prompts({**rows, "reference": np.array(["a", "c", "b "])})
        {'total': array([1., 1.]), 'rows': array([2, 1])}
    """
    return _by_prompt(rows, np.char.strip(rows["answer"]) == np.char.strip(rows["reference"]))


def rouge_of_prompts(name: str, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add up the F measure of ROUGE between each row's answer and its reference, by prompt.

    Args:
        name: "rouge1", "rouge2" or "rougeL".
        rows: a model's answers.

    Source:
        Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], use_stemmer=STEMMER)
    pairs = zip(rows["reference"].tolist(), rows["answer"].tolist())
    return _by_prompt(rows, np.array([scorer.score(reference, answer)[name].fmeasure for reference, answer in pairs]))


def rouge_signature(rows: Mapping[str, np.ndarray]) -> str:
    """Return how ROUGE is computed."""
    return f"F measure per row, mean over rows|stemmer:{'yes' if STEMMER else 'no'}|version:{version('rouge-score')}"


def ngrams_of_prompts(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Count what corpus BLEU is made of, by prompt: each answer against all references of its prompt.

    Shapes:
        matches, ngrams: (m, 4), n-grams of 1 to 4 tokens, those found in a reference and all of them.
        lengths: (m, 2), tokens of the answer and of the reference nearest in length.
    """
    from sacrebleu.metrics import BLEU

    # Effective order changes the score of one sentence, which is not read, and no count.
    counter = BLEU(effective_order=True)
    scores = [counter.sentence_score(answer, references) for answer, references in _prompts(rows)]
    return {
        "matches": np.array([score.counts for score in scores]),
        "ngrams": np.array([score.totals for score in scores]),
        "lengths": np.array([(score.sys_len, score.ref_len) for score in scores]),
    }


def bleu(units: Mapping[str, np.ndarray]) -> float:
    """Compute corpus BLEU, between 0 and 1, from counts: sacrebleu's default, smoothed where an order has no match.

    BLEU = min(1, exp(1 - r/c)) (prod_n matches_n / ngrams_n)^(1/4), with c and r the sums of `lengths`.

    Source:
        Papineni et al. 2002; Post 2018, "A call for clarity in reporting BLEU scores".
    """
    from sacrebleu.metrics import BLEU

    matches, ngrams, lengths = (units[name].sum(0).tolist() for name in ("matches", "ngrams", "lengths"))
    score = BLEU.compute_bleu(matches, ngrams, *lengths, smooth_method="exp", max_ngram_order=ORDER)
    return float(score.score) / 100


def bleu_signature(rows: Mapping[str, np.ndarray]) -> str:
    """Return sacrebleu's signature of the score: references, case, tokenizer, smoothing, version."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU()
    answers, references = zip(*_prompts(rows))
    # The signature says how many references there are, and knows it after a score alone.
    most = max(map(len, references))
    padded = [[*texts, *[None] * (most - len(texts))] for texts in references]
    scorer.corpus_score(list(answers), [list(stream) for stream in zip(*padded)])
    return str(scorer.get_signature())


def _prompts(rows: Mapping[str, np.ndarray]) -> Iterator[tuple[str, list[str]]]:
    """Yield each prompt's answer, and all references of its rows, in the order of the prompts' indices."""
    order = np.argsort(rows["prompt"], kind="stable")
    _, first = np.unique(rows["prompt"][order], return_index=True)
    for group in np.split(order, first[1:]):
        yield str(rows["answer"][group[0]]), rows["reference"][group].tolist()


def _by_prompt(rows: Mapping[str, np.ndarray], values: np.ndarray) -> dict[str, np.ndarray]:
    """Add up one value per row: total (m,) and rows (m,)."""
    _, group = np.unique(rows["prompt"], return_inverse=True)
    return {"total": np.bincount(group, weights=values), "rows": np.bincount(group)}
