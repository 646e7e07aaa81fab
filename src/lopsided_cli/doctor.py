"""`lopsided doctor`: what is installed, what it runs on, and what is missing for which feature."""

from __future__ import annotations

from lopsided_cli import options
from lopsided_cli.printing import print_json


def doctor(json: options.Json = False) -> None:
    """Say what is installed here, on what it runs, and what is missing for which feature.

    One line each; what is missing has the command that installs it. Exits with 0 whatever is missing.
    """
    from lopsided.doctor import devices, examine, features, packaged_models, why_no_accelerator

    found = examine()
    if json:
        print_json(found)
        return
    print(f"lopsided {found['lopsided']}, Python {found['python']}, {found['system']}")
    for device in devices():
        print(f"device   {device}")
    if (reason := why_no_accelerator()) is not None:
        print(f"device   no GPU: {reason}")
    for name, place in packaged_models().items():
        print(f"model    {name}: {place}")
    if found["pip"] is None:
        print("missing  pip, which fetches models and rows from PyPI: python -m ensurepip")
    for feature in features():
        print(f"{feature.state:8} {feature}")
