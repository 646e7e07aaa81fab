"""Arguments that PEFT's users pass: honoured, or refused in a line."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer

import lopsided
from lopsided import LopsidedConfig, LopsidedError, LopsidedWarning
from lopsided.tuner import layers_of
from lopsided.tuner.lora_fields import INSTEAD
from tests import tiny

OURS = {field.name for field in dataclasses.fields(LopsidedConfig)} | {"lora_alpha", "lora_dropout"}
THEIRS = {field.name: field for field in dataclasses.fields(LoraConfig) if field.name not in OURS}
# For each field of LoraConfig that is not ours, a value that would change the function or what is trained.
ON = {
    "bias": "all",
    "trainable_token_indices": {"embed_tokens": [1]},
    "ensure_weight_tying": True,
    "init_lora_weights": "pissa",
    "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 2.0},
    "corda_config": {"corda_method": "kpm"},
    "lora_ga_config": {"direction": "ArB2r"},
    "use_dora": True,
    "use_qalora": True,
    "qalora_group_size": 8,
    "use_bdlora": {"nblocks": 2},
    "velora_config": {"num_groups": 2},
    "monteclora_config": {"a": 1},
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "kasa_config": {"beta": 0.1},
    "lora_bias": True,
    "layer_replication": [(0, 1), (0, 1)],
    "megatron_config": {"tensor_model_parallel_size": 2},
    "megatron_core": "another.megatron",
    "runtime_config": peft.LoraRuntimeConfig(ephemeral_gpu_offload=True),
}


def only_ours(caught):
    return [str(w.message) for w in caught if w.category is LopsidedWarning]


# -- fields of LoraConfig ---------------------------------------------------------------------------------------------


def test_every_field_of_lora_config_is_ours_or_known():
    """A canary: PEFT's next version brings fields that this test names."""
    assert THEIRS.keys() - {"fan_in_fan_out"} == ON.keys()
    assert INSTEAD.keys() <= THEIRS.keys()


@pytest.mark.parametrize("name", ON)
def test_what_is_on_is_refused_by_name(name):
    for make in (LopsidedConfig, lambda **options: lopsided.adapt(tiny.bert(), "cla", r=2, **options)):
        with pytest.raises(LopsidedError, match=rf"^{name}=.* is LoRA's and does nothing here; expected ") as error:
            make(**{name: ON[name]})
        assert "\n" not in str(error.value)


def test_what_is_off_is_taken():
    off = {name: getattr(LoraConfig(), name) for name in ON}
    expected = LopsidedConfig(method="cla", r=2, target_modules=["query"])
    assert LopsidedConfig(method="cla", r=2, target_modules=["query"], **off) == expected
    for empty in ({"target_parameters": []}, {"trainable_token_indices": {}}, {"loftq_config": None}):
        assert LopsidedConfig(method="cla", r=2, target_modules=["query"], **empty) == expected


@pytest.mark.parametrize("value", [False, None, "gaussian", "eva", "pissa_niter_4"])
def test_no_way_to_start_but_the_methods_own_is_taken(value):
    with pytest.raises(LopsidedError, match=r"init_lora_weights=.*the method's sketch decides how factors start"):
        LopsidedConfig(init_lora_weights=value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("target_module", "'target_modules'"), ("lora_alfa", "'lora_alpha'"), ("rank", None), ("layer_pattern", "layers")],
)
def test_unknown_names_are_refused_with_the_nearest_one(name, hint):
    with pytest.raises(LopsidedError, match=rf"LopsidedConfig has no field '{name}';.*expected one of") as error:
        LopsidedConfig(**{name: 3})
    assert hint is None or f"did you mean {hint}" in str(error.value).replace("'layers", "layers")
    assert "\n" not in str(error.value)


def test_fan_in_fan_out_is_compared_with_the_layers():
    for value in (True, False, None):
        model = lopsided.adapt(tiny.gpt2(), "cla", r=2, target_modules=["c_attn"], fan_in_fan_out=value)
        assert len(layers_of(model)) == 2
    for value in (False, None):
        lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"], fan_in_fan_out=value)
    base = tiny.bert()
    with pytest.raises(LopsidedError, match=r"fan_in_fan_out=True .*query is a Linear, which stores \(d_out"):
        lopsided.adapt(base, "cla", r=2, target_modules=["query"], fan_in_fan_out=True)
    assert not layers_of(base)


