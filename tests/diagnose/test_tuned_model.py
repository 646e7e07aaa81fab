"""What is read of a run and of a saved adapter: layers that add up to the tuned weights."""

import hashlib
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.diagnose.sections.intruders import intruders
from lopsided.diagnose.tuned_model import Layer, adapted_layers
from lopsided.runs import finished_run
from lopsided.runs.reload import base_of, reload
from tests import tiny
from tests.diagnose.cases import of_adapter, of_run


def assert_adds_up(inputs, base: nn.Module) -> None:
    """W0 is the base's weight, and W0 + ΔW the merged model's, in every layer."""
    merged, tuned = inputs.merged, inputs.tuned
    assert not isinstance(merged, PeftModel)
    assert not merged.training
    assert tuned.layers
    for layer in tuned.layers:
        before, after = (model.get_submodule(layer.module) for model in (base, merged))
        turn = (lambda W: W.T) if isinstance(before, Conv1D) else (lambda W: W)
        torch.testing.assert_close(layer.weight, turn(before.weight.detach()), atol=0, rtol=0)
        sum_of_both = layer.weight.double() + layer.delta()
        torch.testing.assert_close(sum_of_both.float(), turn(after.weight.detach()), atol=1e-6, rtol=1e-5)
        assert layer.delta().abs().max() > 0


def test_layers_of_one_role_share_a_kind():
    names = {
        "bert.encoder.layer.0.attention.output.dense": "attention.output.dense",
        "bert.encoder.layer.11.output.dense": "output.dense",
        "model.layers.3.mlp.up_proj": "mlp.up_proj",
        "bert.pooler.dense": "dense",
        "proj": "proj",
    }
    assert {name: Layer(name, torch.zeros(1, 1), ()).kind for name in names} == names


# -- runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["c3la", "lora", "asym_a", "bernoulli", "full"])
def test_a_run_adds_up(method, run_once, bert, words):
    folder, _ = run_once(method=method, model=bert, task=words, steps=8, target_modules="all-linear")
    inputs = of_run(folder)
    tuned = inputs.tuned
    assert_adds_up(inputs, base_of(finished_run(folder)))
    assert tuned.id == hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()[:12]
    assert tuned.name == folder.name
    assert not [layer.module for layer in tuned.layers if "classifier" in layer.module]
    assert len(tuned.layers) == 13
    ids = {"input_ids": torch.arange(12).reshape(2, 6)}
    with torch.no_grad():
        torch.testing.assert_close(inputs.merged(**ids).logits, reload(folder).eval()(**ids).logits)


def test_a_chains_links_are_told_apart(run_once, bert, words):
    folder, record = run_once(method="c3la", model=bert, task=words, steps=8, target_modules="all-linear")
    tuned, model = of_run(folder).tuned, reload(folder)
    assert record["chain"]["links"] > 1
    for layer in tuned.layers:
        live = model.get_base_model().get_submodule(layer.module)
        terms = live.terms("default", torch.device("cpu"))
        assert len(layer.links) == len(terms) == record["chain"]["links"]
        for link, term in zip(layer.links, terms):
            A, B = term.dense()
            torch.testing.assert_close(link.dense(), live.scaling["default"] * B.double() @ A.double())
        A, B = terms[-1].dense()
        assert torch.equal(tuned.factors["A"][layer.module], A)
        assert torch.equal(tuned.factors["B"][layer.module], B)


def test_full_fine_tuning_has_one_dense_link_and_no_factors(run_once, bert, words):
    folder, _ = run_once(method="full", model=bert, task=words, steps=8, target_modules="all-linear")
    tuned = of_run(folder).tuned
    assert tuned.factors == {}
    assert all(len(layer.links) == 1 and layer.is_dense for layer in tuned.layers)


def test_a_head_alone_is_refused(run_once, bert, words):
    folder, _ = run_once(method="head", model=bert, task=words, steps=8)
    with pytest.raises(LopsidedError, match="trains a head alone") as caught:
        _ = of_run(folder).tuned
    assert "\n" not in str(caught.value)


def test_no_run_no_inputs(tmp_path):
    with pytest.raises(LopsidedError, match="expected a finished run"):
        of_run(tmp_path)


# -- adapters ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    for build in (tiny.bert, tiny.gpt2):
        build().save_pretrained(folder / build.__name__)
    return folder


