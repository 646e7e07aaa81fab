"""Made-up run directories, as of `lopsided train` and `lopsided diagnose`; no figure is a measurement."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.method import method_named
from lopsided.runs import TrainConfig
from lopsided.runs.directory import write_predictions, write_run

KINDS = ("query", "key", "value", "attention.output", "intermediate", "output")
EPSILONS = [round(0.05 * k, 2) for k in range(1, 21)]
SPLITS = ("train", "validation", "test", "vader/amazon", "vader/nyt")
VERSIONS = {"lopsided": "0.1.0", "torch": "2.13.0", "peft": "0.21.2"}
MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "threads": 2,
    "accelerator": None,
    "system": "Linux",
    "python": "3.11",
}
STEPS = 60


def fabricate_run(
    folder: Path,
    method: str,
    seed: int,
    *,
    task: str = "vader/movie",
    model: str = "embedded",
    status: str = "finished",
    **settings: Any,
) -> Path:
    """One run directory; figures follow from the method's name and the seed."""
    settings = {"steps": STEPS, "train_rows": 400, **settings}
    config = TrainConfig(method=method, seed=seed, task=task, model=model, out=folder, **settings)
    draw = np.random.RandomState(int(hashlib.sha256(f"{method}{seed}{task}".encode()).hexdigest()[:8], 16))
    record = {
        "schema": 1,
        "status": status,
        "config": config.to_json(),
        "method": config.resolve_method().parts(),
        "versions": VERSIONS,
        "machine": MACHINE,
    }
    folder.mkdir(parents=True)
    if status == "failed":
        record["error"] = "the loss is not finite at step 7: nan; lower the learning rate"
    if status == "finished":
        rows = _rows(draw, quality=len(method) / 40)
        record |= _measured(config, draw, rows)
        write_predictions(folder, rows)
    write_run(folder, record)
    return folder


def _rows(draw: np.random.RandomState, quality: float) -> dict[str, dict[str, np.ndarray]]:
    rows = {}
    for split in SPLITS:
        labels = np.arange(200) % 2
        right = draw.rand(200) < 0.7 + quality - (0.08 if "/" in split else 0.0)
        loss = np.where(right, 0.3, 0.9) + 0.05 * draw.rand(200)
        rows[split] = {"label": labels, "prediction": np.where(right, labels, 1 - labels), "loss": loss}
    return rows


def _measured(config: TrainConfig, draw: np.random.RandomState, rows: dict[str, Any]) -> dict[str, Any]:
    method = config.resolve_method()
    width = {"all": 22_000_000, "head": 770, "AB": 676_610}.get(method.train, 338_690)
    cost = {"all": 830.0, "head": 290.0, "AB": 630.0}.get(method.train, 580.0)
    chain = None
    if method.chain is not None:
        boundaries = method.chain.boundaries(STEPS)
        events = [{"step": step, "link": link} for link, step in enumerate(boundaries, 1)]
        chain = {"links": len(boundaries) + 1, "boundaries": list(boundaries), "events": events}
    right = {split: (table["label"] == table["prediction"]).mean() for split, table in rows.items()}
    metrics = {
        split: {"score": right[split], "se": 0.03, "loss": float(table["loss"].mean()), "rows": 200}
        for split, table in rows.items()
    }
    return {
        "model": {"name": config.model, "type": "bert", "parameters": 22_713_986},
        "task": {
            "name": config.task,
            "kind": "classification",
            "labels": ["negative", "positive"],
            "metric": {"name": "accuracy", "greater_is_better": True},
            "rows": {"train": 8395, "validation": 1086, "test": 200},
            "out_of_domain": ["vader/amazon", "vader/nyt"],
            "note": "split by a hash of the text: not comparable with published test figures",
        },
        "steps": STEPS,
        "learning_rate": config.learning_rate,
        "trained_parameters": width,
        "metrics": metrics,
        "generalization_error": {"value": abs(metrics["test"]["loss"] - metrics["train"]["loss"]), "se": 0.02},
        "best_step": STEPS,
        "history": _history(config, draw),
        "timings": {"median_ms": cost + 10 * draw.rand(), "se_ms": 6.0, "steps": 57},
        "kept_bytes": 4_000 + 12 * width,
        "adapter_bytes": 4 * width,
        "chain": chain,
        "wall_seconds": 50.0 + draw.rand(),
    }


