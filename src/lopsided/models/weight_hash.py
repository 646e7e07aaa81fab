"""The hash of a model's files: equal hashes are equal models, under whatever name."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from transformers.utils import cached_file

from lopsided.files.atomic import file_hash
from lopsided.models.registry import ModelNotHere, ModelSource, model_source

# Weights, configuration and tokenizer; notes and other frameworks' weights decide nothing.
DECISIVE = (".json", ".safetensors", ".bin", ".gguf", ".model", ".txt", ".tiktoken", ".jinja")
DIGITS = 16


def model_hash(name: str) -> str | None:
    """Return the first digits of a SHA-256 over a model's files; None if they are not on this machine.

    Args:
        name: as for `model_source`.

    Raises:
        LopsidedError: if it names no model.
    """
    try:
        source = model_source(name, fetch=False)
    except ModelNotHere:
        return None
    folder = _folder(source)
    if folder is None:
        return None
    files = [folder / source.gguf_file] if source.gguf_file else sorted(folder.iterdir())
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.suffix in DECISIVE]
    return _hash(tuple(state))


def _folder(source: ModelSource) -> Path | None:
    folder = Path(source.path)
    if folder.is_dir():
        return folder
    # The hub's cache keeps the files of one commit in one folder.
    config = cached_file(
        source.path,
        "config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if config is None else Path(config).parent


@functools.lru_cache(maxsize=64)
def _hash(files: tuple[tuple[str, int, int], ...]) -> str:
    """Return the hash of some files' names and bytes; with size and time, so that a changed file is read again."""
    whole = hashlib.sha256()
    for path, _, _ in files:
        whole.update(f"{Path(path).name} {file_hash(Path(path))}\n".encode())
    return whole.hexdigest()[:DIGITS]