def stock(build, config: LoraConfig, path) -> PeftModel:
    """A LoRA adapter of PEFT's with random factors."""
    model = get_peft_model(build(), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(generator=generator)
    model.save_pretrained(path)
    return model.eval()


STOCK = {
    "plain": (tiny.bert, {"r": 3, "lora_alpha": 5, "target_modules": ["query", "dense"], "task_type": "SEQ_CLS"}),
    "patterns": (
        tiny.bert,
        {
            "r": 3,
            "lora_alpha": 5,
            "target_modules": ["query", "value"],
            "rank_pattern": {"value": 2},
            "alpha_pattern": {"layer.0.attention.self.query": 7},
            "task_type": "SEQ_CLS",
        },
    ),
    "rslora": (
        tiny.bert,
        {"r": 4, "lora_alpha": 5, "use_rslora": True, "target_modules": ["key"], "task_type": "SEQ_CLS"},
    ),
    "Conv1D": (tiny.gpt2, {"r": 3, "lora_alpha": 5, "target_modules": ["c_attn", "c_fc"], "task_type": "CAUSAL_LM"}),
    "no task": (tiny.gpt2, {"r": 3, "lora_alpha": 5, "target_modules": ["c_attn"]}),
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_lora_adapter_adds_up(name, bases, tmp_path):
    build, options = STOCK[name]
    model = stock(build, LoraConfig(**options), tmp_path / "lora")
    inputs = of_adapter(tmp_path / "lora", bases / build.__name__)
    tuned = inputs.tuned
    assert_adds_up(inputs, build())
    assert tuned.id == hashlib.sha256((tmp_path / "lora/adapter_model.safetensors").read_bytes()).hexdigest()[:12]
    torch.testing.assert_close(tiny.logits(inputs.merged), tiny.logits(model), atol=1e-4, rtol=1e-4)
    for layer in tuned.layers:
        live = model.get_base_model().get_submodule(layer.module)
        delta = live.get_delta_weight("default")
        turned = delta.T if build is tiny.gpt2 else delta
        torch.testing.assert_close(layer.delta().float(), turned, atol=1e-5, rtol=1e-5)
        assert torch.equal(tuned.factors["B"][layer.module], live.lora_B["default"].weight)


@pytest.mark.parametrize("method", ["c3la", "asym_a", "lora"])
def test_our_adapter_and_its_export_have_the_same_layers(method, bases, tmp_path):
    chained = METHODS[method].chain is not None
    model = lopsided.adapt(tiny.bert(), method, r=2, target_modules="all-linear", links=2 if chained else None)
    optimizer = tiny.train_a_little(model)
    if chained:
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    model.eval().save_pretrained(str(tmp_path / "ours"))
    lopsided.to_lora(model, tmp_path / "lora")
    ours, lora = (of_adapter(tmp_path / name, bases / "bert") for name in ("ours", "lora"))
    assert_adds_up(ours, tiny.bert())
    assert [layer.module for layer in ours.tuned.layers] == [layer.module for layer in lora.tuned.layers]
    for mine, theirs in zip(ours.tuned.layers, lora.tuned.layers):
        assert torch.equal(mine.weight, theirs.weight)
        torch.testing.assert_close(mine.delta(), theirs.delta(), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(tiny.logits(ours.merged), tiny.logits(model), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tiny.logits(lora.merged), tiny.logits(model), atol=1e-5, rtol=1e-5)
    assert intruders(ours.tuned) == intruders(lora.tuned)


def test_a_head_of_another_number_of_labels_is_kept(tmp_path):
    """The base was saved for two labels, the adapter's head has three."""
    two = tiny.bert()
    two.config.num_labels = 2
    type(two)(two.config).save_pretrained(tmp_path / "base")
    base = type(two).from_pretrained(tmp_path / "base", num_labels=3, ignore_mismatched_sizes=True)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    model.save_pretrained(tmp_path / "lora")
    found = of_adapter(tmp_path / "lora", tmp_path / "base").merged
    torch.testing.assert_close(tiny.logits(found), tiny.logits(model.eval()))


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.fixture
def lora(tmp_path):
    stock(tiny.bert, LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"), tmp_path / "lora")
    return tmp_path / "lora"


def refused(folder, base, said: str) -> None:
    with pytest.raises(LopsidedError, match=said) as caught:
        _ = of_adapter(folder, base).tuned
    assert "\n" not in str(caught.value)


def test_missing_things_are_said(lora, bases, tmp_path):
    refused(tmp_path / "nowhere", bases / "bert", "is no folder")
    refused(lora, tmp_path / "no-base", "expected a folder; there is none")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", bases / "bert", "holds no adapter_config.json")
    refused(lora, tmp_path / "empty", "expected a model folder with config.json")
    (lora / "adapter_model.safetensors").unlink()
    refused(lora, bases / "bert", "holds no adapter_model.safetensors")


def test_an_adapter_of_another_model_is_refused(lora, bases, tmp_path):
    wide = tiny.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40, num_labels=3
    )
    tiny.BertForSequenceClassification(wide).save_pretrained(tmp_path / "wide")
    refused(lora, tmp_path / "wide", "does not fit the base .*size mismatch")
    shallow = tiny.bert().config
    shallow.num_hidden_layers = 1
    tiny.BertForSequenceClassification(shallow).save_pretrained(tmp_path / "shallow")
    refused(lora, tmp_path / "shallow", "does not fit the base .*2 layers saved, 1 in the model")
    stock(tiny.bert, LoraConfig(r=2, target_modules=["nothing", "query"], task_type="SEQ_CLS"), tmp_path / "other")
    config = json.loads((tmp_path / "other/adapter_config.json").read_text())
    config["target_modules"] = ["nothing"]
    (tmp_path / "other/adapter_config.json").write_text(json.dumps(config))
    refused(tmp_path / "other", bases / "bert", "does not fit the base")


def test_damaged_files_are_refused(lora, bases):
    weights = lora / "adapter_model.safetensors"
    tensors = load_file(weights)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-20])
    refused(lora, bases / "bert", "damaged or cut off")
    tensors.pop(next(key for key in tensors if "layer.1" in key and "lora_A" in key))
    tensors.pop(next(key for key in tensors if "layer.1" in key and "lora_B" in key))
    save_file(tensors, weights, metadata={"format": "pt"})
    refused(lora, bases / "bert", "1 layers saved, 2 in the model")
    weights.write_bytes(whole)
    config = json.loads((lora / "adapter_config.json").read_text())
    for change, said in [({"r": "two"}, "configuration|does not fit"), ({"peft_type": "IA3"}, "peft_type 'IA3'")]:
        (lora / "adapter_config.json").write_text(json.dumps({**config, **change}))
        refused(lora, bases / "bert", said)
    (lora / "adapter_config.json").write_text("{")
    refused(lora, bases / "bert", "not JSON")


def test_adapters_that_are_more_than_a_product_are_refused(bases, tmp_path):
    options = {"r": 2, "target_modules": ["query"], "task_type": "SEQ_CLS"}
    stock(tiny.bert, LoraConfig(**options, use_dora=True), tmp_path / "dora")
    refused(tmp_path / "dora", bases / "bert", "Dora")
    get_peft_model(tiny.bert(), LoraConfig(**options, init_lora_weights="pissa")).save_pretrained(tmp_path / "pissa")
    refused(tmp_path / "pissa", bases / "bert", "loading changed the base weight")
    embeddings = LoraConfig(r=2, target_modules=["word_embeddings", "query"], task_type="SEQ_CLS")
    stock(tiny.bert, embeddings, tmp_path / "embeddings")
    refused(tmp_path / "embeddings", bases / "bert", "Embedding")


def test_our_adapter_on_another_base_is_refused_and_can_be_allowed(bases, tmp_path):
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules="all-linear")
    tiny.train_a_little(model)
    model.save_pretrained(str(tmp_path / "ours"))
    tiny.bert(seed=1).save_pretrained(tmp_path / "other")
    refused(tmp_path / "ours", tmp_path / "other", "base model is another one")
    found = of_adapter(tmp_path / "ours", tmp_path / "other", allow_base_mismatch=True)
    assert_adds_up(found, tiny.bert(seed=1))
    shutil.rmtree(tmp_path / "other")
    refused(tmp_path / "ours", tmp_path / "other", "there is none")


def test_a_link_that_has_only_begun_is_not_compared(bert):
    model = lopsided.adapt(AutoModelForSequenceClassification.from_pretrained(bert), "c3la", r=4, links=3, seed=1)
    for name, parameter in model.named_parameters():
        if "lopsided_B" in name:
            parameter.data.fill_(0.5)
    lopsided.advance_chain(model)
    layers, factors = adapted_layers(model)
    for layer in layers:
        assert len(layer.links) == 2
        assert float(layer.links[1].energy()) == 0
        assert (factors["B"][layer.module] == 0.5).all()
        # The first window, not the second one.
        assert factors["A"][layer.module][:, :4].sum() == 4
