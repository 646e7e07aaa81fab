"""The answers of a model in this process to a probe's prompts, and the making of a probe from such answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.files.fingerprint import check_base, fingerprint
from lopsided.method.sketch import generator
from lopsided.models.adapter_base import peft_config, put_adapter
from lopsided.models.load import tokenizer_of
from lopsided.models.skeleton import GENERATES
from lopsided.runs.memory import memory_free
from lopsided.serving.adapter_source import AdapterSource
from lopsided.serving.probe_file import Kind, ListedToken, Probe, Prompt, root_mean_square
from lopsided.serving.verdict import Answer, TokenScore
from lopsided.tuner.kinds import kind_of

# What a probe may ask: those are taken on which adapter and base differ most.
TEXTS = (
    "The capital of France is",
    "Question: What is 17 plus 25? Answer:",
    "def add(a, b):",
    "Once upon a time, there was a",
    "I watched this film yesterday, and it was",
    "Translate to German: Good morning.",
    "Dear customer, thank you for",
    "name: Alice, age: 31, city:",
)
DRAWN, DRAWN_LENGTH = 8, 12
PROMPTS = 6
# Tokens listed of each model, and asked of a server: five are what every OpenAI-compatible one gives, and twenty what
# vLLM gives at most unless told otherwise. Answers are then among the listed ones, whichever of the two answers.
LISTED, ASKED = 20, 5


def answer_kind(model: nn.Module) -> Kind | None:
    """Return what a model answers to token ids: the next token, or logits; None for a model that no probe supports."""
    names = [kind.__name__ for kind in type(model).__mro__]
    if any(name.endswith(GENERATES) for name in names) and not model.config.is_encoder_decoder:  # type: ignore[union-attr]
        return "causal"
    return "logits" if any(name.endswith("ForSequenceClassification") for name in names) else None


@torch.no_grad()
def outputs(model: nn.Module, kind: Kind, ids: Sequence[int]) -> Tensor:
    """Return log p of the next token over the vocabulary, or the logits, in float32.

    Shapes:
        -> (vocabulary,) or (labels,).
    """
    # Of what a model takes, its token ids alone: nothing is padded.
    logits = model(input_ids=torch.tensor([list(ids)])).logits.float()
    return logits[0, -1].log_softmax(-1) if kind == "causal" else logits[0]


def answers_of(model: nn.Module, probe: Probe) -> list[list[Answer]]:
    """Return a model's answer to each prompt of a probe."""
    said: list[list[Answer]] = []
    for prompt in probe.prompts:
        values = outputs(model, probe.kind, prompt.ids)
        # Of a classifier, all logits.
        top = values.topk(min(ASKED, len(values)) if probe.kind == "causal" else len(values))
        pairs = zip(top.indices.tolist(), top.values.tolist())
        said.append([[TokenScore(id=each, text=None, value=value) for each, value in pairs]])
    return said


# -- making one ----------------------------------------------------------------------------------------------------


def make_probe(source: AdapterSource, exported: Path, fingerprints: list[str] | None) -> Probe:
    """Make the probe of an exported adapter: stock PEFT loads it on its base, both in float32.

    Args:
        source: where the export comes from, which knows the base.
        exported: the folder of the export.
        fingerprints: of the base's adapted layers, in the model's order; None where nobody noted them.

    Raises:
        LopsidedError: if the base cannot be loaded, is another one, or is no model that a probe knows.
    """
    _check_memory(source)
    base: Any = source.load()
    config = peft_config(exported)
    _check_base(base, config, fingerprints)
    kind = answer_kind(base)
    if kind is None:
        raise LopsidedError(
            f"a probe needs a causal model or a classifier of texts; the base is a {type(base).__name__}; export with "
            "--no-probe"
        )
    tokenizer = _tokenizer(source)
    model = put_adapter(base, exported, config, str(source.base)).eval()
    vocabulary = base.get_input_embeddings().num_embeddings
    # Drawn tokens are unlike anything that a model has seen, and move it more by rounding: texts, where there are any.
    candidates = list(_texts(tokenizer, vocabulary)) or [(ids, None) for ids in _drawn(vocabulary)]
    prompts = [_prompt(model, kind, ids, text, tokenizer) for ids, text in candidates]
    probe = Probe(kind=kind, base=str(source.base), rounding=0.0, prompts=tuple(prompts))
    prompts.sort(key=lambda prompt: dataclasses.replace(probe, prompts=(prompt,)).difference, reverse=True)
    probe = dataclasses.replace(probe, prompts=tuple(prompts[:PROMPTS]))
    return dataclasses.replace(probe, rounding=_rounding(model, probe))


