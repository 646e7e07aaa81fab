"""What can't work is found before any training: rows that a model can't take, methods that don't fit it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers as T

from lopsided import METHODS, LopsidedError
from lopsided.runs import load_data, load_inputs, train, with_data
from lopsided.runs.preflight import Unfit, preflight
from lopsided.runs.probe import problems_of_rows
from tests.tiny_runs import VOCABULARY, tiny_config, word_tokenizer, write_task

SIZE = len(VOCABULARY)
NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LIMIT = 24
# Models with positions of their own kind: counted from zero, from the padding's id, with an offset, or computed.
HARD = {
    "bert": (T.BertConfig, {**NARROW, "max_position_embeddings": LIMIT}),
    "roberta": (T.RobertaConfig, {**NARROW, "max_position_embeddings": LIMIT + 1, "pad_token_id": 0}),
    "roberta_padded_by_1": (T.RobertaConfig, {**NARROW, "max_position_embeddings": LIMIT + 2, "pad_token_id": 1}),
    "xlm_roberta": (T.XLMRobertaConfig, {**NARROW, "max_position_embeddings": LIMIT + 2, "pad_token_id": 1}),
    "camembert": (T.CamembertConfig, {**NARROW, "max_position_embeddings": LIMIT + 2, "pad_token_id": 1}),
    "mpnet": (T.MPNetConfig, {**NARROW, "max_position_embeddings": LIMIT + 2, "pad_token_id": 1}),
    "albert": (T.AlbertConfig, {**NARROW, "embedding_size": 8, "max_position_embeddings": LIMIT}),
    "electra": (T.ElectraConfig, {**NARROW, "embedding_size": 8, "max_position_embeddings": LIMIT}),
    "distilbert": (
        T.DistilBertConfig,
        {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": LIMIT},
    ),
    "gpt2": (T.GPT2Config, {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": LIMIT}),
    "gpt_neo": (
        T.GPTNeoConfig,
        {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]}
        | {"max_position_embeddings": LIMIT},
    ),
    "opt": (
        T.OPTConfig,
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "word_embed_proj_dim": 16}
        | {"max_position_embeddings": LIMIT},
    ),
    "bart": (
        T.BartConfig,
        {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": LIMIT}
        | {"eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 3},
    ),
    "ctrl": (T.CTRLConfig, {"n_embd": 16, "dff": 16, "n_layer": 1, "n_head": 2, "n_positions": LIMIT}),
}
# Rotary, relative or sinusoidal positions that go on: the configured number is no limit.
SOFT = {
    "llama": (T.LlamaConfig, {**NARROW, "max_position_embeddings": 8}),
    "mistral": (T.MistralConfig, {**NARROW, "num_key_value_heads": 1, "max_position_embeddings": 8}),
    "t5": (
        T.T5Config,
        {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    ),
    "xlnet": (T.XLNetConfig, {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}),
    "bloom": (T.BloomConfig, {"hidden_size": 16, "n_layer": 1, "n_head": 2}),
    "modernbert": (T.ModernBertConfig, {**NARROW, "max_position_embeddings": 8}),
    "deberta_v2": (T.DebertaV2Config, {**NARROW, "relative_attention": True, "position_biased_input": False}),
}


def saved(folder, kind, options, *, vocab_size=SIZE, auto=T.AutoModelForSequenceClassification):
    special = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2} | options
    torch.manual_seed(0)
    auto.from_config(kind(vocab_size=vocab_size, **special)).save_pretrained(folder)
    tokenizer = word_tokenizer("[CLS] $A [SEP]")
    if special["pad_token_id"] == 1:
        tokenizer.pad_token = "[UNK]"
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory):
    """Rows of about five words, and one of sixty in test alone."""
    folder = tmp_path_factory.mktemp("long")
    write_task(
        folder, lambda text, w: {"text": text, "label": int(w == "good")}, {"train": 8, "validation": 4, "test": 4}
    )
    with open(folder / "test.jsonl", "a") as file:
        file.write(json.dumps({"text": " ".join(["river"] * 60), "label": 1}) + "\n")
    return str(folder)


def told(config) -> list[str]:
    inputs = load_inputs(config)
    model = inputs.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    problems = problems_of_rows(inputs, max_length=config.max_length)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    return problems


@pytest.mark.parametrize("name", HARD)
def test_rows_beyond_the_models_positions(tmp_path, long_rows, name):
    kind, options = HARD[name]
    model = saved(tmp_path, kind, options)
    assert told(tiny_config(tmp_path / "out", model=model, task=long_rows, max_length=LIMIT)) == []
    [problem] = told(tiny_config(tmp_path / "out", model=model, task=long_rows, max_length=LIMIT + 1))
    assert f"test has one of {LIMIT + 1} tokens (max_length={LIMIT + 1})" in problem
    assert f"takes at most {LIMIT}; lower max_length to {LIMIT}" in problem
    [problem] = told(tiny_config(tmp_path / "out", model=model, task=long_rows, max_length=50))
    assert f"test has one of 50 tokens (max_length=50), {type_of(model)} takes at most {LIMIT};" in problem


def type_of(folder) -> str:
    config = T.AutoConfig.from_pretrained(folder)
    return T.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)].__name__


@pytest.mark.parametrize("name", SOFT)
def test_positions_without_an_end_have_no_limit(tmp_path, long_rows, name):
    kind, options = SOFT[name]
    model = saved(tmp_path, kind, options)
    assert told(tiny_config(tmp_path / "out", model=model, task=long_rows, max_length=62)) == []


def test_a_completion_that_is_too_long_for_a_decoder(tmp_path):
    kind, options = HARD["bart"]
    model = saved(tmp_path / "model", kind, options, auto=T.AutoModelForSeq2SeqLM)
    (tmp_path / "task").mkdir()
    task = write_task(
        tmp_path / "task",
        lambda text, w: {"prompt": text, "completion": "it rose " * 20},
        {"train": 4, "validation": 2, "test": 2},
    )
    [problem] = told(tiny_config(tmp_path / "out", model=model, task=task, max_length=40))
    assert f"BartForConditionalGeneration takes at most {LIMIT}" in problem


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "bart"])
def test_a_tokenizer_larger_than_the_embedding_table(tmp_path, words, name):
    kind, options = {**HARD, **SOFT}[name]
    model = saved(tmp_path, kind, options, vocab_size=SIZE - 4)
    [problem] = told(tiny_config(tmp_path / "out", model=model, task=words, max_length=16))
    # "good" is the last word of the vocabulary that these rows have.
    top = VOCABULARY.index("good")
    assert f"id {top} in a row of train, table of {SIZE - 4}; expected ids below {SIZE - 4}" in problem
    assert f"model.resize_token_embeddings({SIZE})" in problem


def test_a_pad_token_beyond_the_embedding_table(tmp_path, words):
    model = saved(tmp_path, *HARD["gpt2"])
    tokenizer = word_tokenizer("$A")
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(model)
    [problem] = told(tiny_config(tmp_path / "out", model=model, task=words, max_length=16))
    assert f"id {SIZE} in its pad token, table of {SIZE}" in problem


def test_a_row_without_tokens(tmp_path, words):
    model = saved(tmp_path / "model", *SOFT["llama"])
    word_tokenizer("$A").save_pretrained(model)
    task = shutil.copytree(words, tmp_path / "task")
    rows = (task / "validation.jsonl").read_text().splitlines()
    rows[2] = json.dumps({"text": "   ", "label": 1})
    (task / "validation.jsonl").write_text("\n".join(rows))
    [problem] = told(tiny_config(tmp_path / "out", model=model, task=str(task), max_length=16))
    assert problem.startswith("validation row 2 has no tokens")


@pytest.mark.parametrize(
    ("name", "causal"),
    [
        ("bert", False),
        ("roberta", False),
        ("electra", False),
        ("gpt2", True),
        ("llama", True),
        ("opt", True),
        ("ctrl", True),
    ],
)
def test_a_model_that_sees_what_it_is_to_predict_is_no_model_for_generation(tmp_path, phrases, name, causal):
    kind, options = {**HARD, **SOFT}[name]
    model = saved(tmp_path, kind, options, auto=T.AutoModelForCausalLM)
    config = tiny_config(tmp_path / "out", model=model, task=phrases, max_length=16)
    if causal:
        assert told(config) == []
    else:
        with pytest.raises(LopsidedError, match="reads a text in both directions"):
            told(config)


def test_a_decoder_that_is_none_is_found_by_what_it_computes(tmp_path, phrases):
    # Its configuration says that it is a decoder, which is all that a configuration can say.
    kind, options = {**HARD, **SOFT}["bert"]
    model = saved(tmp_path, kind, options | {"is_decoder": True}, auto=T.AutoModelForCausalLM)
    config = tiny_config(tmp_path / "out", model=model, task=phrases, max_length=16)
    inputs = load_inputs(config)
    loaded = inputs.model
    assert told(config) == []
    for module in loaded.modules():
        module.is_decoder = module.is_causal = False
    loaded.config.is_decoder = False
    with pytest.raises(Unfit) as caught:
        preflight([config], inputs)
    assert "sees the tokens that it is to predict" in caught.value.problems[0]


# -- methods -------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once(tmp_path, words):
    model = saved(tmp_path / "model", *HARD["gpt2"], vocab_size=SIZE - 4)
    shared = {"model": model, "task": words, "rank": 17, "epochs": 1.0, "steps": None, "batch_size": 16}
    configs = [
        tiny_config(tmp_path / "out", method=name, **shared, **({"links": 9} if METHODS[name].chain else {}))
        for name in ("cla", "asym_a", "c3la", "head", "full")
    ]
    with pytest.raises(Unfit) as caught:
        preflight(configs, load_inputs(configs[0]))
    # Conv1D of GPT-2: c_attn maps 16 to 48, c_proj 16 to 16.
    assert caught.value.problems[:3] == (
        "cla, c3la: rank must not exceed the layer's width: r=17, d_in=16 in transformer.h.0.attn.c_attn; lower r or "
        "exclude the module",
        "asym_a: rank must not exceed the layer's width: r=17, d_out=16 in transformer.h.0.attn.c_proj; lower r or "
        "exclude the module",
        "c3la: links must not exceed the steps: links=9, steps=4; lower links",
    )
    assert len(caught.value.problems) == 4
    assert str(caught.value).count("\n") == 3


@pytest.mark.parametrize(
    ("method", "limit"),
    [
        ("lora", 16),
        ("asym_a", 16),
        ("bernoulli", 16),
        *(pytest.param(name, 16, marks=pytest.mark.more) for name in ("cla", "c3la", "paca", "rac_a", "cola")),
    ],
)
def test_the_widest_rank_that_fits_is_the_preflights(tmp_path, words, method, limit):
    config = tiny_config(tmp_path / "out", model=saved(tmp_path / "m", *HARD["bert"]), task=words, method=method)
    inputs = load_inputs(config)
    for rank in (limit, limit + 1):
        asked = tiny_config(tmp_path / f"out-{rank}", model=config.model, task=words, method=method, rank=rank, steps=4)
        if rank > limit:
            with pytest.raises(Unfit, match=rf"r={rank}, .*={limit} in "):
                preflight([asked], inputs)
        else:
            preflight([asked], inputs)
            # What the preflight lets pass can be trained.
            assert train(asked, prepared=with_data(inputs.data)).status == "finished"


def test_a_preflight_leaves_nothing_behind_and_the_model_as_it_was(tmp_path, bert, words):
    config = tiny_config(tmp_path / "out", model=bert, task=words, method="cla", rank=33)
    with pytest.raises(Unfit):
        train(config)
    assert not config.out.exists()
    config.out.mkdir()
    with pytest.raises(Unfit):
        train(config, prepared=with_data(load_data(config)))
    assert list(config.out.iterdir()) == []


def test_bf16_that_the_machine_does_not_have_is_told_first(tmp_path, monkeypatch, bert, words):
    def refuse(*args, **kwargs):
        raise ValueError("Your setup doesn't support bf16/gpu.\nmore")

    monkeypatch.setattr("lopsided.runs.preflight.training_arguments", refuse)
    with pytest.raises(LopsidedError, match=r"do not fit this machine: Your setup doesn't support bf16/gpu\.; leave"):
        train(tiny_config(tmp_path / "out", model=bert, task=words, method="cla", bf16=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"batch_size": 1000}, {"accumulate": 50}, {"evaluations": 99, "steps": 3}])
def test_more_than_there_is_is_no_problem(tmp_path, bert, words, options):
    defaults = {"steps": 2, "evaluations": 1}
    config = tiny_config(tmp_path / "out", model=bert, task=words, method="cla", **{**defaults, **options})
    assert train(config).status == "finished"
