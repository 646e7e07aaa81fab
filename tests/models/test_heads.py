"""Heads and task types, over every task class of transformers."""

from __future__ import annotations

import copy
import inspect
import warnings

import pytest
import torch
import transformers
from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, LoraConfig, TaskType
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

import lopsided
from lopsided import LopsidedError, LopsidedWarning
from lopsided.models.heads import (
    HEADED,
    PASSED,
    TASK_TYPES,
    head_modules,
    is_inside,
    modules_to_save,
    task_heads,
    task_type,
)
from tests import tiny
from tests.models.architectures import TASKS, UNBUILDABLE, listed

CLASSES = listed(*TASKS)
# One of each kind: the backbone under its own name, under another, in several parts, with a part of the head inside.
FEW = (
    *("BertForSequenceClassification", "DebertaV2ForSequenceClassification", "GPT2ForSequenceClassification"),
    *(
        "T5ForQuestionAnswering",
        "MT5ForQuestionAnswering",
        "UMT5ForQuestionAnswering",
        "ModernBertForTokenClassification",
    ),
    *("WhisperForAudioClassification", "Wav2Vec2ForSequenceClassification", "Wav2Vec2ForXVector", "ParakeetForCTC"),
    *("CLIPForImageClassification", "SiglipForImageClassification", "HGNetV2ForImageClassification"),
    *("PPLCNetForImageClassification", "PerceiverForSequenceClassification", "GteForSequenceClassification"),
    *("ViTForImageClassification", "BlipForQuestionAnswering", "FunnelForMultipleChoice", "TapasForQuestionAnswering"),
)
# What the comparison below cannot say: these have no plain class to compare with.
BY_HAND = {
    "GraniteSpeech5ForCTC": ["ctc_head"],
    "LasrForCTC": ["ctc_head"],
    "ParakeetForCTC": ["ctc_head"],
    # The whole of an answering model, or two towers of which the plain class has one under another name.
    "ShieldGemma2ForImageClassification": [],
    "BlipForQuestionAnswering": [],
    "Tipsv2DptForSemanticSegmentation": ["neck", "decoder"],
    "UperNetForSemanticSegmentation": ["decode_head", "auxiliary_head"],
}
# Heads, or parts of one, outside any module: a list of names can't say them.
BARE = {
    "TapasForQuestionAnswering": {"output_weights", "output_bias", "column_output_weights", "column_output_bias"},
    "Nemotron3DiarizationForAudioFrameClassification": {"silence_embeds"},
}


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters(remove_duplicate=False)}


def lacking(model: PreTrainedModel) -> set[str]:
    """The parameters of a task model that its plain class does not have, as `from_pretrained` would report them."""
    kind = next(
        table[type(model.config)]
        for table in (MODEL_MAPPING, MODEL_FOR_BACKBONE_MAPPING)
        if type(model.config) in table
    )
    with torch.device("meta"):
        plain = names((kind[0] if isinstance(kind, tuple) else kind)(copy.deepcopy(model.config)))
    prefix = f"{model.base_model_prefix}."
    new = {name for name in names(model) if name.removeprefix(prefix) not in plain}
    # The plain class takes it as an argument; each checkpoint of a Perceiver has one.
    return {name for name in new if ".input_preprocessor." not in name}


def check_head(name: str) -> None:
    model = CLASSES[name].build()
    heads = head_modules(model)
    inside = {each for each in names(model) if is_inside(each, heads)}
    if name in BY_HAND:
        assert heads == BY_HAND[name]
    else:
        assert inside == lacking(model) - BARE.get(name, set())
        assert bool(heads) == (name != "TapasForQuestionAnswering" and name != "Blip2ForConditionalGeneration")
    assert len(inside) < len(names(model))
    assert model.base_model_prefix not in heads


@pytest.mark.parametrize("name", FEW)
def test_a_head_is_what_a_pretrained_backbone_lacks(name):
    check_head(name)


@pytest.mark.more
@pytest.mark.parametrize("name", [name for name in CLASSES if name not in FEW and name not in UNBUILDABLE])
def test_every_head_is_what_a_pretrained_backbone_lacks(name):
    check_head(name)


@pytest.mark.more
@pytest.mark.parametrize("name", UNBUILDABLE)
def test_what_can_not_be_built_is_still_so(name):
    with pytest.raises(ImportError):
        CLASSES[name].build()


def test_every_listed_class_is_known_to_have_a_head():
    assert not set(UNBUILDABLE) - set(CLASSES)
    assert {name for name in CLASSES if not name.endswith(HEADED)} == {"Blip2ForConditionalGeneration"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BertForTokenClassification", {"vocab_size": 40}),
        ("GteForSequenceClassification", {"vocab_size": 40}),
        ("T5ForQuestionAnswering", {"vocab_size": 40, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}),
        ("ViTForImageClassification", {"image_size": 8, "patch_size": 4}),
    ],
)
def test_from_pretrained_draws_the_same_parameters_anew(tmp_path, kind, options):
    # transformers' own word for what a checkpoint lacks.
    kind = getattr(transformers, kind)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = kind.config_class(**small, **options)
    MODEL_MAPPING[type(config)](config).save_pretrained(tmp_path)
    model, told = kind.from_pretrained(tmp_path, output_loading_info=True)
    heads = head_modules(model)
    assert {name for name in model.state_dict() if is_inside(name, heads)} == set(told["missing_keys"])


# -- what is trained along -----------------------------------------------------------------------------------


class Derived(transformers.BertForSequenceClassification):
    """A user's own class."""


