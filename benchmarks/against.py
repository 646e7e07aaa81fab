"""This checkout against another one: a training step and a forward in evaluation, each relative to its own limit.

    git worktree add ../before COMMIT
    python -m benchmarks.against ../before [--only cla,c3la@2] [--rounds 30] [--quick]
    python -m benchmarks.against ../before --llama bfloat16,float32,evaluation --only cla,lora,peft_16bit

With `--llama` the model is that of `benchmarks.llama`, and the kinds of work are the parts named. Both sides then run
this checkout's benchmarks, each on its own library.

Two processes, one per checkout, take turns round by round (A B, B A, ...); within a round each measures all variants in
a shuffled order, its own limit among them. The ratios to that limit are compared, since the memory layouts of two
processes differ by chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.llama import BENCHMARK as LLAMA_BENCHMARK
from benchmarks.llama import PARTS, built, look
from benchmarks.measuring import QUICK, RESULTS, Setting, median_interval
from benchmarks.variants import LIMIT, TWIN, Trainee, trainee
from benchmarks.writing import figure, markdown
from lopsided.files.atomic import write_json
from lopsided.runs.measure import machine, versions
from lopsided.study.turns import wall_ms

HERE = Path(__file__).resolve().parents[1]
VARIANTS = ("cla", "c3la@2", "rcla", "asym_b", "rac_b@2", "asym_a", "lora")
KINDS = ("training step", "evaluation")


def serve(setting: Setting, variants: list[str], parts: list[str] | None = None) -> None:
    """One process: build the models, then measure a round of a kind for each line on standard input."""
    torch.set_num_threads(setting.threads)
    names = (LIMIT, TWIN, *variants)
    work = llama_work(setting, names, parts) if parts else encoder_work(setting, names)
    print("ready", flush=True)
    for line in sys.stdin:
        kind, seed = json.loads(line)
        order = list(names)
        random.Random(seed).shuffle(order)
        print(json.dumps({name: wall_ms(work[kind][name]) for name in order}, allow_nan=False), flush=True)


def encoder_work(setting: Setting, variants: Sequence[str]) -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed of the benchmarks' classifier, by kind and variant."""
    made = {variant: trainee(variant, setting) for variant in variants}
    step, evaluation = KINDS
    return {
        step: {variant: partial(trained, one) for variant, one in made.items()},
        evaluation: {variant: partial(looked_at, one) for variant, one in made.items()},
    }


def trained(one: Trainee) -> torch.Tensor:
    """Return the loss of a training step."""
    one.model.train()
    return one.step()


@torch.no_grad()
def looked_at(one: Trainee) -> torch.Tensor:
    """Return the loss of one forward pass in evaluation."""
    one.model.eval()
    return one.model(**one.batch).loss


def llama_work(
    setting: Setting, variants: Sequence[str], parts: Sequence[str]
) -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed of the Llama shape, by part and variant."""
    return {
        part: {variant: look(built(variant, setting, PARTS[part]), PARTS[part]) for variant in variants}
        for part in parts
    }


class Side:
    """A checkout's process."""

    def __init__(self, checkout: Path, setting: Setting, variants: list[str], parts: list[str] | None) -> None:
        arguments = [dataclasses.asdict(setting), variants, *([parts] if parts else [])]
        # Each side with its own benchmarks, since names inside the library may differ between the two; but older ones
        # have no Llama shape.
        source = HERE if parts else checkout
        packaged = (source / "benchmarks" / "__init__.py").exists()
        script = ["-m", "benchmarks.against"] if packaged else [str(source / "benchmarks" / "against.py")]
        paths = os.pathsep.join([str(checkout / "src"), str(source if packaged else source / "benchmarks")])
        self.process = subprocess.Popen(
            [sys.executable, *script, "--serve", json.dumps(arguments, allow_nan=False)],
            cwd=source,
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()

    def read(self) -> str:
        """Return the next line that the process prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("against: a process ended early; its error stands above")
        return line

    def round(self, kind: str, seed: int) -> dict[str, float]:
        """Return one round of the process: each variant's milliseconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([kind, seed], allow_nan=False) + "\n")
        self.process.stdin.flush()
        return json.loads(self.read())

    def end(self) -> None:
        """Wait until the process has ended."""
        self.process.communicate(timeout=60)


def measure(before: Path, setting: Setting, variants: list[str], parts: list[str] | None = None) -> dict[str, Any]:
    """Measure both checkouts in turns, and return the ratios to their limits."""
    sides = {name: Side(path, setting, variants, parts) for name, path in (("before", before), ("after", HERE))}
    kinds = parts or KINDS
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {kind: {name: [] for name in sides} for kind in kinds}
    for kind in kinds:
        for seed in range(setting.warmup + setting.rounds):
            for name in list(sides) if seed % 2 else list(reversed(sides)):
                taken = sides[name].round(kind, seed)
                if seed >= setting.warmup:
                    rounds[kind][name].append(taken)
    for side in sides.values():
        side.end()
    return {kind: {v: compared(rounds[kind], v) for v in (TWIN, *variants)} for kind in kinds}


def compared(rounds: dict[str, list[dict[str, float]]], variant: str) -> dict[str, Any]:
    """A variant's ratio to its own limit, before and after, and the one to the other, round by round."""
    own = {name: np.array([one[variant] / one[LIMIT] for one in taken]) for name, taken in rounds.items()}
    found = {name: median_interval(list(values)) for name, values in own.items()}
    return {**found, "after / before": median_interval(list(own["after"] / own["before"]))}


def table(result: dict[str, Any]) -> str:
    """Return the table of the ratios, as markdown."""
    header = ["", "variant", "before, x its limit", "after, x its limit", "after / before"]
    rows = [
        [kind, f"`{variant}`", *(figure(found[name], places=3) for name in ("before", "after", "after / before"))]
        for kind, of_kind in result["figures"].items()
        for variant, found in of_kind.items()
    ]
    setting = result["setting"]
    words = f"{setting['rounds']} rounds after {setting['warmup']}, {setting['threads']} threads, "
    load = ", ".join(f"{value:.1f}" for value in result["load"])
    return markdown(header, rows) + f"\n\n{words}{result['machine']['processor']}; load before and after {load}."


def main() -> int:
    """Compare this checkout with another one, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--llama", metavar="PARTS", help=f"of the Llama shape: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    parts = options.llama.split(",") if options.llama else None
    shape = LLAMA_BENCHMARK.default if parts else Setting()
    setting = (
        dataclasses.replace(shape, **QUICK) if options.quick else dataclasses.replace(shape, rounds=options.rounds)
    )
    load = [os.getloadavg()[0]]
    figures = measure(options.before.resolve(), setting, options.only.split(","), parts)
    load.append(os.getloadavg()[0])
    result: dict[str, Any] = {"setting": dataclasses.asdict(setting), "machine": machine(), "versions": versions()}
    result |= {"load": load, "figures": figures}
    write_json(options.out / "against.json", result)
    print(table(result))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        fields, *which = json.loads(sys.argv[2])
        serve(Setting(**fields), *which)
    else:
        sys.exit(main())
