"""Answers that a model writes to the prompts of a split: greedily or with beams, each distinct prompt once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from lopsided.errors import LopsidedError
from lopsided.models.mode_contexts import model_mode
from lopsided.runs.config import TrainConfig
from lopsided.runs.facts import Predictions
from lopsided.runs.inputs import Data
from lopsided.tasks.encoders import IGNORED, encode_prompts

# As few as `encode` takes in a row.
MIN_PROMPT = 8


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How answers are written.

    Args:
        max_new_tokens: the most tokens of an answer.
        max_length: the most tokens of a prompt.
        beams: 1 takes the most likely token at each step.
        batch_size: prompts at a time.
        seq2seq: whether the model is an encoder-decoder.
    """

    max_new_tokens: int
    max_length: int
    beams: int
    batch_size: int
    seq2seq: bool


def writing_of(config: TrainConfig, data: Data) -> Writing:
    """Return how a run's model writes answers; by default at most as long as the longest completion of train.

    Raises:
        LopsidedError: if answers of that length leave no room for a prompt.
    """
    longest = max(sum(label != IGNORED for label in labels) for labels in data.encoded.splits["train"]["labels"])
    most = longest if config.max_new_tokens is None else config.max_new_tokens
    # A causal model reads the prompt and its own answer as one text.
    limit = data.processor.model_max_length - (0 if data.seq2seq else most)
    if limit < MIN_PROMPT or most >= data.processor.model_max_length:
        raise LopsidedError(
            f"max_new_tokens must leave room for a prompt of {MIN_PROMPT} tokens: max_new_tokens={most}, the "
            f"tokenizer's limit is {data.processor.model_max_length}; lower --max-new-tokens"
        )
    return Writing(
        max_new_tokens=most,
        max_length=min(config.max_length, limit),
        beams=config.beams,
        batch_size=2 * config.batch_size,
        seq2seq=data.seq2seq,
    )


def answered(
    rows: Dataset,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    writing: Writing,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
    on_batch: Callable[[Sequence[Any]], None] = lambda batches: None,
) -> Predictions:
    """Return the model's answer to each row's prompt, next to the row's reference.

    Args:
        rows: with `prompt` and `completion`.
        model: with a `generate`; an adapter may be on it.
        tokenizer: of the model.
        writing: how.
        autocast: the context that the run's forward passes have.
        on_batch: called after each batch with all of them, for progress.

    Shapes:
        prompt, answer, reference: (n,); answers and references are unicode arrays.
    """
    prompts, index = np.unique(np.array(rows["prompt"], dtype=object).astype(str), return_inverse=True)
    answers = write(prompts.tolist(), model, tokenizer, writing, autocast=autocast, on_batch=on_batch)
    return {
        "prompt": index.astype(np.int64),
        "answer": np.array(answers, dtype=np.str_)[index],
        "reference": np.array(list(rows["completion"]), dtype=np.str_),
    }


def write(
    prompts: Sequence[str],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    writing: Writing,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
    on_batch: Callable[[Sequence[Any]], None],
) -> list[str]:
    """Return the model's answer to each prompt, without special tokens; arguments as of `answered`."""
    ids = encode_prompts(prompts, tokenizer, max_length=writing.max_length, seq2seq=writing.seq2seq)
    # Prompts of like length need little padding; the longest first, so that too little memory shows at once.
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    batches = [order[first : first + writing.batch_size] for first in range(0, len(order), writing.batch_size)]
    settings, answers = _generation_config(tokenizer, writing), [""] * len(ids)
    with torch.no_grad(), model_mode(model, training=False):
        for batch in batches:
            padded = pad_without_fast_tokenizer_warning(
                tokenizer,
                {"input_ids": [ids[row] for row in batch]},
                # A causal model goes on from the last position, which must be the prompt's.
                padding_side="right" if writing.seq2seq else "left",
                return_tensors="pt",
            ).to(model.device)
            with autocast():
                output = model.generate(**padded, generation_config=settings)
            written = output if writing.seq2seq else output[:, padded["input_ids"].shape[1] :]
            for row, text in zip(batch, _texts(written, tokenizer)):
                answers[row] = text
            on_batch(batches)
    return answers


def _generation_config(tokenizer: PreTrainedTokenizerBase, writing: Writing) -> GenerationConfig:
    # Everything that decides a token is written out: a model's own file may ask for sampling, for beams, or for
    # repetitions to be avoided, and `generate` takes from there what is left open.
    return GenerationConfig(
        max_new_tokens=writing.max_new_tokens,
        min_length=0,
        num_beams=writing.beams,
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        early_stopping=False,
        use_cache=True,
        # The token that training ends completions with; a model's own list may have more.
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _texts(written: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    texts: list[str] = tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts
