"""Whether answers are the adapter's, the base's, or neither's, by how far they are from what a probe expects.

Notation, all as root mean squares over the tokens (or logits) of all prompts, in nats (or in units of the logits):

    d(x)    answers minus what x = base or adapter says
    D       adapter minus base, of the tokens that are answered
    ε       noise: one answer minus another one to the same prompt, together with what 16-bit arithmetic changes

By the triangle inequality, answers with d(adapter) < D/2 are nearer to the adapter than to the base. Where D ≤ 2·ε,
answers that near are nothing but chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lopsided.serving.probe_file import MODELS, Model, Probe, Prompt, by_text, root_mean_square

Word = Literal["adapter", "base", "undecided", "neither"]
# What quantized weights, caches and kernels may change of a right server's log p. Four-bit weights move it by some
# tenths of a nat; another model's is off by several nats.
SERVER_SLACK = 0.5
# What the same float32 weights may be off by on another processor.
LOCAL_SLACK = 0.01


@dataclass(frozen=True, kw_only=True)
class TokenScore:
    """The log p of one token in an answer, or the logit of one label.

    Args:
        id: of the token or the label; None where the server gives its text alone.
        text: of the token; None where the server gives its id alone.
        value: log p, in nats, or the logit.
    """

    id: int | None
    text: str | None
    value: float


# To one prompt: a causal model's likeliest next tokens, or a classifier's logits.
Answer = Sequence[TokenScore]


@dataclass(frozen=True, kw_only=True)
class ProbeVerdict:
    """What the answers to a probe show.

    Args:
        word: "adapter", "base", "neither" (as of another base), or "undecided".
        why: one sentence with the numbers.
        distances: d of each model.
        difference: D.
        noise: ε.
    """

    word: Word
    why: str
    distances: Mapping[Model, float]
    difference: float
    noise: float


def judge(probe: Probe, answers: Sequence[Sequence[Answer]], *, slack: float, rounding: float) -> ProbeVerdict:
    """Return whether the answers are the adapter's, the base's or neither's.

    Args:
        probe: what was asked.
        answers: one or more to each prompt, in the order of the prompts.
        slack: how far a right model's answers may be off.
        rounding: what the arithmetic of the model that answered changes.
    """
    deviations = {
        model: [
            value
            for prompt, repeats in zip(probe.prompts, answers)
            for answer in repeats
            for value in _deviations(probe, prompt, answer, model)
        ]
        for model in MODELS
    }
    distances = {model: root_mean_square(values) for model, values in deviations.items()}
    # Of the same tokens: the two may differ in others, which tell nothing of these answers.
    difference = root_mean_square([b - a for b, a in zip(deviations["base"], deviations["adapter"])])
    noise = math.hypot(_repeat_noise(answers), rounding)
    word, why = _word(distances, difference, noise, max(slack, 4 * noise))
    return ProbeVerdict(word=word, why=why, distances=distances, difference=difference, noise=noise)


def _word(distances: Mapping[Model, float], difference: float, noise: float, limit: float) -> tuple[Word, str]:
    nearest = min(MODELS, key=lambda model: distances[model])
    shown = ", ".join(f"{distances[model]:.3g} from the {model}" for model in MODELS)
    numbers = f"the answers are {shown}; the two differ by {difference:.3g}, and noise is {noise:.2g}"
    if distances[nearest] > limit:
        return "neither", f"{numbers}: further from both than {limit:.2g}, as with another base"
    if difference <= 2 * noise:
        return "undecided", f"{numbers}: adapter and base differ by no more than noise does"
    if distances[nearest] >= difference / 2:
        return "undecided", f"{numbers}: no closer to either than half of that difference"
    return nearest, numbers


def _repeat_noise(answers: Sequence[Sequence[Answer]]) -> float:
    """Return the root mean square of one answer minus the next to the same prompt."""
    differences: list[float] = []
    for repeats in answers:
        for one, other in itertools.pairwise(repeats):
            first, second = _by_key(one), _by_key(other)
            differences += [second[key] - value for key, value in first.items() if key in second]
    return root_mean_square(differences)


def _by_key(answer: Answer) -> dict[tuple[int | None, str | None], float]:
    return {(score.id, score.text): score.value for score in answer}


def _deviations(probe: Probe, prompt: Prompt, answer: Answer, model: Model) -> list[float]:
    """Return answer minus expectation, for each token or logit of an answer."""
    if probe.kind == "logits":
        return [score.value - prompt.values(model)[score.id or 0] for score in answer]
    known_ids, known_texts = {token.id: token for token in prompt.tokens}, by_text(prompt)
    deviations = []
    for score in answer:
        token = known_texts.get(score.text or "") if score.id is None else known_ids.get(score.id)
        if token is not None:
            deviations.append(score.value - (token.base if model == "base" else token.adapter))
        else:
            # Not among the model's likeliest, so below its floor: a likely token here is at least so far off.
            deviations.append(max(0.0, score.value - prompt.floor(model)))
    return deviations
