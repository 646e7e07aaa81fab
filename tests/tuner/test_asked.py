"""Everything that is asked for is adapted, or the line names it: experts, routers, names of a checkpoint."""

from __future__ import annotations

import inspect
import warnings

import peft
import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFTS_DEFAULTS
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
)

import lopsided
from lopsided import LopsidedConfig, LopsidedError, LopsidedWarning
from lopsided.tuner import layers_of
from lopsided.tuner.loose_weights import joined_parts, loose_weights
from tests import tiny

# One size for everything that a configuration may count; each takes what it has.
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_key_value_heads", "num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "num_local_experts", "num_experts"), 4),
    **dict.fromkeys(("n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("head_dim", "d_kv", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **{"vocab_size": 64, "max_position_embeddings": 64, "pad_token_id": 0},
}
EXPERTS = {"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok"}
# Models of each way to hold experts and routers.
KINDS = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "llama4_text", "olmoe", "phimoe", "granitemoe")
KINDS += ("jamba", "jetmoe", "switch_transformers")


def fields(model_type):
    config = CONFIG_MAPPING[model_type]
    return set(inspect.signature(config.__init__).parameters) | set(vars(config()))


def moe(model_type, device="meta"):
    config = CONFIG_MAPPING[model_type]
    mappings = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, MODEL_MAPPING)
    model = next(mapping[config] for mapping in mappings if config in mapping)
    known = fields(model_type)
    torch.manual_seed(0)
    with torch.device(device):
        return model(config(**{name: size for name, size in SIZES.items() if name in known}))


def refusal(model, targets, **options):
    with pytest.raises(LopsidedError) as error:
        lopsided.adapt(model, "lora", r=2, target_modules=targets, **options)
    assert "\n" not in str(error.value)
    assert not layers_of(model)
    return str(error.value)


def names_of(model):
    return {name.removeprefix("base_model.model.") for name in layers_of(model)}


# -- experts and routers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    ["all-linear", ["q_proj", "w1", "w2", "w3"], ["gate", "k_proj"], ["w2"], r".*(experts\.(w1|w2|w3)|q_proj)"],
    ids=str,
)
def test_an_experts_names_mean_what_they_mean_for_lora(targets):
    theirs = peft.get_peft_model(moe("mixtral", "cpu"), peft.LoraConfig(r=4, target_modules=targets))
    ours = lopsided.adapt(moe("mixtral", "cpu"), "lora", r=4, target_modules=targets)
    assert theirs.get_nb_trainable_parameters()[0] == ours.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_adapts_all_linear_layers_and_lists_the_rest(kind):
    model = moe(kind)
    loose = {weight.key for weight in loose_weights(model)}
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = lopsided.adapt(model, "lora", r=2, target_modules="all-linear")
    lines = [str(w.message) for w in caught if w.category is LopsidedWarning]
    # T5's kind has a module for each expert, and a linear layer in its router.
    assert bool(loose) == (kind != "switch_transformers")
    parameters = set(adapted.peft_config["default"].target_parameters or ())
    assert len(lines) == bool(loose - parameters)
    assert linear - names_of(adapted) <= {"lm_head"} | {name for name in linear if name.endswith("mamba.dt_proj")}


