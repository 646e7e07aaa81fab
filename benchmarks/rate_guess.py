"""Trials and guesses of learning rates for the lab's `rate-guess`, in several processes, kept line by line.

    LOPSIDED_DATA=DATA python -m benchmarks.rate_guess [--workers 1] [--out docs/lab/rate-guess]

What `measurements.jsonl` holds already is not measured again. The last line written, `result.json` and the drawings are
those of `lopsided lab rate-guess --full`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.measuring import Progress
from lopsided import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.strict_json import dumps, loads
from lopsided.lab.experiments.rate_guess import EXPERIMENT, full_setting, outcome
from lopsided.lab.protocol import Request
from lopsided.lab.rate_trials import Guess, Line, Lines, Trial, TrialSetting, measure_place, places
from lopsided.lab.result_file import RECORD, result_record
from lopsided.plotting.svg import check_drawable, draw

RESULT = Path(__file__).parents[1] / "docs" / "lab" / EXPERIMENT.name
MEASUREMENTS = "measurements.jsonl"
KINDS = {"trial": Trial, "guess": Guess}


def read_lines(path: Path) -> Iterator[Line]:
    """Yield what has been measured; a last line that was cut off is left out."""
    if not path.is_file():
        return
    for text in path.read_text().splitlines(keepends=True):
        if text.endswith("\n"):
            fields = loads(text)
            yield KINDS[fields.pop("kind")](**fields)


def write_line(path: Path, line: Line) -> None:
    """Append one measurement, in one write: several processes append to the file."""
    kind = next(name for name, of in KINDS.items() if isinstance(line, of))
    text = dumps({"kind": kind, **dataclasses.asdict(line)}, indent=None) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())


def one_place(setting: TrialSetting, place: tuple[str, str, int], path: Path) -> int:
    """Measure what is missing of one place, and return how many lines that made."""
    torch.set_num_threads(1)
    known, count = Lines.of(read_lines(path)), 0
    with tempfile.TemporaryDirectory(prefix="lopsided-rates-") as folder:
        for line in measure_place(setting, *place, Path(folder), known):
            write_line(path, line)
            count += 1
    return count


def measure(setting: TrialSetting, path: Path, workers: int) -> None:
    """Measure all places, each in its own process, several at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress("rate_guess: places", len(places(setting)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(one_place, setting, place, path) for place in places(setting)]
        for future in as_completed(pending):
            progress.advance(f"{future.result()} new lines")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the record."""
    parser = argparse.ArgumentParser(description="Measures what is missing, and writes result.json with its drawings.")
    parser.add_argument("--out", type=Path, default=RESULT, help="the folder of the record")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--seeds", type=int, default=TrialSetting().seeds)
    parser.add_argument("--only-measure", action="store_true", help="write no record")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        check_drawable()
        setting = dataclasses.replace(full_setting(), seeds=options.seeds)
        measure(setting, options.out / MEASUREMENTS, options.workers)
        if options.only_measure:
            return 0
        found = outcome(setting, Lines.of(read_lines(options.out / MEASUREMENTS)))
    except LopsidedError as error:
        print(f"rate_guess: {error}", file=sys.stderr)
        return 2
    record = result_record(EXPERIMENT, Request(size="full"), found, seconds=time.perf_counter() - started)
    for drawing in found.plots:
        draw(drawing, options.out / f"{drawing.name}.svg")
    write_json(options.out / RECORD, record)
    print(f"{EXPERIMENT.name}: {record['verdict']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
