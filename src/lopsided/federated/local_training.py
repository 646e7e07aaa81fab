"""One client's round: local epochs on its own rows, on the path that a run of `lopsided train` takes.

Notation: in round t a client stands at link t of the chain, with the server's weights, and trains the one factor (and
the head) for E epochs of its rows, s optimizer steps. These are steps t·s + 1 to (t + 1)·s of the whole training, and
they decide the order of rows, the learning rate and the optimizer's state, as in a run with links of s steps that goes
on from a checkpoint. So one client alone computes what `lopsided train` does, bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from transformers import PrinterCallback, get_scheduler
from transformers.trainer import TRAINER_STATE_NAME

from lopsided.federated.clipping import StartNote
from lopsided.federated.factors import trained_tensors
from lopsided.federated.first_rows import FrozenRows, cut_rows, first_rows_train
from lopsided.files.checkpoints import whole_checkpoints
from lopsided.optim import ChainCallback
from lopsided.runs.careful_trainer import CarefulTrainer, adamw, training_arguments
from lopsided.runs.config import TrainConfig
from lopsided.runs.flips import Flips
from lopsided.runs.inputs import Data
from lopsided.runs.preflight import total_steps
from lopsided.runs.saved_forms import FORMS, SavedForm

# Between the seeds of two clients: prime, so that neighbouring seeds of a run share none.
SEED_DISTANCE = 100_003


@dataclass(frozen=True, kw_only=True)
class LocalRound:
    """What a client's round came to.

    Args:
        tensors: what it has trained, by live names, float32 on the CPU; factors are cut to the client's rank.
        examples: its rows, and its weight in the average.
        loss: the mean over the round's steps.
        steps: optimizer steps of the round.
        start: what `tensors` were when training began, at the round's link; None where nobody asked.
    """

    tensors: Mapping[str, Tensor]
    examples: int
    loss: float
    steps: int
    start: Mapping[str, Tensor] | None = None


def client_config(run: TrainConfig, *, index: int, rows: int, rounds: int, local_epochs: int, out: Path) -> TrainConfig:
    """Return the configuration of a client's training: the run's, but for its own rows, seed and folder.

    The client with index 0 has the seed of the run; sketches are drawn from the run's seed everywhere.

    Args:
        run: the server's.
        index: of the client, from 0.
        rows: how many it trains on.
        rounds: of the whole federation; local_epochs: per round.
        out: the client's folder.
    """
    one = dataclasses.replace(
        run,
        links=None,
        every=None,
        steps=None,
        epochs=float(local_epochs),
        evaluations=1,
        seed=(run.seed + index * SEED_DISTANCE) % 2**32,
        sketch_seed=run.seed if run.sketch_seed is None else run.sketch_seed,
        out=out,
    )
    every = total_steps(one, rows) if run.resolve_method().chain is not None else None
    return dataclasses.replace(one, every=every, epochs=float(local_epochs * rounds))


def train_round(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    *,
    number: int,
    rounds: int,
    rank: int | None = None,
    with_start: bool = False,
) -> LocalRound:
    """Train one round, and leave the model as it was.

    What the client keeps between its rounds is in its folder: the optimizer's state of what is not drawn again (the
    head's, that of full fine-tuning), and the state of its random numbers. A client that has not trained the round
    before, as one that joins late, begins with fresh ones at the step where the others are.

    Args:
        model: the server's after the last round, before the chain advances to this one's link.
        data: the client's rows; its split "train" is trained on.
        config: from `client_config`.
        number: of the round, from 0.
        rounds: of the whole federation.
        rank: of the client, where it trains the first rows of the sketch alone; None for all of them.
        with_start: also return what training began with.

    Raises:
        LopsidedError: for a loss or a factor that is not finite, or as `first_rows_train` does.
    """
    rows = len(data.encoded.splits["train"])
    steps = total_steps(config, rows) // rounds
    # A copy: the round that is asked for again, after a cut, must begin where it did.
    own = copy.deepcopy(model)
    trainer = _trainer(own, data, config, first=number * steps, last=(number + 1) * steps, total=rounds * steps)
    start = StartNote()
    if with_start:
        trainer.add_callback(start)
    checkpoint = _checkpoint(trainer, number * steps) if number else None
    with _rows_of_rank(own, trainer, rank) as ranks:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return LocalRound(
        tensors=cut_rows(trained_tensors(own), ranks),
        examples=rows,
        loss=float(losses[-1]),
        steps=steps,
        start=cut_rows(start.tensors, ranks) if with_start else None,
    )


@contextmanager
def _rows_of_rank(model: nn.Module, trainer: CarefulTrainer, rank: int | None) -> Iterator[Mapping[str, int]]:
    """Inside the context, the trainer changes no more than the first rows; yields the ranks of what is cut."""
    if rank is None:
        yield {}
        return
    with first_rows_train(model, rank) as ranks:
        trainer.add_callback(FrozenRows(model, ranks))
        yield ranks


def _trainer(model: nn.Module, data: Data, config: TrainConfig, *, first: int, last: int, total: int) -> CarefulTrainer:
    steps = last - first
    arguments = training_arguments(config, total)
    # The round is the part of the whole training that ends at its last step, where its state is saved.
    arguments.max_steps, arguments.logging_steps, arguments.save_steps = last, steps, float(steps)
    arguments.eval_strategy, arguments.load_best_model_at_end = "no", False
    arguments.remove_unused_columns = not data.collator_picks
    optimizer = adamw(config, model, config.learning_rate)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=arguments.get_warmup_steps(total),
        num_training_steps=total,
    )
    trainer = CarefulTrainer(
        form=_in_memory(FORMS[config.resolve_method().side.saved_as]),
        data=data,
        flips=Flips(config.seed, arguments.process_index) if config.flip else None,
        model=model,
        args=arguments,
        train_dataset=data.encoded.splits["train"],
        optimizers=(optimizer, scheduler),
        # The link of the round begins with the round: the chain advances before its first step, not after its last.
        callbacks=[ChainCallback(every=steps)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _in_memory(form: SavedForm) -> SavedForm:
    """Return a form whose checkpoints have no weights: these come from the server."""
    return dataclasses.replace(form, checkpoint=lambda model, folder: None, restore=lambda model, folder: True)


def _checkpoint(trainer: CarefulTrainer, step: int) -> Path:
    """Return the checkpoint that the round goes on from; one without an optimizer's state where the client has none."""
    folder = Path(trainer.args.output_dir)
    for path in whole_checkpoints(folder):
        if path.name == f"checkpoint-{step}":
            return path
    fresh = folder / f"checkpoint-{step}"
    fresh.mkdir(parents=True, exist_ok=True)
    trainer.state.global_step, trainer.state.max_steps = step, trainer.args.max_steps
    trainer.state.train_batch_size = trainer.args.train_batch_size
    trainer.state.compute_steps(trainer.args, trainer.args.max_steps)
    trainer.state.save_to_json(str(fresh / TRAINER_STATE_NAME))
    with warnings.catch_warnings():
        # torch expects a step of the optimizer before one of the schedule; the others have made theirs.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)`")
        for _ in range(step):
            trainer.lr_scheduler.step()
    return fresh
