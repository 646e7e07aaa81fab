"""Writes the measured figures into docs/performance.md.

    python -m benchmarks.render [--results docs/performance] [--document docs/performance.md]

Each result `<name>.json` is written as a table between two lines of the document, `<!-- figures: <name> -->` and
`<!-- end of <name> -->`; what stands outside such lines is prose, and stays. "targets" is made from all the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.measuring import RESULTS
from lopsided import LopsidedError

# Scripts of this folder; each has a function `table(result) -> str`.
BENCHMARKS = (
    "llama",
    "step_time",
    "memory",
    "files",
    "scaling",
    "undo",
    "exact_merge",
    "intruders",
    "landscape",
    "gpu",
)
UNMEASURED = "Not measured."


def rendered(document: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The document with its tables as the results say.

    Raises:
        LopsidedError: if the document lacks a section's lines.
    """
    sections = {"targets": targets.table(results) if results else UNMEASURED}
    for name in BENCHMARKS:
        sections[name] = import_module(f"benchmarks.{name}").table(results[name]) if name in results else UNMEASURED
    for name, text in sections.items():
        start, end = f"<!-- figures: {name} -->\n", f"<!-- end of {name} -->\n"
        if document.count(start) != 1 or document.count(end) != 1 or document.index(start) > document.index(end):
            raise LopsidedError(
                f"expected the lines {start.strip()!r} and {end.strip()!r} once each, in this order, in the document; "
                "add them where the table shall stand"
            )
        before, rest = document.split(start)
        document = f"{before}{start}\n{text}\n\n{end}{rest.split(end)[1]}"
    return document


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The results that the folder holds, by benchmark."""
    paths = {name: folder / f"{name}.json" for name in BENCHMARKS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def main(arguments: list[str] | None = None) -> int:
    """Write the tables into the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=RESULTS.with_suffix(".md"))
    options = parser.parse_args(arguments)
    try:
        text = rendered(options.document.read_text(encoding="utf-8"), read(options.results))
    except (LopsidedError, FileNotFoundError) as error:
        print(f"render: {error}", file=sys.stderr)
        return 2
    options.document.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