def _history(config: TrainConfig, draw: np.random.RandomState) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = []
    for step in range(5, STEPS + 1, 5):
        loss = 0.35 + 0.34 * math.exp(-step / 30) + 0.01 * draw.randn()
        history.append({"step": step, "loss": loss, "learning_rate": 1e-3 * (1 - step / STEPS), "epoch": step / 262})
        if step % 15 == 0:
            history.append({"step": step, "eval_loss": loss + 0.02, "eval_score": 0.7, "epoch": step / 262})
    return history


def identity(folder: Path) -> str:
    return hashlib.sha256((folder / "run.json").read_bytes()).hexdigest()[:12]


def diagnose_runs(folders: list[Path], *, layers: int = 12, grid: int = 15) -> None:
    """A diagnosis.json in each, as of runs that were diagnosed together."""
    ids = {folder: identity(folder) for folder in folders}
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        draw = np.random.RandomState(int(ids[folder][:8], 16))
        others = [other for other in ids.values() if other != ids[folder]]
        diagnosis = {
            "schema": 1,
            "run": {"id": ids[folder], "name": folder.name},
            "command": f"lopsided diagnose {folder.name}",
            "versions": VERSIONS,
            "machine": MACHINE,
            "seconds": 12.3,
            "generalization": _generalization(record["metrics"]),
            "layers": _layers(record, draw, layers),
            "intruders": {
                "epsilons": EPSILONS,
                "top": 10,
                "all": _intruders(draw, 40, layers),
                "top_k": _intruders(draw, 6, layers),
            },
            "similarity": {
                "B": {other: round(0.1 + 0.2 * draw.rand(), 4) for other in others},
                "A": {other: round(0.6 + 0.3 * draw.rand(), 4) for other in others},
                "chance": {"B": 0.04, "A": 0.04},
            },
            "landscape": _landscape(draw, grid),
            "timeline": _timeline(record),
            "forgetting": _forgetting(draw),
            "skipped": {},
        }
        (folder / "diagnosis.json").write_text(json.dumps(diagnosis))


def _generalization(metrics: dict[str, Any]) -> dict[str, Any]:
    train = metrics["train"]["loss"]
    splits = {
        split: {"loss": m["loss"], "low": m["loss"] - 0.03, "high": m["loss"] + 0.03, "rows": m["rows"]}
        for split, m in metrics.items()
    }
    gaps = {
        split: {"value": m["loss"] - train, "low": m["loss"] - train - 0.04, "high": m["loss"] - train + 0.04}
        for split, m in metrics.items()
        if split != "train"
    }
    value = abs(gaps["test"]["value"])
    return {"splits": splits, "G": {"value": value, "low": 0.0, "high": value + 0.04}, "gaps": gaps, "draws": 2000}


def _layers(record: dict[str, Any], draw: np.random.RandomState, count: int) -> list[dict[str, Any]]:
    links = 1 if record["chain"] is None else record["chain"]["links"]
    found = []
    for number in range(count):
        values = np.sort(draw.gamma(2.0, 0.2, 64))[::-1] * np.exp(-np.arange(64) / 14)
        shares = draw.dirichlet(np.ones(links) * 5)
        kind = KINDS[number % len(KINDS)]
        found.append(
            {
                "module": f"bert.encoder.layer.{number // 6}.{kind}",
                "kind": kind,
                "d_out": 384,
                "d_in": 384,
                "delta": {
                    "spectral": float(values[0]),
                    "frobenius": float(np.linalg.norm(values)),
                    "stable_rank": float((values**2).sum() / values[0] ** 2),
                    "effective_rank": float(8 + 6 * draw.rand()),
                    "rank": 16 * links,
                    "singular_values": [float(value) for value in values],
                },
                "weight": {"spectral": 9.1, "frobenius": 30.2, "stable_rank": 11.0},
                "angles": {"top": 10, "left_degrees": [70.0] * 10, "right_degrees": [65.0] * 10},
                "energy_by_link": [float(share) for share in shares],
            }
        )
    return found


