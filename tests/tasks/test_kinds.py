"""What is kept of a row, held to a slow way of computing it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.models.families import FAMILIES
from lopsided.models.load import load_model
from lopsided.tasks import Task, collator, encode, get_metric
from lopsided.tasks.encode import answer_collator
from lopsided.tasks.kinds import KINDS

ROWS = {
    "prompt": ["one or two", "a", "which"],
    "options": [["one", "two"], ["long option", "x", "yes"], ["no", "yes", "maybe", "never"]],
    "label": [1, 0, 3],
}


def choice(rows=ROWS) -> Task:
    rows = Dataset.from_dict(rows)
    splits = {"train": rows, "validation": rows, "test": rows}
    return Task(name="pick", kind="choice", splits=splits, labels=(), metric=get_metric("accuracy"))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    FAMILIES["llama"].write_twin(folder)
    return load_model(str(folder), choice(), seed=0)


def test_the_option_with_the_largest_mean_log_likelihood_is_chosen(loaded):
    model, tokenizer = loaded
    encoded = encode(choice(), tokenizer, max_length=64).splits["test"]
    kind = KINDS["choice"]
    batch = answer_collator(choice(), tokenizer)([encoded[i] for i in range(3)])
    assert batch["input_ids"].shape[0] == 9
    asides = {name: batch.pop(name) for name in kind.asides}
    with torch.no_grad():
        output = model.eval()(**batch)
    kept = kind.rows(kind.read(output.logits, {**batch, **asides}, True).numpy())
    # One option at a time, without padding.
    for row, (prompt, options, right) in enumerate(zip(ROWS["prompt"], ROWS["options"], ROWS["label"])):
        losses = []
        for option in options:
            head = [tokenizer.bos_token_id, *tokenizer(prompt + "\n", add_special_tokens=False)["input_ids"]]
            tail = [*tokenizer(option, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            with torch.no_grad():
                logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
            losses.append(F.cross_entropy(logits, torch.tensor(tail)).item())
        assert kept["prediction"][row] == np.argmin(losses)
        assert kept["label"][row] == right
        assert kept["loss"][row] == pytest.approx(losses[right], rel=1e-4)


def test_the_loss_that_is_trained_is_that_of_the_right_options(loaded):
    model, tokenizer = loaded
    encoded = encode(choice(), tokenizer, max_length=64).splits["test"]
    rows = [encoded[i] for i in range(3)]
    to_train, to_answer = collator(choice(), tokenizer)(rows), answer_collator(choice(), tokenizer)(rows)
    for name in KINDS["choice"].asides:
        to_answer.pop(name)
    with torch.no_grad():
        losses = [model.eval()(**batch).loss.item() for batch in (to_train, to_answer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert to_train["input_ids"].shape[0] == 3


def test_all_options_follow_the_same_prompt_where_it_is_cut(loaded):
    rows = {"prompt": ["x" * 40 + "end"] * 2, "options": [["a", "b" * 8]] * 2, "label": [0, 1]}
    encoded = encode(choice(rows), loaded[1], max_length=16).splits["test"]
    assert all(len(encoded[0]["prompt_ids"]) + len(option) <= 16 for option in encoded[0]["option_ids"])
    # Of the longest option, with its end, 9 ids; of the prompt its own end.
    assert loaded[1].decode(encoded[0]["prompt_ids"]).endswith("xend\n")


def test_an_option_without_a_finite_likelihood_leaves_no_answer():
    logits = torch.zeros(2, 3, 4)
    logits[1, 1] = torch.nan
    labels = torch.tensor([[-100, -100, 1], [-100, -100, 2]])
    batch = {"option_labels": labels, "question": torch.zeros(2, dtype=torch.long), "right": torch.tensor([0])}
    assert KINDS["choice"].read(logits, batch, True)[0, 2].isnan()


@pytest.mark.parametrize(("options", "label"), [(["one"], 0), (["one", "two"], 2), (["one", "two"], -1)])
def test_a_row_without_a_choice_is_refused(loaded, options, label):
    rows = {"prompt": ["a"], "options": [options], "label": [label]}
    with pytest.raises(LopsidedError, match=r"pick: train row 0: expected two options or more"):
        encode(choice(rows), loaded[1])


def test_splits_of_two_forms_are_refused():
    text = Dataset.from_dict({"text": ["a"], "label": [0]})
    image = Dataset.from_dict({"image": ["a"], "label": [0]})
    with pytest.raises(LopsidedError, match="expected text in all splits, as in train; received image in test"):
        Task(
            name="t",
            kind="classification",
            splits={"train": text, "validation": text, "test": image},
            labels=("no", "yes"),
            metric=get_metric("accuracy"),
        )
