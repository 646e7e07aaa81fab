from __future__ import annotations

import string

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopsided.errors import LopsidedError
from lopsided.tasks import collator, encode
from tests.tasks.rows import character_tokenizer, generation, text

PLAIN = character_tokenizer()
WITH_BOS = character_tokenizer(bos=True)
TEXT = st.text(string.ascii_letters + " \n", max_size=30)


def read(tokenizer, ids) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_causal_masks_exactly_the_prompt():
    row = encode(generation(("ask me", "answer")), PLAIN).splits["train"][0]
    assert read(PLAIN, row["input_ids"]) == "ask me\nanswer<eos>"
    assert row["labels"][:7] == [-100] * 7
    assert read(PLAIN, row["labels"][7:]) == "answer<eos>"
    assert row["attention_mask"] == [1] * 14


def test_causal_keeps_the_bos_that_the_tokenizer_adds():
    row = encode(generation(("ask me" * 9, "answer")), WITH_BOS, max_length=12).splits["train"][0]
    assert read(WITH_BOS, row["input_ids"]) == "<bos> me\nanswer<eos>"
    assert row["labels"].count(-100) == 5


# Eight rows in one task, whose encoding takes as long as that of one.
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=8, max_size=8), max_length=st.integers(8, 40), bos=st.booleans())
def test_causal_cuts_the_prompt_first(rows, max_length, bos):
    tokenizer = WITH_BOS if bos else PLAIN
    encoded = encode(generation(*rows), tokenizer, max_length=max_length).splits["test"]
    for (prompt, completion), row in zip(rows, encoded, strict=True):
        assert_prompt_is_cut_first(prompt, completion, row, tokenizer, max_length, bos)


def assert_prompt_is_cut_first(prompt, completion, row, tokenizer, max_length, bos):
    ids, labels = row["input_ids"], row["labels"]
    assert len(ids) == len(labels) == len(row["attention_mask"]) <= max_length
    masked = labels.count(-100)
    assert labels[:masked] == [-100] * masked
    assert labels[masked:] == ids[masked:]
    start = int(bos)
    head, tail = read(tokenizer, ids[start:masked]), tokenizer.convert_ids_to_tokens(labels[masked:])
    whole = [*completion, "<eos>"]
    assert tail == whole[: max_length - start - 1]
    assert head
    assert (prompt + "\n").endswith(head)
    if len(prompt) + 1 + len(whole) + start <= max_length:
        assert head == prompt + "\n"
    else:
        assert len(ids) == max_length


def test_encoder_decoder_keeps_the_two_sides_apart():
    encoded = encode(generation(("ask me", "answer")), PLAIN, max_length=8, seq2seq=True)
    row = encoded.splits["train"][0]
    assert (read(PLAIN, row["input_ids"]), read(PLAIN, row["labels"])) == ("ask me", "answer")
    assert set(encoded.out_of_domain) == {"elsewhere"}


@pytest.mark.parametrize(("kind", "labels"), [("classification", [1, 0]), ("regression", [2.5, 0.0])])
def test_text_is_encoded_with_its_label(kind, labels):
    task = text(kind, labels, text=["one", "three" * 9], text_pair=["a", "b"])
    rows = encode(task, PLAIN, max_length=16).splits["validation"]
    assert read(PLAIN, rows[0]["input_ids"]) == "onea"
    assert len(rows[1]["input_ids"]) == 16
    assert list(rows["labels"]) == labels
    alone = encode(text(kind, labels, text=["one", "two"]), PLAIN).splits["train"]
    assert read(PLAIN, alone[1]["input_ids"]) == "two"


def test_lengths_and_tokenizers_that_do_not_fit_are_refused():
    task = generation(("a", "b"))
    with pytest.raises(LopsidedError, match="max_length=1024, limit=512"):
        encode(task, PLAIN, max_length=1024)
    with pytest.raises(LopsidedError, match="max_length=4"):
        encode(task, PLAIN, max_length=4)
    with pytest.raises(LopsidedError, match="expected a tokenizer with an eos token"):
        encode(task, character_tokenizer(eos=False))
    with pytest.raises(LopsidedError, match="expected a tokenizer with a pad or an eos token"):
        collator(task, character_tokenizer(eos=False, pad=False))


def test_collator_pads_labels_out_of_the_loss():
    tokenizer = character_tokenizer(pad=False)
    task = generation(("a", "b"), ("a", "long answer"))
    rows = encode(task, tokenizer).splits["train"]
    batch = collator(task, tokenizer)([rows[0], rows[1]])
    assert tokenizer.pad_token == tokenizer.eos_token
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    # Padding with eos must not hide the real eos, nor be learned.
    assert (batch["labels"] == tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 1]
    assert torch.equal(batch["attention_mask"].sum(dim=1), torch.tensor([4, 14]))


def test_collator_of_an_encoder_decoder_pads_both_sides():
    task = generation(("a", "b"), ("a longer one", "c d"))
    rows = encode(task, PLAIN, seq2seq=True).splits["train"]
    batch = collator(task, PLAIN)([rows[0], rows[1]])
    assert (batch["input_ids"].shape[1], batch["labels"].shape[1]) == (12, 3)
    assert batch["labels"][0].tolist()[1:] == [-100, -100]


def test_collator_of_text_keeps_one_label_a_row():
    task = text("regression", [2.5, 0.0], text=["one", "three"])
    rows = encode(task, PLAIN).splits["train"]
    batch = collator(task, PLAIN)([rows[0], rows[1]])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["labels"].tolist() == [2.5, 0.0]