def _intruders(draw: np.random.RandomState, most: float, layers: int) -> dict[str, Any]:
    def curve() -> list[float]:
        return [round(most * epsilon ** (1.5 + draw.rand()), 2) for epsilon in EPSILONS]

    modules = [f"bert.encoder.layer.{number // 6}.{KINDS[number % len(KINDS)]}" for number in range(layers)]
    return {"mean": curve(), "by_kind": {kind: curve() for kind in KINDS}, "by_layer": {m: curve() for m in modules}}


def _landscape(draw: np.random.RandomState, n: int) -> dict[str, Any]:
    axis = np.linspace(-1, 1, n)
    a, b = np.meshgrid(axis, axis)
    tilt = draw.rand()
    loss: Any = (0.4 + 0.5 * (a - 0.1) ** 2 + (0.2 + tilt) * b**2 + 0.1 * np.cos(5 * a) * b).tolist()
    loss[0][0] = None
    path = [{"step": 15 * k, "a": 0.9 - 0.2 * k, "b": -0.7 + 0.17 * k} for k in range(5)]
    return {
        "directions": "trajectory",
        "normalised": "filters",
        "seed": 0,
        "rows": 256,
        "split": "validation",
        "axis": axis.tolist(),
        "loss": loss,
        "not_finite": 1,
        "centre": 0.41,
        "path": path,
        "explained": [0.8, 0.1],
        "line": {"t": axis.tolist(), "loss": (0.4 + 0.5 * axis**2).tolist()},
        "sharpness": {
            "radius": 0.05,
            "largest": float(0.02 + 0.03 * tilt),
            "hessian_top": float(2 + 3 * tilt),
            "hessian_residual": 0.01,
        },
    }


def _timeline(record: dict[str, Any]) -> dict[str, Any]:
    boundaries = [0, *(record["chain"]["boundaries"] if record["chain"] else []), STEPS]
    links = []
    for link, (first, last) in enumerate(itertools.pairwise(boundaries)):
        links.append(
            {
                "link": link,
                "first_step": first,
                "last_step": last,
                "loss_first": 0.69 - first / 300,
                "loss_last": 0.69 - last / 300,
                "learning_rate_first": 1e-3,
                "learning_rate_last": 5e-4,
                "norm": 1.2 / (link + 1),
                "rank": 16,
                "columns_covered": 16 * (link + 1) / 384 if record["method"]["sketch"] else None,
            }
        )
    return {"links": links, "steps": STEPS}


def _forgetting(draw: np.random.RandomState) -> dict[str, Any]:
    change = -0.02 - 0.06 * draw.rand()
    return {
        "reference": "vader/nyt",
        "metric": "accuracy",
        "better": "high",
        "base": 0.71,
        "tuned": 0.71 + change,
        "change": change,
        "low": change - 0.02,
        "high": change + 0.02,
        "rows": 300,
    }


def fabricate_study(root: Path) -> Path:
    """Four methods with three seeds, a failed and an unfinished run, and a second task; laid out as by `compare`."""
    runs = root / "study" / "runs"
    finished = [
        fabricate_run(runs / f"{method}-seed{seed}", method, seed)
        for method in ("lora", "cla", "c3la", "head")
        for seed in (0, 1, 2)
    ]
    fabricate_run(runs / "paca-seed0", "paca", 0, status="failed")
    fabricate_run(runs / "paca-seed1", "paca", 1, status="running")
    diagnose_runs([folder for folder in finished if not folder.name.startswith("head")])
    other = root / "study" / "other"
    for method in ("lora", "cla"):
        fabricate_run(other / f"{method}-nyt", method, 0, task="vader/nyt")
    return root / "study"


assert method_named("c3la").chain is not None, "the study needs a method with a chain"