@pytest.mark.parametrize(
    ("kind", "targets", "words"),
    [
        ("mixtral", ["q_proj", "w1", "w2"], r"w1 and w3 are joined in model\.layers\.0\.mlp\.experts\.gate_up_proj"),
        ("mixtral", ["experts"], r"mlp\.experts is a MixtralExperts, which can't be adapted"),
        ("deepseek_v3", ["gate_proj"], r"gate_proj and up_proj are joined in .*experts\.gate_up_proj, got the first"),
        ("llama4_text", ["up_proj"], r"up_proj and gate_proj are joined in .*experts\.gate_up_proj, got the first"),
        ("llama4_text", ["router"], r"feed_forward\.router is a Llama4Router, which returns scores and logits"),
        ("phimoe", ["router"], r"mlp\.router is a PhimoeTopKRouter, which returns logits"),
        ("jamba", ["dt_proj"], r"mamba\.dt_proj is a Linear, but JambaMambaMixer reads its weight"),
        # Expressions.
        ("qwen3_moe", r".*mlp\.gate", r"mlp\.gate is a Qwen3MoeTopKRouter"),
    ],
)
def test_what_is_asked_for_and_cannot_be_adapted_is_named(kind, targets, words):
    with pytest.raises(LopsidedError, match=words) as error:
        lopsided.adapt(moe(kind), "lora", r=2, target_modules=targets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt_oss", {"target_modules": ["q_proj", "gate_up_proj", "router"]}),
        ("jetmoe", {"target_modules": ["input_linear"]}),
        ("qwen3_moe", {"target_modules": ["experts.down_proj"]}),
        ("mixtral", {"target_modules": r".*\.(q_proj|down_proj)"}),
        ("llama4_text", {"target_parameters": ["experts.gate_up_proj"]}),
        ("qwen2_moe", {"target_modules": ["shared_expert.gate_proj", "shared_expert.down_proj", "q_proj"]}),
        ("qwen2_moe", {"target_modules": ["gate_proj", "down_proj", "q_proj"], "exclude_modules": ["experts"]}),
        ("mixtral", {"target_modules": r".*self_attn\.[qkv]_proj"}),
        ("switch_transformers", {"target_modules": ["wi", "wo"]}),
        # The first layer has no experts.
        ("deepseek_v3", {"target_modules": ["down_proj"], "layers_to_transform": [0]}),
    ],
)
def test_what_can_be_adapted_is_and_without_a_word(kind, options):
    assert names_of(lopsided.adapt(moe(kind), "lora", r=2, **options))


@pytest.mark.parametrize("targets", [["q_proj", "w1", "w2", "w3"], ["q_proj", "gate"]], ids=str)
def test_experts_by_index_of_layer_are_refused_and_not_left_out(targets):
    words = refusal(moe("mixtral"), targets, layers_to_transform=[0])
    assert "gate" in words or "'w1', 'w3' (part of" in words


@pytest.mark.parametrize("exclude", [["gate", "experts"], ["gate.weight", "gate_up_proj", "down_proj"], r".*mlp.*"])
def test_what_the_user_excludes_is_not_listed(exclude):
    lopsided.adapt(moe("mixtral"), "lora", r=2, target_modules="all-linear", exclude_modules=exclude)


