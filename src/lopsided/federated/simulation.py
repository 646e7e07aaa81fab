"""A federation on one machine, by Flower's simulation runtime: clients take turns in as many processes as fit."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from lopsided.federated.client_app import make_client_app
from lopsided.federated.client_rows import spread_rows
from lopsided.federated.federation import FederationConfig
from lopsided.federated.server_rounds import CLIENTS, ServerRounds, serve
from lopsided.federated.strategy import FactorAveraging
from lopsided.runs.run import Run


def simulate(
    config: FederationConfig,
    *,
    resume: bool = False,
    note: Callable[[str], None] = lambda text: None,
    command: str | None = None,
) -> Run:
    """Run a federation here, and return the server's run.

    Args:
        config: of the federation.
        resume: go on with what the folder holds.
        note: tells a person how far it is.
        command: the command line, for the record.

    Raises:
        LopsidedError: for bad input, a folder in use or with another run, or too few answers in a round.
    """
    folder = (config.run.out / CLIENTS).absolute()

    def drive(rounds: ServerRounds) -> None:
        # Here every client has a part of these rows: what does not fit is said before any process starts.
        spread_rows(config, rounds.session.data)
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            FactorAveraging(rounds).run(grid)

        logging.getLogger("flwr").setLevel(logging.ERROR)
        # Ray lowers its workers' priority by 15, at which they starve on a machine that others use.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Of Ray's next versions, which matters to nobody here.
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        processes = max(1, min(config.clients, os.cpu_count() or 1))
        run_simulation(
            server_app=app,
            client_app=make_client_app(folder),
            num_supernodes=config.clients,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {
                    "num_cpus": processes,
                    "include_dashboard": False,
                    "log_to_driver": False,
                    "logging_level": "ERROR",
                },
            },
        )

    finished = serve(config, drive, resume=resume, note=note, command=command)
    shutil.rmtree(folder, ignore_errors=True)
    return finished
