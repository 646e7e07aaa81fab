"""A model's own score before and after: known answers on tiny models, and one line for what can't be compared."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

import lopsided
from lopsided import LopsidedError
from lopsided.diagnose.own_skill import backbone, embeddings, graft, language_change, similarity_change
from lopsided.diagnose.references import Pairs, read_documents, read_pairs
from tests import tiny
from tests.tiny_runs import sentence, word_tokenizer

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}


def tokenizer(template: str = "[CLS] $A [SEP]"):
    made = word_tokenizer(template)
    made.add_special_tokens({"mask_token": "[MASK]"})
    return made


def texts(n: int, seed: int = 0) -> list[str]:
    draw = np.random.RandomState(seed)
    return [" ".join(sentence(draw)[0].split()[: draw.randint(2, 6)]) for _ in range(n)]


def pairs(n: int = 30) -> Pairs:
    return Pairs(texts(n, 1), texts(n, 2), np.random.RandomState(3).rand(n) * 5)


def masked_model(seed: int = 0):
    return tiny._seeded(lambda: BertForMaskedLM(BertConfig(**SIZES)), seed)


def tuned_adapter(model, method: str = "cla", steps: int = 3):
    model = lopsided.adapt(copy.deepcopy(model), method, r=2, target_modules="all-linear")
    if steps:
        tiny.train_a_little(model, steps)
    return model.merge_and_unload().eval()


# -- language ------------------------------------------------------------------------------------------------


def test_a_causal_models_loss_is_that_of_each_document_alone():
    base, documents, tokens = tiny.llama(), texts(25), tokenizer("$A")
    tuned = tuned_adapter(base)
    found = language_change(base, tuned, tokens, documents, reference="words", batch_size=4, draws=200)
    figures = []
    for model in (base, tuned):
        losses, counts = [], []
        for document in documents:
            ids = torch.tensor([tokens(document)["input_ids"]])
            with torch.no_grad():
                losses.append(F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item())
            counts.append(ids.shape[1] - 1)
        figures.append(sum(losses) / sum(counts))
    assert (found.base, found.tuned) == (pytest.approx(figures[0], rel=1e-5), pytest.approx(figures[1], rel=1e-5))
    assert found.change == found.tuned - found.base != 0
    assert found.low < found.change < found.high
    assert found.low < found.high - 1e-6
    assert (found.metric, found.better, found.reference, found.rows) == ("loss", "low", "words", 25)


def test_padding_at_the_start_changes_nothing():
    base, documents, right, left = tiny.gpt2(), texts(25), tokenizer("$A"), tokenizer("$A")
    left.padding_side = "left"
    both = [
        language_change(base, tuned_adapter(base), t, documents, reference="x", batch_size=size, draws=5)
        for t, size in ((right, 25), (left, 1))
    ]
    assert both[0].base == pytest.approx(both[1].base, rel=1e-5)


def test_a_masked_models_loss_is_of_the_tokens_under_one_mask():
    base, tokens, documents = masked_model(), tokenizer(), texts(25)
    tuned = tuned_adapter(base)
    first = language_change(base, tuned, tokens, documents, reference="words", draws=50)
    again = language_change(base, tuned, tokens, documents, reference="words", draws=50, batch_size=3)
    other = language_change(base, tuned, tokens, documents, reference="words", draws=50, seed=1)
    assert (again.base, again.tuned) == (pytest.approx(first.base, rel=1e-5), pytest.approx(first.tuned, rel=1e-5))
    assert other.base != pytest.approx(first.base, rel=1e-3)
    assert first.change != 0
    # The loss of a uniform answer is log of the vocabulary.
    with torch.no_grad():
        for parameter in base.cls.parameters():
            parameter.zero_()
    uniform = language_change(base, base, tokens, documents, reference="words", draws=5)
    assert uniform.base == pytest.approx(math.log(40), abs=1e-5)


@pytest.mark.parametrize("method", ["cla", "c3la", "asym_b"])
def test_an_adapter_of_zero_changes_nothing(method):
    base = tiny.llama()
    found = language_change(
        base, tuned_adapter(base, method, steps=0), tokenizer("$A"), texts(25), reference="words", draws=50
    )
    assert (found.change, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.base > 1.0
    encoder = tiny.bert()
    unchanged = similarity_change(
        encoder, tuned_adapter(encoder, method, steps=0), tokenizer(), pairs(), reference="pairs", draws=50
    )
    assert (unchanged.change, unchanged.low, unchanged.high) == (0.0, 0.0, 0.0)


def test_a_classifiers_backbone_under_the_language_models_head():
    language, documents, tokens = masked_model(), texts(25), tokenizer()
    classifier = tiny._seeded(lambda: BertForSequenceClassification(BertConfig(**SIZES)), 1)
    missing = backbone(classifier).load_state_dict(backbone(language).state_dict(), strict=False)
    assert all("pooler" in key for key in missing.missing_keys)
    unchanged = graft(copy.deepcopy(language), classifier)
    assert language_change(language, unchanged, tokens, documents, reference="x", draws=5).change == 0.0
    tuned = tuned_adapter(classifier)
    grafted = graft(copy.deepcopy(language), tuned)
    assert torch.equal(
        backbone(grafted).encoder.layer[0].attention.self.query.weight,
        backbone(tuned).encoder.layer[0].attention.self.query.weight,
    )
    assert abs(language_change(language, grafted, tokens, documents, reference="x", draws=5).change) > 1e-4
    wider = tiny._seeded(lambda: BertForSequenceClassification(BertConfig(**{**SIZES, "hidden_size": 32})))
    with pytest.raises(LopsidedError, match=r"none that fits embeddings\.word_embeddings\.weight"):
        graft(language, wider)


# -- similarity ----------------------------------------------------------------------------------------------


def test_embeddings_are_means_over_tokens_in_the_texts_order():
    model, tokens, some = tiny.bert(), tokenizer(), texts(9)
    found = embeddings(backbone(model), tokens, some, batch_size=4)
    for text, row in zip(some, found, strict=True):
        with torch.no_grad():
            hidden = backbone(model)(**tokens(text, return_tensors="pt")).last_hidden_state
        assert torch.allclose(row, hidden[0].mean(0), atol=1e-5)


def test_a_correlation_before_and_after():
    base, tokens, given = tiny.bert(), tokenizer(), pairs()
    first, second = (embeddings(backbone(base), tokens, side) for side in (given.first, given.second))
    cosine = F.cosine_similarity(first.double(), second.double()).numpy()
    # The base's own cosines as the human's scores: it is perfect, and whatever has changed is worse.
    perfect = Pairs(given.first, given.second, cosine)
    tuned = tuned_adapter(base, steps=20)
    found = similarity_change(base, tuned, tokens, perfect, reference="pairs", draws=300)
    assert found.base == pytest.approx(1.0)
    assert found.tuned < 0.999
    assert found.change == found.tuned - found.base
    assert found.low < found.change <= found.high <= 1e-9
    assert found.to_json() == {
        **{"reference": "pairs", "metric": "spearman", "better": "high", "base": found.base, "tuned": found.tuned},
        **{"change": found.change, "low": found.low, "high": found.high, "rows": 30},
    }


def test_a_head_plays_no_part():
    base, tokens, given = tiny.bert(), tokenizer(), pairs()
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.classifier.weight.add_(1.0)
    assert similarity_change(base, other, tokens, given, reference="x", draws=5).change == 0.0


# -- references ----------------------------------------------------------------------------------------------


def test_documents_are_lines(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("one a\n\n  two b \n" + "x y\n" * 30, encoding="utf-8")
    assert read_documents(file)[:3] == ["one a", "two b", "x y"]
    assert len(read_documents(file)) == 32
    assert len(read_documents(file, most=25)) == 25


def test_pairs_are_rows(tmp_path):
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "label": i / 10} for i in range(30)]
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = read_pairs(tmp_path)
    assert (found.first[3], found.second[3], found.score[3]) == ("a 3", "b 3", 0.3)
    assert len(read_pairs(tmp_path / "test.jsonl", most=21).score) == 21


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"one\ntwo\n", "at least 20 documents, got 2"),
        (b"\xff\xfe" + b"a\n" * 30, "expected UTF-8, got byte 0"),
    ],
)
def test_bad_documents(tmp_path, content, message):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(LopsidedError, match=message) as caught:
        read_documents(tmp_path / "text.txt")
    assert "\n" not in str(caught.value)


GOOD = '{"sentence1": "a", "sentence2": "b", "label": 1}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"test\.jsonl: expected JSON lines .* got no such file"),
        (GOOD * 3, "at least 20 pairs, got 3"),
        (GOOD * 30, "expected scores that differ, got 1.0"),
        (
            GOOD + '{"sentence1": "a", "label": 1}\n' + GOOD * 30,
            r"test\.jsonl:2: expected texts .* got fields sentence1",
        ),
        (GOOD + '{"sentence1": "a", "sentence2": "b", "label": "high"}\n' + GOOD * 30, r":2: expected"),
        (GOOD + '{"sentence1": "a", "sentence2": "b", "label": NaN}\n' + GOOD * 30, r":2: expected"),
        (GOOD + "{\n", r":2: expected a JSON object"),
    ],
)
def test_bad_pairs(tmp_path, content, message):
    if content is not None:
        (tmp_path / "test.jsonl").write_text(content)
    with pytest.raises(LopsidedError, match=message) as caught:
        read_pairs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda: language_change(tiny.bert(), tiny.bert(), tokenizer(), texts(25), reference="x"),
            "got BertForSequenceClassification, which has no such head; pass sentence pairs",
        ),
        (
            lambda: language_change(masked_model(), tiny.gpt2(), tokenizer(), texts(25), reference="x"),
            "two models of one kind, got BertForMaskedLM and GPT2LMHeadModel",
        ),
        (
            lambda: language_change(tiny.gpt2(), tiny.gpt2(), tokenizer("$A"), ["river"] * 25, reference="x"),
            "x: expected tokens to predict, got none",
        ),
        (
            lambda: similarity_change(tiny.bart(), tiny.bart(), tokenizer(), pairs(), reference="x"),
            "expected an encoder, got BartModel",
        ),
    ],
)
def test_models_that_cannot_be_compared(change, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        change()
    assert "\n" not in str(caught.value)
