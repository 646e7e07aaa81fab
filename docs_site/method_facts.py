"""What a method's parts say of it, in words and formulas. Nothing here asks for a method's name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from lopsided import Chain, Method, Sketch
from lopsided.method import LinkSide
from lopsided.study.compare import FIRST
from lopsided.theory import (
    ModelNumbers,
    coin_lambda,
    covers,
    generalization_bound,
    is_counted,
    lambda_min,
    model_numbers,
)
from lopsided.theory.information import chain_links

# The layer and the run that numbers are given for.
WIDTH, RANK, SAMPLES, SIGMA = 768, 16, 3668, 0.5
SHAPE = "RoBERTa-base with a classifier of two labels, all linear layers"


def formula(method: Method) -> str:
    """Return what a layer computes, as LaTeX; nothing for a method without an adapter."""
    if not method.is_adapter:
        return ""
    chain = method.chain
    t = "_t" if chain else ""
    lines = [rf"y &= \left( W{t or '_0'} + \Delta W{t} \right) x"]
    odds = method.adapter_side.odds()
    for probability, side in odds:
        chance = rf" \quad \text{{with probability {probability:g}}}" if len(odds) > 1 else ""
        lines.append(rf"\Delta W{t} &= {_update(side, t)}{chance}")
    if chain is not None and chain.merge:
        lines.append(r"W_{t+1} &= W_t + \Delta W_t \quad \text{at the end of link t}")
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def _update(side: LinkSide, t: str) -> str:
    """Return s·B·A where a side trains, with the sketch in the place of the other factor."""
    A, B = side.term({"A": f"A{t}", "B": f"B{t}"}, f"S{t}", lambda drawn: rf"S{t}^{{\top}}")
    return rf"s\, {B}\, {A}"


def notation(method: Method) -> str:
    """Return what the letters of the formula stand for."""
    if not method.is_adapter:
        return f"No adapter: what trains is {method.side.title}."
    side = method.adapter_side
    trained = " and ".join(side.letters)
    kept = "is drawn and never trains" if side.keeps_sketch else "is where A starts"
    return (
        f"W₀ is the layer's weight of (d_out, d_in), s = alpha/r, and r the rank. **What trains: {side.title}** "
        f"(stored as `{trained}`), with r ≤ {side.width_name}; the sketch S {kept}."
    )


def parts(method: Method) -> dict[str, str]:
    """Return the parts of a method by their names, each in words."""
    listed = {
        "What trains": f"{method.side.title} (`train={method.train!r}`)",
        "Sketch": "none" if method.sketch is None else f"`{written(method.sketch)}`: {_first_sentence(method.sketch)}",
        "Chain": chain_words(method.chain),
    }
    own = method.side.flat()
    listed |= {name: f"{value:g}" for name, value in own.items()}
    listed["Numbers that train"] = f"{method.trained_formula} per layer{' and link' if method.chain else ''}"
    if method.reads_inputs:
        listed["Reads data"] = "yes: its sketch is drawn from the layers' inputs, by `lopsided.calibrate`"
    listed["In `lopsided compare`"] = _in_comparisons(method)
    return listed


def _in_comparisons(method: Method) -> str:
    if method.name in FIRST:
        return "by default"
    return "with `--methods study`" if method.compared else "where it is named"


def chain_words(chain: Chain | None) -> str:
    """Return a chain in words."""
    if chain is None:
        return "none: one link"
    count = f"{chain.links} links by default" if chain.links else f"a link every {chain.every} steps"
    advance = {
        "ΔW joins the weights": chain.merge,
        "a new sketch is drawn": chain.redraw,
        f"{chain.prune:.0%} of the optimizer's state of the factors is zeroed": chain.prune > 0,
        f"the learning rate climbs back over {chain.rewarm} steps": chain.rewarm > 0,
        "the learning rate stays where it is": chain.freeze_rate,
    }
    return f"{count}; at an advance " + ", ".join(words for words, holds in advance.items() if holds)


def _first_sentence(part: object) -> str:
    words = " ".join((inspect.getdoc(type(part)) or "").split("\n\n")[0].split())
    return words[0].lower() + words[1:].rstrip(".") if words[1:2].islower() else words.rstrip(".")


def eigenvalue(method: Method) -> str:
    """Return λ_min of a method's sketch in words; nothing for a method without one."""
    if method.sketch is None:
        return ""
    values = {side.word: _lambda(method.sketch, side) for _, side in method.adapter_side.odds()}
    value = next(iter(values.values()))
    if len(values) > 1:
        value = coin_lambda(method.side.flat()["p"], *values.values())
    form = " ".join((inspect.getdoc(type(method.sketch).lambda_min) or "").split()).removeprefix("Return ").rstrip(".")
    text = f"λ_min(E[H]) of the sketch: {form}. At r = {RANK} and d = {WIDTH} it is {value:.4g}."
    return f"{text} {_rate(method, value)}"