class Routed(nn.Module):
    """A user's own experts."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 6)
        self.router = nn.Parameter(torch.randn(6, 4))
        self.experts = nn.Parameter(torch.randn(4, 6, 6))
        self.rows = nn.GRU(6, 6)
        self.position_embedding = nn.Parameter(torch.randn(2, 3, 6))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 6))
        self.norm = nn.LayerNorm((3, 6))
        self.embedding = nn.Embedding(5, 6)


def test_a_users_own_stacks_and_recurrent_layers_are_listed_and_nothing_else_is():
    with pytest.warns(
        LopsidedWarning, match=r"leaves out experts \(Routed\), rows\.weight_ih_l0 \(GRU\), rows"
    ) as caught:
        lopsided.adapt(Routed(), "lora", r=2, target_modules="all-linear")
    assert "embedding" not in str(caught[0].message)
    assert "experts is a parameter" not in refusal(Routed(), ["up", "experts"])


def test_a_model_without_linear_layers_says_so():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2)})
    assert "finds no layer that can be adapted, only attention.out_proj" in refusal(model, "all-linear")


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["query", "valeu"]}, "for 'valeu' (no module's name); expected"),
        ({"target_modules": ["query", "valeu"]}, "did you mean 'value'?"),
        ({"target_modules": ["qury", "valeu"]}, "for 'qury', 'valeu' (no module's name)"),
        ({"target_modules": ["query", "uery"]}, "'uery' (no module's name)"),
        ({"target_modules": ["query", "classifier"]}, "'classifier' (in modules_to_save as 'classifier', and trained"),
        (
            {"target_modules": ["query", "pooler.dense"], "modules_to_save": ["pooler"]},
            "'pooler.dense' (in modules_to_save as 'pooler'",
        ),
        (
            {"target_modules": ["query", "pooler.dense"], "layers_to_transform": [0]},
            "'pooler.dense' (in none of layers_to_transform=[0])",
        ),
        ({"target_modules": ["query"], "layers_to_transform": [0, 7]}, "no targeted module lies in layer 7"),
        ({"target_modules": ["query"], "layers_to_transform": -1}, "(in none of layers_to_transform=-1)"),
        ({"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": "blocks"}, "layers_to_transform"),
        (
            {"target_modules": ["bert.encoder.layer.0.attention.self.query"], "layers_to_transform": [1]},
            "a whole name in target_modules",
        ),
    ],
)
def test_each_name_and_each_index_counts(options, words):
    assert words in refusal(tiny.bert(), options.pop("target_modules"), **options)


def test_the_same_holds_for_a_second_adapter_and_for_get_peft_model():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    with pytest.raises(LopsidedError, match="'valeu'"):
        model.add_adapter("second", LopsidedConfig(method="cla", r=2, target_modules=["query", "valeu"]))
    model.add_adapter("second", LopsidedConfig(method="cla", r=2, target_modules=["query", "value"]))
    with pytest.raises(LopsidedError, match="'valeu'"):
        peft.get_peft_model(tiny.bert(), LopsidedConfig(method="cla", r=2, target_modules=["query", "valeu"]))


def test_a_saved_adapter_is_what_its_tensors_are(tmp_path):
    """Version 0.1.0 wrote down names that matched nothing."""
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    model.peft_config["default"].target_modules.add("valeu")
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny.bert(), str(tmp_path))
    assert names_of(loaded) == names_of(model)


# -- defaults ---------------------------------------------------------------------------------------------------------


def test_entries_that_are_added_to_pefts_defaults_count(monkeypatch):
    monkeypatch.setitem(PEFTS_DEFAULTS, "vit", ["k_proj"])
    monkeypatch.setitem(PEFTS_DEFAULTS, "gpt2", ["c_proj"])
    assert {name.rsplit(".", 1)[-1] for name in names_of(lopsided.adapt(tiny.vit(), "cla", r=2))} == {"k_proj"}
    assert {name.rsplit(".", 1)[-1] for name in names_of(lopsided.adapt(tiny.gpt2(), "cla", r=2))} == {"c_proj"}
    monkeypatch.delitem(PEFTS_DEFAULTS, "vit")
    assert {name.rsplit(".", 1)[-1] for name in names_of(lopsided.adapt(tiny.vit(), "cla", r=2))} == {
        "q_proj",
        "v_proj",
    }


def test_a_default_that_is_an_expression_takes_no_layers(monkeypatch):
    monkeypatch.setitem(PEFTS_DEFAULTS, "bert", r".*\.query")
    assert "the default target_modules is a regular expression here" in refusal(
        tiny.bert(), None, layers_to_transform=[0]
    )
    lopsided.adapt(tiny.bert(), "cla", r=2)


# -- every model of transformers with experts -------------------------------------------------------------------------


def _with_experts():
    made = []
    for model_type in sorted(CONFIG_MAPPING):
        config = CONFIG_MAPPING[model_type]
        mappings = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, MODEL_MAPPING)
        # A few configurations cannot be made without arguments.
        try:
            if fields(model_type) & EXPERTS and any(config in mapping for mapping in mappings):
                moe(model_type)
                made.append(model_type)
        except (AttributeError, TypeError, ValueError, StrictDataclassError):
            continue
    return made


@pytest.mark.more
@pytest.mark.filterwarnings("ignore")
def test_every_model_with_experts_is_adapted_or_refused_by_name():
    transformers.logging.set_verbosity_error()
    seen, lines = [], []
    for model_type in _with_experts():
        seen.append(model_type)
        lopsided.adapt(moe(model_type), "lora", r=2, target_modules="all-linear")
        for targets in (["gate_proj", "up_proj", "down_proj"], ["q_proj", "w1", "w2", "w3"], ["gate"], ["router"]):
            model = moe(model_type)
            loose = {
                weight.key: joined_parts(model).get(weight.key.rpartition(".")[2], ())
                for weight in loose_weights(model)
            }
            try:
                adapted = lopsided.adapt(model, "lora", r=2, target_modules=targets)
            except LopsidedError as error:
                lines.append(str(error))
                continue
            asked = set(targets)
            layers = {name.rpartition(".")[2] for name in names_of(adapted) if ".adapted." not in name}
            stacks = set(adapted.peft_config["default"].target_parameters or ())
            # By its own name, by all names of the parts that it joins, or a router's matrix by the router's.
            by_name = {key: {key.rpartition(".")[2], key.split(".")[-2]} & asked for key in loose}
            by_parts = {key: set().union(*(parts for parts in loose[key] if parts <= asked)) for key in loose}
            assert stacks == {key for key in loose if by_name[key] or by_parts[key]}
            assert layers <= asked
            assert layers.union(*(by_name[key] | by_parts[key] for key in stacks)) == asked
    assert not any("\n" in line for line in lines)
    assert len(seen) > 40
