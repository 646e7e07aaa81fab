"""A whole federation in this process, where messages go straight to the clients, and some of them are lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from lopsided.federated import client_standing
from lopsided.federated.federation import FederationConfig
from lopsided.federated.server_rounds import serve
from lopsided.federated.strategy import FactorAveraging
from lopsided.runs import Run
from tests.federated.local_grid import LocalGrid


class LosingGrid(LocalGrid):
    """Messages of training that do not arrive, by node and round."""

    lost: tuple[tuple[int, int], ...] = ()

    def send_and_receive(self, messages, *, timeout=None):
        def arrives(message) -> bool:
            number = message.content.config_records["tells"].get("round")
            return (message.metadata.dst_node_id, number) not in self.lost

        return super().send_and_receive([each for each in messages if arrives(each)], timeout=timeout)


def in_process(
    config: FederationConfig, out: Path, own: Mapping[int, dict[str, str]] | None = None, *lost: tuple[int, int]
) -> Run:
    """The same federation without a network, where some messages are lost."""
    client_standing.forget()
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, out=out / "run"))
    grid = LosingGrid(out / "clients", config.clients)
    grid.own, grid.lost = dict(own or {}), lost
    return serve(config, lambda rounds: FactorAveraging(rounds).run(grid))
