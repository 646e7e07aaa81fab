"""Loading models with their weights: for a task, of a given class, or as a saved adapter asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig, TaskType
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import logging

from lopsided.errors import LopsidedError, first_line
from lopsided.files.untrusted import ADAPTER_CONFIG
from lopsided.models.image_processor import load_image_processor
from lopsided.models.registry import ModelSource, model_source, no_such_model
from lopsided.models.task_classes import HasGoal, class_and_head
from lopsided.models.tokenizer import load_tokenizer

# The class for each task type of PEFT.
AUTO_CLASSES = {
    TaskType.SEQ_CLS: "AutoModelForSequenceClassification",
    TaskType.TOKEN_CLS: "AutoModelForTokenClassification",
    TaskType.QUESTION_ANS: "AutoModelForQuestionAnswering",
    TaskType.CAUSAL_LM: "AutoModelForCausalLM",
    TaskType.SEQ_2_SEQ_LM: "AutoModelForSeq2SeqLM",
    TaskType.FEATURE_EXTRACTION: "AutoModel",
}


# What makes a row into a model's inputs, by what the row gives it to read.
PROCESSORS: dict[str, Callable[[str, ModelSource], Any]] = {"text": load_tokenizer, "image": load_image_processor}


def load_model(name: str, task: HasGoal, *, seed: int) -> tuple[PreTrainedModel, Any]:
    """Load a model in float32 with the head that the task needs, and its tokenizer or image processor.

    Args:
        name: as for `model_source`.
        task: decides the class, see `task_classes.CLASSES`: sequence or image classification (one output and mean
            squared error for regression), encoder-decoder or causal language model for generation.
        seed: decides the initial weights of a new head, whatever was drawn before; torch's global
            generator is left as it was.

    Raises:
        LopsidedError: if the model cannot be loaded, has no tokenizer or image processor, or is of a type without such
            a class.
    """
    source = model_source(name)
    with torch.random.fork_rng(devices=[]), _one_kind_of_error(name):
        torch.default_generator.manual_seed(seed)
        with quiet():
            model_class, head = _class_and_head(name, source, task)
            processor = PROCESSORS[task.modality](name, source)
        model = load_weights(model_class, source, **head)
    if source.gguf_file is not None:
        # The weights are plain float32 by now, but still marked as quantized, which Trainer refuses to train.
        model.hf_quantizer.remove_quantization_config(model)
    if model._hf_peft_config_loaded:
        raise LopsidedError(
            f"model '{name}' comes with an adapter, which transformers has put on it; expected a plain model; pass its "
            "base, or merge the adapter into it first"
        )
    if task.modality == "text" and model.config.pad_token_id is None:
        model.config.pad_token_id = processor.pad_token_id
    return model, processor


def load_weights(
    kind: Any, source: ModelSource, *, dtype: torch.dtype | str = torch.float32, **arguments: Any
) -> PreTrainedModel:
    """Load a model of a given class, without transformers' load report.

    Args:
        kind: a class of transformers, or one of its `AutoModel` classes.
        source: where the model is.
        dtype: of the weights; "auto" keeps what the file has.
        arguments: for `from_pretrained`.
    """
    with quiet():
        return kind.from_pretrained(source.path, dtype=dtype, **source.arguments, **arguments)


def tokenizer_of(name: str) -> Any:
    """Return the tokenizer of the model of that name; see `processor_of`."""
    return processor_of(name, "text")


def processor_of(name: str, modality: str) -> Any:
    """Return what makes rows into inputs of the model of that name: its tokenizer, or its image processor.

    Args:
        name: as for `model_source`.
        modality: of the rows, "text" or "image".

    Raises:
        LopsidedError: if the model is not there, or has none.
    """
    source = model_source(name)
    with quiet(), _one_kind_of_error(name):
        return PROCESSORS[modality](name, source)


def is_encoder_decoder(name: str) -> bool:
    """Return whether the model of that name is an encoder-decoder, from its configuration alone.

    Args:
        name: as for `model_source`.

    Raises:
        LopsidedError: if the model is not there.
    """
    source = model_source(name)
    with quiet(), _one_kind_of_error(name):
        return bool(AutoConfig.from_pretrained(source.path, **source.arguments).is_encoder_decoder)


def load_saved(folder: Path, task: HasGoal) -> Any:
    """Return a whole model that was saved for this task, without its tokenizer.

    Args:
        folder: with the model's configuration and weights.
        task: decides the class, as for `load_model`.

    Raises:
        LopsidedError: if the model is of a type without such a class.
    """
    source = ModelSource(path=str(folder))
    kind, _ = _class_and_head(str(folder), source, task)
    with quiet():
        return kind.from_pretrained(folder)


def load_base(config: PeftConfig, name: str, *, dtype: torch.dtype | str = "auto", **arguments: Any) -> PreTrainedModel:
    """Load the base model that a saved adapter's configuration asks for.

    Args:
        config: the adapter's; names the class of the base.
        name: as for `model_source`.
        dtype: as for `load_weights`.
        arguments: for `from_pretrained`.

    Raises:
        LopsidedError: if the configuration names no class of models, or the model cannot be loaded.
    """
    source = model_source(name, fetch=not arguments.get("local_files_only"))
    model_class = base_class(config)
    try:
        return load_weights(model_class, source, dtype=dtype, **arguments)
    # No such name, no network, a folder that holds no model of that class, or a package that is missing.
    except (OSError, ValueError, ImportError) as error:
        raise no_such_model(name, error) from error


def base_class(config: PeftConfig) -> Any:
    """Return the class of transformers that a saved adapter's configuration names for its base.

    Raises:
        LopsidedError: if it names none.
    """
    kind = AUTO_CLASSES[config.task_type] if config.task_type else (config.auto_mapping or {}).get("base_model_class")
    # The name comes from a file: only what transformers exports as a class of models is looked up.
    model_class = getattr(transformers, kind) if isinstance(kind, str) and kind in dir(transformers) else None
    if not isinstance(model_class, type) or not issubclass(model_class, (PreTrainedModel, _BaseAutoModelClass)):
        raise LopsidedError(
            f"{ADAPTER_CONFIG} names no model class of transformers (got {kind!r:.80}), so the base can't be built; "
            "load the adapter with PeftModel.from_pretrained on your own model"
        )
    return model_class


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the load report of transformers inside the context: it warns of a new head, which is intended."""
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _one_kind_of_error(name: str) -> Iterator[None]:
    """Raise errors of transformers and the hub as `LopsidedError`, with what to do."""
    try:
        yield
    # A ValueError, too, but one that already says what to do.
    except LopsidedError:
        raise
    except ImportError as error:
        raise LopsidedError(
            f"model '{name}' needs a package that is not installed: {first_line(error)}; "
            "install it (for smollm2: pip install gguf)"
        ) from error
    # No such name or no network; a folder that holds no known model.
    except (OSError, ValueError) as error:
        raise no_such_model(name, error) from error
    # Weights of other shapes, damaged files, a configuration whose fields contradict each other.
    except (RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise LopsidedError(
            f"model '{name}' can't be loaded: {type(error).__name__}: {first_line(error):.200}; expected a whole "
            "model of transformers; save or download it again"
        ) from error


def _class_and_head(name: str, source: ModelSource, task: HasGoal) -> tuple[Any, dict[str, Any]]:
    """Return the class to load, and the arguments of `from_pretrained` that decide its head."""
    config = AutoConfig.from_pretrained(source.path, **source.arguments)
    return class_and_head(source.path, name, config, task)
