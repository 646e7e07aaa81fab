"""Many runs next to each other: comparisons, and leaderboards of runs from anywhere."""

from lopsided.study.compare import CompareConfig, compare
from lopsided.study.comparison import Comparison

__all__ = ["CompareConfig", "Comparison", "compare"]
