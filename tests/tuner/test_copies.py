"""An adapter copied as other libraries copy one: added with the same configuration, its parameters copied by name."""

from __future__ import annotations

import copy
import dataclasses

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model

import lopsided
from lopsided import LopsidedConfig, LopsidedError, advance_chain
from lopsided.tuner import layers_of
from tests import tiny


def trained(name: str, *, links: int = 3, advances: int = 2) -> PeftModel:
    chained = name in tiny.CHAINS
    options = {"links": links} if chained else {}
    options |= {"target_modules": ["up", "down"], "modules_to_save": ["head"]}
    model = lopsided.adapt(tiny.mlp(), name, r=2, **options).eval()
    optimizer = tiny.train_a_little(model)
    for _ in range(advances if chained else 0):
        advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    return model


def copied(model: PeftModel, config: LopsidedConfig, name: str = "ref") -> int:
    """What TRL's trainers do; returns how many parameters were copied."""
    model.add_adapter(name, config)
    pairs = [(n, p) for n, p in model.named_parameters() if ".default." in n]
    for n, p in pairs:
        model.get_parameter(n.replace(".default.", f".{name}.")).data.copy_(p.data)
    return len(pairs)


def assert_a_copy(model: PeftModel, name: str = "ref") -> None:
    policy = tiny.logits(model)
    model.set_adapter(name)
    # One way of computing on one machine: the same bits.
    assert torch.equal(tiny.logits(model), policy)
    with model.disable_adapter():
        assert not torch.allclose(tiny.logits(model), policy, atol=1e-4), "the policy must not be the base model"
    model.set_adapter("default")
    assert torch.equal(tiny.logits(model), policy)


@pytest.mark.parametrize("name", tiny.ADAPTERS)
@pytest.mark.parametrize("how", ["itself", "a copy"])
def test_an_adapter_is_copied_by_its_parameters(name, how):
    model = trained(name)
    config = model.peft_config["default"]
    layers = layers_of(model)
    letters = len(next(iter(layers.values())).trained("default"))
    # The head's weight and bias, too.
    assert copied(model, config if how == "itself" else copy.deepcopy(config)) == letters * len(layers) + 2
    assert_a_copy(model)


@pytest.mark.parametrize("name", tiny.ADAPTERS)
@pytest.mark.parametrize("trainable", [True, False])
def test_a_saved_adapter_is_copied(name, trainable, tmp_path):
    trained(name).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny.mlp(), str(tmp_path), is_trainable=trainable).eval()
    copied(model, model.peft_config["default"])
    assert_a_copy(model)


def test_a_copy_of_another_model_s_chain_has_no_past_and_says_so():
    model = trained("rac_b")
    other = get_peft_model(tiny.mlp(), model.peft_config["default"])
    with pytest.raises(LopsidedError, match=r"tensors were not loaded.*from_pretrained"):
        tiny.logits(other)


def test_a_copy_goes_its_own_way():
    model = trained("rac_b", links=5)
    copied(model, model.peft_config["default"])
    before = tiny.logits(model)
    model.set_adapter("ref")
    advance_chain(model, tiny.train_a_little(model))
    model.eval()
    assert model.peft_config["ref"].link == 3
    assert model.peft_config["default"].link == 2
    model.set_adapter("default")
    assert torch.equal(tiny.logits(model), before)


def test_two_adapters_of_one_configuration_that_differ_are_not_confused():
    model = trained("rac_b", links=3, advances=0)
    model.add_adapter("b", LopsidedConfig(**_fields(model, links=3)))
    for name in ("default", "b"):
        model.set_adapter(name)
        advance_chain(model, tiny.train_a_little(model))
    model.eval()
    with pytest.raises(
        LopsidedError, match=r"adapters 'default' and 'b' both have the configuration.*peft_config\['b'\]"
    ):
        model.add_adapter("c", copy.deepcopy(model.peft_config["b"]))
    model.set_adapter("default")
    expected = tiny.logits(model)
    # By the configuration's own object it is clear which one is meant.
    copied(model, model.peft_config["default"], "c")
    model.set_adapter("c")
    assert torch.equal(tiny.logits(model), expected)


def _fields(model: PeftModel, **others):
    config = model.peft_config["default"]
    kept = {"r": config.r, "target_modules": sorted(config.target_modules), "task_type": config.task_type}
    return {"method": config.method, "modules_to_save": list(config.modules_to_save), **kept, **others}


@pytest.mark.parametrize("name", ["cla", "rac_b", "c3la", "bernoulli", "cola"])
def test_switching_between_copies_writes_nothing(name):
    model = trained(name)
    copied(model, model.peft_config["default"])
    layer = next(iter(layers_of(model).values()))
    held = layer.base_weight.held
    model.set_adapter("ref")
    assert layer.base_weight.held == held


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_trained_factors_have_pefts_names(name):
    model = lopsided.adapt(tiny.mlp(), name, r=2, target_modules=["up"], adapter_name="mine")
    names = [n for n, p in model.named_parameters() if p.requires_grad and "lopsided_" in n]
    letters = tiny.METHODS_LETTERS[name]
    assert sorted({n.rpartition("lopsided_")[2] for n in names}) == [f"{letter}.mine.weight" for letter in letters]
    # PEFT's own view of it.
    assert set(peft.get_peft_model_state_dict(model, adapter_name="mine")) >= {n.replace(".mine", "") for n in names}


# -- a caller's objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CHAINS)
def test_a_configuration_can_be_used_again(name):
    config = LopsidedConfig(method=name, r=2, links=3, target_modules=["0"])
    before = config.to_dict()
    outputs = []
    for _ in range(3):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 4))
        model = get_peft_model(net, config)
        advance_chain(model)
        outputs.append(model(torch.ones(1, 8)))
        assert config.to_dict() == before
        assert model.peft_config["default"].link == 1
    assert all(torch.allclose(out, outputs[0]) for out in outputs[1:])


def test_lists_and_dictionaries_of_the_caller_stay_as_they_are():
    targets, saved, ranks = ["query"], ["pooler"], {"query": 3}
    lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=targets, modules_to_save=saved, rank_pattern=ranks)
    assert (targets, saved, ranks) == (["query"], ["pooler"], {"query": 3})


def test_a_configuration_and_its_adapter_do_not_share_what_can_change():
    config = LopsidedConfig(method="cla", r=2, target_modules=["query"], rank_pattern={"query": 3})
    model = get_peft_model(tiny.bert(), config)
    model.peft_config["default"].rank_pattern["dense"] = 1
    assert config.rank_pattern == {"query": 3}
    assert config.base is None


@pytest.mark.parametrize("name", ["rac_b", "c3la", "asym_b"])
def test_a_replaced_configuration_is_a_configuration_and_no_file(name):
    model = trained(name)
    config = dataclasses.replace(model.peft_config["default"])
    assert not config.from_file
    copied(model, config)
    assert_a_copy(model)
    # With another seed it is another adapter: a chain's past is not its own.
    other = dataclasses.replace(model.peft_config["default"], seed=7)
    model.add_adapter("other", other)
    model.set_adapter("other")
    if name in tiny.CHAINS:
        with pytest.raises(LopsidedError, match="tensors were not loaded"):
            tiny.logits(model)
    else:
        assert torch.isfinite(tiny.logits(model)).all()
