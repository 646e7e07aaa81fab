"""One parameter under stock LoRA layers: what is merged into it, and the one writer into it.

The invariant: the parameter holds W0 and the shares that are held, in the order in which they were merged, rounded
once; without shares it holds the very bits of W0. A weight that several layers share (a tied embedding) has one of
these, so that what each of them merges adds up and comes out in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.tuner.weight.delta import Part
from lopsided.tuner.weight.sharded import gathered, overwrite
from lopsided.tuner.weight.undo import Undo
from lopsided.tuner.weight.undo_records import INTEGERS


@dataclass(frozen=True, eq=False)
class MergedShare:
    """What one adapter of one layer has added: compared by identity, since a later merge of it is another share.

    Args:
        layer, adapter: names.
        parts: those of each matrix of the parameter.
    """

    layer: str
    adapter: str
    parts: tuple[tuple[Part, ...], ...]


class MergedWeight:
    """A parameter, and the way back to what it was.

    Args:
        module: the base layer.
        name: the parameter's name there; looked up at each use, since moving and offloading replace the parameter.
        label: its name in the model, for errors.
        matrices: (parameter) -> its matrices, as views.
    """

    def __init__(self, module: nn.Module, name: str, label: str, matrices: Callable[[Tensor], list[Tensor]]) -> None:
        self.module, self.name, self.label = module, name, label
        self._matrices = matrices
        # One per matrix, from the first write on.
        self._undos: list[Undo] = []
        self.shares: tuple[MergedShare, ...] = ()
        # False while the parameter is being changed, and after a change that was interrupted.
        self.settled = True

    @property
    def parameter(self) -> Tensor | None:
        """The parameter; None where a parametrization or a hook computes one in its place."""
        return self.module._parameters.get(self.name)

    @property
    def written(self) -> bool:
        """Whether the parameter holds anything but W0, or might."""
        return bool(self.shares) or not self.settled

    @property
    def nbytes(self) -> int:
        """How many bytes of CPU memory the way back takes now."""
        copied = sum(part.copied for share in self.shares for parts in share.parts for part in parts)
        return copied + sum(undo.nbytes_without_parts for undo in self._undos)

    def why_not_writable(self) -> str:
        """Return why it cannot be written to; empty if it can."""
        parameter = self.parameter
        if parameter is None:
            return f"its {self.name} is computed, by a parametrization or a hook; remove that first"
        if not (type(parameter) is nn.Parameter or isinstance(parameter, DTensor)):
            return f"its {self.name} is a {type(parameter).__name__}, quantized or computed; load the base unquantized"
        if parameter.dtype not in INTEGERS:
            return f"its {self.name} is of {parameter.dtype}; expected float16, bfloat16, float32 or float64; cast it"
        return ""

    def outline(self) -> Tensor:
        """Return a tensor without numbers, of the parameter's shape, strides and dtype."""
        data = self._data()
        return torch.empty_strided(data.shape, data.stride(), dtype=data.dtype, device="meta")

    def original(self) -> Tensor:
        """Return W0 as it is stored, whole: a copy, whatever the parameter holds now."""
        whole = gathered(self._data()).clone()
        for undo, matrix in zip(self._undos, self._matrices(whole)):
            matrix.copy_(undo.original(matrix))
        return whole

    def is_finite(self) -> bool:
        """Return whether every entry that it holds now is finite."""
        return all_finite(gathered(self._data()))

    # -- writing -------------------------------------------------------------------------------------------------

    def hold(self, shares: tuple[MergedShare, ...]) -> None:
        """Make the parameter W0 and these shares. A call that was interrupted is repaired by the next one.

        Raises:
            LopsidedError: if somebody else has changed the parameter since it was written: nothing is changed then.
        """
        if self.settled and shares == self.shares:
            return
        self.settled = False
        self._restore()
        if shares:
            self._write(shares)
        self.shares, self.settled = shares, True

    def hold_at_last(self, shares: tuple[MergedShare, ...]) -> None:
        """Hold these shares even if Ctrl-C interrupts once; the interrupt is raised again afterwards."""
        try:
            self.hold(shares)
        except KeyboardInterrupt:
            self.hold(shares)
            raise

    @torch.no_grad()
    def _restore(self) -> None:
        if not self._undos:
            return
        data = self._data()
        whole = gathered(data)
        if whole is not data:
            # The shards first and the records last: there is a record for what is written whenever this is interrupted.
            for undo, matrix in zip(self._undos, self._matrices(whole)):
                matrix.copy_(undo.original(matrix))
            overwrite(data, whole)
        for undo, matrix in zip(self._undos, self._matrices(whole)):
            undo.restore(matrix)
        self._undos = []

    @torch.no_grad()
    def _write(self, shares: tuple[MergedShare, ...]) -> None:
        data = self._data()
        whole = gathered(data)
        matrices = self._matrices(whole)
        # In place before the first of them writes, so that `_restore` finds what an interrupted call left.
        self._undos = [Undo() for _ in matrices]
        for i, (undo, matrix) in enumerate(zip(self._undos, matrices)):
            undo.write(matrix, [part for share in shares for part in share.parts[i]], self.label)
        if whole is not data:
            overwrite(data, whole)

    def _data(self) -> Tensor:
        parameter = self.parameter
        if parameter is None or parameter.is_meta:
            raise LopsidedError(
                f"{self.label} is not in memory, so nothing can be merged into it or taken out; expected a weight; "
                "load it, or take its offloading off"
            )
        return parameter.data