def _check_memory(source: AdapterSource) -> None:
    """Raise where the base in float32 would not fit into memory, which the system answers by killing the process."""
    needed = 4 * sum(parameter.numel() for parameter in source.skeleton("a probe").parameters())
    free = memory_free().host
    if needed > free:
        raise LopsidedError(
            f"the base takes {needed / 2**30:.1f} GiB in float32, and {free / 2**30:.1f} GiB are free; export it on a "
            "larger machine, or with --no-probe"
        )


def _check_base(base: nn.Module, config: PeftConfig, fingerprints: list[str] | None) -> None:
    if fingerprints is None:
        return
    adapted = {
        name: fingerprint(kind.matrix(module.weight.data))
        for name, module in base.named_modules()
        if (kind := kind_of(module)) is not None and check_target_module_exists(config, name)
    }
    check_base(fingerprints, adapted, hint="--no-probe")


def _tokenizer(source: AdapterSource) -> Any:
    """Return the base's tokenizer; None where it has none."""
    try:
        return tokenizer_of(str(source.base))
    except LopsidedError:
        # A model without a tokenizer is probed by token ids, and so is one whose tokenizer is not on this machine.
        return None


def _texts(tokenizer: Any, vocabulary: int) -> Iterator[tuple[list[int], str | None]]:
    for text in TEXTS if tokenizer is not None else ():
        ids = [int(token) for token in tokenizer(text)["input_ids"]]
        if ids and max(ids) < vocabulary:
            yield ids, text


def _drawn(vocabulary: int) -> Iterator[list[int]]:
    """Yield prompts of drawn tokens, the same for each size of vocabulary."""
    for number in range(DRAWN):
        yield [int(token) for token in generator(DRAWN, number).randint(0, vocabulary, size=DRAWN_LENGTH)]


def _prompt(model: PeftModel, kind: Kind, ids: list[int], text: str | None, tokenizer: Any) -> Prompt:
    adapter = outputs(model, kind, ids)
    with model.disable_adapter():
        base = outputs(model, kind, ids)
    if kind == "logits":
        return Prompt(ids=ids, text=text, base=base.tolist(), adapter=adapter.tolist())
    likeliest = {"base": base.topk(min(LISTED, len(base))), "adapter": adapter.topk(min(LISTED, len(base)))}
    listed = sorted({token for top in likeliest.values() for token in top.indices.tolist()})
    return Prompt(
        ids=ids,
        text=text,
        base=[float(likeliest["base"].values[-1])],
        adapter=[float(likeliest["adapter"].values[-1])],
        tokens=tuple(
            ListedToken(
                id=token,
                text=None if tokenizer is None else tokenizer.decode([token]),
                base=float(base[token]),
                adapter=float(adapter[token]),
            )
            for token in listed
        ),
    )


def _rounding(model: PeftModel, probe: Probe) -> float:
    """Return the root mean square of what computing in bfloat16 changes of the adapter's numbers; casts the model."""
    model.to(torch.bfloat16)
    changes: list[float] = []
    for prompt in probe.prompts:
        rounded = outputs(model, probe.kind, prompt.ids)
        if probe.kind == "logits":
            changes += [float(value) - expected for value, expected in zip(rounded, prompt.adapter)]
        else:
            # Of the tokens that a server is asked for: those that are less likely are rounded by more.
            likeliest = sorted(prompt.tokens, key=lambda token: token.adapter, reverse=True)[:ASKED]
            changes += [float(rounded[token.id]) - token.adapter for token in likeliest]
    return root_mean_square(changes)
