"""Conversations and text alone as tokens: what is learned is read back from the labels."""

from __future__ import annotations

import string

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lopsided.errors import LopsidedError
from lopsided.tasks import Task, collator, encode, get_metric, load_task
from lopsided.tasks.chat import PLAIN, written_out
from tests.tasks.rows import character_tokenizer

PLAIN_TOKENIZER = character_tokenizer()
WITH_BOS = character_tokenizer(bos=True)
# The forms of ChatML (Qwen, SmolLM), of Llama 2 and Mistral, and one that asks for the assistant in another way.
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
THINKS = CHATML.replace("'<|assistant|>'", "'<|assistant|><think>'")
# As Qwen3 does: only the last answer shows that there was a thought.
FORGETS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system\\nturns') }}{% endif %}" + CHATML

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
LONG = [
    {"role": "system", "content": "Be brief"},
    *HI,
    {"role": "user", "content": "Bye "},
    {"role": "assistant", "content": "x"},
]


def with_template(template, *, bos=False):
    tokenizer = character_tokenizer(bos=bos)
    tokenizer.chat_template = template
    return tokenizer


def task_of(column, *values) -> Task:
    part = Dataset.from_dict({column: list(values)})
    return Task(
        name="c",
        kind="generation",
        splits={"train": part, "validation": part, "test": part},
        labels=(),
        metric=get_metric("perplexity"),
    )


def text_of(tokenizer, ids) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


def learned(tokenizer, row) -> list[str]:
    """The stretches of a row that are learned, as text."""
    parts = [""]
    for token, label in zip(row["input_ids"], row["labels"]):
        assert label in (token, -100)
        if label == -100:
            parts.append("")
        else:
            parts[-1] += text_of(tokenizer, [token])
    return [part for part in parts if part]


@pytest.mark.parametrize(
    ("template", "whole", "said"),
    [
        (None, "user:\nHi\nassistant:\nHello<eos>", ["Hello<eos>"]),
        (CHATML, "<|user|>Hi<eos>\n<|assistant|>Hello<eos>\n", ["Hello<eos>"]),
        (INST, "<bos>[INST] Hi [/INST] Hello<eos>", [" Hello<eos>"]),
        (THINKS, "<|user|>Hi<eos>\n<|assistant|>Hello<eos>\n", ["<|assistant|>Hello<eos>"]),
        (FORGETS, "<|user|>Hi<eos><|assistant|><think></think>Hello<eos>", ["<think></think>Hello<eos>"]),
    ],
)
def test_the_assistant_is_learned_and_nothing_else(template, whole, said):
    tokenizer = with_template(template)
    encoded = encode(task_of("messages", HI), tokenizer)
    row = encoded.splits["train"][0]
    assert text_of(tokenizer, row["input_ids"]) == whole
    assert learned(tokenizer, row) == said
    assert row["attention_mask"] == [1] * len(row["input_ids"])
    own = "by the tokenizer's chat template" if template else "with 'role:' and content on lines of their own"
    assert encoded.how == f"written out {own}; the assistant's turns are learned"


@pytest.mark.parametrize("template", [None, CHATML, INST])
def test_every_turn_of_the_assistant_is_learned(template):
    tokenizer = with_template(template)
    row = encode(task_of("messages", LONG), tokenizer).splits["validation"][0]
    assert [part.strip() for part in learned(tokenizer, row)] == ["Hello<eos>", "x<eos>"]
    rendered = tokenizer.apply_chat_template(LONG, chat_template=template or PLAIN, tokenize=False)
    assert text_of(tokenizer, row["input_ids"]) == rendered


def test_the_plain_form_opens_as_the_tokenizer_does_and_a_template_as_it_says():
    row = encode(task_of("messages", HI), WITH_BOS).splits["train"][0]
    assert text_of(WITH_BOS, row["input_ids"]) == "<bos>user:\nHi\nassistant:\nHello<eos>"
    assert learned(WITH_BOS, row) == ["Hello<eos>"]
    tokenizer = with_template(INST, bos=True)
    row = encode(task_of("messages", HI), tokenizer).splits["train"][0]
    assert text_of(tokenizer, row["input_ids"]).count("<bos>") == 1


