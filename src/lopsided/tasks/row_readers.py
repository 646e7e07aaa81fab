"""What is kept of a batch's outputs: a few numbers per row, instead of all logits.

Notation: `n` rows, `V` words in the vocabulary, `T` positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lopsided.tasks.collators import OPTION_LABELS, QUESTION, RIGHT
from lopsided.tasks.encoders import IGNORED

# Logits in float32, the batch's tensors, and whether each position predicts the next token: (n, numbers that are kept).
RowReader = Callable[[Tensor, Mapping[str, Tensor], bool], Tensor]


def read_classes(logits: Tensor, batch: Mapping[str, Tensor], shifted: bool) -> Tensor:
    """Return prediction, label and cross entropy: logits (n, classes), labels (n,) -> (n, 3)."""
    labels = batch["labels"]
    losses = F.cross_entropy(logits, labels, reduction="none")
    return torch.stack([logits.argmax(-1).float(), labels.float(), losses], 1)


def read_scores(logits: Tensor, batch: Mapping[str, Tensor], shifted: bool) -> Tensor:
    """Return prediction, label and squared error: outputs (n, 1), labels (n,) -> (n, 3)."""
    prediction, labels = logits.squeeze(-1), batch["labels"]
    return torch.stack([prediction, labels, (prediction - labels) ** 2], 1)


def read_tokens(logits: Tensor, batch: Mapping[str, Tensor], shifted: bool) -> Tensor:
    """Return how many tokens count, their mean loss, how many are the most likely ones, and whether the first is.

    Shapes:
        logits (n, T, V), labels (n, T) -> (n, 4).
    """
    labels = batch["labels"]
    if shifted:
        logits, labels = shift_for_causal(logits, labels)
    counts, means = _token_losses(logits, labels)
    is_learned = labels != IGNORED
    is_right = (logits.argmax(-1) == labels) & is_learned
    first = is_learned.int().argmax(1, keepdim=True)
    columns = [counts, means, is_right.sum(1), is_right.gather(1, first).squeeze(1)]
    return torch.stack([column.float() for column in columns], 1)


def read_options(logits: Tensor, batch: Mapping[str, Tensor], shifted: bool) -> Tensor:
    """Return the chosen option, the right one and its mean token loss: logits (N, T, V) of N options -> (n, 3).

    The chosen option o has the largest log-likelihood per token, (1 / T_o) Σ_t log p(o_t | prompt, o_<t), its end token
    included: the sum would prefer short options, and the loss that is trained is a mean over tokens, too. A row with an
    option of likelihood NaN has no answer: its loss is NaN.

    Source:
        Brown et al. 2020, "Language Models are Few-Shot Learners", section 2.4, for the likelihood per token.
    """
    labels = batch[OPTION_LABELS]
    _, losses = _token_losses(*(shift_for_causal(logits, labels) if shifted else (logits, labels)))
    question, right = batch[QUESTION], batch[RIGHT]
    rows = torch.arange(len(right), device=losses.device)
    # Options of a row stand next to each other; where the row begins is where its number is first seen.
    place = torch.arange(len(question), device=losses.device) - torch.searchsorted(question, question)
    table = losses.new_full((len(right), int(place.max()) + 1), torch.inf)
    table[question, place] = losses
    own = torch.where(table.isnan().any(1), torch.nan, table[rows, right])
    return torch.stack([table.argmin(1).float(), right.float(), own], 1)


def _token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of tokens of each row that count, and their mean loss."""
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    counts = (labels != IGNORED).sum(1)
    return counts, losses.sum(1) / counts.clamp(min=1)


def shift_for_causal(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pair each position with the token that it predicts, t with t + 1: (n, T, V), (n, T) -> (n, T-1, V), (n, T-1)."""
    return logits[:, :-1], labels[:, 1:]
