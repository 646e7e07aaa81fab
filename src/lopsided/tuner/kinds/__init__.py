"""The kinds of layers that take an adapter: one file each, and the table of them.

contract       what a kind says about its layers
linear         `nn.Linear`, and transformers' `Conv1D`, which stores the transpose
convolution    `nn.Conv1d`, `nn.Conv2d` and `nn.Conv3d`: the kernel as a matrix
embedding      `nn.Embedding`: tokens as columns
parameter      a matrix of a parameter that is in no layer, as of an expert; not in the table, since no module is one
"""

from __future__ import annotations

from torch import nn

from lopsided.tuner.kinds.contract import LayerKind
from lopsided.tuner.kinds.convolution import ConvolutionKind
from lopsided.tuner.kinds.embedding import EmbeddingKind
from lopsided.tuner.kinds.linear import LinearKind, TransposedKind

KINDS: tuple[LayerKind, ...] = (LinearKind(), TransposedKind(), ConvolutionKind(), EmbeddingKind())


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of a layer; None if it takes no adapter.

    Example:
        >>> kind_of(nn.Conv2d(3, 4, 5)).widths(nn.Conv2d(3, 4, 5))
        (4, 75)
    """
    return next((kind for kind in KINDS if isinstance(module, kind.bases)), None)


__all__ = ["KINDS", "LayerKind", "kind_of"]
