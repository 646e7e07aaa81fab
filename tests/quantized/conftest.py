"""The cases are collected only in the process that finds the quantizers."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("bitsandbytes") else ["cases.py"]
