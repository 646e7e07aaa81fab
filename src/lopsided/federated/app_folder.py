"""A folder in which `flwr run` works: the two apps, and a federation's settings as their configuration."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.federated.federation import FederationConfig
from lopsided.federated.flat_settings import Plain, flat
from lopsided.files.atomic import atomic_folder

PACKAGE = "lopsided_federation"
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "lopsided-federation"
version = "1.0.0"
description = "Federated fine-tuning with lopsided"
license = "Apache-2.0"
dependencies = ["lopsided[{extras}]=={version}"]

[tool.hatch.build.targets.wheel]
packages = ["{package}"]

[tool.flwr.app]
publisher = "lopsided"

[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.client:app"

# The settings of `lopsided federate`. A client that has a task of its own names it in its node's configuration.
[tool.flwr.app.config]
{config}
"""
SERVER = '''\
"""The server of the federation."""

from lopsided.federated.server_app import make_server_app

app = make_server_app()
'''
CLIENT = '''\
"""A client of the federation."""

from lopsided.federated.client_app import make_client_app

app = make_client_app()
'''


def write_app(config: FederationConfig, folder: Path) -> Path:
    """Write the folder of an app, and return it.

    Args:
        config: of the federation; its `out` is where the server writes its run, and has to be absolute there.
        folder: a new one.

    Raises:
        LopsidedError: if there is something already.
    """
    if folder.exists():
        raise LopsidedError(f"{folder} is there already; expected a new folder; choose another one")
    lines = "\n".join(f"{name} = {_toml(value)}" for name, value in flat(config).items())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as new:
        (new / PACKAGE).mkdir()
        extras = "federated" if config.privacy is None else "federated,dp"
        text = PROJECT.format(version=version("lopsided"), package=PACKAGE, config=lines, extras=extras)
        (new / "pyproject.toml").write_text(text, encoding="utf-8")
        (new / PACKAGE / "__init__.py").write_text('"""Federated fine-tuning with lopsided."""\n', encoding="utf-8")
        (new / PACKAGE / "server.py").write_text(SERVER, encoding="utf-8")
        (new / PACKAGE / "client.py").write_text(CLIENT, encoding="utf-8")
    return folder


def _toml(value: Plain) -> str:
    # TOML writes these as JSON does.
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
