"""Every method on one model and task: the main job, as a study of one model and one task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from transformers import TrainerCallback

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.method import METHODS, method_named
from lopsided.models.weight_hash import model_hash
from lopsided.runs import Data, ModelCache, TrainConfig, read_run
from lopsided.runs.directory import TRIALS, check_place, in_use, is_begun
from lopsided.runs.ending import terminable
from lopsided.runs.evaluated_rows import rows_note
from lopsided.runs.measure import machine, versions
from lopsided.runs.preflight import preflight
from lopsided.settings import check_settings
from lopsided.study import results as lines
from lopsided.study.backend import Local
from lopsided.study.cell import Cell, slug
from lopsided.study.comparison import RESULTS, RUNS, Comparison, board_of_comparison
from lopsided.study.comparison_settings import write_settings
from lopsided.study.drive import Drive, Told
from lopsided.study.estimates import DIGITS
from lopsided.study.study_file import Tuning
from lopsided.study.tried_rates import searches_of
from lopsided.study.tuning import check_tuner
from lopsided.tasks.task_fingerprint import fingerprint
from lopsided_settings.compare import CompareSettings

Callbacks = Callable[[str, int], Sequence[TrainerCallback]]
# What runs where no methods are named: the head alone as the floor, all weights, and one method of each kind.
FIRST = ("head", "full", "lora", "asym_b", "rac_b", "cla", "c3la")
# In the place of methods: those of the Beyond LoRA study.
STUDY = "study"


@dataclass(frozen=True, kw_only=True)
class CompareConfig(CompareSettings):
    """A comparison: methods times seeds, each a `TrainConfig` with its own method, seed and folder.

    Args:
        run: what all runs share.
        methods: names; empty takes `FIRST`, and "study" alone the methods of the Beyond LoRA study with the head as the
            floor.
        seeds: one run of every method per seed.
        margin: how many points worse than the best a method may be, and still be taken.
        tune: trials of each method's learning rate, with the first seed and by validation alone; None tunes none.
        links: for the methods that have a chain; None keeps each method's own.
        command: how it was asked for, for the record.
    """

    run: TrainConfig
    links: int | None = None
    command: str = "lopsided compare"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.tune is not None and self.run.lr is not None:
            raise LopsidedError(
                f"tune chooses a learning rate for each method, and lr={self.run.lr:g} is one for all; leave one of "
                "them out"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise LopsidedError(
                f"seeds must be distinct whole numbers, one or more, got {list(self.seeds)}; correct them"
            )
        for name in self.names:
            for seed in self.seeds:
                # Builds every run's configuration, so that bad input stops all of them before the first one.
                self.config_of(name, seed)
        if len(set(self.methods)) != len(self.methods):
            raise LopsidedError(f"methods must be distinct, got {', '.join(self.methods)}; take one out")

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that are compared, in their order."""
        if self.methods == (STUDY,):
            return tuple(name for name, method in METHODS.items() if method.compared)
        return self.methods or FIRST

    def config_of(self, method: str, seed: int) -> TrainConfig:
        """Return the configuration of one run."""
        chained = method_named(method).chain is not None
        length = {"links": self.links if chained else None, "every": self.run.every if chained else None}
        shared = {**self.run.to_json(), "method": method, "seed": seed, **length}
        return TrainConfig(**shared, out=self.folder(method, seed))

    def folder(self, method: str, seed: int) -> Path:
        """Return the directory of one run."""
        return self.run.out / RUNS / slug(method, f"seed{seed}")

    @property
    def tuning(self) -> Tuning | None:
        """How learning rates are chosen; None for runs with the methods' own, or with one for all."""
        return None if self.tune is None else Tuning(trials=self.tune)

    def placed(self, cell: Cell) -> Cell:
        """Return a cell with its folder: trials are kept apart from the runs of the comparison."""
        if cell.role == "run":
            return cell
        run = cell.config
        return replace(cell, config=replace(run, out=self.run.out / TRIALS / slug(run.method, f"lr{run.lr:g}")))


