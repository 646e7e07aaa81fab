"""A study, run: planned, made cell by cell, written down, and summed up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.strict_json import loads
from lopsided.runs.directory import TRIALS, check_place, in_use
from lopsided.runs.ending import terminable
from lopsided.runs.model_cache import ModelCache
from lopsided.study.backend import Backend, Local
from lopsided.study.cell import Cell, folder_name
from lopsided.study.drive import Drive, Told
from lopsided.study.estimates import Looker
from lopsided.study.fit import check_fit
from lopsided.study.outputs import write_outputs
from lopsided.study.plan import StudyPlan, only_shard, plan
from lopsided.study.rehearsal import rehearsal, with_settings
from lopsided.study.results import RESULTS, Result, mend_tail, read_results
from lopsided.study.study_costs import COSTS, measure_study
from lopsided.study.study_file import Study, read_study
from lopsided.study.tuning import check_tuner

STUDY = "study.json"
# Makes the cells of a plan; the cache holds what this process has loaded already.
Maker = Callable[[StudyPlan, ModelCache], Backend]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A study and the folder that it is run in.

    Args:
        path: the study file.
        out: the folder.
        shard: (i, n): the i-th of n parts of the cells, from 1; None for all.
        results: result files of other machines, whose finished cells are not run again.
        retry_failed: make cells again that failed or were skipped.
        changed: whether the folder may have begun with another text of the study file.
        data: a folder with data sets in local form, for all runs.
        rehearse: make a few steps on the models' tiny twins instead; see `lopsided.study.rehearsal`.
    """

    path: Path
    out: Path
    shard: tuple[int, int] | None = None
    results: tuple[Path, ...] = ()
    retry_failed: bool = False
    changed: bool = False
    data: str | None = None
    rehearse: bool = False

    @property
    def study(self) -> Study:
        """The study, with what this process changes of it.

        Raises:
            LopsidedError: for a study file that says something that makes no sense.
        """
        study = read_study(self.path)
        if self.data is not None:
            study = with_settings(study, {"data": self.data}, "--data")
        return rehearsal(study) if self.rehearse else study

    @property
    def results_path(self) -> Path:
        """The file that this process adds lines to: every shard has its own."""
        if self.shard is None:
            return self.out / RESULTS
        return self.out / f"results-shard-{self.shard[0]}-of-{self.shard[1]}.jsonl"

    def all_results(self) -> dict[str, Result]:
        """Return the result of every cell, of all shards and of other machines."""
        missing = [path for path in self.results if not path.is_file()]
        if missing:
            raise LopsidedError(f"expected a file of results, got {missing[0]}, which is not there; check the path")
        return read_results([*self.results, *sorted(self.out.glob("results*.jsonl"))])


def planned(bench: Bench, *, probe: bool, look: Looker | None = None) -> StudyPlan:
    """Return what a study will do; nothing is written.

    Args:
        probe: time a few steps of each pair of a model and a task that is on this machine.
        look: what an earlier plan has found out about models and tasks, which is then not read again.
    """
    study = bench.study
    if study.tuning is not None:
        check_tuner()
    return plan(study, bench.out, results=bench.all_results(), look=look or Looker(probe=probe))


def run_bench(
    bench: Bench,
    *,
    backend: Maker = lambda plan, cache: Local(cache),
    begin: Callable[[StudyPlan], None] = lambda plan: None,
    start: Callable[[int], None] = lambda total: None,
    tell: Told = lambda cell, result, made: None,
) -> StudyPlan:
    """Run what a study has left, and write its tables; returns the plan, as it stands at the end.

    Args:
        backend: makes the cells.
        begin: hears the plan before the first cell.
        start, tell: hear how many cells there are and what becomes of each; see `Drive`.

    Raises:
        LopsidedError: for bad input before anything runs; if another process runs the study in this folder.
    """
    check_place(bench.out)
    look = Looker(probe=False, fetch=True)
    outlook = planned(bench, probe=False, look=look)
    tuning, ended = outlook.study.tuning, bench.all_results()
    with ExitStack() as held:
        cells = only_shard(outlook.runs, bench.shard, tuned=tuning is not None)
        cache = ModelCache()
        check_fit([cell for cell in cells if cell.key not in ended], cache)
        # A new folder is made after that, so that a refusal leaves nothing behind.
        held.enter_context(in_use(bench.out if bench.shard is None else bench.out / bench.results_path.stem))
        _note_study(bench)
        mend_tail(bench.results_path)
        held.enter_context(terminable())
        begin(outlook)
        maker = backend(outlook, cache)
        held.callback(maker.close)
        drive = Drive(
            maker,
            bench.all_results(),
            bench.results_path,
            placed=lambda cell: placed(cell, bench.out),
            retry=bench.retry_failed,
            start=start,
            tell=tell,
        )
        drive.run([placed(cell, bench.out) for cell in cells], tuning)
        costs = outlook.study.costs
        if costs is not None and bench.shard is None:
            mend_tail(bench.out / COSTS)
            measure_study(cells, costs, bench.out / COSTS, cache)
        outlook = planned(bench, probe=False, look=look)
        write_outputs(bench.out, outlook, bench.all_results())
    return outlook


def placed(cell: Cell, out: Path) -> Cell:
    """Return the cell with its folder: a rate that was chosen gives it another name."""
    part = TRIALS if cell.role == "trial" else "runs"
    return replace(cell, config=replace(cell.config, out=out / part / folder_name(cell)))


def _note_study(bench: Bench) -> None:
    """Write down which study file the folder was begun with, and refuse another text unless that is asked for."""
    text = bench.path.read_bytes()
    now = {"schema": 1, "path": str(bench.path), "sha256": hashlib.sha256(text).hexdigest(), "rehearse": bench.rehearse}
    there = bench.out / STUDY
    if there.is_file() and not bench.changed:
        before = loads(there.read_text())
        if before.get("sha256") != now["sha256"]:
            raise LopsidedError(
                f"{bench.path} has changed since {bench.out} was begun with it; expected the same text; pass --changed "
                "to go on with the new one (cells that are in both are kept), or choose another --out"
            )
    write_json(there, now)
