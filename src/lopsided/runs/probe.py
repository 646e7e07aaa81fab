"""Whether a model can compute a task's rows: a few forward passes on the loaded base, before any training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from lopsided.errors import first_line
from lopsided.models.mode_contexts import model_mode
from lopsided.runs.inputs import Inputs

Row = dict[str, Any]
# Errors of torch and of models' own checks: a position or an id beyond a table, shapes that do not fit.
FAILURES = (IndexError, RuntimeError, ValueError, TypeError, AssertionError, AttributeError, KeyError)
SHORT = 8
# Above the rounding of float32, below what a token that is seen contributes.
CAUSAL = 1e-5


def problems_of_rows(inputs: Inputs, *, max_length: int) -> list[str]:
    """Find what keeps the model from computing the task's rows, one line each.

    All splits are looked at: a test row that is too long would end a run after its training.

    Args:
        inputs: the rows, and the model, which is left as it was.
        max_length: the most tokens that a row was allowed.
    """
    encoded = inputs.data.encoded
    splits = {**encoded.splits, **encoded.out_of_domain}
    if inputs.data.task.modality == "image":
        return list(_images(splits, inputs))
    problems = list(_empty_rows(splits))
    problems += _ids_beyond_table(splits, inputs)
    if not problems:
        problems += _forward(splits, inputs, max_length)
    return problems


def _images(splits: Mapping[str, Dataset], inputs: Inputs) -> Iterator[str]:
    """Try one image per split: a processor makes all of them one size, so that the others are like it."""
    model, collate = inputs.model, inputs.data.collator()
    with model_mode(model, training=False), torch.no_grad(), torch.random.fork_rng():
        for split, rows in splits.items():
            error = _failure(model, collate, rows[0])
            if error is not None:
                yield (
                    f"{type(model).__name__} can't compute an image of {split} ({type(error).__name__}: "
                    f"{first_line(error):.160}); expected images that the model's image processor makes fit; use the "
                    "processor that belongs to the model, or correct the rows"
                )
                return


def _column(rows: Dataset, name: str) -> Any:
    return rows.select_columns([name]).with_format("arrow")[:][name]


def _empty_rows(splits: Mapping[str, Dataset]) -> Iterator[str]:
    for split, rows in splits.items():
        lengths = pc.list_value_length(_column(rows, "input_ids"))
        empty = pc.index(lengths, 0).as_py()
        if empty >= 0:
            yield f"{split} row {empty} has no tokens; expected a text in each row; fill it in or leave the row out"


def _ids_beyond_table(splits: Mapping[str, Dataset], inputs: Inputs) -> Iterator[str]:
    model, tokenizer = inputs.model, inputs.data.processor
    size = model.get_input_embeddings().weight.shape[0]
    largest = {f"a row of {split}": _largest_id(rows) for split, rows in splits.items()}
    # Every batch of rows of several lengths has it.
    largest["its pad token"] = tokenizer.pad_token_id or 0
    where, top = max(largest.items(), key=lambda item: item[1])
    if top >= size:
        yield (
            f"the tokenizer gives ids beyond the model's embedding table: id {top} in {where}, table of {size}; "
            f"expected ids below {size}; use the model's own tokenizer, or call "
            f"model.resize_token_embeddings({max(top + 1, len(tokenizer))}) and save the model"
        )


def _largest_id(rows: Dataset) -> int:
    columns = [_column(rows, "input_ids")]
    if "labels" in rows.column_names and isinstance(rows[0]["labels"], list):
        columns.append(_column(rows, "labels"))
    if "option_ids" in rows.column_names:
        columns.append(pc.list_flatten(_column(rows, "option_ids")))
    return max(int(pc.max(pc.list_flatten(column)).as_py() or 0) for column in columns)


def _forward(splits: Mapping[str, Dataset], inputs: Inputs, max_length: int) -> Iterator[str]:
    data, model = inputs.data, inputs.model
    split, row = max(((split, _longest(rows)) for split, rows in splits.items()), key=lambda pair: _length(pair[1]))
    named = inspect.signature(model.forward).parameters
    # `Trainer` leaves out what the model does not name.
    picked = data.collator_picks
    row = {key: value for key, value in row.items() if picked or key in named or key == "labels"}
    collate = data.collator()
    with model_mode(model, training=False), torch.no_grad(), torch.random.fork_rng():
        error = _failure(model, collate, row)
        if error is not None:
            yield _explanation(model, collate, row, error, split, max_length)
        elif data.is_causal and not _is_causal(model, collate, row):
            yield (
                f"{type(model).__name__} sees the tokens that it is to predict; expected a decoder, whose positions "
                f"see those before them alone; choose a causal or an encoder-decoder model for a task of "
                f"{data.task.kind}"
            )


def _longest(rows: Dataset) -> Row:
    lengths = pc.list_value_length(_column(rows, "input_ids"))
    if isinstance(rows[0]["labels"], list):
        lengths = pc.max_element_wise(lengths, pc.list_value_length(_column(rows, "labels")))
    return dict(rows[pc.index(lengths, pc.max(lengths)).as_py()])


def _length(row: Row) -> int:
    return max(len(value) for value in row.values() if isinstance(value, list))


def _cut(row: Row, length: int) -> Row:
    # The last token stays: some heads read the row there, and need its end mark.
    return {
        key: [*value[: length - 1], value[-1]] if isinstance(value, list) and len(value) > length else value
        for key, value in row.items()
    }


def _failure(model: PreTrainedModel, collate: Any, row: Row) -> Exception | None:
    try:
        model(**collate([row]).to(model.device))
    except FAILURES as error:
        return error
    return None


def _explanation(model: PreTrainedModel, collate: Any, row: Row, error: Exception, split: str, max_length: int) -> str:
    """Say what the failure is: too long a row if a shorter one can be computed, or else the model's own message."""
    low, high = min(SHORT, _length(row)), _length(row)
    if low == high or _failure(model, collate, _cut(row, low)) is not None:
        message = f"{type(error).__name__}: {first_line(error):.160}"
        return (
            f"{type(model).__name__} can't compute a row of {split} ({message}); expected a model of text that fits "
            "the task; choose another model or correct the rows"
        )
    # The longest row that can be computed: exact for any way of counting positions, and a few passes.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _failure(model, collate, _cut(row, middle)) is None else (low, middle)
    return (
        f"rows must not be longer than the model's positions: {split} has one of {_length(row)} tokens "
        f"(max_length={max_length}), {type(model).__name__} takes at most {low}; lower max_length to {low}"
    )


def _is_causal(model: PreTrainedModel, collate: Any, row: Row) -> bool:
    """Return whether another last token leaves the outputs before it as they were."""
    other = {**row, "input_ids": [*row["input_ids"][:-1], row["input_ids"][-1] ^ 1]}
    size = model.get_input_embeddings().weight.shape[0]
    if len(row["input_ids"]) < 2 or other["input_ids"][-1] >= size:
        return True
    before, after = (model(**collate([each]).to(model.device)).logits[:, :-1].float() for each in (row, other))
    return bool((before - after).abs().max() <= CAUSAL * before.abs().max())
