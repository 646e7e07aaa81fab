"""What a training step costs, method by method, next to the frozen model: cells of their own, apart from trainings.

Notation: the *frozen* model trains its head alone, and its gradients flow back to the first layer, as every adapter's
have to. Its *twin* is a second one, whose ratio to it would be 1 without noise. All methods sit on one base model in
memory; `full` and baselines that rewrite the base have the copy that they train.

Times are compared within rounds in which every method takes one step, in an order that is shuffled for each round.
Trainings that ran one after the other cannot be compared so: the machine differs from one to the next by more than
methods do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.models.heads import head_modules
from lopsided.models.shared_copy import own_what_trains, shared_copy
from lopsided.optim.groups import param_groups
from lopsided.runs import Data, Inputs, TrainConfig, load_inputs
from lopsided.runs.batches_of_rows import training_batches
from lopsided.runs.calibration import calibrated
from lopsided.runs.measure import kept_bytes, machine, versions
from lopsided.runs.preflight import preflight, total_steps
from lopsided.runs.prepare import prepare
from lopsided.stats import Median, median_interval, median_ratio
from lopsided.study.turns import take_turns, wall_ms

FROZEN, TWIN = "frozen", "frozen, again"
WARMUP = 3
# Nothing depends on it: the step of the optimizer takes its time at any rate.
RATE = 1e-5


@dataclass(frozen=True, kw_only=True)
class MethodCost:
    """What a step of one method costs.

    Args:
        step_time: milliseconds as a multiple of the frozen model's in the same round.
        milliseconds: of a step.
        kept_bytes, kept: what autograd keeps for the backward pass, and as a multiple of the frozen model's.
        peak_bytes: of the method alone on CUDA: its weights, the base's among them, its optimizer's state, and the most
            that a step allocates on top. None elsewhere.
        seconds_per_epoch: steps of one pass over the training rows, without loading them. None off CUDA, where a time
            in seconds says more about the machine's other work.
    """

    method: str
    step_time: Median
    milliseconds: Median
    kept_bytes: int
    kept: float
    peak_bytes: int | None
    seconds_per_epoch: float | None


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """The costs of methods on one model, one shape of a task and one machine.

    Args:
        rows, tokens: of the batch; tokens are None for images.
        training_rows: of the task, of which an epoch is made.
        rounds, seed: as they were measured.
        frozen: milliseconds of the frozen model's step.
        twin: the twin's ratio to it; how far it is from 1 is noise.
        methods: one per method, in the order that was asked for.
        machine, versions: where and with what.
    """

    model: str
    task: str
    rows: int
    tokens: int | None
    training_rows: int
    rounds: int
    seed: int
    frozen: Median
    twin: Median
    methods: tuple[MethodCost, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> CostTable:
        """Read what `to_json` returned."""
        methods = tuple(
            MethodCost(**{**each, **{name: Median(**each[name]) for name in ("step_time", "milliseconds")}})
            for each in saved["methods"]
        )
        medians = {name: Median(**saved[name]) for name in ("frozen", "twin")}
        return cls(**{**saved, **medians, "methods": methods})


def measure_costs(
    config: TrainConfig,
    methods: Sequence[str],
    *,
    rounds: int = 20,
    seed: int = 0,
    inputs: Inputs | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> CostTable:
    """Measure what a training step of each method costs, next to the frozen model.

    A step is one forward pass, one backward pass and one update of AdamW, on one batch of the task's training rows; a
    chain is in its first link.

    Args:
        config: model, task, rank, targets, batch and precision; its method, rate and length are not used.
        methods: names, baselines' included.
        rounds: in which each method takes one step, after a few that are thrown away.
        seed: of the order.
        inputs: rows and model, if the caller has them already; the model is left as it was.
        note: tells a person how far the work is.

    Raises:
        LopsidedError: for no methods or too few rounds; a method that does not fit the model.
    """
    if not methods or rounds < 2:
        raise LopsidedError(f"expected methods and at least 2 rounds, got {len(methods)} and {rounds}; give more")
    configs = [dataclasses.replace(config, method=name) for name in dict.fromkeys(methods)]
    inputs = load_inputs(config) if inputs is None else inputs
    preflight(configs, inputs)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    there = torch.device("cpu") if device is None else device
    base = shared_copy(inputs.model).to(there)
    (rows,) = training_batches(config, inputs, 1)
    batch = {name: tensor.to(there) for name, tensor in rows.items()}
    # Dropout draws numbers, which are given back.
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        stands = {name: _Stand.frozen(base, batch, config) for name in (FROZEN, TWIN)}
        for number, own in enumerate(configs, start=1):
            note(f"method {number} of {len(configs)}: {own.method}")
            stands[own.method] = _Stand.of(base, batch, own, inputs.data)
        kept = {name: stand.kept() for name, stand in stands.items()}
        note(f"{rounds} rounds")
        work = {name: partial(wall_ms, stand.step) for name, stand in stands.items()}
        taken = take_turns(work, rounds=rounds, warmup=WARMUP, seed=seed)
        on_cuda = there.type == "cuda"
        peaks = {name: stand.peak_bytes() if on_cuda else None for name, stand in stands.items()}
    training_rows = len(inputs.data.encoded.splits["train"])
    steps = math.ceil(training_rows / config.batch_size)
    return CostTable(
        model=config.model,
        task=config.task,
        rows=config.batch_size,
        tokens=batch["input_ids"].shape[1] if "input_ids" in batch else None,
        training_rows=training_rows,
        rounds=rounds,
        seed=seed,
        frozen=median_interval(taken[FROZEN]),
        twin=median_ratio(taken[TWIN], taken[FROZEN]),
        methods=tuple(
            MethodCost(
                method=own.method,
                step_time=median_ratio(taken[own.method], taken[FROZEN]),
                milliseconds=(milliseconds := median_interval(taken[own.method])),
                kept_bytes=kept[own.method],
                kept=kept[own.method] / kept[FROZEN],
                peak_bytes=peaks[own.method],
                seconds_per_epoch=steps * milliseconds.value / 1000 if on_cuda else None,
            )
            for own in configs
        ),
        machine=machine(),
        versions=versions(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stand:
    """A method on the shared base, its optimizer, and the batch that every step learns from."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Mapping[str, Tensor]
    device: torch.device
    bf16: bool

    @classmethod
    def of(cls, base: nn.Module, batch: Mapping[str, Tensor], config: TrainConfig, data: Data) -> _Stand:
        """Put a method on the base, as a run does."""
        steps = total_steps(config, len(data.encoded.splits["train"]))
        model = prepare(shared_copy(base), config.resolve_method(), data.task, config, steps)
        own_what_trains(model)
        device = next(model.parameters()).device
        calibrated(model.to(device), config, data)
        optimizer = torch.optim.AdamW(param_groups(model, RATE, config.weight_decay))
        return cls(model=model.to(device).train(), optimizer=optimizer, batch=batch, device=device, bf16=config.bf16)

    @classmethod
    def frozen(cls, base: nn.Module, batch: Mapping[str, Tensor], config: TrainConfig) -> _Stand:
        """Train the head alone, and let gradients flow to the first layer."""
        model: Any = shared_copy(base).requires_grad_(False)
        # Of the embeddings' output: the way back through every layer is an adapter's way.
        model.enable_input_require_grads()
        head = [p for name in head_modules(model) for p in model.get_submodule(name).parameters()]
        for parameter in head:
            parameter.requires_grad_(True)
        own_what_trains(model)
        optimizer = torch.optim.AdamW(param_groups(model, RATE) or [{"params": []}])
        device = next(model.parameters()).device
        return cls(model=model.train(), optimizer=optimizer, batch=batch, device=device, bf16=config.bf16)

    def step(self) -> None:
        """Run forward, backward and update, and wait until the device has finished."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.model(**self.batch).loss
        loss.backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def kept(self) -> int:
        """Count the bytes that autograd keeps for the backward pass."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return kept_bytes(self.model, self.batch)

    def peak_bytes(self) -> int:
        """The most CUDA memory of a step, as if the method were alone on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.step()
        peak = torch.cuda.max_memory_allocated(self.device) - before
        states = (value for state in self.optimizer.state.values() for value in state.values())
        own = [*self.model.parameters(), *self.model.buffers(), *self.batch.values()]
        self.optimizer.zero_grad(set_to_none=True)
        return peak + _bytes_of([*own, *(value for value in states if isinstance(value, Tensor))])


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    """The bytes of the tensors' storages on a CUDA device, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.is_cuda}
    return sum(storages.values())
