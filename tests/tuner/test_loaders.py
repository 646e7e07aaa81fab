"""Other people's loaders, and whole models' states: right, or refused before anything is computed."""

from __future__ import annotations

import copy
import functools
import io

import pytest
import torch
from peft import (
    PeftModel,
    get_base_model_state_dict,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_base_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from transformers import AutoModel, AutoModelForCausalLM, LlamaForCausalLM

import lopsided
from lopsided import LopsidedConfig, LopsidedError, advance_chain
from lopsided.tuner import layers_of
from tests import tiny
from tests.diagonal import diagonal

TARGETS = ["q_proj", "v_proj", "down_proj"]


@functools.cache
def trained_once(name: str) -> PeftModel:
    return _trained(name, tiny.llama())


def trained(name: str, base=None, **options) -> PeftModel:
    """Of a chain: at link 2."""
    if base is None and not options:
        return copy.deepcopy(trained_once(name))
    return _trained(name, tiny.llama() if base is None else base, **options)


def _trained(name: str, base, **options) -> PeftModel:
    if name in tiny.CHAINS:
        options["links"] = 3
    model = lopsided.adapt(base, name, r=2, target_modules=TARGETS, **options).eval()
    optimizer = tiny.train_a_little(model)
    for _ in range(2 if name in tiny.CHAINS else 0):
        advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    return model


def hidden(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny.inputs(tiny.llama()), output_hidden_states=True).hidden_states[-1]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.llama().save_pretrained(folder)
    return str(folder)


# -- transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), diagonal(tiny.ADAPTERS, [AutoModelForCausalLM, AutoModel], share=2))
def test_transformers_loads_into_a_model_with_other_paths(name, kind, base_folder, tmp_path):
    model = trained(name, AutoModelForCausalLM.from_pretrained(base_folder))
    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(base_folder).eval()
    loaded.load_adapter(str(tmp_path))
    torch.testing.assert_close(hidden(loaded), hidden(model))
    # And what it saves is the same adapter again.
    loaded.save_pretrained(tmp_path / "again")
    again = kind.from_pretrained(base_folder).eval()
    again.load_adapter(str(tmp_path / "again"))
    assert torch.equal(hidden(again), hidden(loaded))


@pytest.mark.parametrize("name", ["asym_b", "cla", "rac_b", "bernoulli"])
@pytest.mark.parametrize("lost", ["all of the state", "the seed", "one layer's"])
def test_what_a_loader_drops_is_seen_before_anything_is_computed(name, lost, base_folder, tmp_path):
    trained(name, AutoModelForCausalLM.from_pretrained(base_folder)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    dropped = {
        "all of the state": [k for k in tensors if "lopsided_state" in k],
        "the seed": [k for k in tensors if k.endswith("lopsided_state.seed")],
        "one layer's": [k for k in tensors if "lopsided_state" in k and "layers.0.self_attn.q_proj" in k],
    }[lost]
    kept = {k: t for k, t in tensors.items() if k not in dropped}
    save_file(kept, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    loaded = AutoModel.from_pretrained(base_folder).eval()
    loaded.load_adapter(str(tmp_path))
    for call in (lambda: hidden(loaded), lambda: loaded.save_pretrained(tmp_path / "never")):
        with pytest.raises(LopsidedError, match=r"(did not arrive|were not loaded).*from_pretrained"):
            call()


def test_a_new_adapter_on_a_transformers_model(tmp_path):
    base = tiny.llama()
    expected = hidden(base)
    base.add_adapter(LopsidedConfig(method="rac_b", r=2, links=3, target_modules=TARGETS))
    assert torch.equal(hidden(base), expected)
    optimizer = torch.optim.AdamW(lopsided.param_groups(base, lr=1e-2))
    for link in (1, 2):
        tiny.run_steps(base, optimizer, 2)
        before = hidden(base)
        assert lopsided.advance_chain(base, optimizer) == link
        torch.testing.assert_close(hidden(base), before)
    assert base.peft_config["default"].link == 2
    before = hidden(base)
    base.save_pretrained(tmp_path)
    other = tiny.llama()
    other.load_adapter(str(tmp_path))
    torch.testing.assert_close(hidden(other), before)
    base.disable_adapters()
    assert torch.equal(hidden(base), expected)


@pytest.mark.parametrize("name", ["rac_b", "c3la", "cola", "asym_a"])
def test_injected_adapters(name):
    links = {"links": 3} if name in tiny.CHAINS else {}
    config = LopsidedConfig(method=name, r=2, target_modules=["up", "down"], **links)
    model = inject_adapter_in_model(config, tiny.mlp())
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    tiny.run_steps(model, optimizer, 2)
    if name in tiny.CHAINS:
        assert advance_chain(model, optimizer) == 1
        tiny.run_steps(model, optimizer, 2)
    state = get_peft_model_state_dict(model)
    again = inject_adapter_in_model(copy.deepcopy(model.peft_config["default"]), tiny.mlp())
    again.head.load_state_dict(model.head.state_dict())
    set_peft_model_state_dict(again, state)
    assert torch.equal(tiny.logits(again), tiny.logits(model))


# -- whole models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_a_whole_state_holds_w0_and_the_links_beside_it(name):
    base = tiny.llama()
    original = copy.deepcopy(base.state_dict())
    model = trained(name, base)
    found = get_base_model_state_dict(model)
    assert found.keys() == original.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in original.items())
    expected = tiny.logits(model)
    fresh = lopsided.adapt(tiny.llama(seed=1), name, r=2, target_modules=TARGETS, seed=9, **_links(name)).eval()
    assert not fresh.load_state_dict(model.state_dict()).missing_keys
    assert torch.equal(tiny.logits(fresh), expected)
    with fresh.disable_adapter():
        found = get_base_model_state_dict(fresh)
        assert all(torch.equal(found[key], tensor) for key, tensor in original.items())


def _links(name):
    return {"links": 3} if name in tiny.CHAINS else {}


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_another_base_under_the_links(name):
    model, other = trained(name), tiny.llama(seed=1)
    layers = layers_of(model)
    deltas = {module: layer.get_delta_weight("default") for module, layer in layers.items()}
    set_base_model_state_dict(model, other.state_dict())
    for module, layer in layers_of(model).items():
        assert torch.equal(layer.get_delta_weight("default"), deltas[module])
    model.merge_adapter()
    merged = dict(model.named_modules())
    for module, delta in deltas.items():
        W0 = other.get_submodule(module.removeprefix("base_model.model.")).weight
        torch.testing.assert_close(merged[module].base_layer.weight, W0 + delta)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(tiny.logits(model), tiny.logits(other))
    found = get_base_model_state_dict(model)
    assert all(torch.equal(found[key], tensor) for key, tensor in other.state_dict().items())


@pytest.mark.parametrize("name", ["cla", "rac_b", "c3la", "bernoulli", "cola"])
@pytest.mark.parametrize("way", ["torch.save", "safetensors", "distributed checkpoint", "strictly, by assignment"])
def test_whole_states_go_through_other_people_s_functions(name, way, tmp_path):
    model = trained(name)
    fresh = lopsided.adapt(tiny.llama(seed=1), name, r=2, target_modules=TARGETS, seed=9, **_links(name)).eval()
    if way == "torch.save":
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        fresh.load_state_dict(torch.load(buffer, weights_only=True))
    elif way == "safetensors":
        untied = {k: t.clone().contiguous() for k, t in model.state_dict().items()}
        save_file(untied, tmp_path / "model.safetensors")
        fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    elif way == "distributed checkpoint":
        set_model_state_dict(fresh, get_model_state_dict(model))
    else:
        fresh.load_state_dict(copy.deepcopy(model.state_dict()), strict=True, assign=True)
    torch.testing.assert_close(tiny.logits(fresh), tiny.logits(model))


def test_a_strict_load_says_what_is_missing_and_what_is_too_much():
    model = trained("rac_b")
    state = model.state_dict()
    key = next(k for k in state if k.endswith("lopsided_state.default.seed"))
    prefix = key.removesuffix("seed")
    less = {k: t for k, t in state.items() if not k.startswith(prefix)}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*lopsided_state.default.seed"):
        model.load_state_dict(less)
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*lopsided_state.default.future"):
        model.load_state_dict({**state, f"{prefix}future": torch.zeros(1)})


@pytest.mark.parametrize("name", ["cla", "rac_b", "bernoulli"])
def test_the_adapter_s_name_is_nowhere_in_its_tensors(name):
    states = []
    for adapter in ("default", "other"):
        model = trained(name, adapter_name=adapter)
        states.append({k.replace(f".{adapter}", ""): t for k, t in model.state_dict().items()})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(t, states[1][k]) for k, t in states[0].items())


# -- a configuration by itself -----------------------------------------------------------------------------------


@pytest.mark.uncalibrated
@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_a_configuration_is_saved_and_read_without_tensors(name, tmp_path):
    config = LopsidedConfig(method=name, r=2, target_modules=TARGETS, seed=5, **_links(name))
    config.save_pretrained(tmp_path)
    read = LopsidedConfig.from_pretrained(tmp_path)
    fields = [{k: sorted(v) if isinstance(v, list) else v for k, v in c.to_dict().items()} for c in (config, read)]
    assert fields[0] == {**fields[1], "peft_version": fields[0]["peft_version"]}
    first, second = get_peft_model(tiny.llama(), config), get_peft_model(tiny.llama(), read)
    for model in (first, second):
        lopsided.calibrate(model, [tiny.inputs(model)])
    assert torch.equal(tiny.logits(first), tiny.logits(second))
    for model in (first, second):
        tiny.train_a_little(model)
    assert torch.equal(tiny.logits(first), tiny.logits(second))


@pytest.mark.parametrize("name", ["asym_b", "cla", "lora"])
def test_a_saved_adapter_s_configuration_makes_a_new_adapter(name, tmp_path):
    trained(name).save_pretrained(tmp_path)
    config = LopsidedConfig.from_pretrained(tmp_path)
    # PEFT saves an adapter as one for inference.
    config.inference_mode = False
    model = get_peft_model(tiny.llama(), config)
    assert torch.equal(tiny.logits(model), tiny.logits(tiny.llama()))
    tiny.train_a_little(model)
    assert not torch.equal(tiny.logits(model), tiny.logits(tiny.llama()))


def test_factors_copied_into_a_configuration_from_a_file_are_not_believed(tmp_path):
    model = trained("asym_b")
    model.save_pretrained(tmp_path)
    other = get_peft_model(tiny.llama(), LopsidedConfig.from_pretrained(tmp_path))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lopsided_" in name:
                other.get_parameter(name).copy_(p)
    with pytest.raises(LopsidedError, match="lopsided_state"):
        tiny.logits(other)


# -- the meta device ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_names_and_shapes_on_the_meta_device(name):
    with torch.device("meta"):
        empty = lopsided.adapt(tiny.llama(), name, r=2, target_modules=TARGETS)
    real = lopsided.adapt(tiny.llama(), name, r=2, target_modules=TARGETS)
    shapes = [{n: tuple(p.shape) for n, p in model.named_parameters()} for model in (empty, real)]
    assert shapes[0] == shapes[1]
    assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in real.state_dict().items()}


