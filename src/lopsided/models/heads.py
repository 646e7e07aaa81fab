"""How PEFT treats a transformers model: its task type, and the names of its head's modules."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator

from peft import TaskType
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.models.skeleton import build

# What a transformers class name ends with, and how PEFT treats such a model.
TASK_TYPES = {
    "ForSequenceClassification": TaskType.SEQ_CLS,
    "ForTokenClassification": TaskType.TOKEN_CLS,
    "ForQuestionAnswering": TaskType.QUESTION_ANS,
    "ForQuestionAnsweringSimple": TaskType.QUESTION_ANS,
    "ForCausalLM": TaskType.CAUSAL_LM,
    "LMHeadModel": TaskType.CAUSAL_LM,
    "ForConditionalGeneration": TaskType.SEQ_2_SEQ_LM,
}
# PEFT's classes for tasks pass these arguments to the model in every call, whether the user gave them or not. A model
# that does not name them fails on them, or passes them on to where they mean something else; PEFT's plain class passes
# what it is given.
_TEXT = ("input_ids", "attention_mask", "inputs_embeds")
_DECODER = ("decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds")
PASSED = {
    TaskType.SEQ_CLS: (*_TEXT, "labels"),
    TaskType.TOKEN_CLS: (*_TEXT, "labels"),
    TaskType.QUESTION_ANS: (*_TEXT, "start_positions", "end_positions"),
    TaskType.CAUSAL_LM: (*_TEXT, "labels"),
    TaskType.SEQ_2_SEQ_LM: (*_TEXT, *_DECODER, "labels"),
}
# Tasks whose head a pretrained backbone lacks, so that it starts at random and has to be trained whole. Detectors,
# depth estimators and panoptic segmenters are missing: their checkpoints include the head.
HEADED = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForQuestionAnsweringSimple",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForImageClassification",
    "ForImageClassificationWithTeacher",
    "ForImageClassificationLearned",
    "ForImageClassificationFourier",
    "ForImageClassificationConvProcessing",
    "ForSemanticSegmentation",
    "ForVideoClassification",
    "ForAudioClassification",
    "ForAudioFrameClassification",
    "ForXVector",
    "ForCTC",
    "ForTimeSeriesClassification",
    "ForClassification",
    "ForRegression",
)
# Parts that the plain Perceiver class lacks, although every checkpoint holds them.
PRETRAINED = ("input_preprocessor",)


def task_type(model: nn.Module) -> TaskType | None:
    """Return PEFT's task type of a model, or None if PEFT's class for the task would not pass on all inputs.

    None makes a plain `peft.PeftModel`, whose forward and generate take what the model itself takes: for models of
    sound, images and time series, and for all that are not transformers models.

    Example:
        >>> from transformers import BertConfig, BertForTokenClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        >>> task_type(BertForTokenClassification(config)) is TaskType.TOKEN_CLS
        True
    """
    ending = _ending(model, TASK_TYPES)
    if ending is None or not isinstance(model, PreTrainedModel) or model.main_input_name != "input_ids":
        return None
    kind = TASK_TYPES[ending]
    if ending == "ForConditionalGeneration" and not model.config.is_encoder_decoder:
        # A decoder that also sees images or hears sound: LLaVA, Qwen-VL, Qwen2-Audio.
        kind = TaskType.CAUSAL_LM
    if kind in (TaskType.CAUSAL_LM, TaskType.SEQ_2_SEQ_LM) and not isinstance(model, GenerationMixin):
        return None
    named = list(inspect.signature(model.forward).parameters)
    return kind if named[0] == "input_ids" and set(PASSED[kind]) <= set(named) else None


def task_heads(model: nn.Module) -> list[str]:
    """Return the modules that are trained along with an adapter: the head, or nothing for a task without one."""
    is_headed = isinstance(model, PreTrainedModel) and _ending(model, HEADED) is not None
    return head_modules(model) if is_headed else []


def modules_to_save(model: nn.Module) -> list[str]:
    """Return `task_heads` for PEFT, which also trains every module whose name ends with one of them.

    Raises:
        LopsidedError: if the head holds parameters outside any module, which PEFT cannot train, or is quantized. A
            LopsidedWarning names modules of the backbone that would be trained as well.
    """
    heads = task_heads(model)
    _check_not_quantized(model, heads)
    bare = [name for name, _ in model.named_parameters(recurse=False)]
    if bare and isinstance(model, PreTrainedModel) and _ending(model, HEADED) is not None:
        raise LopsidedError(
            f"the head of {type(model).__name__} holds {', '.join(bare)} outside any module, which PEFT can't train "
            "with the adapter; expected a head of modules; pass modules_to_save=[...] with the modules to train, or [] "
            "for none"
        )
    others = [
        name
        for name, module in model.named_modules()
        if name.endswith(tuple(heads)) and not is_inside(name, heads) and any(True for _ in module.parameters())
    ]
    if heads and others:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        warnings.warn(
            f"PEFT also trains every module whose name ends with one of {', '.join(heads)}: the head, but also "
            f"{listed} of the backbone; pass modules_to_save=[...] to choose",
            LopsidedWarning,
            stacklevel=3,
        )
    return heads


def _check_not_quantized(model: nn.Module, heads: list[str]) -> None:
    """Raise for a quantized head: transformers quantizes a new head, too, and integers cannot be trained."""
    for name, parameter in model.named_parameters():
        if is_inside(name, heads) and not parameter.dtype.is_floating_point:
            raise LopsidedError(
                f"the head's {name} is quantized ({parameter.dtype}), so it can't be trained; expected a head in "
                f"floating point; load the model with BitsAndBytesConfig(..., llm_int8_skip_modules={heads})"
            )


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Return whether a module, or a parameter, is one of these modules or inside one.

    Example:
        >>> is_inside("bert.pooler.dense", ["bert.pooler"]), is_inside("classifier_2", ["classifier"])
        (True, False)
    """
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def head_modules(model: nn.Module) -> list[str]:
    """Return the modules of a transformers task model that its pretrained backbone lacks, by their outermost names.

    The backbone is built again on the meta device, and compared by the names of its parameters. A `PreTrainedModel`
    inside the model never counts as a head: in a model of two towers, the plain class may name a tower differently.

    Example:
        >>> from transformers import BertConfig, BertForTokenClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        >>> head_modules(BertForTokenClassification(config))
        ['classifier']
    """
    if not isinstance(model, PreTrainedModel):
        return []
    prefix, children = model.base_model_prefix, dict(model.named_children())
    kind = _backbone_class(model)
    if prefix in children and (kind is None or not isinstance(children[prefix], kind)):
        # A class that transformers does not know, or one that wraps another task's model: what it calls its backbone
        # is pretrained.
        pretrained = {f"{prefix}.{name}" for name in _names(children[prefix])}
    elif kind is None:
        pretrained = set()
    else:
        names = _names(build(kind, model.config))
        pretrained = {f"{prefix}.{name}" if prefix in children else name for name in names}
    return list(_outermost_new(model, "", pretrained))


