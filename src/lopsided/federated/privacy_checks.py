"""What noise and masks ask of a federation's settings: without it they would promise what they do not keep."""

from __future__ import annotations

from lopsided.errors import LopsidedError
from lopsided_settings.federate import FederateSettings

# Each client of a secure sum shares a mask of 32 bits with each other one. Two of them are found in about 2^32 steps
# and as much memory, three in about 2^64 steps. The sum of 2^10 numbers of 22 bits is one of 32.
FEWEST_MASKED, MOST_MASKED = 4, 1000


def check_noise(settings: FederateSettings) -> None:
    """Raise for noise that gives no privacy.

    Raises:
        LopsidedError: for noise without a clipping norm or delta, too large a delta, too few clients, weights that
            depend on rows, or unequal ranks; and for a delta without noise.
    """
    if not settings.noise_multiplier:
        if settings.delta is not None:
            raise LopsidedError(f"received delta={settings.delta:g} without noise; give a noise_multiplier, too")
        return
    noise = f"noise_multiplier={settings.noise_multiplier:g}"
    if settings.clipping_norm is None:
        raise LopsidedError(f"{noise} without a clipping_norm, in whose units it is; give one")
    if settings.clients < 2:
        raise LopsidedError(f"{noise} with {settings.clients} client; expected 2 at least; add clients")
    if settings.delta is None:
        raise LopsidedError(f"{noise} without a delta; expected one below 1/{settings.clients} (1 / clients); give it")
    if settings.delta >= 1 / settings.clients:
        raise LopsidedError(
            f"delta must be below 1 / clients: delta={settings.delta:g}, clients={settings.clients}; lower it: at 1 / "
            "clients it would be kept by giving one client's rows away"
        )
    if settings.weighting == "examples":
        raise LopsidedError(
            f"{noise} with weighting=examples, which would give away how many rows a client has; leave it out: "
            "with noise all clients weigh the same"
        )
    if settings.ranks:
        raise LopsidedError(f"{noise} with ranks; expected one rank: noise is for whole factors; leave ranks out")


def check_masks(settings: FederateSettings) -> None:
    """Raise for what masks cannot carry.

    Raises:
        LopsidedError: without a clipping norm, for too few or too many clients, weights by examples, unequal ranks, or
            another wire dtype than float32.
    """
    if settings.clipping_norm is None:
        raise LopsidedError(
            "secure_aggregation without a clipping_norm, which bounds the numbers that are summed; give one"
        )
    if not FEWEST_MASKED <= settings.clients <= MOST_MASKED:
        raise LopsidedError(
            f"secure_aggregation with {settings.clients} clients; expected {FEWEST_MASKED} to {MOST_MASKED}: with "
            "fewer, masks can be guessed, and with more, the sum does not fit into 32 bits; change the clients"
        )
    if settings.weighting == "examples":
        raise LopsidedError(
            "secure_aggregation with weighting=examples; expected equal weights: the sum is all that is known; "
            "leave weighting out"
        )
    if settings.ranks:
        raise LopsidedError(
            "secure_aggregation with ranks; expected one rank: masks are for whole factors; leave them out"
        )
    if settings.wire_dtype != "float32":
        raise LopsidedError(
            f"secure_aggregation with wire_dtype={settings.wire_dtype}, which masked numbers do not have; expected "
            "float32; leave it out"
        )
