"""Run directories -> one HTML file (`write_report`); a comparison's results -> a terminal table (`terminal`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_text

__all__ = ["check_renderable", "report_text", "write_report"]


def write_report(paths: Sequence[Path], path: Path) -> dict[str, Any]:
    """Write the report about the runs in `paths` to `path`: one self-contained file that opens without a network.

    The file appears whole or not at all: it is written beside `path` and renamed over it.

    Args:
        paths: run directories, folders of `lopsided lab` and `lopsided advise`, or folders that contain such.
        path: the file to write; its folder must exist.

    Returns:
        What `gather` found.

    Raises:
        LopsidedError: for bad input, such as a folder that holds no run; if plotly or jinja2 is missing.
    """
    from lopsided.report.gather import gather

    gathered = gather(paths)
    text = report_text(gathered)
    # "replace": a lone surrogate of a badly decoded error message must not cost the page.
    write_text(path, text, errors="replace")
    return gathered


def check_renderable() -> None:
    """Raise if no report can be made, before the work that it would show.

    Raises:
        LopsidedError: if plotly or jinja2 is missing.
    """
    for name in ("jinja2", "plotly"):
        if find_spec(name) is None:
            raise LopsidedError(
                f"the HTML report needs plotly and jinja2, and {name} is not installed; "
                "run: pip install 'lopsided[report]'"
            )


def report_text(gathered: dict[str, Any], *, live: str = "") -> str:
    """The page as text; see `page.render`.

    Raises:
        LopsidedError: if plotly or jinja2 is missing.
    """
    check_renderable()
    # Here and not at the top: the terminal table lives in this package and needs neither library.
    from lopsided.report.page import render

    return render(gathered, live=live)
