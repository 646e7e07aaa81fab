"""A probe: a few inputs with what the base and the adapter say to them, written next to an exported adapter.

Notation: log p is a log-probability of the next token, in nats. For a causal model a probe lists the tokens that either
model finds likeliest, with both models' log p; a token that is not listed is less likely than the least likely of
those, which is the model's floor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.untrusted import check_fields, read_json

PROBE = "probe.json"
SCHEMA = 1
# Far more than a probe has, and far less than would keep anybody waiting.
MAX_PROMPTS, MAX_IDS, MAX_NUMBERS = 64, 4096, 4096

Kind = Literal["causal", "logits"]
Model = Literal["base", "adapter"]
MODELS: tuple[Model, ...] = ("base", "adapter")


@dataclass(frozen=True, kw_only=True)
class ListedToken:
    """A token that the base or the adapter finds likely.

    Args:
        id: in the tokenizer's vocabulary.
        text: as the tokenizer writes it; None without a tokenizer.
        base, adapter: log p, in nats.
    """

    id: int
    text: str | None
    base: float
    adapter: float


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One input, and what the two models say to it.

    Args:
        ids: its tokens.
        text: what they were made of; None where they were drawn.
        base, adapter: for a causal model each one's floor, in one number; for a classifier its logits.
        tokens: for a causal model, the likeliest of both.
    """

    ids: list[int]
    text: str | None
    base: list[float]
    adapter: list[float]
    tokens: tuple[ListedToken, ...] = ()

    def floor(self, model: Model) -> float:
        """Return the log p of the least likely token that is listed as one of a causal model's likeliest."""
        return self.values(model)[0]

    def values(self, model: Model) -> list[float]:
        """Return `base` or `adapter`, the numbers of that model."""
        return self.base if model == "base" else self.adapter


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What tells whether an adapter takes effect.

    Args:
        kind: "causal", with log p of the next token, or "logits", of a classifier.
        base: the base model's name.
        rounding: the root mean square of what computing in bfloat16 changes of the same numbers.
        prompts: the inputs.
    """

    kind: Kind
    base: str
    rounding: float
    prompts: tuple[Prompt, ...]

    @property
    def difference(self) -> float:
        """The root mean square of adapter minus base, over the listed tokens or the logits of all prompts."""
        return root_mean_square(
            [
                one - other
                for prompt in self.prompts
                for one, other in (
                    [(token.adapter, token.base) for token in prompt.tokens]
                    if self.kind == "causal"
                    else zip(prompt.adapter, prompt.base)
                )
            ]
        )

    def write(self, path: Path) -> None:
        """Write the probe to a file."""
        write_json(path, {"schema": SCHEMA, **dataclasses.asdict(self)})


def root_mean_square(values: Sequence[float]) -> float:
    """Return √(Σx²/n); 0 of nothing.

    Example:
        >>> root_mean_square([3.0, 4.0, 0.0, 0.0]), root_mean_square([])
        (2.5, 0.0)
    """
    return math.hypot(*values) / len(values) ** 0.5 if values else 0.0


# -- reading -------------------------------------------------------------------------------------------------------


def read_probe(path: Path) -> Probe:
    """Read a probe that somebody else may have written.

    Raises:
        LopsidedError: if it is not one: of another schema, with fields of other types, or too large.
    """
    if not path.is_file():
        raise LopsidedError(
            f"{path.parent} holds no {path.name}; expected an export with a probe; export it again where its base can "
            "be loaded, or name the base with --base"
        )
    record = read_json(path)
    if record.get("schema") != SCHEMA:
        raise _odd(path, f"schema {record.get('schema')!r:.40}, expected {SCHEMA}")
    prompts = record.get("prompts")
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MAX_PROMPTS:
        raise _odd(path, f"no list of 1 to {MAX_PROMPTS} prompts")
    check_fields(Probe, {**record, "prompts": []}, str(path))
    if set(record) != {"schema", *_names(Probe)} or record["kind"] not in ("causal", "logits"):
        raise _odd(path, f"the fields {sorted(record)!r:.200}")
    read = tuple(_prompt(path, each, record["kind"]) for each in prompts)
    if not 0.0 <= record["rounding"] < math.inf:
        raise _odd(path, f"rounding {record['rounding']!r:.40}")
    return Probe(kind=record["kind"], base=record["base"], rounding=record["rounding"], prompts=read)


def _prompt(path: Path, record: Any, kind: Kind) -> Prompt:
    if not isinstance(record, dict) or set(record) != set(_names(Prompt)) or not isinstance(record["tokens"], list):
        raise _odd(path, f"a prompt {record!r:.80}")
    check_fields(Prompt, {**record, "tokens": []}, str(path))
    if not 1 <= len(record["ids"]) <= MAX_IDS or min(record["ids"]) < 0:
        raise _odd(path, f"a prompt of {len(record['ids'])} token ids, expected 1 to {MAX_IDS}, none of them negative")
    tokens = tuple(_token(path, each) for each in record["tokens"][: MAX_NUMBERS + 1])
    numbers = [
        *record["base"],
        *record["adapter"],
        *(value for token in tokens for value in (token.base, token.adapter)),
    ]
    one_each = len(record["base"]) == len(record["adapter"]) == 1 and bool(tokens)
    fits = one_each if kind == "causal" else len(record["base"]) == len(record["adapter"]) > 0 and not tokens
    if not fits or len(numbers) > MAX_NUMBERS or not all(map(math.isfinite, numbers)):
        raise _odd(path, f"a prompt whose numbers do not make one of kind {kind!r}")
    return Prompt(**{**record, "tokens": tokens})


def _token(path: Path, record: Any) -> ListedToken:
    if not isinstance(record, dict) or set(record) != set(_names(ListedToken)):
        raise _odd(path, f"a token {record!r:.80}")
    check_fields(ListedToken, record, str(path))
    return ListedToken(**record)


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _odd(path: Path, content: str) -> LopsidedError:
    return LopsidedError(f"{path} holds {content}: it is no probe of this version, or is damaged; export again")


def by_text(prompt: Prompt) -> Mapping[str, ListedToken]:
    """Return the listed tokens by their texts; a text that several share, as bytes of a character do, is left out."""
    texts = [token.text for token in prompt.tokens]
    return {token.text: token for token in prompt.tokens if token.text is not None and texts.count(token.text) == 1}
