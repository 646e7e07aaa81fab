"""Numbers that are not finite are drawn as gaps."""

from __future__ import annotations

import math
from typing import Any


def with_gaps(value: Any) -> Any:
    """Return plain data with None for every number that is not finite.

    Example:
        >>> with_gaps({"loss": [0.5, float("nan")]})
        {'loss': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: with_gaps(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [with_gaps(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