def test_such_fields_are_written_to_no_file(tmp_path):
    config = LopsidedConfig(method="cla", r=2, target_modules=["c_attn"], bias="none", fan_in_fan_out=True)
    model = get_peft_model(tiny.gpt2(), config)
    model.save_pretrained(tmp_path)
    assert not {"bias", "fan_in_fan_out"} & LopsidedConfig.from_pretrained(str(tmp_path)).to_dict().keys()
    assert torch.equal(tiny.logits(PeftModel.from_pretrained(tiny.gpt2(), str(tmp_path))), tiny.logits(model))


def test_copies_of_a_configuration_are_whole():
    config = LopsidedConfig(method="cla", r=2, fan_in_fan_out=True)
    assert copy.deepcopy(config).fan_in_fan_out
    assert dataclasses.replace(config, alpha=3).alpha == 3


# -- layers by index --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [r".*\.query", "all-linear", "ALL-LINEAR"])
@pytest.mark.parametrize("options", [{"layers_to_transform": [0]}, {"layers_to_transform": 0}, {"layers_pattern": "h"}])
def test_layers_by_index_need_names(targets, options):
    options = {"layers_to_transform": None, **options}
    with pytest.raises(LopsidedError, match=r"chooses among modules by name, but target_modules=") as error:
        LopsidedConfig(target_modules=targets, **options)
    assert "\n" not in str(error.value)
    # Stock PEFT raises as well, with several words less.
    with pytest.raises(ValueError, match="cannot be used when `target_modules` is a str"):
        LoraConfig(target_modules=targets, **options)


def test_a_pattern_of_layers_needs_layers():
    with pytest.raises(LopsidedError, match="layers_pattern='layer' says where layers_to_transform counts"):
        LopsidedConfig(target_modules=["query"], layers_pattern="layer")
    options = {"layers_pattern": ["layer"], "layers_to_transform": [1]}
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"], **options)
    assert list(layers_of(model)) == ["base_model.model.bert.encoder.layer.1.attention.self.query"]


def test_a_file_that_says_what_was_ignored_is_read(tmp_path):
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=r".*\.query")
    model.peft_config["default"].layers_to_transform = [0]
    model.save_pretrained(tmp_path)
    assert len(layers_of(PeftModel.from_pretrained(tiny.bert(), str(tmp_path)))) == 2


# -- autocast_adapter_dtype -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_stay_float32_and_one_warning_says_so(dtype, tmp_path):
    config = LopsidedConfig(method="cla", r=2, target_modules=["query"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = get_peft_model(tiny.bert().to(dtype), config, autocast_adapter_dtype=False)
        assert len(only_ours(caught)) == 1
        model.save_pretrained(tmp_path)
        model = PeftModel.from_pretrained(tiny.bert().to(dtype), str(tmp_path), autocast_adapter_dtype=False)
        assert len(only_ours(caught)) == 2
        model.add_adapter("second", copy.deepcopy(config), autocast_adapter_dtype=False)
        assert len(only_ours(caught)) == 3
        model.load_adapter(str(tmp_path), "third", autocast_adapter_dtype=False)
        assert len(only_ours(caught)) == 4
        model.load_adapter(str(tmp_path), "fourth")
    assert len(only_ours(caught)) == 4
    assert all("stay float32 masters" in line and "\n" not in line for line in only_ours(caught))
    factors = [p for n, p in model.named_parameters() if "lopsided_" in n]
    assert {factor.dtype for factor in factors} == {torch.float32}


# -- PEFT's optimizers for LoRA ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "lora_plus", "asym_b", "cla"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda model: create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16),
            "create_loraplus_optimizer .*'lora_plus'",
        ),
        (lambda model: create_lorafa_optimizer(model, r=2, lora_alpha=4, lr=1e-3), "LoraFAOptimizer .*'lora_fa'"),
        (
            lambda model: create_riemannian_optimizer(model, torch.optim.AdamW, lr=1e-3),
            "did not find any trainable lora_A/lora_B",
        ),
    ],
    ids=["LoRA+", "LoRA-FA", "Riemannian"],
)
def test_optimizers_that_look_for_loras_names_are_refused(make, words, method):
    model = lopsided.adapt(tiny.bert(), method, r=2, target_modules=["query"])
    trained = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=words) as error:
        make(model)
    assert "\n" not in str(error.value)
    assert [p.requires_grad for p in model.parameters()] == trained
    # Models with LoRA alone have what they had.
    lora = get_peft_model(tiny.bert(), LoraConfig(r=2, target_modules=["query"]))
    assert isinstance(make(lora), torch.optim.Optimizer)
