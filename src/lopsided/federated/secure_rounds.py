"""The server's side of secure aggregation: Flower's SecAgg+ workflow, which learns the sum of updates and no summand.

The workflow takes its clients from a strategy of Flower's older interface and gives the result back to it: `_OneRound`
is the part of such a strategy that it asks for. See `secure_answers` for the notation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.common import FitIns, FitRes, Parameters, parameters_to_ndarrays
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.federated.averaging import Shapes
from lopsided.federated.privacy_checks import FEWEST_MASKED
from lopsided.federated.secure_answers import MODULUS, STEPS

# Messages -> their answers.
Send = Callable[[list[Message]], list[Message]]


@dataclass(frozen=True)
class _Node:
    node_id: int


@dataclass(frozen=True)
class _Nodes:
    count: int

    def num_available(self) -> int:
        return self.count


class _OneRound:
    """What the workflow asks of a strategy of the older interface."""

    def __init__(self, nodes: Sequence[int], asks: dict[str, Any]) -> None:
        self.nodes, self.asks = nodes, asks
        self.mean: list[np.ndarray[Any, Any]] | None = None
        self.count = 0

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: object) -> list[Any]:
        instructions = FitIns(Parameters([], "numpy.ndarray"), self.asks)
        return [(_Node(node), instructions) for node in self.nodes]

    def aggregate_fit(
        self, server_round: int, results: list[tuple[_Node, FitRes]], failures: list[Any]
    ) -> tuple[None, dict[str, Any]]:
        # Every result has the same parameters: the mean over all of them.
        self.mean, self.count = parameters_to_ndarrays(results[0][1].parameters), len(results)
        return None, {}


@dataclass(frozen=True)
class _Sender:
    """The part of a grid that the workflow uses."""

    send: Send

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.send(list(messages))


def threshold(clients: int, min_clients: int | None) -> int:
    """Return how many clients a sum needs at least, and how many must help to unmask it.

    More than two thirds, so that no two sets of clients unmask two sums of one round; and four, so that each client has
    three masks that the server does not know.

    Example:
        >>> threshold(4, None), threshold(10, None), threshold(10, 9)
        (4, 7, 9)
    """
    return max(FEWEST_MASKED, 2 * clients // 3 + 1, min_clients or 0)


def mean_update(
    send: Send, nodes: Sequence[int], asks: dict[str, Any], shapes: Shapes, *, clipping_norm: float, fewest: int
) -> tuple[dict[str, Tensor], int] | None:
    """Return the mean of the clients' updates, which is all that the server learns of them, and their number.

    Return None if there is no sum, because too few clients have answered.

    Args:
        send: hands out messages and returns the answers that came in time.
        nodes: the clients.
        asks: what they are told: the plan and the round.
        shapes: of every tensor.
        clipping_norm: no number of an update is larger.
        fewest: clients without which there is no sum.

    Shapes:
        as `shapes` says, float64.

    Raises:
        LopsidedError: for a sum of other shapes.
    """
    strategy = _OneRound(nodes, asks)
    state = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: asks["round"]})})
    state[MAIN_PARAMS_RECORD] = ArrayRecord({})
    context = Context(run_id=0, node_id=0, node_config=UserConfig(), state=state, run_config=UserConfig())
    legacy = LegacyContext(context, strategy=cast(Any, strategy), client_manager=cast(Any, _Nodes(len(nodes))))
    workflow = SecAggPlusWorkflow(
        # Everybody shares a mask with everybody.
        num_shares=1.0,
        reconstruction_threshold=fewest,
        max_weight=1.0,
        clipping_range=clipping_norm,
        quantization_range=STEPS,
        modulus_range=MODULUS,
    )
    workflow(cast(Grid, _Sender(send)), legacy)
    if strategy.mean is None:
        return None
    names = sorted(shapes)
    got = [tuple(array.shape) for array in strategy.mean]
    if got != [tuple(shapes[name]) for name in names]:
        raise LopsidedError(f"round {asks['round']}: the sum has the shapes {got!r:.200}, others than the model's")
    mean = {name: torch.from_numpy(np.asarray(array, np.float64)) for name, array in zip(names, strategy.mean)}
    return mean, strategy.count
