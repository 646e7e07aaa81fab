"""A client's side of secure aggregation: its update goes into Flower's SecAgg+, which masks it before it is sent.

SecAgg+ (Bell et al. 2020, doi:10.1145/3372297.3417885) is in Flower 1.42 for its older interface alone. Its mod
answers three of the four messages of a round by itself; for the third one it asks the app, whose answer has to look as
the older interface's did. What of that is needed is here; the protocol and its arithmetic are Flower's.

Notation: C is the clipping norm, q = 2·C/2^22 the step of the numbers that are summed, d how many numbers an update
has. A number is rounded up or down to the step by chance, so that it moves by less than q.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.federated.messages import TELLS, told

# Numbers of the older interface's messages.
ASKS, ASKED_ARRAYS = "fitins.config", "fitins.parameters"
ANSWER = "fitres"
# Flower's own, 22 of 32 bits: the sum of 2^10 clients still fits.
STEPS, MODULUS = 2**22, 2**32


def step_size(clipping_norm: float) -> float:
    """Return q, by less than which a client's number moves."""
    return 2 * clipping_norm / STEPS


def norm_before_rounding(clipping_norm: float, count: int) -> float:
    """Return the norm to clip to so that the rounded update has at most the clipping norm: C - q·√d.

    Args:
        clipping_norm: C.
        count: d.

    Example:
        >>> 0.999 < norm_before_rounding(1.0, 1_000_000) < 1.0
        True
    """
    return clipping_norm - step_size(clipping_norm) * math.sqrt(count)


def update_records(update: Mapping[str, Tensor]) -> RecordDict:
    """Return an update in the order of names, as SecAgg+ takes it, with the weight 1.

    Args:
        update: in float64, in which the rounding to steps is computed; never sent as it is.
    """
    arrays = ArrayRecord({name: Array(np.ascontiguousarray(update[name].numpy())) for name in sorted(update)})
    return RecordDict(
        {
            f"{ANSWER}.parameters": arrays,
            f"{ANSWER}.num_examples": MetricRecord({"num_examples": 1}),
            f"{ANSWER}.metrics": ConfigRecord({}),
            f"{ANSWER}.status": ConfigRecord({"code": 0, "message": ""}),
        }
    )


def is_masked(message: Message) -> bool:
    """Return whether the answer to a message will be masked."""
    return RECORD_KEY_CONFIGS in message.content.config_records


def masking_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer messages of SecAgg+ by its mod, with what the app has trained; hand on all others (a mod of Flower)."""
    if not is_masked(message):
        return call_next(message, context)

    def trained(asked: Message, own: Context) -> Message:
        content = asked.content
        content.config_records[TELLS] = content.config_records.pop(ASKS)
        # Empty: averages come with messages of their own.
        content.array_records.pop(ASKED_ARRAYS)
        answer = call_next(asked, own)
        if "error" in (figures := told(answer.content)):
            # The mod would look for an update; Flower tells the server of an error, and the others go on.
            raise LopsidedError(str(figures["error"]))
        return answer

    return secaggplus_mod(message, context, trained)
