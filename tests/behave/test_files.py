"""Saving and loading: every public way into a file, a state dict or a copy, and back."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)

import lopsided
from lopsided import METHODS
from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import (
    ARCHITECTURES,
    adapted,
    another,
    assert_base_is_original,
    base,
    config,
    everywhere,
    fill,
    logits,
    pair,
    plain_logits,
    trained,
    trained_tensors,
)
from tests.diagonal import diagonal

HEADED = tuple(name for name, architecture in ARCHITECTURES.items() if architecture.head)


@everywhere(6)
@pytest.mark.parametrize("sparing", [False, True], ids=["", "low_cpu_mem_usage"])
def test_a_saved_adapter_comes_back(arch, method, sparing, tmp_path):
    model = trained(arch, method)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    assert model.peft_config["default"].inference_mode is False
    loaded = PeftModel.from_pretrained(base(arch), str(tmp_path), low_cpu_mem_usage=sparing)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert torch.equal(logits(loaded), expected)
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())
    assert_base_is_original(loaded, arch)
    # Loaded to train on: the same factors learn, and the chain goes on from where it stood.
    again = PeftModel.from_pretrained(base(arch), str(tmp_path), is_trainable=True, low_cpu_mem_usage=sparing)
    assert trained_tensors(again).keys() == trained_tensors(model).keys() != set()
    for twin in (model, again.eval()):
        if METHODS[method].chain:
            assert lopsided.advance_chain(twin) == 3
        fill(twin, seed=9)
    assert torch.equal(logits(again), logits(model))


@everywhere(6)
def test_adapters_are_saved_by_name_and_loaded_under_others(arch, method, tmp_path):
    model = pair(arch, method)
    expected = {"default": logits(model)}
    model.set_adapter("other")
    expected["other"] = logits(model)
    model.save_pretrained(tmp_path / "both")
    model.save_pretrained(tmp_path / "one", selected_adapters=["other"])
    assert sorted(p.parent.name for p in (tmp_path / "both").rglob("*.safetensors")) == ["both", "other"]
    assert [p.parent.name for p in (tmp_path / "one").rglob("*.safetensors")] == ["other"]
    with pytest.raises(ValueError, match=r"invalid `selected_adapters`.*nobody"):
        model.save_pretrained(tmp_path / "none", selected_adapters=["nobody"])

    loaded = PeftModel.from_pretrained(base(arch), str(tmp_path / "one"), adapter_name="first", subfolder="other")
    assert torch.equal(logits(loaded), expected["other"])
    for sparing, name in ((False, "second"), (True, "third")):
        loaded.load_adapter(str(tmp_path / "both"), name, low_cpu_mem_usage=sparing)
        assert torch.equal(logits(loaded), expected["other"]), "loading must not switch"
        assert loaded.active_adapters == ["first"]
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded), expected["default"])
        loaded.set_adapter("first")
    # Over a live adapter of the same method.
    fill(loaded, "third", seed=4)
    loaded.load_adapter(str(tmp_path / "both"), "third")
    loaded.set_adapter("third")
    assert torch.equal(logits(loaded), expected["default"])
    assert_base_is_original(loaded, arch)


@everywhere(6)
def test_an_adapters_state_dict_moves_it_into_a_live_model(arch, method):
    model = trained(arch, method)
    state = copy.deepcopy(get_peft_model_state_dict(model))
    # Neither the adapter's name nor anything of the other adapter is in it.
    both = pair(arch, method)
    assert get_peft_model_state_dict(both).keys() == state.keys()
    assert not any("default" in key or "other" in key for key in state)
    live = adapted(arch, method)
    set_peft_model_state_dict(live, copy.deepcopy(state))
    assert torch.equal(logits(live), logits(model))
    live.add_adapter("twin", config(arch, method))
    set_peft_model_state_dict(live, state, adapter_name="twin")
    live.set_adapter("twin")
    assert torch.equal(logits(live.eval()), logits(model))


@everywhere(6)
def test_a_whole_models_state_dict_comes_back(arch, method):
    model, live = pair(arch, method), adapted(arch, method)
    live.add_adapter("other", config(arch, another(method), seed=1))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    live.load_state_dict(torch.load(buffer, weights_only=True))
    for name in ("default", "other"):
        live.set_adapter(name), model.set_adapter(name)
        assert torch.equal(logits(live.eval()), logits(model.eval())), name
    assert_base_is_original(live, arch)


@everywhere(6)
def test_copies_are_whole_and_their_own(arch, method):
    model = pair(arch, method)
    expected = logits(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(twin), expected)
        fill(twin, seed=11)
        assert not torch.equal(logits(twin), expected)
        twin.set_adapter("other")
        assert_base_is_original(twin, arch)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_a_configuration_can_be_read_first_and_given(method, tmp_path):
    model = trained("bert", method)
    model.save_pretrained(tmp_path)
    read = PeftConfig.from_pretrained(str(tmp_path))
    assert type(read) is lopsided.LopsidedConfig
    assert read.inference_mode is True
    assert (read.method, read.r, read.alpha) == (method, 2, 4)
    assert read.target_modules == set(ARCHITECTURES["bert"].targets)
    loaded = PeftModel.from_pretrained(base("bert"), str(tmp_path), config=read)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(("method", "arch"), diagonal(tiny.ADAPTERS, ["bert", "llama"], share=2))
def test_base_and_adapter_are_found_by_the_adapters_folder_alone(arch, method, tmp_path):
    loader = {"bert": AutoPeftModelForSequenceClassification, "llama": AutoPeftModelForCausalLM}[arch]
    plain = base(arch)
    plain.save_pretrained(tmp_path / "base")
    on_disk = type(plain).from_pretrained(tmp_path / "base").eval()
    targets = list(ARCHITECTURES[arch].targets)
    links = 4 if METHODS[method].chain else None
    model = lopsided.adapt(on_disk, method, r=2, target_modules=targets, links=links).eval()
    fill(model)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(loader.from_pretrained(str(tmp_path / "adapter"))), logits(model))


@pytest.mark.parametrize("arch", HEADED)
def test_a_trained_head_is_saved_and_the_bases_is_not(arch, tmp_path):
    model = trained(arch, "c3la")
    names = {name.removeprefix("base_model.model.") for name in get_peft_model_state_dict(model)}
    head = ARCHITECTURES[arch].head
    assert {name for name in names if "lopsided" not in name} == {f"{head}.weight", f"{head}.bias"}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(arch), str(tmp_path))
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), plain_logits(arch))


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="should be a directory, not a file"):
        trained("mlp", "cla").save_pretrained(tmp_path / "taken")


def test_a_repr_names_method_rank_and_link():
    layer = next(iter(layers_of(trained("gpt2", "c3la")).values()))
    assert "(default): c3la, r=2, trains B, link=2" in repr(layer)
