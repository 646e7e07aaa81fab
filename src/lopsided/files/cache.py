"""The folder for what can be fetched or computed again: data sets, and decompositions of base weights."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$LOPSIDED_CACHE`, else `$XDG_CACHE_HOME/lopsided`, else `~/.cache/lopsided`, whether it exists or not."""
    if os.environ.get("LOPSIDED_CACHE"):
        return Path(os.environ["LOPSIDED_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lopsided"
