"""E2E and Django from the rows to BLEU and exact match, with a tiny random GPT-2 and a tokenizer of these rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lopsided.runs import TrainConfig, read_run, train
from lopsided.tasks import get_metric, read_jsonl
from tests.test_real_data import DATA

SIZES = {"train": 256, "validation": 64, "test": 48}
TASKS = {"e2e": ("meaning_representation", "human_reference"), "django": ("annotation", "code")}


def first_rows(name: str, folder: Path) -> list[str]:
    """Write the first rows of each split, which are in the order of the data set, and return all their texts."""
    folder.mkdir()
    texts = []
    for split, size in SIZES.items():
        rows = read_jsonl(DATA / name / f"{split}.jsonl")[:size]
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        texts += [str(row[column]) for row in rows for column in TASKS[name]]
    return texts


def tiny_gpt2(texts: list[str], folder: Path) -> str:
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, vocab_size=600, special_tokens=["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, eos_token="<end>", model_max_length=256)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    return str(folder)


@pytest.mark.more
@pytest.mark.parametrize("name", TASKS)
def test_real_rows_are_answered_and_scored(tmp_path, name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no rows of {name} in {DATA}; set LOPSIDED_DATA")
    model = tiny_gpt2(first_rows(name, tmp_path / name), tmp_path / "model")
    config = TrainConfig(
        out=tmp_path / "run",
        model=model,
        task=str(tmp_path / name),
        method="full",
        lr=3e-3,
        steps=60,
        batch_size=16,
        evaluations=1,
        train_rows=16,
        max_length=160,
        also=["token_accuracy", "exact_match", "greedy_match", "bleu", "rougeL"],
        max_new_tokens=40,
    )
    record = train(config).to_json()
    figures, rows = record["metrics"]["test"], read_run(config.out).predictions["test"]
    assert len(rows["answer"]) == figures["rows"] == SIZES["test"]
    prompts, also = set(rows["prompt"].tolist()), figures["also"]
    # E2E has several references per meaning representation.
    assert len(prompts) < SIZES["test"] / 2 if name == "e2e" else len(prompts) > SIZES["test"] / 2
    groups = [np.flatnonzero(rows["prompt"] == prompt) for prompt in sorted(prompts)]
    assert all(len(set(rows["answer"][group])) == 1 for group in groups)
    references = [rows["reference"][group].tolist() for group in groups]
    streams = zip(*[[*texts, *[None] * (max(map(len, references)) - len(texts))] for texts in references])
    answers = [str(rows["answer"][group[0]]) for group in groups]
    library = BLEU()
    score = library.corpus_score(answers, [list(stream) for stream in streams]).score
    assert also["bleu"]["score"] == pytest.approx(score / 100)
    assert also["bleu"]["signature"] == str(library.get_signature())
    # Sixty steps teach it some words, and no more.
    assert 0.1 < also["token_accuracy"]["score"] < 0.9
    # What greedy decoding has room to write, it writes.
    whole = (rows["right_tokens"] == rows["tokens"]) & (rows["tokens"] <= config.max_new_tokens)
    assert np.array_equal(rows["answer"][whole], rows["reference"][whole])
    for key, figure in also.items():
        assert get_metric(key).measure(rows).score == figure["score"]