def _lambda(sketch: Sketch, side: LinkSide) -> float:
    return lambda_min(sketch, RANK, side.width(WIDTH, WIDTH)).value


def _rate(method: Method, value: float) -> str:
    chain = method.chain
    if not method.adapter_side.keeps_sketch:
        return "The rates of RAC-LoRA are for a factor that stays a sketch; here it trains, and they promise nothing."
    if chain is None or not (chain.merge and chain.redraw):
        return "The method stays with one sketch, so that RAC-LoRA's rates, which need a new one per link, do not hold."
    if value == 0:
        return (
            "The sketch is not random, and RAC-LoRA's rates promise nothing; whether its links cover every column "
            "depends on their number."
        )
    return f"A chain of exact steps then converges at a rate of 1 − γ·μ·{value:.3g} per link (μ-PL functions)."


@cache
def counted_model() -> ModelNumbers:
    """Return the numbers of the model that bounds are given for, counted without its weights."""
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2)
    with torch.device("meta"):
        return model_numbers(RobertaForSequenceClassification(config))


def bounds(method: Method) -> dict[str, str]:
    """Return the numbers and the bounds of a method on the model of `SHAPE`."""
    numbers = counted_model()
    listed = {}
    if is_counted(method, numbers):
        links = chain_links(method, None)
        bound = generalization_bound(numbers, method, RANK, SAMPLES, SIGMA, links=links if method.chain else None)
        listed["Numbers that train, all links"] = f"{bound.trained:,}"
        if bound.sketched:
            listed["Numbers of the sketch that the data decide"] = f"{bound.sketched:,}"
        listed["Bound on the expected gap"] = f"{bound.value:.2f}"
    listed["Bound for one run, by its theorem"] = "covered" if covers(method) else "not covered: Gaussian factors alone"
    return listed


def entry(method: Method) -> str:
    """Return the line of Python that registers a method of these parts under another name."""
    given: Mapping[str, Any] = {"train": method.train, "sketch": method.sketch, "chain": method.chain}
    arguments = {name: value for name, value in given.items() if value is not None}
    arguments |= method.side.flat()
    arguments |= {"lr": method.lr, "source": method.source}
    lines = [f"    {name}={written(value, 'lopsided.')}," for name, value in arguments.items()]
    return "\n".join([f'lopsided.register(\n    "my_{method.name}",', *lines, ")"])


def written(value: Any, module: str = "") -> str:
    """Return Python that makes a part; fields at their defaults are left out.

    Args:
        module: what stands before the name of a class.

    Example:
        >>> written(Chain(links=4)), written("B"), written(0.5)
        ('Chain(links=4)', '"B"', '0.5')
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return f'"{value}"' if isinstance(value, str) else repr(value)
    fields = [
        f"{field.name}={written(getattr(value, field.name), module)}"
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    ]
    return f"{module}{type(value).__name__}({', '.join(fields)})"
