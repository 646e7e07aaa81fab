"""Regular expressions from a configuration, tried in bounded time before PEFT matches module names with them.

Python's `re` backtracks: a few nested quantifiers keep it busy for longer than anybody waits. Expressions with few
quantifiers cannot do that, and are only compiled. The others are first matched in a child interpreter, which has a
time limit and a memory limit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

from lopsided.errors import LopsidedError

SECONDS = 5.0
MAX_LENGTH = 100_000
# PEFT's own ways of using an expression from a configuration; {} stands for the expression.
WHOLE, ENDING, HEAD, LAYER = "{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."

_CHILD = """
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
except (ImportError, ValueError):
    pass
expressions, names = json.load(sys.stdin)
for number, expression in enumerate(expressions):
    print(number, flush=True)
    compiled = re.compile(expression)
    for name in names:
        compiled.fullmatch(name), compiled.match(name)
print("done", flush=True)
"""


def check_patterns(patterns: Iterable[tuple[str, str, str]], names: Sequence[str]) -> None:
    """Raise for an expression that `re` cannot compile, or does not match against the names in time.

    Args:
        patterns: (where it comes from, the expression, one of the ways above).
        names: the model's module names.

    Raises:
        LopsidedError: naming the expression and where it comes from.

    Example:
        >>> check_patterns([("target_modules", r".*\\.(query|value)", WHOLE)], ["encoder.query"])
        >>> check_patterns([("target_modules", "(", WHOLE)], ["encoder.query"])
        Traceback (most recent call last):
        lopsided.errors.LopsidedError: target_modules: '(' is no regular expression (missing ), unterminated ...
    """
    doubtful = []
    for where, text, way in patterns:
        if len(text) > MAX_LENGTH:
            raise _refused(where, text, f"has {len(text)} characters, expected at most {MAX_LENGTH}")
        if _is_simple(text):
            _check_compiles(where, text)
        else:
            doubtful.append((where, text, way.replace("{}", text)))
    if doubtful:
        _match_in_child(doubtful, names)


def _is_simple(text: str) -> bool:
    """Return whether an expression has so few choices to backtrack to that matching a name takes microseconds.

    Names joined by "|", as `to_lora` writes them, have any number of branches but no quantifier.
    """
    quantifiers, groups = len(re.findall(r"[*+?{]", text)), text.count("(")
    repeated_group = re.search(r"\)[*+{]", text)
    return repeated_group is None and (quantifiers + groups <= 3 or (quantifiers == 0 and groups == 0))


def _check_compiles(where: str, text: str) -> None:
    try:
        re.compile(text)
    except (re.error, OverflowError) as error:
        raise _refused(where, text, f"is no regular expression ({error})") from error


def _match_in_child(doubtful: Sequence[tuple[str, str, str]], names: Sequence[str]) -> None:
    """Raise for the first expression that a child interpreter does not finish with."""
    # Isolated and without site: nothing of the user's is imported, and it starts in about ten milliseconds.
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    work = json.dumps([[expression for *_, expression in doubtful], list(names)], allow_nan=False)
    try:
        done = subprocess.run(command, input=work, capture_output=True, text=True, timeout=SECONDS, check=False)
        printed, ending = done.stdout, done.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode()
        ending = f"it was not done with {len(names)} names after {SECONDS:g} seconds"
    # The child prints the number of each expression before it tries it, so the last number is the culprit's.
    reached = printed.split()
    if reached[-1:] == ["done"]:
        return
    where, text, _ = doubtful[int(reached[-1]) if reached else 0]
    raise _refused(where, text, f"can't be matched ({ending})")


def _refused(where: str, text: str, reason: str) -> LopsidedError:
    shown = repr(text) if len(text) <= 60 else repr(text[:60] + "…")
    return LopsidedError(f"{where}: {shown} {reason}; expected a simple regular expression; list the modules' names")
