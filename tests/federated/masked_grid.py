"""The grid of `local_grid` for secure aggregation: nodes keep their state, and messages are copied as a wire does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message
from flwr.app.error import Error
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

from lopsided import LopsidedError
from tests.federated.local_grid import LocalGrid

# A message of secure aggregation, its stage -> whether an answer arrives.
Arrives = Callable[[Message, str], bool]


def always(message: Message, stage: str) -> bool:
    return True


class MaskedGrid(LocalGrid):
    """Nodes 2 to n + 1; `heard` has the answers that carry masked updates."""

    def __init__(self, folder: Path, nodes: int, arrives: Arrives = always) -> None:
        super().__init__(folder, nodes)
        self.arrives = arrives
        self.contexts: dict[int, Context] = {}
        self.heard: list[Message] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        answers: list[Message] = []
        for message in messages:
            configs = message.content.config_records
            stage = str(configs.get(RECORD_KEY_CONFIGS, {}).get(Key.STAGE, ""))
            if not self.arrives(message, stage):
                continue
            # Flower's mod takes the stage out of the record, which the messages of all nodes share here.
            before = dict(configs.get(RECORD_KEY_CONFIGS, {}))
            node = message.metadata.dst_node_id
            context = self.contexts.setdefault(node, self._context(node))
            try:
                answers.append(self.app(message, context))
            except (LopsidedError, KeyError) as error:
                # As Flower answers for an app that failed.
                answers.append(Message(Error(2, f"{type(error).__name__}: {error}"), reply_to=message))
            if before:
                configs[RECORD_KEY_CONFIGS] = ConfigRecord(before)
            if stage == "collect_masked_vectors":
                self.heard.append(answers[-1])
        return answers
