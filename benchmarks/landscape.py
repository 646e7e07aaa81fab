"""What a landscape costs next to its evaluations alone.

    python -m benchmarks.landscape [--rounds 5] [--points 25] [--rows 256] [--whole] [--out DIR]

A chained adapter on all linear layers of the embedded model is merged, and 256 validation rows of vader/movie are put
into batches of similar lengths. In each round, one row of a surface of 25 x 25 points takes its turn with 25 plain
evaluations of the same batches at the centre, in a freshly shuffled order; a surface consists of such rows.
With --whole, the surface with all its 625 points is timed against 625 evaluations, once.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import RESULTS, Progress, exact, ratio, stamped, turns
from benchmarks.writing import figure, markdown, provenance, verdict
from lopsided import LopsidedError, adapt
from lopsided.curvature.batches import Batch, mean_loss
from lopsided.diagnose.directions import plane_parameters, random_directions
from lopsided.diagnose.loss_grid import Plane, axis, landscape
from lopsided.files.atomic import write_json
from lopsided.runs import TrainConfig, load_inputs
from lopsided.runs.evaluated_rows import sample_rows
from lopsided.study.turns import wall_ms
from lopsided.tuner import layers_of

AT_MOST = 1.15
ROW, PASSES = "one row of the surface", "as many evaluations"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A surface, and how often one of its rows is timed.

    Args:
        rows, batch_size: validation rows, and how many are in a batch.
        points: along each axis.
        whole: whether the whole surface is timed as well, once.
    """

    model: str = "embedded"
    task: str = "vader/movie"
    method: str = "c3la"
    r: int = 16
    rows: int = 256
    batch_size: int = 32
    points: int = 25
    whole: bool = False
    rounds: int = 5
    warmup: int = 1
    threads: int = 2
    seed: int = 0


def measure(setting: Setting) -> dict[str, Any]:
    """Times of a row and of its evaluations alone, and their ratio."""
    model, batches = merged_model(setting)
    plane = Plane(model, random_directions(plane_parameters(model), seed=setting.seed))
    values, chosen = axis(setting.points), random.Random(setting.seed)

    def row() -> None:
        with plane.moving():
            plane.row(chosen.choice(values))
            for a in values:
                plane.put(a)
                mean_loss(model, batches)

    def passes() -> None:
        for _ in values:
            mean_loss(model, batches)

    busy: dict[str, list[float]] = {ROW: [], PASSES: []}

    def timed(name: str, once: Callable[[], None]) -> float:
        start = time.process_time()
        milliseconds = wall_ms(once)
        busy[name].append(1000.0 * (time.process_time() - start))
        return milliseconds

    work = {ROW: lambda: timed(ROW, row), PASSES: lambda: timed(PASSES, passes)}
    taken = turns(work, setting, "landscape: rounds")
    busy = {name: times[-setting.rounds :] for name, times in busy.items()}
    result: dict[str, Any] = {
        "milliseconds": taken,
        "processor_milliseconds": busy,
        "figures": {
            "row_to_evaluations": ratio(taken, ROW, PASSES),
            "processor_row_to_evaluations": ratio(busy, ROW, PASSES),
        },
        "shapes": {"tokens": sum(batch["input_ids"].numel() for batch in batches), "batches": len(batches)},
    }
    if setting.whole:
        result["figures"]["surface_to_evaluations"] = exact(whole(setting, model, batches))
    return result


def merged_model(setting: Setting) -> tuple[Any, list[Batch]]:
    """The merged model, and batches of similar lengths."""
    config = TrainConfig(model=setting.model, task=setting.task, seed=setting.seed, out=Path("unused"))
    inputs = load_inputs(config)
    rows = sample_rows(inputs.data.encoded.splits["validation"], setting.rows)
    collate = inputs.data.collator()
    batches: list[Batch] = [
        dict(collate([rows[i] for i in range(start, min(start + setting.batch_size, len(rows)))]))
        for start in range(0, len(rows), setting.batch_size)
    ]
    model = adapt(inputs.model, setting.method, r=setting.r, target_modules="all-linear", seed=setting.seed)
    generator = torch.Generator().manual_seed(setting.seed)
    with torch.no_grad():
        for layer in layers_of(model).values():
            for factor in layer.trained("default").values():
                factor.add_(0.01 * torch.randn(factor.shape, generator=generator))
    return model.merge_and_unload().eval(), batches


def whole(setting: Setting, model: Any, batches: list[Batch]) -> float:
    """The time of a whole surface as a multiple of its evaluations alone."""
    directions = random_directions(plane_parameters(model), seed=setting.seed)
    progress = Progress("landscape: evaluations", setting.points)

    def surface() -> None:
        landscape(model, directions, batches, points=setting.points)

    def evaluations() -> None:
        for _ in range(setting.points):
            for _ in range(setting.points):
                mean_loss(model, batches)
            progress.advance()

    return wall_ms(surface) / wall_ms(evaluations)


def table(result: Mapping[str, Any]) -> str:
    """Return the table of times, as markdown."""
    setting = result["setting"]
    words = {
        "row_to_evaluations": f"a row of {setting['points']} points against {setting['points']} evaluations",
        "processor_row_to_evaluations": "the same in processor time, which other processes disturb less",
        "surface_to_evaluations": f"the surface of {setting['points']} x {setting['points']} points against as many",
    }
    rows = [
        [words[name], f"at most {AT_MOST:.2f}", figure(value, places=3), verdict(value, AT_MOST)]
        for name, value in result["figures"].items()
    ]
    runs = (
        f"{setting['model']} on {setting['task']}, {setting['method']} of rank {setting['r']} merged, "
        f"{setting['rows']} rows in {result['shapes']['batches']} batches, {setting['rounds']} rounds"
    )
    return "\n\n".join([markdown(["time", "target", "measured", "verdict"], rows), provenance(result, runs)])


def main(arguments: list[str] | None = None) -> int:
    """Write landscape.json, and print its table."""
    parser = argparse.ArgumentParser(description="Writes landscape.json and prints its table.")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    for field in dataclasses.fields(Setting):
        if isinstance(field.default, bool):
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    try:
        setting = Setting(**options)
        found = stamped("landscape", setting, lambda: measure(setting))
    except LopsidedError as error:
        print(f"landscape: {error}", file=sys.stderr)
        return 2
    write_json(out / "landscape.json", found)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