def compare(
    config: CompareConfig,
    *,
    resume: bool = False,
    callbacks: Callbacks = lambda method, seed: (),
    note: Callable[[str], None] = lambda text: None,
    start: Callable[[int], None] = lambda total: None,
    tell: Told = lambda cell, result, made: None,
) -> Comparison:
    """Run every method and seed, and write `results.json`.

    What cannot work is refused before the first method runs. A method that fails all the same is an entry in the
    table; the others finish.

    Args:
        config: what to compare.
        resume: keep finished runs, and go on with unfinished ones.
        callbacks: for one run's trainer, from the method's name and the seed; a trial's name has its rate, too.
        note: tells a person how the rows are read, before the first run.
        start, tell: hear how many runs and trials there are, and of each that has ended, as `Drive` says.

    Raises:
        LopsidedError: for bad input, before any method runs; with a line for each thing that cannot work.
    """
    started, created = time.perf_counter(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    out = config.run.out
    check_place(out)
    if not resume and any((out / name).exists() for name in (RESULTS, RUNS)):
        raise LopsidedError(f"{out} holds a comparison already; expected a new folder; pass --resume, or another --out")
    if config.tune is not None:
        check_tuner()
    with ExitStack() as locks:
        cache = ModelCache()
        data = _checked(config, cache, locks)
        if data.described:
            note(data.described)
        locks.enter_context(terminable())
        _write_settings(config)
        ended = _made(config, data, cache, callbacks, start, tell)
        errors = {cell.config.method: each.reason for cell, each in ended if cell.role == "run" and each.reason}
        searches = {} if config.tuning is None else searches_of(config.tuning, ended)
        comparison = Comparison(
            folder=out,
            names=config.names,
            seeds=config.seeds,
            leaderboard=board_of_comparison(_folders(config), errors, margin=config.margin),
            command=config.command,
            model=config.run.model,
            task=config.run.task,
            task_note=rows_note(config.run, data),
            task_shape=data.described,
            settings=_shared_settings(config),
            search=next(iter(searches.values()), None),
            machine=machine(),
            versions=versions(),
            created=created,
            wall_seconds=time.perf_counter() - started,
        )
        write_json(out / RESULTS, comparison.to_json())
    return comparison


def _write_settings(config: CompareConfig) -> None:
    others = {"methods": config.names, "seeds": config.seeds, "links": config.links, "tune": config.tune}
    write_settings(config.run.out, run=config.run, **others, margin=config.margin, command=config.command)


def _checked(config: CompareConfig, cache: ModelCache, locks: ExitStack) -> Data:
    """Load the rows of all runs, check what is still to be run, and hold the folder."""
    out = config.run.out
    begun = is_begun(out)
    if begun:
        locks.enter_context(in_use(out))
    unfinished = _unfinished(config)
    if unfinished:
        preflight(unfinished, cache.inputs(unfinished[0]))
    # A new folder is made after the preflight, so that a refusal leaves nothing behind.
    if not begun:
        locks.enter_context(in_use(out))
    return cache.data(config.run)


def _made(
    config: CompareConfig, data: Data, cache: ModelCache, callbacks: Callbacks, start: Callable[[int], None], tell: Told
) -> list[tuple[Cell, lines.Result]]:
    """Make every cell that is not finished; returns what became of each."""
    path, ended = config.run.out / lines.RESULTS, list[tuple[Cell, lines.Result]]()

    def hear(cell: Cell, result: lines.Result, made: bool) -> None:
        ended.append((cell, result))
        tell(cell, result, made)

    drive = Drive(
        Local(cache, lambda cell: callbacks(_title(cell), cell.config.seed), config.command),
        _ended(path),
        path,
        placed=config.placed,
        retry=True,
        start=start,
        tell=hear,
    )
    drive.run(_cells(config, data), config.tuning)
    return ended


def _cells(config: CompareConfig, data: Data) -> list[Cell]:
    model, task = model_hash(config.run.model) or "", fingerprint(data.task)[:DIGITS]
    runs = [config.config_of(name, seed) for name in config.names for seed in config.seeds]
    return [
        Cell(config=run, method=run.resolve_method(), model_fingerprint=model, task_fingerprint=task) for run in runs
    ]


def _ended(path: Path) -> dict[str, lines.Result]:
    """Return the results that an earlier process recorded; a run whose folder is gone is made again."""
    lines.mend_tail(path)
    known = lines.read_results([path] if path.is_file() else [])
    return {key: each for key, each in known.items() if each.data["role"] == "trial" or _is_finished(each.made_in)}


def _title(cell: Cell) -> str:
    config = cell.config
    return config.method if cell.role == "run" else f"{config.method}, rate {config.lr:g}"


def _unfinished(config: CompareConfig) -> list[TrainConfig]:
    """Return the runs that are still to be made, one per method: seeds make no difference to what can work."""
    unfinished: dict[str, TrainConfig] = {}
    for name in config.names:
        for seed in config.seeds:
            run = config.config_of(name, seed)
            if name not in unfinished and not _is_finished(run.out):
                unfinished[name] = run
    return list(unfinished.values())


def _is_finished(folder: Path) -> bool:
    """Return whether a finished run is in the folder; one whose record cannot be read does not count."""
    try:
        run = read_run(folder)
    except LopsidedError:
        return False
    return run is not None and run.is_finished


def _folders(config: CompareConfig) -> dict[str, list[Path]]:
    return {name: [config.folder(name, seed) for seed in config.seeds] for name in config.names}


def _shared_settings(config: CompareConfig) -> dict[str, object]:
    settings = config.run.to_json().items()
    return {key: value for key, value in settings if key not in ("method", "seed") and value is not None}