# -- an adapted output embedding, which PEFT saves along ---------------------------------------------------------


def untied(seed: int = 0) -> LlamaForCausalLM:
    config = tiny.llama().config
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_a_saved_output_embedding_is_the_original(name, tmp_path):
    model = lopsided.adapt(untied(), name, r=2, target_modules=["q_proj", "lm_head"], **_links(name)).eval()
    optimizer = tiny.train_a_little(model)
    for _ in range(2 if name in tiny.CHAINS else 0):
        advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.model.lm_head.base_layer.weight"], untied().lm_head.weight)
    loaded = PeftModel.from_pretrained(untied(), str(tmp_path)).eval()
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))
    with loaded.disable_adapter():
        assert torch.equal(tiny.logits(loaded), tiny.logits(untied()))


def test_an_output_embedding_of_0_1_0_has_its_links_once(tmp_path):
    model = lopsided.adapt(untied(), "rac_b", r=2, target_modules=["q_proj", "lm_head"], links=3).eval()
    advance_chain(model, tiny.train_a_little(model))
    model.eval().save_pretrained(tmp_path)
    # As 0.1.0 wrote it: its names, and W0 plus the links.
    tensors = {}
    for key, tensor in load_file(tmp_path / "adapter_model.safetensors").items():
        if not key.endswith("lopsided_manifest"):
            tensors[key.replace("lopsided_state.", "lopsided_").replace("lopsided_B.weight", "lopsided_B")] = tensor
    live = model.base_model.model.lm_head.base_layer.weight.detach().clone()
    assert not torch.equal(live, untied().lm_head.weight)
    tensors["base_model.model.lm_head.base_layer.weight"] = live
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.warns(lopsided.LopsidedWarning, match="without a manifest"):
        loaded = PeftModel.from_pretrained(untied(), str(tmp_path)).eval()
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))
    with loaded.disable_adapter():
        assert torch.equal(tiny.logits(loaded), tiny.logits(untied()))
