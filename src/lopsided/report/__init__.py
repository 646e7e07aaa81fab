"""Reports: run directories as one HTML file (`write_report`), a comparison as a table in the terminal (`terminal`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_text
from lopsided.report.gather import Gathered, gather

__all__ = ["check_renderable", "report_text", "write_report"]


def write_report(paths: Sequence[str | Path], path: str | Path) -> Gathered:
    """Write the report about the runs in `paths` to `path`: one self-contained file that opens without a network.

    The file appears whole or not at all: it is written next to `path` and renamed to it.

    Args:
        paths: run directories, folders of `lopsided lab` and `lopsided advise`, or folders that contain such.
        path: the file to write; its folder must exist.

    Returns:
        What the page was made of.

    Raises:
        LopsidedError: for bad input, such as a folder that holds no run; if plotly or jinja2 is missing.
    """
    gathered = gather([Path(each) for each in paths])
    # "replace": a lone surrogate from a badly decoded error message must not cost the page.
    write_text(Path(path), report_text(gathered), errors="replace")
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


def report_text(gathered: Gathered, *, live: str = "") -> str:
    """Return the page as text; see `page.render`.

    Raises:
        LopsidedError: if plotly or jinja2 is missing.
    """
    check_renderable()
    # Imported here: the table in the terminal is of this package too, and needs no plotly.
    from lopsided.report.page import render

    return render(gathered, live=live)
