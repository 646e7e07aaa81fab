"""Write the table of layers, methods and guarantees into docs/layers.md: every cell is tried.

python docs/write_layers.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from lopsided import METHODS, LopsidedError
from lopsided.testing import METHOD_CONTRACTS, NETWORKS
from lopsided.testing.network import fits

PAGE = Path(__file__).with_name("layers.md")
BEGIN, END = "<!-- table: written by docs/write_layers.py -->", "<!-- end of the table -->"
KINDS = {
    "linear": "linear layers",
    "convolution": "convolutions",
    "embedding": "embeddings",
    "parameter": "parameters (experts, routers)",
}


def broken(kind: str) -> dict[str, list[str] | None]:
    """Return the guarantees that a method breaks in layers of a kind, by method; None where these refuse it."""
    found: dict[str, list[str] | None] = {}
    for name, method in METHODS.items():
        if not method.is_adapter:
            continue
        if not fits(method, kind):
            found[name] = None
            continue
        found[name] = broke = []
        for contract in METHOD_CONTRACTS:
            try:
                contract(method, kind)
            except (AssertionError, LopsidedError):
                broke.append(_words(contract.__name__))
    return found


def table() -> str:
    """Return the guarantees, and what each method keeps of them in each kind of layer."""
    by_kind = {kind: broken(kind) for kind in NETWORKS}
    guarantees = "\n".join(f"{i}. {_first_line(contract.__doc__)}" for i, contract in enumerate(METHOD_CONTRACTS, 1))
    header = ["method", *(KINDS[kind] for kind in NETWORKS)]
    rows = [
        [f"`{method}`", *(_kept(by_kind[kind][method]) for kind in NETWORKS)] for method in next(iter(by_kind.values()))
    ]
    lines = [header, ["---"] * len(header), *rows]
    return f"{guarantees}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _kept(missing: list[str] | None) -> str:
    if missing is None:
        return "refused"
    return f"all but: {', '.join(missing)}" if missing else f"all {len(METHOD_CONTRACTS)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _first_line(doc: str | None) -> str:
    text = (doc or "").strip().split("\n\n")[0]
    return " ".join(text.split()).removeprefix("Check that ").removeprefix("Check ")


def written(page: str) -> str:
    """Return the page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main() -> int:
    """Write the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
