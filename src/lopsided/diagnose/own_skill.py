"""What fine-tuning did to a model's own skill: a score on a reference that the run never read, before and after.

Notation: the reference has n rows; row i has the loss L_i, a mean over T_i tokens, or a similarity c_i and a human
score h_i. The change is the tuned model's figure minus the base's on the same rows; its interval is from a bootstrap
that draws the same rows for both.

    language     loss per token: causal, or of tokens under a mask that is drawn once
    similarity   Spearman's correlation of the cosine of two sentences' mean embeddings with a human score
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lopsided.diagnose.references import Pairs
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import WHY
from lopsided.finite import finite_or_none, is_finite
from lopsided.method.sketch import generator
from lopsided.models.mode_contexts import model_mode
from lopsided.models.tokenizer import ensure_pad_token
from lopsided.runs.facts import Predictions
from lopsided.stats import paired_interval
from lopsided.tasks import get_metric
from lopsided.tasks.encoders import IGNORED

MASKED = 0.15


@dataclass(frozen=True, kw_only=True)
class Change:
    """The base model's own score, before and after; the fields are those of diagnosis.json.

    Args:
        metric: "loss" in nats per token, or "spearman".
        better: "low" or "high".
        base, tuned, change: change = tuned − base.
        low, high: 95 % interval of the change over rows.
        why: the reason for each figure that is None, by its name.
    """

    reference: str
    metric: str
    better: str
    base: float | None
    tuned: float | None
    change: float | None
    low: float | None
    high: float | None
    rows: int
    why: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the section of diagnosis.json; `why` where something is missing."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != WHY or value}


# -- changes -------------------------------------------------------------------------------------------------


def language_change(
    base: Any,
    tuned: Any,
    tokenizer: Any,
    documents: Sequence[str],
    *,
    reference: str,
    max_length: int = 128,
    batch_size: int = 16,
    seed: int = 0,
    draws: int = 2000,
) -> Change:
    """Compute the change of a language model's loss on a reference text: positive means forgotten.

    Args:
        base, tuned: models with a language model's head, adapters merged; see `graft` for a tuned backbone that has
            lost it.
        reference: its name, for the record.
        max_length: most tokens of a document; the rest is left out.
        batch_size: documents in one forward pass.
        seed: of the masked tokens, 15 % of each document's and at least one, the same for both models; a causal model
            has none.
        draws: of the bootstrap.

    Raises:
        LopsidedError: for a model without a language model's head, or documents without a token to predict.
    """
    masked = _is_masked(base)
    if _is_masked(tuned) != masked:
        raise LopsidedError(
            f"expected two models of one kind, got {type(base).__name__} and {type(tuned).__name__}; load "
            "both as one class"
        )
    rows = _tokens(tokenizer, documents, max_length)
    labelled = [_mask(row, tokenizer, generator(seed, number)) if masked else row for number, row in enumerate(rows)]
    sides = [_language_rows(model, tokenizer, labelled, masked, batch_size) for model in (base, tuned)]
    if int(sides[0]["tokens"].sum()) == 0:
        raise LopsidedError(f"{reference}: expected tokens to predict, got none; pass longer documents")
    return _change(reference, "loss", "low", sides[0], sides[1], _token_mean, draws)


def similarity_change(
    base: Any,
    tuned: Any,
    tokenizer: Any,
    pairs: Pairs,
    *,
    reference: str,
    max_length: int = 128,
    batch_size: int = 32,
    draws: int = 2000,
) -> Change:
    """Compute the change of a sentence encoder's correlation with human scores: negative means forgotten.

    Args:
        base, tuned: backbones, or models with a head, which is left out; adapters merged.
        reference: its name, for the record.
        max_length, batch_size: as for `embeddings`.
        draws: of the bootstrap.

    Raises:
        LopsidedError: for an encoder-decoder.
    """
    sides = []
    for model in (base, tuned):
        encoder = backbone(model)
        if encoder.config.is_encoder_decoder:
            raise LopsidedError(f"expected an encoder, got {type(encoder).__name__}; pass a reference text instead")
        first, second = (
            embeddings(encoder, tokenizer, texts, max_length=max_length, batch_size=batch_size)
            for texts in (pairs.first, pairs.second)
        )
        cosine = F.cosine_similarity(first.double(), second.double(), dim=1).numpy()
        sides.append({"prediction": cosine, "label": pairs.score})
    return _change(reference, "spearman", "high", sides[0], sides[1], get_metric("spearman").value, draws)


def backbone(model: Any) -> Any:
    """Return a transformers model without its head; itself where it has none."""
    return model.base_model


def graft(language: Any, tuned: Any) -> Any:
    """Put a tuned backbone under a language model's head, in place, and return the language model.

    A run that classifies trains the backbone under another head. With the pretrained one back on it, the loss on a
    reference text can be compared.

    Args:
        language: the base model with its language model's head.
        tuned: the run's model, merged, of the same architecture.

    Raises:
        LopsidedError: if the backbones differ.
    """
    own, theirs = backbone(language).state_dict(), backbone(tuned).state_dict()
    # A classifier's backbone may have a pooler, which no language model reads.
    wrong = [key for key, tensor in own.items() if key not in theirs or theirs[key].shape != tensor.shape]
    if wrong:
        raise LopsidedError(
            f"expected a tuned backbone with the language model's tensors, got none that fits {wrong[0]}; pass the "
            "base that the run started from"
        )
    backbone(language).load_state_dict({key: theirs[key] for key in own})
    return language


# -- a model's rows ------------------------------------------------------------------------------------------


@torch.no_grad()
def embeddings(
    encoder: Any, tokenizer: Any, texts: Sequence[str], *, max_length: int = 128, batch_size: int = 32
) -> Tensor:
    """Compute mean-pooled last hidden states, padding left out: (n, d) on the CPU, in the texts' order.

    Args:
        max_length: most tokens of a text; the rest is left out.
        batch_size: texts in one forward pass.
    """
    ensure_pad_token(tokenizer)
    rows = tokenizer(list(texts), truncation=True, max_length=max_length)
    pooled: list[tuple[int, Tensor]] = []
    with model_mode(encoder, training=False):
        for places in _by_length([len(ids) for ids in rows["input_ids"]], batch_size):
            batch = tokenizer.pad({key: [rows[key][i] for i in places] for key in rows}, return_tensors="pt")
            batch = {key: tensor.to(encoder.device) for key, tensor in batch.items()}
            hidden = encoder(**batch).last_hidden_state.float()
            kept = batch["attention_mask"].unsqueeze(-1).float()
            means = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)
            pooled += zip(places, means.cpu())
    return torch.stack([mean for _, mean in sorted(pooled, key=lambda pair: pair[0])])


@torch.no_grad()
def _language_rows(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, list[int]]], masked: bool, batch_size: int
) -> dict[str, np.ndarray]:
    """Mean loss and number of predicted tokens of each document: arrays of (n,)."""
    losses, tokens = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    with model_mode(model, training=False):
        for places in _by_length([len(row["input_ids"]) for row in rows], batch_size):
            batch = tokenizer.pad(
                {"input_ids": [rows[i]["input_ids"] for i in places]}, padding=True, return_tensors="pt"
            )
            width = batch["input_ids"].shape[1]
            labels = torch.full((len(places), width), IGNORED)
            for at, i in enumerate(places):
                own = torch.tensor(rows[i]["labels"], dtype=torch.long)
                # Some tokenizers pad at the start.
                begin = 0 if tokenizer.padding_side == "right" else width - len(own)
                labels[at, begin : begin + len(own)] = own
            labels = labels.to(model.device)
            logits = model(**{key: tensor.to(model.device) for key, tensor in batch.items()}).logits.float()
            # A causal model's logits at a position are of the next token.
            if not masked:
                logits, labels = logits[:, :-1], labels[:, 1:]
            each = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
            counts = (labels != IGNORED).sum(1)
            tokens[places] = counts.cpu().numpy()
            losses[places] = (each.double().sum(1) / counts.clamp(min=1)).cpu().numpy()
    return {"loss": losses, "tokens": tokens}


def _tokens(tokenizer: Any, documents: Sequence[str], max_length: int) -> list[dict[str, list[int]]]:
    ensure_pad_token(tokenizer)
    encoded = tokenizer(list(documents), truncation=True, max_length=max_length)["input_ids"]
    return [{"input_ids": list(ids), "labels": list(ids)} for ids in encoded]


def _mask(row: dict[str, list[int]], tokenizer: Any, draw: np.random.RandomState) -> dict[str, list[int]]:
    """A document with some tokens masked, and labels for these alone."""
    ids = row["input_ids"]
    special = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
    places = [i for i, mark in enumerate(special) if not mark]
    masked = {places[i] for i in draw.permutation(len(places))[: max(1, round(MASKED * len(places)))]}
    return {
        "input_ids": [tokenizer.mask_token_id if i in masked else token for i, token in enumerate(ids)],
        "labels": [token if i in masked else IGNORED for i, token in enumerate(ids)],
    }


def _is_masked(model: Any) -> bool:
    """Whether the model fills in masked tokens, rather than going on from the left."""
    name = type(model).__name__
    if name.endswith("MaskedLM"):
        return True
    if name.endswith(("CausalLM", "LMHeadModel")):
        return False
    raise LopsidedError(
        f"expected a causal or masked language model, got {name}, which has no such head; pass sentence pairs with a "
        "score as the reference"
    )


def _by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows in batches, shortest first, so that they need little padding."""
    order = np.argsort(np.asarray(lengths), kind="stable").tolist()
    return [order[i : i + size] for i in range(0, len(order), size)]


# -- figures -------------------------------------------------------------------------------------------------


def _token_mean(rows: Predictions) -> float:
    """Over the tokens of all rows; NaN without any."""
    tokens = rows["tokens"].sum()
    return float(rows["loss"] @ rows["tokens"] / tokens) if tokens else math.nan


def _change(
    reference: str,
    metric: str,
    better: str,
    base: Predictions,
    tuned: Predictions,
    figure: Callable[[Predictions], float],
    draws: int,
) -> Change:
    low, high = paired_interval(base, tuned, figure, draws=draws)
    before, after = figure(base), figure(tuned)
    figures = {"base": before, "tuned": after, "change": after - before, "low": low, "high": high}
    broken = [name for name in ("base", "tuned") if not is_finite(figures[name])]
    reason = f"the {metric} of the {' and the '.join(broken)} model is not finite or not defined on these rows"
    if not broken:
        reason = "the change is not defined on some draws of the rows"
    return Change(
        reference=reference,
        metric=metric,
        better=better,
        rows=len(next(iter(base.values()))),
        **{name: finite_or_none(value) for name, value in figures.items()},
        why={name: reason for name, value in figures.items() if not is_finite(value)},
    )
