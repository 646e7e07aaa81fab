"""`lopsided federate`: clients that train one factor each on their own rows, and a server that averages it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json
from lopsided_cli.train import summary
from lopsided_settings.federate import FederateSettings
from lopsided_settings.plugins import PluginSettings
from lopsided_settings.train import TrainSettings

if TYPE_CHECKING:
    from lopsided.federated.federation import FederationConfig
    from lopsided.runs import Run

Several = Annotated[
    str | None,
    typer.Option(
        help="Names separated by commas, each federated in turn in place of --method, and compared on a page."
    ),
]

Init = Annotated[
    Path | None,
    typer.Option(help="Write a folder in which `flwr run` works with these settings, and run nothing."),
]


@options.options_of(TrainSettings, FederateSettings, PluginSettings)
def federate(
    run: options.Values,
    federation: options.Values,
    own: options.Values,
    methods: Several = None,
    init: Init = None,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Simulate federated fine-tuning here: rounds of local training, and one exact average.

    Writes the server's run directory with the log of rounds and federated.html.
    """
    needs_flower()
    from lopsided.plugins import load_plugin

    if own["plugin"] is not None:
        load_plugin(own["plugin"])
    if init is not None:
        _write_app(run, federation, init, methods)
        return
    names = [run["method"]] if methods is None else options.method_names(methods)
    if names is None:
        raise BadInput("--methods all would federate every method; expected names separated by commas; write some")
    out = run["out"] or options.free_folder("lopsided-federation")
    folders = {name: out if methods is None else out / name for name in names}
    # All of them before the first begins, so that a method that does not fit ends nothing that has run.
    configs = [_configured({**run, "method": name, "out": folder}, federation) for name, folder in folders.items()]
    runs = [_simulated(config, resume) for config in configs]
    from lopsided.report.federated_page import federated_rows, privacy_of, read_federations, write_federated_page

    page = write_federated_page(list(folders.values()), out / "federated.html")
    if json:
        records = [each.to_json() for each in runs]
        print_json(records if methods else records[0])
        return
    for line in summary(runs[0]) if methods is None else ():
        print(line)
    _print_rounds(federated_rows(list(folders.values())))
    for sentence in privacy_of(read_federations(list(folders.values()))):
        print(sentence)
    print(f"wrote {page}")


def _write_app(run: options.Values, federation: options.Values, folder: Path, methods: str | None) -> None:
    from lopsided.federated.app_folder import write_app
    from lopsided.federated.federation import FederationConfig
    from lopsided.runs import TrainConfig

    if methods is not None:
        raise BadInput("--init writes one federation, and --methods asks for several; give --method instead")
    # The server may run in another folder than this one.
    out = (run["out"] or folder.with_name(f"{folder.name}-run")).absolute()
    write_app(FederationConfig(run=TrainConfig(**{**run, "out": out}), **federation), folder)
    print(f"wrote {folder}; run it with: flwr run {folder}; its server writes {out}")


def needs_flower() -> None:
    """Raise if Flower is not installed.

    Raises:
        BadInput: with what to install.
    """
    missing = [name for name in ("flwr", "ray") if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"lopsided federate needs {' and '.join(missing)}, not installed here; install it with "
            "pip install 'lopsided[federated]' (Python 3.11 or later)"
        )


def _configured(run: dict[str, object], federation: options.Values) -> FederationConfig:
    from lopsided.federated.federation import FederationConfig
    from lopsided.runs import TrainConfig

    return FederationConfig(run=TrainConfig(**run), **federation)  # type: ignore[arg-type]


def _simulated(config: FederationConfig, resume: bool) -> Run:
    import os

    from rich.console import Console

    # Before Flower is imported, which reads it then.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from lopsided.federated.simulation import simulate

    console = Console(stderr=True)

    def note(text: str) -> None:
        console.print(f"{config.run.method}: {text}", markup=False, highlight=False, soft_wrap=True)

    return simulate(config, resume=resume, note=note, command=options.command_line())


def _print_rounds(rows: list[tuple[str, ...]]) -> None:
    from lopsided_cli.printing import print_table

    headings, *body = rows
    print_table(headings, body)
