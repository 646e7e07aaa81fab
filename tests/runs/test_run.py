"""What a run leaves behind, and that its figures are those of what it saved."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from lopsided import METHODS
from lopsided.runs import read_run, train
from lopsided.runs.reload import reload
from lopsided.tasks import load_task
from tests.tiny_runs import ANSWERS, BERT_HEAD, BERT_LAYERS, SIZES, tiny_config, word_tokenizer, write_task

# One method for each value of `train`, and a chain.
METHOD_OF = {
    "AB": "lora",
    "B": "cla",
    "A": "asym_a",
    "coin": "bernoulli",
    "all": "full",
    "head": "head",
    "chain": "c3la",
}
NUMBERS = {
    "AB": lambda d_out, d_in: 4 * (d_out + d_in),
    "B": lambda d_out, d_in: 4 * d_out,
    "A": lambda d_out, d_in: 4 * d_in,
    "coin": lambda d_out, d_in: 4 * max(d_out, d_in),
    "head": lambda d_out, d_in: 0,
    "chain": lambda d_out, d_in: 4 * d_out,
}
FIELDS = {
    "schema",
    "status",
    "config",
    "command",
    "method",
    "versions",
    "machine",
    "model",
    "task",
    "steps",
    "learning_rate",
    "trained_parameters",
    "metrics",
    "generalization_error",
    "best_step",
    "history",
    "timings",
    "kept_bytes",
    "adapter_bytes",
    "chain",
    "keeps_checkpoints",
    "wall_seconds",
}

every_kind = pytest.mark.parametrize("value", METHOD_OF)


def evaluations(record) -> dict[int, float]:
    """Validation loss by step."""
    return {entry["step"]: entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry}


@torch.no_grad()
def answers(model, task, split: str) -> torch.Tensor:
    """Logits of a split, row by row, without a Trainer, a collator or padding."""
    tokenizer, rows = word_tokenizer("[CLS] $A [SEP]"), task.splits[split]
    pair = rows["text_pair"] if "text_pair" in rows.column_names else [None] * len(rows)
    texts = zip(rows["text"], pair, strict=True)
    return torch.cat([model.eval()(**tokenizer(*both, return_tensors="pt")).logits for both in texts])


@every_kind
def test_the_record_is_whole(run_once, bert, words, value):
    folder, record = run_once(model=bert, task=words, method=METHOD_OF[value])
    assert json.loads((folder / "run.json").read_text()) == json.loads(json.dumps(record)) == read_run(folder).to_json()
    assert set(record) == FIELDS
    assert (record["schema"], record["status"], record["steps"], record["learning_rate"]) == (1, "finished", 30, 2e-2)
    assert record["config"] == tiny_config(folder, model=bert, task=words, method=METHOD_OF[value]).to_json()
    assert record["method"]["name"] == METHOD_OF[value]
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"]["threads"] == 1
    assert (record["model"]["name"], record["model"]["type"]) == (bert, "bert")
    assert record["task"]["rows"] == SIZES
    assert record["task"]["labels"] == ["0", "1"]
    assert record["task"]["metric"] == {"name": "accuracy", "greater_is_better": True}
    assert list(evaluations(record)) == [8, 16, 24, 30]
    assert all(math.isfinite(loss) for loss in evaluations(record).values())
    assert record["timings"]["steps"] == 27
    assert record["timings"]["median_ms"] > 0
    assert record["kept_bytes"] > 0
    assert record["wall_seconds"] > 0


@every_kind
def test_trained_numbers_and_bytes_are_those_counted_by_hand(run_once, bert, words, value):
    folder, record = run_once(model=bert, task=words, method=METHOD_OF[value])
    if value == "all":
        expected = sum(p.numel() for p in reload(folder).parameters())
        assert expected == record["model"]["parameters"]
    else:
        expected = sum(NUMBERS[value](*shape) for shape in BERT_LAYERS) + BERT_HEAD
    assert record["trained_parameters"] == expected
    [weights] = (folder / "adapter").glob("*.safetensors")
    assert record["adapter_bytes"] == weights.stat().st_size > 4 * BERT_HEAD


def test_a_method_that_trains_less_keeps_less_for_backward(run_once, bert, words):
    kept = {v: run_once(model=bert, task=words, method=METHOD_OF[v])[1]["kept_bytes"] for v in ("all", "B", "head")}
    assert kept["head"] < kept["B"] < kept["all"]


@every_kind
def test_metrics_are_those_of_the_kept_rows(run_once, bert, words, value):
    folder, record = run_once(model=bert, task=words, method=METHOD_OF[value])
    rows = read_run(folder).predictions
    assert set(rows) == set(record["metrics"]) == set(SIZES)
    for split, columns in rows.items():
        right = columns["prediction"] == columns["label"]
        figures = record["metrics"][split]
        assert figures["score"] == pytest.approx(right.mean())
        assert figures["se"] == pytest.approx(math.sqrt(right.mean() * (1 - right.mean()) / SIZES[split]))
        assert figures["loss"] == pytest.approx(columns["loss"].mean())
        assert figures["rows"] == SIZES[split]
    train_loss, test_loss = rows["train"]["loss"], rows["test"]["loss"]
    gap = record["generalization_error"]
    assert gap["value"] == pytest.approx(abs(test_loss.mean() - train_loss.mean()))
    spread = train_loss.var(ddof=1) / SIZES["train"] + test_loss.var(ddof=1) / SIZES["test"]
    assert gap["se"] == pytest.approx(math.sqrt(spread))


@every_kind
def test_figures_are_those_of_what_was_saved(run_once, bert, words, value):
    folder, record = run_once(model=bert, task=words, method=METHOD_OF[value])
    task = load_task(words)
    logits, labels = answers(reload(folder), task, "test"), torch.tensor(task.splits["test"]["label"])
    figures = record["metrics"]["test"]
    assert figures["score"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    assert figures["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)


@every_kind
def test_the_checkpoint_with_the_lowest_validation_loss_is_the_one_reported(run_once, bert, words, value):
    _, record = run_once(model=bert, task=words, method=METHOD_OF[value])
    losses = evaluations(record)
    assert record["best_step"] == min(losses, key=losses.__getitem__)
    assert record["metrics"]["validation"]["loss"] == pytest.approx(losses[record["best_step"]], abs=1e-5)


class Ruin(TrainerCallback):
    """After step 16, a learning rate that no model survives."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= 16:
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = 10.0


