"""Conversations: checked, written as one text with a chat template, and learned in the assistant's turns.

A row is a list of turns, each a `role` and a `content`: at most one system turn, at the start, then the user's and the
assistant's. The tokenizer's own chat template writes the text; a tokenizer without one gets `PLAIN`:

    user:
    Name a colour.
    assistant:
    Red<eos>
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from lopsided.errors import LopsidedError, first_line
from lopsided.tasks.reading import Content, content_of

ROLES = ("system", "user", "assistant")

# Each turn begins with the line break, so that the assistant's part ends with the eos token and nothing after it. Its
# words stand on a line of their own, since a space before them would become part of their first token.
PLAIN = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{{ message['role'] + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nassistant:\n' }}{% endif %}"
)

Turns = list[dict[str, str]]
Span = tuple[int, int]


def conversation(value: Any, where: str, name: str) -> Turns:
    """Return the turns of a row, checked.

    Args:
        value: what the row has in the column `name`.
        where: the row's place, for errors.

    Raises:
        LopsidedError: if the value is no conversation that can be learned from.
    """
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise LopsidedError(
            f"{where}: expected a list of turns in '{name}', each with role and content; received "
            f"{type(value).__name__} {str(value)[:40]!r}; correct the row"
        )
    turns = [_turn(turn, f"{where}: '{name}' turn {number}") for number, turn in enumerate(value)]
    roles = [turn["role"] for turn in turns]
    if "system" in roles[1:] or roles[int(roles[0] == "system") :][:1] != ["user"] or "assistant" not in roles:
        raise LopsidedError(
            f"{where}: expected in '{name}' a system turn at most, then the user's turn and the assistant's; received "
            f"{', '.join(roles)}; correct the row"
        )
    return turns


def _turn(turn: dict[str, Any], where: str) -> dict[str, str]:
    role, text = turn.get("role"), turn.get("content")
    if role not in ROLES or not isinstance(text, str):
        raise LopsidedError(
            f"{where}: expected a role in {', '.join(ROLES)} and a content that is a string; received role {role!r} "
            f"and content {str(text)[:40]!r}; correct the row"
        )
    extra = [
        key for key, value in turn.items() if key not in ("role", "content") and content_of(value) != Content.EMPTY
    ]
    if extra:
        raise LopsidedError(
            f"{where}: expected role and content; received also {', '.join(extra)}, which would not be learned; "
            "write it into the content, or take it out"
        )
    return {"role": role, "content": text}


def template_of(tokenizer: Any) -> str | None:
    """Return the template to write conversations with, or None for the tokenizer's own."""
    return None if tokenizer.chat_template else PLAIN


def written_out(tokenizer: Any, turns: Turns, where: str) -> tuple[str, list[Span]]:
    """Return a conversation as one text, and the spans of it that the assistant says.

    A span starts where a model is asked to go on (after the template's generation prompt) and ends with the turn,
    including its end-of-turn token but not the blanks after it.

    Args:
        tokenizer: has the template.
        turns: the conversation.
        where: the row, for errors.

    Shapes:
        spans: (first, end) in characters, one per turn of the assistant.

    Raises:
        LopsidedError: if the template refuses the conversation, or writes its beginning differently from the whole.
    """
    whole = _render(tokenizer, turns, where)
    spans = []
    for k, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        after = _render(tokenizer, turns[: k + 1], where)
        # The span is what this turn adds to the text before it. Some templates begin the assistant's turn differently
        # when they ask for it; without the generation prompt the span is then the whole turn.
        before = next(
            (text for ask in (True, False) if after.startswith(text := _render(tokenizer, turns[:k], where, ask=ask))),
            None,
        )
        if before is None or not whole.startswith(after):
            raise LopsidedError(
                f"{where}: expected a chat template that writes a conversation's beginning as it writes the whole; "
                f"that of {type(tokenizer).__name__} does not at turn {k}, so the assistant's words cannot be found; "
                "use one assistant turn per row, or another template as tokenizer.chat_template"
            )
        spans.append((len(before), len(after.rstrip())))
    return whole, spans


def _render(tokenizer: Any, turns: Turns, where: str, *, ask: bool = False) -> str:
    try:
        return tokenizer.apply_chat_template(
            turns, chat_template=template_of(tokenizer), tokenize=False, add_generation_prompt=ask
        )
    except TemplateError as error:
        raise LopsidedError(
            f"{where}: expected a conversation that the tokenizer's chat template takes; it says: "
            f"{first_line(error)}; correct the row"
        ) from error


def spoken_ids(tokenizer: Any, texts: list[str], spans: list[list[Span]]) -> list[tuple[list[int], list[bool]]]:
    """Return the ids of each text, and which of them the assistant says.

    The text is tokenized in one piece, as it is when the model is used; a token is the assistant's if it shares a
    character with a span.

    Raises:
        LopsidedError: if the tokenizer cannot say which characters a token stands for.
    """
    if not tokenizer.is_fast:
        raise LopsidedError(
            f"expected a tokenizer that knows each token's characters (a fast one) for conversations; received "
            f"{type(tokenizer).__name__}; use a model with a fast tokenizer, or prompt and completion columns"
        )
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    return [
        (list(ids), [any(start < last and first < end for first, last in row_spans) for start, end in offsets])
        for ids, offsets, row_spans in zip(encoded["input_ids"], encoded["offset_mapping"], spans)
    ]
