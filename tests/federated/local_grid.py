"""Flower's grid without a network: messages go straight to client apps in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from lopsided.federated.client_app import make_client_app

# What becomes of an answer: the message, the answer -> the answers that arrive.
Fault = Callable[[Message, Message], list[Message]]


def arrives(message: Message, answer: Message) -> list[Message]:
    return [answer]


def identify() -> None:
    """Be somebody: Flower's messages have a sender."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


class LocalGrid(Grid):
    """Nodes 1 to n, with partitions 0 to n - 1; `nodes` may change between messages."""

    def __init__(self, folder: Path, nodes: int, fault: Fault = arrives) -> None:
        identify()
        self.nodes = list(range(2, 2 + nodes))
        self.app, self.fault = make_client_app(folder), fault
        self.sent: list[Message] = []
        # What a node has in its configuration besides its partition, by the node.
        self.own: dict[int, dict[str, str]] = {}

    def set_run(self, run: FlowerRun) -> None:
        raise NotImplementedError

    @property
    def run(self) -> FlowerRun:
        raise NotImplementedError

    def create_message(self, *args, **kwargs) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        answers: list[Message] = []
        for message in messages:
            self.sent.append(message)
            answers += self.fault(message, self.app(message, self._context(message.metadata.dst_node_id)))
        return answers

    def _context(self, node: int) -> Context:
        own = UserConfig({"partition-id": node - 2, **self.own.get(node, {})})
        return Context(run_id=1, node_id=node, node_config=own, state=RecordDict(), run_config=UserConfig())
