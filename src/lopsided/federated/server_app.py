"""The server, as an app of Flower that a SuperLink runs; its settings are those of the app's configuration."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lopsided.errors import LopsidedError
from lopsided.federated.flat_settings import from_flat
from lopsided.federated.server_rounds import serve
from lopsided.federated.strategy import FactorAveraging


def make_server_app() -> ServerApp:
    """Return the app.

    It begins the federation in the folder that `out` names, or goes on with the rounds that are there: a server that
    was killed is started again with the same `flwr run`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            config = from_flat(context.run_config)
            serve(config, lambda rounds: FactorAveraging(rounds).run(grid), resume=True, note=_say)
        except LopsidedError as error:
            # Flower logs where an error comes from, and the line that says what to do stands at its very end.
            _say(str(error))
            raise

    return app


def _say(text: str) -> None:
    # Flower's log shows what the app prints.
    print(f"lopsided: {text}", flush=True)
