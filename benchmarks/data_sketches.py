"""The runs of the lab's `data-sketches`, kept in a folder, so that they resume where they were cut off.

    python -m benchmarks.data_sketches --runs FOLDER [--out docs/lab/data-sketches]

A run that is finished is not made again. The record and the drawings are those of `lopsided lab data-sketches --full`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lopsided import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.lab.experiments.data_sketches import EXPERIMENT, QUICK, SketchSetting, measure, outcome
from lopsided.lab.protocol import Request
from lopsided.lab.result_file import RECORD, result_record
from lopsided.plotting.svg import check_drawable, draw

RESULT = Path(__file__).parents[1] / "docs" / "lab" / EXPERIMENT.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that are missing, and write the record."""
    parser = argparse.ArgumentParser(description="Makes the runs that are missing, and writes the record.")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the run directories")
    parser.add_argument("--out", type=Path, default=RESULT, help="the folder of the record")
    parser.add_argument("--quick", action="store_true", help="runs of the quick look")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    setting = QUICK if options.quick else SketchSetting()
    try:
        check_drawable()
        runs = measure(setting, options.runs, lambda text: print(text, file=sys.stderr, flush=True))
        found = outcome(setting, runs)
    except LopsidedError as error:
        print(f"data_sketches: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    request = Request(size="quick" if options.quick else "full")
    record = result_record(EXPERIMENT, request, found, seconds=runs.seconds)
    for drawing in found.plots:
        draw(drawing, options.out / f"{drawing.name}.svg")
    write_json(options.out / RECORD, record)
    print(f"{EXPERIMENT.name}: {record['verdict']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