def _ending(model: nn.Module, endings: Iterable[str]) -> str | None:
    """Return the ending of the model's class name, or else that of the nearest base class that has one."""
    names = [kind.__name__ for kind in type(model).__mro__]
    return next((ending for name in names for ending in endings if name.endswith(ending)), None)


def _backbone_class(model: PreTrainedModel) -> type[PreTrainedModel] | None:
    """Return the class of the plain model with this configuration, or None if transformers has none."""
    config = type(model.config)
    kind = next((table[config] for table in (MODEL_MAPPING, MODEL_FOR_BACKBONE_MAPPING) if config in table), None)
    kind = kind[0] if isinstance(kind, tuple) else kind
    # Some configurations have the whole task model alone, and are mapped to that.
    return None if kind is None or isinstance(model, kind) else kind


def _names(module: nn.Module) -> set[str]:
    """Return the names of the module's parameters, as they are without adapters on it."""
    # A tied parameter counts under each of its names: the backbone may have another of them.
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for path, inner in module.named_modules():
        own = {BaseTunerLayer: "base_layer.", AuxiliaryTrainingWrapper: "original_module."}
        original = next((part for kind, part in own.items() if isinstance(inner, kind)), None)
        if original is not None:
            # Of a wrapped module only the original's parameters count, under the names that they had before.
            prefix = f"{path}." if path else ""
            inside = {name for name in names if name.startswith(prefix)}
            names = names - inside | {
                prefix + name.removeprefix(prefix + original) for name in inside if name.startswith(prefix + original)
            }
    return names


def _outermost_new(module: nn.Module, path: str, pretrained: set[str]) -> Iterator[str]:
    """Yield the modules below `path` that hold parameters and none of the pretrained ones."""
    for name, child in module.named_children():
        inner = f"{path}{name}"
        parameters = {f"{inner}.{each}" for each in _names(child)}
        if not parameters or parameters <= pretrained or name in PRETRAINED:
            continue
        if parameters & pretrained:
            # Partly pretrained: the new part is further inside.
            yield from _outermost_new(child, f"{inner}.", pretrained)
        elif not isinstance(child, PreTrainedModel):
            yield inner  # all of it is new
