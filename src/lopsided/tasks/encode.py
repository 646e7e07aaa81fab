"""A task's rows as a model reads them, and the collators that make batches of them.

Token ids are lists without padding: the collator pads each batch to its own longest row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.tasks.collators import Collate
from lopsided.tasks.encoders import Wanted
from lopsided.tasks.kinds import KINDS
from lopsided.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTask:
    """A task's rows as `input_ids`, `attention_mask`, `labels` (and whatever else the tokenizer returns), or as images.

    Args:
        splits: train, validation and test.
        out_of_domain: the test splits of other domains, by name.
        how: in words, what depends on the tokenizer: how conversations are written, how long texts are cut; or "".
    """

    splits: Mapping[str, Dataset]
    out_of_domain: Mapping[str, Dataset]
    how: str = ""


def encode(task: Task, processor: Any, *, max_length: int = 128, seq2seq: bool = False) -> EncodedTask:
    """Encode all splits of a task for its kind: texts as token ids, images as they are.

    Args:
        task: what to learn.
        processor: the tokenizer, or the image processor, of the model that learns it.
        max_length: the largest number of ids per row. Text pairs lose the end of their longer half; prompts of
            a causal model lose their start; completions lose their end, and only when the completion
            alone is too long; conversations lose their end. Text alone loses nothing: it is cut into pieces.
        seq2seq: whether the model is an encoder-decoder; read only for generation.

    Shapes:
        classification, regression: labels is one int or float per row.
        generation, causal: input_ids = prompt, separator, completion, eos; labels are the same ids
        with -100 on prompt and separator.
        generation, encoder-decoder: input_ids are the prompt's, labels the completion's.
        conversations: input_ids as the chat template writes them (see `chat`); labels are the same ids with -100
        outside the assistant's turns.
        text alone: input_ids = text, eos, in rows of at most max_length, each of which begins with the last id of the
        row before, so that every id but the first is predicted once; labels are the same ids.
        choice: input_ids = prompt, separator, right option, eos, with -100 on prompt and separator in labels;
        option_ids holds the ids of every option, prompt_ids those before it, right the right one's index.
        images: image, decoded when the row is read, and labels.

    Raises:
        LopsidedError: if max_length does not fit the tokenizer or leaves nothing to learn of a conversation, generation
            lacks an eos token, or an encoder-decoder is to learn anything but completions.
    """
    if task.modality == "text" and not 8 <= max_length <= processor.model_max_length:
        raise LopsidedError(
            f"max_length must lie between 8 and the tokenizer's limit: max_length={max_length}, "
            f"limit={processor.model_max_length}; choose a value in between"
        )
    wanted = Wanted(task=task.name, form=task.form, processor=processor, seq2seq=seq2seq, max_length=max_length)
    encoding = KINDS[task.kind].encoding(wanted)

    def encoded(parts: Mapping[str, Dataset]) -> dict[str, Dataset]:
        return {
            split: encoding.rows(rows, processor, max_length, f"task {task.name}: {split}")
            for split, rows in parts.items()
        }

    return EncodedTask(splits=encoded(task.splits), out_of_domain=encoded(task.out_of_domain), how=encoding.how)


def collator(task: Task, processor: Any) -> Collate:
    """Return the collator that turns a list of encoded rows into one batch of tensors, to train on.

    Causal and encoder-decoder rows are padded alike: inputs with the pad token and labels with -100.

    Args:
        task: what the rows are of.
        processor: the one that encoded them; a tokenizer gets a pad token if it has none.
    """
    return KINDS[task.kind].collators[task.modality](processor)


def answer_collator(task: Task, processor: Any) -> Collate:
    """Return the collator that makes a batch to answer: with what the kind's reader needs next to the model's inputs.

    Args:
        task, processor: as for `collator`.
    """
    kind = KINDS[task.kind]
    return collator(task, processor) if kind.answers is None else kind.answers(processor)
