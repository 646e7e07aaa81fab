"""What a federated run is, as the first file of its log says it: whoever replays the log must have the same model.

The fingerprints are of everything that stays as it is: the adapted layers' original weights, and whatever else does not
train. What trains is replaced by every round's tensors, so that a head may start anywhere.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.federated.factors import difference_of_names, trained_parameters
from lopsided.files.fingerprint import check_line, compare, fingerprint
from lopsided.files.manifest import computing_parts
from lopsided.files.untrusted import check_fields
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.model_queries import configs_of, layers_of, layers_with
from lopsided.tuner.state_modules import without_wrappers

SCHEMA = 1
FIX = "get the log again from the server, or begin a new run"
OTHER = "take the log and the model of one run"


@dataclass(frozen=True, kw_only=True)
class LogHeader:
    """What a federated run is.

    Args:
        schema: of this form.
        run: a name that no other run has.
        method: the method's name.
        seed: that all sketches are drawn from, with the layers' names and the link.
        parts: what of the method decides its sketches and its merges; empty without a Lopsided adapter.
        scales: [r, s, number of layers] for each rank r and scale s that occurs.
        base: fingerprints of the weights that do not train, by name.
        shapes: of what trains, by name.
        privacy: what all of the run's rounds give away, as `PrivacyTerms.spent` says it; empty without noise.
    """

    schema: int
    run: str
    method: str
    seed: int
    parts: dict[str, Any]
    scales: list[list[float]]
    base: dict[str, str]
    shapes: dict[str, list[int]]
    privacy: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        run: str,
        method: str,
        seed: int,
        adapter: str = "default",
        privacy: Mapping[str, Any] | None = None,
    ) -> LogHeader:
        """Return the header of a run on this model.

        Raises:
            LopsidedError: if the seed is not the adapter's, or the sketch is drawn from data, so that a seed does not
                give it.
        """
        shapes = {name: list(p.shape) for name, p in trained_parameters(model, adapter).items()}
        layers = layers_with(model, adapter) if layers_of(model) else {}
        parts: dict[str, Any] = {}
        if layers:
            config = configs_of(model, adapter)[0]
            if seed != config.seed:
                raise LopsidedError(f"the adapter has seed {config.seed}, the run {seed}; expected one; pass the same")
            chosen = config.as_method()
            if chosen.reads_inputs:
                raise LopsidedError(
                    f"method {method!r} draws its sketch from a layer's inputs, which each client has of its own; "
                    "expected a sketch that a seed decides; take another method"
                )
            chain = chosen.chain
            # Stacked and merged links differ in bits.
            parts = {**computing_parts(chosen), "merge_links": config.merge_links}
            parts |= {} if chain is None else {"merge": chain.merge, "redraw": chain.redraw}
        scales = Counter((layer.r[adapter], layer.scaling[adapter]) for layer in layers.values())
        return cls(
            schema=SCHEMA,
            run=run,
            method=method,
            seed=seed,
            parts=parts,
            scales=[[r, s, count] for (r, s), count in sorted(scales.items())],
            base=frozen_fingerprints(model, layers),
            shapes=shapes,
            privacy=dict(privacy or {}),
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], what: str) -> LogHeader:
        """Return the header that somebody else may have written.

        Args:
            what: names it in errors.

        Raises:
            LopsidedError: for another schema, and fields of other names or types.
        """
        if fields.get("schema") != SCHEMA:
            raise LopsidedError(
                f"{what} has schema {fields.get('schema')!r:.40}, this lopsided reads {SCHEMA}; use the same version"
            )
        # Runs without noise, and those before there was any, say nothing of it.
        fields = {"privacy": {}, **fields}
        if problem := difference_of_names(fields, [each.name for each in dataclasses.fields(cls)], "fields"):
            raise LopsidedError(f"{what}: {problem}; {FIX}")
        check_fields(cls, fields, what)
        header = cls(**fields)
        for line in header.base.values():
            check_line(line)
        if not header.shapes or any(size < 0 for shape in header.shapes.values() for size in shape):
            raise LopsidedError(f"{what}: expected shapes of what trains, got {header.shapes!r:.80}; {FIX}")
        return header

    def check_model(self, model: nn.Module, adapter: str = "default") -> None:
        """Raise unless a model with its adapter is what the run was on.

        Raises:
            LopsidedError: naming what differs. A LopsidedWarning says which weights could not be compared.
        """
        mine = self.of(model, run=self.run, method=self.method, seed=self.seed, adapter=adapter)
        if problem := difference_of_names(mine.shapes, self.shapes):
            raise LopsidedError(f"the model's trained tensors are not those of run {self.run!r}: {problem}; {OTHER}")
        for what in ("shapes", "parts", "scales"):
            theirs, own = getattr(self, what), getattr(mine, what)
            if theirs != own:
                raise LopsidedError(
                    f"run {self.run!r} is of another adapter: its {what} are {_differing(theirs, own)!r:.200}, the "
                    f"model's {_differing(own, theirs)!r:.200}; {OTHER}"
                )
        if problem := difference_of_names(mine.base, self.base):
            raise LopsidedError(f"the base model is another one than that of run {self.run!r}: {problem}; {OTHER}")
        verdicts = {name: compare(line, mine.base[name]) for name, line in self.base.items()}
        # A rounded base gives another model, and a replay has to give the same bits.
        other = [name for name, verdict in verdicts.items() if verdict in ("other", "rounded")]
        if other:
            raise LopsidedError(
                f"the base model is another one than that of run {self.run!r}: {len(other)} of {len(verdicts)} weights "
                f"differ, {other[0]} among them; {OTHER}"
            )
        if unknown := [name for name, verdict in verdicts.items() if verdict == "unknown"]:
            warnings.warn(
                f"{len(unknown)} of {len(verdicts)} base weights, {unknown[0]} among them, are quantized, sharded or "
                f"not in memory: whether this is the base of run {self.run!r} can't be seen",
                LopsidedWarning,
                stacklevel=3,
            )


def frozen_fingerprints(model: nn.Module, layers: Mapping[str, LopsidedLinear]) -> dict[str, str]:
    """Return the fingerprints of the weights that stay, by name: of adapted ones as they were before any link.

    Args:
        layers: the adapted ones.
    """
    adapted = {f"{without_wrappers(name)}.base_layer.weight": layer for name, layer in layers.items()}
    lines = {name: layer.base_weight.fingerprint() for name, layer in adapted.items()}
    for live, parameter in model.named_parameters():
        name = without_wrappers(live)
        # PEFT keeps a head as it was next to the one that trains, and nobody computes with it.
        if not parameter.requires_grad and name not in adapted and ".original_module." not in name:
            lines[name] = fingerprint(parameter)
    return lines


def _differing(mine: Any, theirs: Any) -> Any:
    """Return what of a value differs from another one: of mappings the entries."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        return {key: value for key, value in mine.items() if theirs.get(key) != value}
    return mine
