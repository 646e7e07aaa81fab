"""One run: a model, a task and a method become a run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from lopsided.errors import LopsidedError
from lopsided.files.atomic import DiskErrors
from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import (
    check_place,
    clear_leftovers,
    discard_checkpoints,
    in_use,
    is_begun,
    newest_checkpoint,
    write_run,
)
from lopsided.runs.ending import FailureRecord, terminable
from lopsided.runs.inputs import Inputs, Prepared, load_inputs
from lopsided.runs.preflight import preflight
from lopsided.runs.record import begun_record, finished_record
from lopsided.runs.resumption import refuse_others, settings_there
from lopsided.runs.run import Run, finished_run, read_run
from lopsided.runs.session import assemble, fit, measure

# A run that nothing has been prepared for loads what it needs.
ALONE = Prepared(load=load_inputs)


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    prepared: Prepared = ALONE,
    callbacks: Sequence[TrainerCallback] = (),
    note: Callable[[str], None] = lambda text: None,
    command: str | None = None,
) -> Run:
    """Make one run, and return what is in its directory.

    The checkpoint with the lowest validation loss is kept; the figures come from test. What can't work is refused
    before the folder is made.

    Args:
        config: the run.
        resume: go on from the folder's last whole checkpoint.
        prepared: how the run gets its rows and its model, and whether they have been checked; a caller of many runs
            has a `ModelCache`.
        callbacks: for `transformers.Trainer`, such as a progress bar.
        note: tells a person how the rows are read, before the first step.
        command: the command line that asks for the run, for its record. A run that goes on keeps the one that it
            began with.

    Raises:
        LopsidedError: for bad input, a folder in use, a folder that holds another run, a loss that is not
            finite. The record then says so, and the last good checkpoint stands.
    """
    check_place(config.out)
    with ExitStack() as held:
        # A new folder is made after the preflight, so that a refusal leaves nothing behind.
        inputs, begun = None, is_begun(config.out)
        if not begun and not prepared.checked:
            inputs = _checked(config, prepared)
        held.enter_context(in_use(config.out))
        earlier = _earlier_run(config, resume)
        if earlier is not None and earlier.is_finished:
            if not earlier.keeps_checkpoints:
                # A process that was killed as it deleted them has left some.
                discard_checkpoints(config.out)
            return earlier
        if begun and not prepared.checked:
            inputs = _checked(config, prepared)
        held.enter_context(terminable())
        command = command if earlier is None else earlier.command or command
        record = begun_record(config, command)
        if earlier is not None and earlier.calibration is not None:
            # A run that goes on reads no data for its sketches again.
            record["calibration"] = earlier.calibration.to_json()
        if earlier is not None and "resumed_at" in earlier.record:
            record["resumed_at"] = earlier.record["resumed_at"]
        return _make_run(config, prepared, inputs, record, resume=resume, callbacks=callbacks, note=note)


def _checked(config: TrainConfig, prepared: Prepared) -> Inputs:
    """Return what the run begins with, after its preflight."""
    inputs = prepared.load(config)
    preflight([config], inputs)
    return inputs


def _earlier_run(config: TrainConfig, resume: bool) -> Run | None:
    """Return the run in the folder that is finished, or that this one goes on with; None for an empty one.

    Raises:
        LopsidedError: if there is one, and it is not to be resumed, or has other settings.
    """
    run = read_run(config.out)
    # A run that ended before its first checkpoint, as one with bad input does, left nothing to lose.
    if run is None or (not run.is_finished and newest_checkpoint(config.out) is None):
        return None
    if not resume:
        # The folder is held by this process, so that nobody else goes on with a run that says so.
        status = "cut off" if run.status == "running" else run.status
        raise LopsidedError(
            f"{config.out} holds a run already ({status}); expected a new folder; pass --resume to go on "
            "with it, or choose another --out"
        )
    refuse_others(config.out, config.to_json(), settings_there(run))
    mine, theirs = config.resolve_method(), run.method
    if (mine.side, mine.sketch, mine.chain) != (theirs.side, theirs.sketch, theirs.chain):
        raise LopsidedError(
            f"{config.out} holds a run of another method {config.method!r} than the one that is registered under this "
            "name; register it with the run's own parts, or choose another --out"
        )
    return run


def _make_run(
    config: TrainConfig,
    prepared: Prepared,
    inputs: Inputs | None,
    record: dict[str, Any],
    *,
    resume: bool,
    callbacks: Sequence[TrainerCallback],
    note: Callable[[str], None],
) -> Run:
    started = time.perf_counter()
    clear_leftovers(config.out)
    write_run(config.out, record)
    with FailureRecord(config.out, record), DiskErrors(config.out):
        inputs = prepared.load(config) if inputs is None else inputs
        checkpoint = newest_checkpoint(config.out) if resume else None
        session = assemble(config, inputs, callbacks=callbacks, checkpoint=checkpoint)
        if checkpoint is not None:
            record["resumed_at"] = [*record.get("resumed_at", ()), session.resumed_at]
            write_run(config.out, record)
            note(f"goes on after step {session.resumed_at} of {session.steps}")
        elif resume:
            note("there is no whole checkpoint: begins at step 0")
        if session.calibration is not None:
            # At once: a session that goes on finds it here, and the sketches in its checkpoint.
            record["calibration"] = session.calibration.to_json()
            write_run(config.out, record)
            note(str(session.calibration))
        if inputs.data.described:
            note(inputs.data.described)
        fit(session)
        result = measure(session)
    write_run(config.out, finished_record(record, result, time.perf_counter() - started))
    discard_checkpoints(config.out)
    # What is returned is what a reader of the folder gets.
    return finished_run(config.out)
