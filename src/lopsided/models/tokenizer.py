"""A model's tokenizer: loaded, refused where it knows no word, and given a token to pad with."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lopsided.errors import LopsidedError
from lopsided.models.registry import ModelSource

# One of these is next to every model that has a tokenizer, including those that work on bytes.
TOKENIZER_FILES = {
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tekken.json"),
    *("vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "spm.model"),
}


def load_tokenizer(name: str, source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer, with a token to pad with.

    Args:
        name: the model as the user named it, for errors.
        source: where it is.

    Raises:
        LopsidedError: if there is none. For some types transformers then makes one that knows no word, and for the
            others it fails with advice on packages.
    """
    missing = LopsidedError(
        f"model '{name}' has no tokenizer; expected its files next to the weights; save it there with "
        "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER), from the model that this one was made from"
    )
    folder = Path(source.path)
    # A hub name is no folder, and a GGUF file holds the tokenizer itself.
    is_plain = folder.is_dir() and source.gguf_file is None
    if is_plain and not any(path.name in TOKENIZER_FILES for path in folder.iterdir()):
        raise missing
    tokenizer = AutoTokenizer.from_pretrained(source.path, **source.arguments)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise missing
    ensure_pad_token(tokenizer)
    return tokenizer


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the eos token pad where a tokenizer (GPT-2's, Llama's) has no pad token.

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
