"""Mirror images at random while a model is trained on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Flips:
    """Mirrors half of a training batch's images, left to right.

    What is mirrored depends on the seed and the step alone, so that a resumed run sees the same images: a loader
    draws a batch before the step that it is for.

    Args:
        seed: of the run.
        process: of several that train together, which one this is.
    """

    def __init__(self, seed: int, process: int = 0) -> None:
        self._seed, self._process, self._step, self._draws = seed, process, -1, np.random.RandomState(seed)

    def __call__(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        """Return the batch with some of its images mirrored.

        Args:
            batch: with pixel_values (n, channels, height, width).
            step: the optimizer step that it is part of; several batches of one step get draws of their own.
        """
        if step != self._step:
            self._step, self._draws = step, np.random.RandomState([self._seed, self._process, step])
        pixels = batch["pixel_values"]
        is_mirrored = torch.from_numpy(self._draws.rand(len(pixels)) < 0.5).to(pixels.device)
        return {**batch, "pixel_values": torch.where(is_mirrored[:, None, None, None], pixels.flip(-1), pixels)}
