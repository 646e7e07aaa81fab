"""A saved adapter as low-rank updates by module, wherever it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lopsided.serving.low_rank import LowRankUpdate
from lopsided.tuner.kinds import LayerKind


@dataclass(frozen=True, eq=False)
class ShapedLayer:
    """A layer of the base, which may be without weights, and its kind."""

    kind: LayerKind
    base: nn.Module

    def factors(self, update: LowRankUpdate) -> dict[str, Tensor]:
        """Return ΔW as PEFT holds it, by what follows the module's name."""
        return self.kind.as_lora(self.base, update.A, update.B)


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedUpdates:
    """What an adapter's file holds.

    Args:
        layers: ΔW by module, in the order of their names.
        others: trained tensors next to them, as a task's head, by their names in a file of PEFT's.
        bases: base weights that PEFT has saved along, by the same names; every base has them itself.
        what: the adapter in a few words, for people.
        transposed: whether the linear layers store their weights as (d_in, d_out); None where that is not known.
        shaped: the layers that are not linear, as convolutions, by module: PEFT holds their factors in another form.
        task_type, modules_to_save, base, auto_mapping: as in the adapter's configuration.
        fingerprints: of the modules' base weights, in the model's order; None where nobody noted them.
    """

    layers: Mapping[str, LowRankUpdate]
    others: Mapping[str, Tensor]
    bases: Mapping[str, Tensor]
    what: str
    transposed: bool | None
    task_type: str | None
    modules_to_save: list[str] | None
    base: str | None
    auto_mapping: dict[str, str] | None
    shaped: Mapping[str, ShapedLayer] = field(default_factory=dict)
    fingerprints: list[str] | None = None

    def factors(self, name: str, update: LowRankUpdate) -> dict[str, Tensor]:
        """Return an update of a module as PEFT holds it, by what follows the module's name."""
        if name in self.shaped:
            return self.shaped[name].factors(update)
        return {"lora_A.weight": update.A, "lora_B.weight": update.B}

    @property
    def rank(self) -> int:
        """The highest rank of a layer."""
        return max(update.rank for update in self.layers.values())


def split_bases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trained tensors, and the base weights that PEFT saves along where an embedding is adapted.

    Example:
        >>> split_bases({"lm_head.base_layer.weight": 1, "classifier.weight": 2})
        ({'classifier.weight': 2}, {'lm_head.base_layer.weight': 1})
    """
    bases = {name: tensor for name, tensor in tensors.items() if name.endswith(".base_layer.weight")}
    return {name: tensor for name, tensor in tensors.items() if name not in bases}, bases