def test_the_best_checkpoint_may_lie_links_back(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la", links=5)
    record = train(config, callbacks=[Ruin()]).to_json()
    assert record["best_step"] == 16
    assert record["chain"]["events"][-1] == {"step": 24, "link": 4}
    model = reload(config.out)
    # Boundaries 6 and 12 of 6, 12, 18, 24.
    assert model.peft_config["default"].link == 2
    labels = torch.tensor(load_task(words).splits["test"]["label"])
    loss = F.cross_entropy(answers(model, load_task(words), "test"), labels).item()
    assert record["metrics"]["test"]["loss"] == pytest.approx(loss, abs=1e-5)


@every_kind
def test_a_chain_is_recorded_as_it_happened(run_once, bert, words, value):
    _, record = run_once(model=bert, task=words, method=METHOD_OF[value])
    if METHODS[METHOD_OF[value]].chain is None:
        assert record["chain"] is None
        return
    assert record["chain"]["links"] == 4
    assert record["chain"]["boundaries"] == [7, 15, 22]
    assert record["chain"]["events"] == [{"step": 7, "link": 1}, {"step": 15, "link": 2}, {"step": 22, "link": 3}]


def test_links_by_steps(run_once, bert, words):
    _, record = run_once(model=bert, task=words, method="c3la", every=8)
    assert record["chain"]["boundaries"] == [event["step"] for event in record["chain"]["events"]] == [8, 16, 24]
    assert record["chain"]["links"] == 4


def test_a_step_is_an_optimizer_step_when_gradients_accumulate(run_once, bert, words):
    folder, record = run_once(model=bert, task=words, method="c3la", batch_size=8, accumulate=2)
    assert [event["step"] for event in record["chain"]["events"]] == [7, 15, 22]
    assert (record["steps"], list(evaluations(record))) == (30, [8, 16, 24, 30])
    # 30 steps of 2 x 8 rows out of 64.
    assert record["history"][-1]["epoch"] == pytest.approx(30 * 16 / 64)
    assert record["metrics"]["test"]["score"] > 0.7
    assert reload(folder).peft_config["default"].link == sum(s <= record["best_step"] for s in (7, 15, 22))


def test_two_passes_of_half_a_batch_make_the_step_of_a_whole_one(tmp_path, llama, phrases):
    # Llama has no dropout, so that the two runs see the same function.
    shared = {"model": llama, "task": phrases, "method": "cla", "steps": 4, "evaluations": 1}
    whole = train(tiny_config(tmp_path / "whole", batch_size=16, **shared)).to_json()
    halves = train(tiny_config(tmp_path / "halves", batch_size=8, accumulate=2, **shared)).to_json()
    assert evaluations(halves)[4] == pytest.approx(evaluations(whole)[4], rel=1e-4)


@pytest.mark.parametrize("value", ["AB", "B", "A", "coin", "all", "chain"])
def test_training_finds_the_word_that_decides(run_once, bert, words, value):
    _, record = run_once(model=bert, task=words, method=METHOD_OF[value])
    _, floor = run_once(model=bert, task=words, method="head")
    assert record["metrics"]["test"]["loss"] < floor["metrics"]["test"]["loss"] - 0.05
    assert record["metrics"]["test"]["score"] >= 0.7


def test_sentence_pairs(run_once, bert, pairs):
    folder, record = run_once(model=bert, task=pairs, method="cla")
    assert record["task"]["labels"] == ["no", "yes"]
    assert record["metrics"]["test"]["score"] >= 0.7
    task = load_task(pairs)
    loss = F.cross_entropy(answers(reload(folder), task, "test"), torch.tensor(task.splits["test"]["label"])).item()
    assert record["metrics"]["test"]["loss"] == pytest.approx(loss, abs=1e-5)


def test_regression(run_once, bert, scores):
    folder, record = run_once(model=bert, task=scores, method="cla")
    assert (record["task"]["kind"], record["task"]["metric"]["name"]) == ("regression", "pearson")
    assert record["trained_parameters"] == sum(4 * d_out for d_out, _ in BERT_LAYERS) + 32 + 1
    task = load_task(scores)
    outputs, labels = answers(reload(folder), task, "test").squeeze(-1).numpy(), task.splits["test"]["label"]
    figures = record["metrics"]["test"]
    assert figures["loss"] == pytest.approx(np.mean((outputs - labels) ** 2), abs=1e-5)
    assert figures["score"] == pytest.approx(np.corrcoef(outputs, labels)[0, 1], abs=1e-4)
    assert figures["score"] > 0.3


def test_generation_with_a_causal_model(run_once, llama, phrases):
    folder, record = run_once(model=llama, task=phrases, method="cla")
    assert record["task"]["metric"] == {"name": "perplexity", "greater_is_better": False}
    model, tokenizer, rows = reload(folder).eval(), word_tokenizer("$A"), load_task(phrases).splits["test"]
    losses = []
    for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True):
        head = tokenizer(prompt)["input_ids"]
        tail = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            predicted = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        losses.append(F.cross_entropy(predicted, torch.tensor(tail)).item())
    figures = record["metrics"]["test"]
    assert figures["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    # Every completion has three tokens, so the mean over rows is the mean over tokens.
    assert figures["score"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-3)
    assert figures["score"] < 5
    assert {len(answer.split()) for answer in ANSWERS.values()} == {2}


@pytest.mark.parametrize("method", ["cla", "c3la"])
def test_generation_with_an_encoder_decoder(run_once, t5, phrases, method):
    folder, record = run_once(model=t5, task=phrases, method=method)
    model, rows = reload(folder).eval(), load_task(phrases).splits["test"]
    tokenizer, losses = word_tokenizer("$A [SEP]"), []
    for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True):
        labels = tokenizer(completion, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(model(**tokenizer(prompt, return_tensors="pt"), labels=labels).loss.item())
    assert record["metrics"]["test"]["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert record["metrics"]["test"]["score"] < 5


def test_bfloat16_is_used(run_once, bert, words):
    _, half = run_once(model=bert, task=words, method="c3la", bf16=True)
    _, single = run_once(model=bert, task=words, method="c3la")
    assert half["config"]["bf16"] is True
    assert half["kept_bytes"] < single["kept_bytes"]
    losses = [record["metrics"]["test"]["loss"] for record in (half, single)]
    assert 1e-6 < abs(losses[0] - losses[1]) < 0.1


def test_a_chain_in_bfloat16(run_once, bert, words):
    folder, record = run_once(model=bert, task=words, method="c3la", bf16=True)
    assert len(record["chain"]["events"]) == 3
    assert all(p.dtype == torch.float32 for p in reload(folder).parameters())


def test_a_search_never_reads_test_rows(run_once, bert, words):
    folder, record = run_once(model=bert, task=words, method="cla", steps=4, test=False)
    assert set(record["metrics"]) == set(read_run(folder).predictions) == {"train", "validation"}
    assert record["generalization_error"] is None


def test_epochs_make_steps(run_once, bert, words):
    _, record = run_once(model=bert, task=words, method="cla", steps=None, epochs=2, accumulate=2)
    assert record["steps"] == 2 * 64 / (16 * 2)


def test_a_batch_may_be_larger_than_the_training_split(run_once, bert, words):
    _, record = run_once(model=bert, task=words, method="cla", steps=2, batch_size=100)
    assert record["status"] == "finished"


def test_rows_are_limited_by_lot(run_once, bert, words):
    options = {"steps": 4, "train_rows": 10, "eval_rows": 12}
    folders = [run_once(model=bert, task=words, method=method, **options)[0] for method in ("cla", "lora")]
    first, second = (read_run(folder).predictions for folder in folders)
    assert {split: len(rows["label"]) for split, rows in first.items()} == {"train": 10, "validation": 12, "test": 40}
    for split in first:
        assert np.array_equal(first[split]["label"], second[split]["label"])


def test_classes_read_under_another_name_survive_reloading(tmp_path, bert):
    (tmp_path / "task").mkdir()
    texts = iter(range(10**6))
    task = write_task(
        tmp_path / "task",
        lambda text, w: {"text": text, "label": "no" if w == "awful" else ("yes", "indeed")[next(texts) % 2]},
    )
    renamed = {"indeed": "yes"}
    options = {"model": bert, "task": task, "method": "cla", "steps": 4, "rename_labels": renamed}
    record = train(tiny_config(tmp_path / "run", **options)).to_json()
    assert record["task"]["labels"] == ["no", "yes"]
    assert read_run(tmp_path / "run").settings["rename_labels"] == renamed
    assert train(tiny_config(tmp_path / "run", **options), resume=True) == read_run(tmp_path / "run")
    logits = answers(reload(tmp_path / "run"), load_task(task, rename_labels=renamed), "test")
    assert logits.shape == (40, 2)
    right = logits.argmax(-1).numpy() == load_task(task, rename_labels=renamed).splits["test"]["label"]
    assert record["metrics"]["test"]["score"] == pytest.approx(right.mean())
