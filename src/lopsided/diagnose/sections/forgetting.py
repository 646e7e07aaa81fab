"""What a run made its base model forget, from names: the base, the tuned model and the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from lopsided.diagnose.own_skill import graft, language_change, similarity_change
from lopsided.diagnose.references import read_documents, read_pairs
from lopsided.diagnose.tuned_model import Subject
from lopsided.errors import LopsidedError
from lopsided.models.load import load_weights
from lopsided.models.registry import model_source

# What transformers calls the heads that a reference text can be read with.
LANGUAGE = {"CausalLM": AutoModelForCausalLM, "LMHeadModel": AutoModelForCausalLM, "MaskedLM": AutoModelForMaskedLM}


def forgotten(base: str, subject: Subject, reference: Path, *, seed: int = 0) -> dict[str, Any]:
    """The change of the base model's own score on a reference, as diagnosis.json has it.

    Args:
        base: the base model's name or folder.
        subject: the tuned model.
        reference: a folder or a file of JSON lines with scored sentence pairs, for a sentence encoder; any other file
            is a text with one document a line, for a model with a language model's head.
        seed: of masked tokens.

    Raises:
        LopsidedError: for a reference that can't be read, or that the base model has no head for.
    """
    source = model_source(base)
    tokenizer = AutoTokenizer.from_pretrained(source.path, **source.arguments)
    tuned: Any = subject.merged()
    if reference.is_dir() or reference.suffix == ".jsonl":
        pairs = read_pairs(reference)
        before = load_weights(AutoModel, source).eval()
        return similarity_change(before, tuned, tokenizer, pairs, reference=reference.name).to_json()
    documents = read_documents(reference)
    kind = _language_class(base, source)
    after = graft(load_weights(kind, source).eval(), tuned)
    return language_change(
        load_weights(kind, source).eval(), after, tokenizer, documents, reference=reference.name, seed=seed
    ).to_json()


def _language_class(base: str, source: Any) -> Any:
    """The class that has the head with which the base was saved."""
    names = AutoConfig.from_pretrained(source.path, **source.arguments).architectures or ["none"]
    for ending, kind in LANGUAGE.items():
        if names[0].endswith(ending):
            return kind
    raise LopsidedError(
        f"expected a base model with a language model's head, got {base} with {names[0]}; pass scored sentence pairs "
        "as the reference"
    )
