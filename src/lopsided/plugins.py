"""A user's own file of methods, models, tasks or metrics: Python code, run only where the user names it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from lopsided.errors import LopsidedError, first_line

# What code in a file fails with; it is the user's to correct.
FAILURES = (
    *(ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError),
    *(AssertionError, RuntimeError, ArithmeticError, OSError),
)


def load_plugin(path: str | Path) -> ModuleType:
    """Run a Python file that adds entries to the library's tables, once per process, and return it as a module.

    No record of a run or a study leads to a plugin by itself: whoever reads a stranger's folder does not run code.

    Args:
        path: the file. A second call with the same file returns the same module.

    Raises:
        LopsidedError: if there is no such file, or it fails; the message says in which line.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise LopsidedError(f"plugin {path}: expected a Python file; there is none at that path; check the path")
    if file.suffix != ".py":
        raise LopsidedError(
            f"plugin {path}: expected a Python file; received one that ends with '{file.suffix}'; rename it to end "
            "with .py"
        )
    name = f"lopsided_plugin_{hashlib.blake2b(str(file).encode(), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    # There is one of every file that ends with .py.
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while they are made.
    sys.modules.setdefault(name, module)
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        sys.modules.pop(name)
        raise LopsidedError(
            f"plugin {path}{_line(error, file)}: {type(error).__name__}: {first_line(error)}; correct the file"
        ) from error
    return module


def _line(error: BaseException, file: Path) -> str:
    """Return the line of the file that the error comes from, with a colon before it."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f":{lines[-1]}" if lines else ""
