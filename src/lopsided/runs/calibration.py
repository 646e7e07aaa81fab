"""What a run reads of its training rows before the first step: inputs of layers, for sketches that are drawn from them.

Other methods read nothing, and their runs are as they were.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from lopsided.calibrate import calibrate, needs_calibration
from lopsided.errors import LopsidedError
from lopsided.finite import finite_or_none
from lopsided.runs.config import TrainConfig
from lopsided.runs.facts import CalibrationFacts
from lopsided.runs.inputs import Data

# At some 20 tokens a row, these are several times the widest layer of the embedded model.
ROWS = 256


def calibrated(model: nn.Module, config: TrainConfig, data: Data) -> CalibrationFacts | None:
    """Give a run's adapter its sketches, where these are drawn from data; validation and test rows are not read.

    Equal configurations read equal rows. Return None where no sketch is drawn from data, or all are drawn already.

    Args:
        model: with the method on it, on the device that it trains on.

    Raises:
        LopsidedError: if there are no training rows, or what `lopsided.calibrate` raises.
    """
    if not needs_calibration(model):
        return None
    split, collate = data.encoded.splits["train"], data.collator()
    if not len(split):
        raise LopsidedError(f"method {config.method!r} is drawn from training rows, got none; give the task some")
    order = np.random.RandomState(config.seed).permutation(len(split))[:ROWS].tolist()
    # The run's own size of a batch: what fits in training fits here.
    size = config.batch_size
    batches = [dict(collate([split[i] for i in order[start : start + size]])) for start in range(0, len(order), size)]
    result = calibrate(model, batches)
    return CalibrationFacts(
        rows=len(order),
        seed=config.seed,
        inputs=max(layer.rows for layer in result.layers),
        layers=len(result.layers),
        moments=result.moments,
        share=finite_or_none(result.share),
        seconds=result.seconds,
    )
