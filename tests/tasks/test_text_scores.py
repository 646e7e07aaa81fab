"""BLEU, ROUGE and exact match next to the libraries that define them, over written answers of all kinds."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from lopsided.errors import LopsidedError
from lopsided.tasks.metrics import get_metric
from tests.tasks.test_metrics import written

TEXT = st.text("ab .,é-", max_size=12)


def rows_of(prompts: list[tuple[str, list[str]]]) -> dict[str, np.ndarray]:
    """Rows of prompts, each an answer and its references."""
    rows = [(i, answer, text) for i, (answer, texts) in enumerate(prompts) for text in texts]
    columns = zip(*rows)
    return {name: np.array(column) for name, column in zip(("prompt", "answer", "reference"), columns)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=2)), min_size=1, max_size=6))
def test_bleu_is_sacrebleus_corpus_bleu(prompts):
    answers, references = zip(*prompts)
    expected = BLEU().corpus_score(list(answers), [list(stream) for stream in zip(*references)]).score
    assert get_metric("bleu").value(rows_of(prompts)) == pytest.approx(expected / 100, abs=1e-12)


def test_bleu_of_prompts_with_as_many_references_as_they_have():
    prompts = [
        ("the cat sat on the mat", ["the cat sat on a mat", "a cat sat on the mat today"]),
        ("he ran off", ["he ran off quickly"]),
        ("it rose and rose", ["it rose", "it rose and sank", "it rose and rose again"]),
    ]
    streams = [[texts[k] if k < len(texts) else None for _, texts in prompts] for k in range(3)]
    library = BLEU()
    expected = library.corpus_score([answer for answer, _ in prompts], streams).score
    order = np.random.RandomState(0).permutation(6)
    rows = {name: array[order] for name, array in rows_of(prompts).items()}
    found = get_metric("bleu").measure(rows)
    assert found.score == pytest.approx(expected / 100)
    assert expected == pytest.approx(90.76, abs=0.01)
    assert found.signature == str(library.get_signature())
    assert found.signature.startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_mean_over_rows_of_the_librarys(name):
    rows, scorer = written(1), RougeScorer([name], use_stemmer=True)
    pairs = zip(rows["reference"], rows["answer"])
    expected = np.mean([scorer.score(str(text), str(answer))[name].fmeasure for text, answer in pairs])
    found = get_metric(name).measure(rows)
    assert found.score == pytest.approx(expected)
    assert 0.2 < found.score < 0.9
    assert "stemmer:yes|version:" in found.signature


def test_literal_values():
    rows = rows_of([("the cat sat", ["the cat sat", "the cat ran"]), ("a dog", [" a dog "]), ("", ["it rose"])])
    assert get_metric("exact_match").value(rows) == 2 / 4
    assert get_metric("rouge1").value(rows) == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    assert get_metric("rouge2").value(rows) == pytest.approx((1 + 1 / 2 + 1 + 0) / 4)
    tokens = {"tokens": np.array([2, 3, 0]), "right_tokens": np.array([2, 1, 0]), "first_right": np.array([1, 0, 0])}
    assert get_metric("token_accuracy").value(tokens) == 3 / 5
    assert get_metric("greedy_match").value(tokens) == 1 / 2
    assert get_metric("top1_token").value(tokens) == 1 / 2


def test_prompts_are_what_is_resampled():
    """Rows that share an answer are right together, so that ten copies of each say no more than one."""
    once = rows_of([("a" if i % 3 else "b", ["a"]) for i in range(60)])
    often = rows_of([("a" if i % 3 else "b", ["a"] * 10) for i in range(60)])
    for name in ("exact_match", "rouge1", "bleu"):
        assert get_metric(name).standard_error(often) == pytest.approx(get_metric(name).standard_error(once))


@pytest.mark.parametrize("name", ["token_accuracy", "greedy_match", "top1_token"])
def test_rows_without_any_token_have_no_such_score(name):
    rows = dict.fromkeys(("tokens", "right_tokens", "first_right"), np.zeros(2, int))
    with pytest.raises(LopsidedError, match=f"{name} needs at least one token"):
        get_metric(name).value(rows)


@pytest.mark.parametrize(("name", "package"), [("bleu", "sacrebleu"), ("rougeL", "rouge-score")])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LopsidedError, match=rf"{name} needs the package {package}.*pip install lopsided\[metrics\]"):
        get_metric(name)
    assert get_metric("exact_match").name == "exact_match"