def test_a_derived_class_has_its_parents_head_and_task():
    model = Derived(tiny.bert().config)
    assert (task_heads(model), task_type(model)) == (["classifier"], TaskType.SEQ_CLS)
    assert task_heads(tiny.mlp()) == task_heads(tiny.gpt2()) == head_modules(tiny.mlp()) == []


def test_a_head_outside_any_module_is_refused_unless_named():
    config = transformers.TapasConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    with pytest.raises(LopsidedError, match=r"TapasForQuestionAnswering holds output_weights, .* outside any module"):
        lopsided.adapt(transformers.TapasForQuestionAnswering(config), "cla", r=2, target_modules="all-linear")
    model = transformers.TapasForQuestionAnswering(config)
    adapted = lopsided.adapt(model, "cla", r=2, target_modules="all-linear", modules_to_save=[])
    assert all("lopsided_" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_a_quantized_head_is_refused_with_the_option_that_leaves_it_out():
    model = tiny.bert()
    model.classifier.weight = nn.Parameter(model.classifier.weight.data.to(torch.int8), requires_grad=False)
    said = r"the head's classifier.weight is quantized \(torch.int8\).*llm_int8_skip_modules=\['classifier'\]"
    with pytest.raises(LopsidedError, match=said):
        lopsided.adapt(model, "cla", r=2)


def test_a_backbones_module_with_a_heads_name_is_told():
    with pytest.warns(LopsidedWarning, match=r"the head, but also wav2vec2\.feature_extractor"):
        assert "feature_extractor" in modules_to_save(CLASSES["Wav2Vec2ForXVector"].build())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert modules_to_save(tiny.bert()) == ["classifier"]


# -- task types ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PASSED)
def test_pefts_classes_pass_what_is_written_here(kind):
    """A canary: another version of PEFT may pass something else to the model in every call."""

    class Recorder(PreTrainedModel, transformers.GenerationMixin):
        config_class = transformers.BertConfig

        def __init__(self, config):
            super().__init__(config)
            self.query, self.classifier = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, *args, **kwargs):
            assert not args
            return set(kwargs)

    model = MODEL_TYPE_TO_PEFT_MODEL_MAPPING[kind](
        Recorder(transformers.BertConfig()), LoraConfig(target_modules=["query"])
    )
    shown = {"output_attentions", "output_hidden_states", "return_dict"}
    assert model(input_ids=torch.zeros(1, 1)) - shown == set(PASSED[kind])


GENERATORS = listed(
    *(
        "CAUSAL_LM",
        "SEQ_TO_SEQ_CAUSAL_LM",
        "SPEECH_SEQ_2_SEQ",
        "IMAGE_TEXT_TO_TEXT",
        "MULTIMODAL_LM",
        "TEXT_TO_WAVEFORM",
    )
)
# Drafting models, whose configurations are made from that of the model they draft for.
DRAFTS = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")
NAMED = [name for name in {**CLASSES, **GENERATORS} if name.endswith(tuple(TASK_TYPES)) and name not in DRAFTS]


@pytest.mark.parametrize("name", NAMED)
def test_a_task_type_is_one_whose_arguments_the_model_names(name):
    kind = getattr(transformers, name)
    ending = next(end for end in TASK_TYPES if name.endswith(end))
    # Neither weights nor layers are needed: the class, and what its configuration says.
    model = object.__new__(kind)
    nn.Module.__init__(model)
    model.config = kind.config_class()
    expected = TASK_TYPES[ending]
    if ending == "ForConditionalGeneration" and not model.config.is_encoder_decoder:
        expected = TaskType.CAUSAL_LM
    found, named = task_type(model), list(inspect.signature(kind.forward).parameters)
    if found is None:
        generates = isinstance(model, transformers.GenerationMixin) or expected not in (
            TaskType.CAUSAL_LM,
            TaskType.SEQ_2_SEQ_LM,
        )
        differs = model.main_input_name != "input_ids" or named[1] != "input_ids" or set(PASSED[expected]) - set(named)
        assert differs or not generates
    else:
        assert (found, model.main_input_name, named[1]) == (expected, "input_ids", "input_ids")
        assert set(PASSED[found]) <= set(named)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WhisperForConditionalGeneration", None),
        ("Speech2TextForConditionalGeneration", None),
        ("MoonshineForConditionalGeneration", None),
        ("Wav2Vec2ForSequenceClassification", None),
        ("Pix2StructForConditionalGeneration", None),
        ("BlipForConditionalGeneration", None),
        ("LlavaForConditionalGeneration", TaskType.CAUSAL_LM),
        ("Qwen2VLForConditionalGeneration", TaskType.CAUSAL_LM),
        ("Qwen2_5_VLForConditionalGeneration", TaskType.CAUSAL_LM),
        ("Gemma3ForConditionalGeneration", TaskType.CAUSAL_LM),
        ("Qwen2AudioForConditionalGeneration", TaskType.CAUSAL_LM),
        ("T5ForConditionalGeneration", TaskType.SEQ_2_SEQ_LM),
        ("BartForConditionalGeneration", TaskType.SEQ_2_SEQ_LM),
        ("GPT2LMHeadModel", TaskType.CAUSAL_LM),
        ("LlamaForCausalLM", TaskType.CAUSAL_LM),
        ("RobertaForQuestionAnswering", TaskType.QUESTION_ANS),
        ("LlamaForTokenClassification", TaskType.TOKEN_CLS),
    ],
)
def test_task_types_of_well_known_classes(name, expected):
    kind = getattr(transformers, name)
    model = object.__new__(kind)
    nn.Module.__init__(model)
    model.config = kind.config_class()
    assert task_type(model) == expected
