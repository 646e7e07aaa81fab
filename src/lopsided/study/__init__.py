"""Many runs, side by side."""

from lopsided.study.compare import CompareConfig, compare

__all__ = ["CompareConfig", "compare"]
