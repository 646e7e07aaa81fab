"""Answers that a run's model writes: the same as step by step without a batch, as merged, and as kept in its files."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU
from transformers import TrainerCallback

import lopsided
from lopsided.errors import LopsidedError
from lopsided.runs import finished_run, load_data, load_inputs, read_run, train
from lopsided.runs.facts import SplitFigures
from lopsided.runs.generate import Writing, answered, write
from lopsided.runs.inputs import with_data
from lopsided.runs.reload import reload, reload_merged
from lopsided.tasks import encode, get_metric, load_task
from lopsided_cli.train import summary
from tests import tiny
from tests.tiny_runs import tiny_config, word_tokenizer, write_task

GENERATED = {"also": ["exact_match", "greedy_match", "bleu", "rougeL", "token_accuracy", "top1_token"]}
CAUSAL = Writing(max_new_tokens=5, max_length=16, beams=1, batch_size=7, seq2seq=False)
TEXTS = ["river stone awful", "good", "cloud lamp chair music good paper", "awful window", "stone"]


def written(model, template="$A", **options) -> list[str]:
    writing = dataclasses.replace(CAUSAL, **options)
    tokenizer = word_tokenizer(template)
    return write(TEXTS, model, tokenizer, writing, autocast=contextlib.nullcontext, on_batch=lambda batches: None)


@torch.no_grad()
def by_hand(model, text: str, most: int) -> str:
    """Greedy decoding of one prompt, a forward pass per token."""
    tokenizer = word_tokenizer("$A")
    ids = tokenizer(text)["input_ids"]
    made: list[int] = []
    while len(made) < most and tokenizer.eos_token_id not in made:
        made.append(int(model(torch.tensor([ids + made])).logits[0, -1].argmax()))
    return tokenizer.decode(made, skip_special_tokens=True)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_padded_batch_writes_what_single_prompts_write(architecture):
    model = getattr(tiny, architecture)()
    expected = [by_hand(model, text, 5) for text in TEXTS]
    assert written(model) == written(model, batch_size=2) == expected
    assert len(set(expected)) > 1


def test_a_models_own_habits_do_not_decide():
    model = tiny.gpt2()
    expected = written(model)
    for name, value in {"do_sample": True, "temperature": 5.0, "num_beams": 3, "repetition_penalty": 3.0}.items():
        setattr(model.generation_config, name, value)
    assert written(model) == expected


def test_an_encoder_decoder_writes_what_it_writes_prompt_by_prompt():
    model = tiny.bart()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 3
    model.generation_config.bos_token_id = 2
    tokenizer, expected = word_tokenizer("$A [SEP]"), []
    for text in TEXTS:
        made = [3]
        while len(made) < 6 and 3 not in made[1:]:
            logits = model(**tokenizer(text, return_tensors="pt"), decoder_input_ids=torch.tensor([made])).logits
            made.append(int(logits[0, -1].argmax()))
        expected.append(tokenizer.decode(made, skip_special_tokens=True))
    assert written(model, "$A [SEP]", seq2seq=True) == expected
    assert written(model, "$A [SEP]", seq2seq=True, beams=3) == written(
        model, "$A [SEP]", seq2seq=True, beams=3, batch_size=1
    )


@pytest.mark.parametrize("method", ["lora", "cla", "asym_a", "c3la"])
@pytest.mark.parametrize("architecture", ["gpt2", "bart"])
def test_an_adapter_writes_what_its_merged_model_writes(architecture, method):
    base = getattr(tiny, architecture)()
    if architecture == "bart":
        base.config.decoder_start_token_id = base.generation_config.decoder_start_token_id = 3
    seq2seq = architecture == "bart"
    before = written(base, seq2seq=seq2seq)
    model = lopsided.adapt(base, method, r=4, alpha=64, target_modules="all-linear", seed=0)
    for link in range(2):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(len(name)))
        if link == 0 and lopsided.METHODS[method].chain is not None:
            lopsided.advance_chain(model)
    answers = written(model, seq2seq=seq2seq)
    assert answers != before
    assert written(model, seq2seq=seq2seq, batch_size=1) == answers
    assert written(model.merge_and_unload(), seq2seq=seq2seq) == answers


class Calls(TrainerCallback):
    def __init__(self) -> None:
        self.batches: list[int] = []

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self.batches.append(len(eval_dataloader))


@pytest.fixture(scope="module")
def chained(tmp_path_factory, llama, phrases):
    """A finished chain with all scores of generation; how often a bar moved."""
    config = tiny_config(tmp_path_factory.mktemp("run") / "out", model=llama, task=phrases, method="c3la", **GENERATED)
    calls = Calls()
    return train(config, callbacks=[calls]), calls


def test_scores_stand_next_to_the_one_that_counts(chained):
    run, calls = chained
    record = run.to_json()
    assert record["task"]["metric"] == {"name": "perplexity", "greater_is_better": False}
    assert record["task"]["also"] == list(run.task.also) == GENERATED["also"]
    # Of written answers, on test alone; teacher-forced ones on all splits.
    assert set(record["metrics"]["train"]["also"]) == {"greedy_match", "token_accuracy", "top1_token"}
    also = record["metrics"]["test"]["also"]
    assert list(also) == GENERATED["also"]
    assert also["bleu"]["signature"].startswith("nrefs:")
    assert "signature" not in also["exact_match"]
    assert SplitFigures.from_json(record["metrics"]["test"]).to_json() == record["metrics"]["test"]
    bleu = also["bleu"]
    assert f"          test  bleu {bleu['score']:.4f} ± {bleu['se']:.4f}" in summary(run)
    # The model learned: it sank, it rose.
    assert also["exact_match"]["score"] > 0.6
    # 40 prompts, 32 at a time: two batches.
    assert calls.batches[-2:] == [2, 2]


def test_decoding_agrees_with_the_match_of_every_token(chained):
    """The fast way, one forward pass per row, against the slow one, a forward pass per token."""
    test = chained[0].predictions["test"]
    assert np.array_equal(test["answer"] == test["reference"], test["right_tokens"] == test["tokens"])
    also = chained[0].metrics["test"].also
    assert also["exact_match"].score.value == also["greedy_match"].score.value


def test_the_files_hold_what_every_score_is_made_of(chained):
    run, _ = chained
    rows, metrics = read_run(run.folder).predictions["test"], run.metrics["test"]
    task = load_task(run.settings["task"]).splits["test"]
    assert sorted(rows["reference"]) == sorted(task["completion"])
    for name, figure in metrics.also.items():
        again = get_metric(name).measure(rows)
        assert (again.score, again.se, again.signature) == (figure.score.value, figure.score.se, figure.signature)
    # Prompts of five words drawn at random differ, so that each has one reference.
    assert sorted(rows["prompt"]) == list(range(40))
    library = BLEU().corpus_score(rows["answer"].tolist(), [rows["reference"].tolist()]).score
    assert metrics.also["bleu"].score.value == pytest.approx(library / 100)


def test_the_saved_adapter_writes_the_same_answers_merged_or_not(chained):
    run, _ = chained
    rows = load_task(run.settings["task"]).splits["test"]
    kept, writing = run.predictions["test"], dataclasses.replace(CAUSAL, max_new_tokens=3)
    expected = sorted(zip(kept["prompt"].tolist(), kept["answer"].tolist()))
    for model in (reload(run.folder), reload_merged(run.folder)):
        again = answered(rows, model, word_tokenizer("$A"), writing, autocast=contextlib.nullcontext)
        assert sorted(zip(again["prompt"].tolist(), again["answer"].tolist())) == expected


def test_a_task_judged_by_answers_has_them_on_validation_too(tmp_path, t5, phrases):
    config = tiny_config(tmp_path / "run", model=t5, task=phrases, method="cla", metric="exact_match", steps=4)
    record = train(dataclasses.replace(config, eval_rows=10, test=False)).to_json()
    validation = record["metrics"]["validation"]
    assert validation["score"] in [k / 10 for k in range(11)]
    assert record["metrics"]["train"]["score"] is None
    assert record["metrics"]["train"]["why"]["score"] == "the model was not asked for the answers that the score reads"
    assert len(finished_run(config.out).predictions["validation"]["answer"]) == 10


def test_other_domains_are_answered_too(tmp_path, llama, phrases):
    config = tiny_config(tmp_path / "run", model=llama, task=phrases, method="cla", steps=4, also=["rouge1"])
    data = load_data(config)
    rows = {"elsewhere": data.task.splits["train"].select(range(9))}
    task = dataclasses.replace(data.task, out_of_domain=rows)
    elsewhere = dataclasses.replace(data, task=task, encoded=encode(task, data.processor, max_length=16))
    run = train(config, prepared=with_data(elsewhere))
    assert sorted(run.predictions["elsewhere"]["reference"]) == sorted(rows["elsewhere"]["completion"])
    figure = run.metrics["elsewhere"].also["rouge1"]
    assert figure.score.value == get_metric("rouge1").value(run.predictions["elsewhere"])


@torch.no_grad()
def whole_loss(model, tokenizer, prompt: str, completion: str) -> float:
    """The mean loss of a completion and its end."""
    head, tail = tokenizer(prompt)["input_ids"], [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
    predicted = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    return torch.nn.functional.cross_entropy(predicted, torch.tensor(tail)).item()


def test_letters_are_matched_by_one_token(tmp_path, llama):
    """A prompt with a few solved examples, and the letter as completion, of which the end token is not part."""
    shots = "river ? good\nstone ? awful\n"
    (tmp_path / "task").mkdir()
    task = write_task(tmp_path / "task", lambda text, w: {"prompt": f"{shots}{text} ?", "completion": w})
    options = {"model": llama, "task": task, "method": "lora", "metric": "top1_token"}
    run = train(tiny_config(tmp_path / "run", **options, max_length=32, also=["option_accuracy"]))
    rows, tokenizer = run.predictions["test"], word_tokenizer("$A")
    model, right, chosen = reload(run.folder).eval(), [], []
    for prompt, letter in zip(*(load_task(task).splits["test"][name] for name in ("prompt", "completion"))):
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        right.append(tokenizer.decode(logits.argmax()) == letter)
        likely = {text: whole_loss(model, tokenizer, prompt, text) for text in ("awful", "good")}
        chosen.append(min(likely, key=likely.__getitem__) == letter)
    assert run.metrics["test"].score.value == pytest.approx(np.mean(right)) == rows["first_right"].mean()
    assert run.metrics["test"].score.value > 0.7
    second = run.metrics["test"].also["option_accuracy"].score
    assert second.value == pytest.approx(np.mean(chosen)) == np.mean(rows["chosen"] == rows["right_option"])
    assert second.se == pytest.approx(math.sqrt(second.value * (1 - second.value) / 40))
    assert set(run.metrics["validation"].also) == set()
    assert all(rows["first_right"] >= (rows["right_tokens"] == rows["tokens"]))


def test_no_answers_are_written_where_no_score_reads_them(run_once, llama, phrases):
    folder, record = run_once(model=llama, task=phrases, method="cla")
    assert set(read_run(folder).predictions["test"]) == {"tokens", "loss", "right_tokens", "first_right"}
    assert "also" not in record["metrics"]["test"]


def single(folder: Path) -> str:
    """A task with one completion for all prompts."""
    (folder / "single").mkdir()
    return write_task(folder / "single", lambda text, w: {"prompt": text, "completion": "it sank"})


def test_bad_input_is_one_line_before_any_step(tmp_path, llama, t5, bert, phrases, words):
    options = {"model": llama, "task": phrases, "method": "cla", "also": ["bleu"]}
    with pytest.raises(LopsidedError, match="must leave room for a prompt of 8 tokens: max_new_tokens=125"):
        train(tiny_config(tmp_path / "run", **options, max_new_tokens=125))
    with pytest.raises(LopsidedError, match=r"top1_token of task .* expected a causal model"):
        train(tiny_config(tmp_path / "run", **{**options, "model": t5, "metric": "top1_token"}))
    assert not (tmp_path / "run").exists()
    with pytest.raises(LopsidedError, match="expected 2 to 32 in test; received 1; use exact_match"):
        train(tiny_config(tmp_path / "run", **{**options, "task": single(tmp_path), "metric": "option_accuracy"}))
    with pytest.raises(LopsidedError, match="metric bleu is for generation"):
        load_inputs(tiny_config(tmp_path / "run", **{**options, "model": bert, "task": words}))
    with pytest.raises(LopsidedError, match="received 'blue'; did you mean 'bleu'"):
        load_inputs(tiny_config(tmp_path / "run", **{**options, "also": ["blue"]}))
