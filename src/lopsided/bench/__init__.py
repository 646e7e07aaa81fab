"""Many runs, side by side."""

from lopsided.bench.compare import CompareConfig, compare

__all__ = ["CompareConfig", "compare"]
