"""The kinds of task, as one table: what rows of a kind hold, how they are encoded, read and scored.

What a model of each kind is, its class and its head, is `lopsided.models.task_classes.CLASSES`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lopsided.tasks.collators import (
    OPTION_LABELS,
    QUESTION,
    RIGHT,
    Collate,
    Images,
    Options,
    RightOptions,
    padded,
    padded_with_labels,
)
from lopsided.tasks.encoders import Encoding, Wanted, chosen, labelled, written
from lopsided.tasks.row_readers import RowReader, read_classes, read_options, read_scores, read_tokens

# The column of rows that says which file of a folder each is from, where several are read; no kind learns it.
FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An entry of `KINDS`.

    Args:
        columns: sets of columns, of which rows have one; they may have others besides.
        alone: further sets, for rows that have no other columns, which could be labels.
        metric: the default, a key of `score_functions.SCORES`.
        encoding: how rows are encoded.
        collators: by modality, makes the collator of batches to train on.
        answers: makes the collator of batches to answer, where these hold more; None where they do not.
        asides: what a batch to answer holds for the reader, and not for the model.
        read: what is kept of a batch's outputs.
        keeps: the names of the numbers that `read` keeps, in order, with the type of their array; a metric reads these.
        has_classes: whether a label is one of several classes, which the task names.
        has_head: whether the model gets a new head for the task, which every method trains along.
        is_causal: whether each position must see those before it alone, unless the model is an encoder-decoder.
    """

    columns: tuple[tuple[str, ...], ...]
    alone: tuple[tuple[str, ...], ...] = ()
    metric: str
    encoding: Callable[[Wanted], Encoding]
    collators: Mapping[str, Callable[[Any], Collate]]
    answers: Callable[[Any], Collate] | None = None
    asides: tuple[str, ...] = ()
    read: RowReader
    keeps: Mapping[str, type] = field(
        default_factory=lambda: {"prediction": np.int64, "label": np.int64, "loss": np.float64}
    )
    has_classes: bool = False
    has_head: bool = False
    is_causal: bool = False

    def fits(self, names: Collection[str]) -> bool:
        """Return whether rows with these columns can be of the kind.

        Example:
            >>> KINDS["generation"].fits(["text"]), KINDS["generation"].fits(["text", "topic"])
            (True, False)
        """
        is_alone = any(set(names) - {FILE} == set(each) for each in self.alone)
        return is_alone or any(set(each) <= set(names) for each in self.columns)

    @property
    def expected(self) -> str:
        """The columns, in words, for errors."""
        first, *others = [", ".join(each) for each in self.columns]
        others += [f"{', '.join(each)} alone" for each in self.alone]
        return f"{first} (or {', or '.join(others)})" if others else first

    def rows(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays that metrics read, from what `read` kept.

        Shapes:
            numbers: (n, len(keeps)) -> arrays of (n,) by name.
        """
        return {name: numbers[:, i].astype(dtype) for i, (name, dtype) in enumerate(self.keeps.items())}


# One more kind of task is one more entry here, and one in `CLASSES`.
KINDS: dict[str, Kind] = {
    "classification": Kind(
        columns=(("text", "label"), ("image", "label")),
        metric="accuracy",
        encoding=labelled,
        collators={"text": padded, "image": Images},
        read=read_classes,
        has_classes=True,
        has_head=True,
    ),
    "regression": Kind(
        columns=(("text", "label"),),
        metric="pearson",
        encoding=labelled,
        collators={"text": padded},
        read=read_scores,
        keeps={"prediction": np.float64, "label": np.float64, "loss": np.float64},
        has_head=True,
    ),
    "generation": Kind(
        columns=(("prompt", "completion"),),
        alone=(("messages",), ("text",)),
        metric="perplexity",
        encoding=written,
        collators={"text": padded_with_labels},
        read=read_tokens,
        keeps={"tokens": np.int64, "loss": np.float64, "right_tokens": np.int64, "first_right": np.int64},
        is_causal=True,
    ),
    # Trained on the language-model loss of the right option, as a completion is: one sequence per row and the loss that
    # every other part of the library computes, where a cross entropy over options would cost a sequence per option.
    "choice": Kind(
        columns=(("prompt", "options", "label"),),
        metric="accuracy",
        encoding=chosen,
        collators={"text": RightOptions},
        answers=Options,
        asides=(OPTION_LABELS, QUESTION, RIGHT),
        read=read_options,
        is_causal=True,
    ),
}
