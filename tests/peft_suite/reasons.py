"""Why Lopsided fails a test of PEFT on purpose: at most eight reasons, each with the assertion that it departs from."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One deliberate difference from PEFT's tuners.

    Args:
        name: in the committed counts.
        departs_from: file, test function, and the assertion that does not hold.
        why: what Lopsided does in its place, and for whose sake.
        tests: a regular expression that the whole name of a failing test matches, up to its parameters.
        message: a regular expression that is found in the text of its failure.
    """

    name: str
    departs_from: str
    why: str
    tests: str
    message: str

    def explains(self, test: str, failure: str) -> bool:
        return re.fullmatch(self.tests, test) is not None and re.search(self.message, failure) is not None


REASONS: tuple[Reason, ...] = ()


def reason_for(test: str, failure: str) -> Reason | None:
    """Return the one reason for a failure, or None.

    Args:
        test: the test's name without its parameters, as `test_custom_models.py::TestLayerRepr::test_repr`.
        failure: the text of the failure, the exception's lines included.
    """
    return next((reason for reason in REASONS if reason.explains(test, failure)), None)
