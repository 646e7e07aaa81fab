"""Numbers that are not finite: drawn as gaps, and counted."""

from __future__ import annotations

import math
from typing import Any


class Counter:
    """Replaces what is not finite by None, and counts it."""

    def __init__(self) -> None:
        self.count = 0

    def finite(self, value: Any) -> Any:
        """
        Example:
            >>> counter = Counter()
            >>> counter.finite({"loss": [0.5, float("nan")]}), counter.count
            ({'loss': [0.5, None]}, 1)
        """
        if isinstance(value, dict):
            return {key: self.finite(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.finite(inner) for inner in value]
        if isinstance(value, float) and not math.isfinite(value):
            self.count += 1
            return None
        return value
