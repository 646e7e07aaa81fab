"""The shapes of generation from the rows of a folder to a trained adapter, on a tiny causal model."""

from __future__ import annotations

import dataclasses
import json
import string

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaForMaskedLM

from lopsided.errors import LopsidedError
from lopsided.models.load import load_model
from lopsided.runs import TrainConfig, finished_run, load_data, read_run, train
from lopsided.runs.directory import write_run
from lopsided.runs.reload import check_reading, reload
from lopsided.tasks import SPLITS, load_task
from lopsided.tasks.reading import Reading
from lopsided_cli.train import summary
from tests.tasks.rows import character_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LETTERS = string.ascii_lowercase[:8]


def chat(letter):
    return [{"role": "user", "content": f"say {letter}"}, {"role": "assistant", "content": letter * 3}]


# folder -> rows, what is read, what the first row teaches, what it does not
FORMS = {
    "instruction": (
        [{"instruction": "say", "input": a if i % 2 else "", "output": a * 3} for i, a in enumerate(LETTERS)],
        "generation: prompt = instruction + input, completion = output",
        ["aaa<eos>", "bbb<eos>"],
        ["say\n", "say\nb\n"],
    ),
    "prompt": (
        [{"prompt": f"say {a}", "completion": a * 3, "idx": i} for i, a in enumerate(LETTERS)],
        "generation: prompt = prompt, completion = completion; left out: idx (a name per row)",
        ["aaa<eos>", "bbb<eos>"],
        ["say a\n", "say b\n"],
    ),
    "messages": (
        [{"messages": chat(a)} for a in LETTERS],
        "generation: messages = messages; written out by the tokenizer's chat template; "
        "the assistant's turns are learned",
        ["aaa<eos>", "bbb<eos>"],
        ["<|user|>say a<eos><|assistant|>", "<|user|>say b<eos><|assistant|>"],
    ),
    "text": (
        [{"text": f"say {a} {a * 3}"} for a in LETTERS],
        "generation: text = text; every token is learned, in rows of at most 48",
        ["say a aaa<eos>", "say b bbb<eos>"],
        ["", ""],
    ),
}


def save(folder, model, **tokenizer) -> str:
    model.save_pretrained(folder)
    made = character_tokenizer(**tokenizer)
    made.chat_template = CHATML
    made.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(character_tokenizer()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=3,
        bos_token_id=2,
        eos_token_id=1,
    )
    return save(tmp_path_factory.mktemp("llama"), LlamaForCausalLM(config))


def config_of(out, llama, rows, **options) -> TrainConfig:
    folder = out.parent / "data"
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = {"steps": 6, "batch_size": 4, "rank": 2, "lr": 3e-2, "max_length": 48, "evaluations": 2}
    return TrainConfig(out=out, model=llama, task=str(folder), **{"method": "c3la", "links": 2, **sizes, **options})


def decoded(tokenizer, ids) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


@pytest.mark.parametrize("form", FORMS)
def test_a_run_learns_what_its_shape_says(tmp_path, llama, form):
    rows, shape, taught, given = FORMS[form]
    config = config_of(tmp_path / "run", llama, rows)
    notes = []
    data = load_data(config)
    _, tokenizer = load_model(llama, data.task, seed=0)
    for row, words, before in zip(data.encoded.splits["train"], taught, given):
        assert decoded(tokenizer, [token for token in row["labels"] if token != -100]) == words
        assert decoded(tokenizer, [t for t, label in zip(row["input_ids"], row["labels"]) if label == -100]) == before
    record = train(config, note=notes.append).to_json()
    assert (notes, record["task"]["shape"], record["task"]["kind"]) == ([shape], shape, "generation")
    assert record == read_run(config.out).to_json()
    assert record["task"]["columns"] == {key: list(parts) for key, parts in data.task.reading.columns.items()}
    losses = [entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry]
    assert losses[-1] < losses[0]
    # A run that is gone on with, and one that is loaded again, read the rows in the same way.
    assert train(config, resume=True).to_json() == record
    assert reload(config.out).peft_config["default"].r == 2
    assert summary(finished_run(config.out))[-1].endswith(f"; rows read as {shape}")