WORDS = st.text(string.ascii_letters + " .\n", min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), template=st.sampled_from([None, CHATML, INST])
)
def test_whatever_is_said_is_what_is_learned(answers, template):
    tokenizer = with_template(template)
    turns = [t for q, a in answers for t in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    row = encode(task_of("messages", turns), tokenizer, max_length=512).splits["test"][0]
    space = " " if template == INST else ""
    assert learned(tokenizer, row) == [f"{space}{answer}<eos>" for _, answer in answers]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2, Llama 3 and Qwen have it: tokens of several characters, and characters of several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["user:\nhello there\nassistant:\n general answer é"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", model_max_length=256)


@pytest.mark.parametrize("template", [None, CHATML])
@pytest.mark.parametrize("answer", ["general answer", "é 日本 ok", " leading", "two\n\nlines"])
def test_tokens_of_several_characters(template, answer):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": answer}]
    row = encode(task_of("messages", turns), tokenizer).splits["train"][0]
    said = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(said) == f"{answer}<eos>"
    whole, _ = written_out(tokenizer, turns, "row")
    assert row["input_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_a_conversation_loses_its_end_and_none_that_says_nothing_passes():
    tokenizer = with_template(CHATML)
    row = encode(task_of("messages", LONG), tokenizer, max_length=55).splits["train"][0]
    assert len(row["input_ids"]) == 55
    assert learned(tokenizer, row) == ["Hello<eos>"]
    with pytest.raises(LopsidedError, match=r"task c: train row 1: .*max_length=24 tokens.*raise --max-length"):
        encode(task_of("messages", HI, LONG), with_template(None), max_length=24)


@pytest.mark.parametrize(
    ("turns", "template", "message"),
    [
        (LONG, FORGETS, "expected a chat template that writes a conversation's beginning as it writes the whole"),
        (LONG, STRICT, r"train row 0: .*it says: No system; correct the row"),
        (HI, "{{ messages[0].nothing.more }}", "it says: "),
    ],
)
def test_a_template_that_does_not_fit_is_one_line(turns, template, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        encode(task_of("messages", turns), with_template(template))
    assert "\n" not in str(caught.value)


USER, ASSISTANT, SYSTEM = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "expected a list of turns"),
        ("user: hi", "expected a list of turns in 'messages'.*received str"),
        (["hi"], "expected a list of turns"),
        ([USER], "received user; correct"),
        ([ASSISTANT], "received assistant; correct"),
        ([ASSISTANT, USER, ASSISTANT], "received assistant, user, assistant"),
        ([USER, SYSTEM, ASSISTANT], "received user, system, assistant"),
        ([SYSTEM, ASSISTANT], "received system, assistant"),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], "received system, system"),
        ([{"from": "human", "value": "x"}, ASSISTANT], "turn 0: expected a role in system, user, assistant"),
        ([USER, {"role": "gpt", "content": "x"}], "turn 1: .*received role 'gpt'"),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], "turn 1: .*a content that is a string"),
        ([USER, {"role": "assistant", "content": None}], "turn 1: .*content 'None'"),
        ([USER, {**ASSISTANT, "tool_calls": [{"name": "f"}]}], "turn 1: .*received also tool_calls"),
        ([USER, {**ASSISTANT, "weight": 0}], "received also weight"),
        (None, "expected field 'messages'"),
    ],
)
def test_rows_that_are_no_conversations_are_named(write, turns, message):
    rows = [{"messages": HI}, {"messages": turns}]
    with pytest.raises(LopsidedError, match=rf"test\.jsonl:2: .*{message}") as caught:
        load_task(str(write(train=rows[:1], validation=rows[:1], test=rows)))
    assert "\n" not in str(caught.value)


def test_keys_of_nothing_are_fine(write):
    rows = [{"messages": [{**USER, "tool_calls": None}, {**ASSISTANT, "name": ""}, USER]}]
    task = load_task(str(write(train=rows, validation=rows, test=rows)))
    assert task.splits["train"]["messages"] == [[USER, ASSISTANT, USER]]
    assert task.described == "generation: messages = messages"


@settings(max_examples=50, deadline=None)
@given(
    text=st.text(string.ascii_letters + " \n", min_size=1, max_size=60),
    max_length=st.integers(8, 30),
    bos=st.booleans(),
)
def test_text_alone_is_learned_whole_each_token_once(text, max_length, bos):
    tokenizer = WITH_BOS if bos else PLAIN_TOKENIZER
    encoded = encode(task_of("text", text), tokenizer, max_length=max_length)
    rows = list(encoded.splits["train"])
    assert all(row["labels"] == row["input_ids"] and 2 <= len(row["input_ids"]) <= max_length for row in rows)
    # Position 0 of a row is predicted from nothing; every other id is predicted once.
    predicted = [token for row in rows for token in row["labels"][1:]]
    whole = ["<bos>"] * bos + [*text, "<eos>"]
    assert tokenizer.convert_ids_to_tokens([rows[0]["input_ids"][0], *predicted]) == whole
    assert encoded.how == f"every token is learned, in rows of at most {max_length}"


@pytest.mark.parametrize(("column", "value"), [("messages", HI), ("text", "one")])
def test_an_encoder_decoder_and_a_tokenizer_without_an_end_are_refused(column, value):
    with pytest.raises(LopsidedError, match=f"task c has {column} alone: expected a causal model"):
        encode(task_of(column, value), PLAIN_TOKENIZER, seq2seq=True)
    with pytest.raises(LopsidedError, match="expected a tokenizer with an eos token"):
        encode(task_of(column, value), character_tokenizer(eos=False))


def test_both_are_padded_out_of_the_loss():
    for task in (task_of("messages", HI, LONG), task_of("text", "a", "longer")):
        rows = encode(task, PLAIN_TOKENIZER).splits["train"]
        batch = collator(task, PLAIN_TOKENIZER)([rows[0], rows[1]])
        assert batch["input_ids"].shape == batch["labels"].shape
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
