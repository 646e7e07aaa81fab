"""A method as a configuration has it: its parts, and the length of its links."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.untrusted import check_fields, check_plain
from lopsided.method import Chain, Method
from lopsided.method.chain import LONG_KNOWN
from lopsided.method.sketch import SKETCHES, Selector, Sketch, Stored


def check_parts(parts: Mapping[str, Any]) -> None:
    """Check a saved method's parts: registered names and numbers, nothing that could be code.

    A sketch of a class that is not defined here is data: its name is not looked up anywhere.

    Raises:
        LopsidedError: naming the part.
    """
    sketch, chain = parts.get("sketch"), parts.get("chain")
    check_plain({key: value for key, value in parts.items() if key not in ("sketch", "chain")}, "method")
    check_fields(Method, {key: value for key, value in parts.items() if key not in ("sketch", "chain")}, "method")
    for what, part in (("sketch", sketch), ("chain", chain)):
        if part is not None and not isinstance(part, dict):
            raise LopsidedError(f"method: {what} must be an object, got {part!r:.80}; correct the configuration")
    if sketch is not None:
        kind = sketch.get("kind")
        if not isinstance(kind, str) or not kind.isidentifier() or SKETCHES.get(kind) in (Sketch, Selector, Stored):
            raise LopsidedError(
                f"method: a sketch's kind is a class's name, got {kind!r:.80}; correct the configuration"
            )
        check_plain(sketch, f"sketch {kind}")
        # A user's own class may have annotations that only its own module can read.
        if kind in SKETCHES and SKETCHES[kind].__module__.startswith("lopsided."):
            check_fields(SKETCHES[kind], sketch, f"sketch {kind}")
    if chain is not None:
        fields = {f.name for f in dataclasses.fields(Chain)}
        if not set(LONG_KNOWN) <= set(chain) <= fields:
            raise LopsidedError(f"method: a chain has {sorted(fields)}, got {sorted(chain)!r:.80}; upgrade lopsided")
        check_fields(Chain, chain, "chain")


def with_chain(method: Method, *, links: int | None, every: int | None) -> Method:
    """Return the method with another length of its links.

    Raises:
        LopsidedError: if the method has no chain.
    """
    if links is None and every is None:
        return method
    if method.chain is None:
        request = f"links={links}" if links is not None else f"every={every}"
        raise LopsidedError(f"method {method.name!r} has no chain, got {request}; leave it out or choose a chained one")
    chain = dataclasses.replace(method.chain, links=links, every=every)
    return dataclasses.replace(method, chain=chain)