def test_left_out_columns_go_from_the_configuration_to_the_record_and_back(tmp_path, llama):
    rows = [{**row, "source": "someone"} for row in FORMS["instruction"][0]]
    with pytest.raises(LopsidedError, match="received 'source' of train, validation, test"):
        train(config_of(tmp_path / "run", llama, rows))
    config = config_of(tmp_path / "run", llama, rows, ignore_columns=["source"])
    record = train(config).to_json()
    assert record["config"]["ignore_columns"] == ["source"]
    assert record["task"]["left_out"] == {"source": "as asked"}
    assert train(config, resume=True).to_json() == record
    assert reload(config.out) is not None
    with pytest.raises(LopsidedError, match=r"ignore_columns=\['source'\], asked None"):
        train(config_of(tmp_path / "run", llama, rows), resume=True)


def test_a_run_is_loaded_without_its_rows_and_looked_at_with_the_same_ones_alone(tmp_path, llama):
    config = config_of(tmp_path / "run", llama, FORMS["instruction"][0], ignore_columns=["input"])
    run = train(config)
    reading = load_data(config).task.reading
    check_reading(run, reading)
    whole = load_data(dataclasses.replace(config, ignore_columns=None)).task.reading
    with pytest.raises(LopsidedError, match=r"expected the columns.*'prompt': \['instruction'\].*instruction \+ input"):
        check_reading(run, whole)
    # A run of version 0.1.0 would have passed over an instruction.
    record = run.to_json()
    del record["task"]["columns"]
    write_run(config.out, record)
    older = finished_run(config.out)
    with pytest.raises(LopsidedError, match="restore the data, or train again"):
        check_reading(older, whole)
    check_reading(older, Reading(columns={"prompt": ("input",), "completion": ("output",)}))
    (tmp_path / "data" / "train.jsonl").unlink()
    assert reload(config.out).peft_config["default"].r == 2


def test_a_record_of_an_earlier_version_has_no_shape(tmp_path, llama):
    config = config_of(tmp_path / "run", llama, FORMS["prompt"][0], method="cla", links=None)
    train(config)
    path = config.out / "run.json"
    record = json.loads(path.read_text())
    del record["config"]["ignore_columns"]
    for key in ("shape", "columns", "left_out"):
        del record["task"][key]
    path.write_text(json.dumps(record))
    assert train(config, resume=True).to_json() == record
    assert reload(config.out).peft_config["default"].r == 2
    assert summary(finished_run(config.out))[-1] == record["task"]["note"]


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_reads_in_both_directions_is_no_writer(tmp_path, form):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = RobertaForMaskedLM(RobertaConfig(vocab_size=len(character_tokenizer()), pad_token_id=3, **size))
    folder = save(tmp_path / "roberta", model)
    with pytest.raises(LopsidedError, match="of type roberta, which reads a text in both directions") as caught:
        train(config_of(tmp_path / "run", folder, FORMS[form][0]))
    assert "\n" not in str(caught.value)
    # Made a decoder, it sees no later position.
    model.config.is_decoder = True
    model.save_pretrained(folder)
    decoder, _ = load_model(folder, load_task(str(tmp_path / "data")), seed=0)
    ids = torch.arange(8, 20)[None]
    with torch.no_grad():
        whole, start = decoder(input_ids=ids).logits, decoder(input_ids=ids[:, :6]).logits
    torch.testing.assert_close(whole[:, :6], start)


def test_a_model_without_a_template_gets_the_plain_form(tmp_path):
    config = GPT2Config(vocab_size=len(character_tokenizer()), n_embd=8, n_head=2, n_layer=1)
    folder = save(tmp_path / "gpt2", GPT2LMHeadModel(config))
    character_tokenizer().save_pretrained(folder)
    (tmp_path / "gpt2" / "chat_template.jinja").unlink()
    record = train(
        config_of(tmp_path / "run", folder, FORMS["messages"][0], method="cla", links=None, steps=2)
    ).to_json()
    assert "with 'role:' and content on lines of their own" in record["task"]["shape"]
