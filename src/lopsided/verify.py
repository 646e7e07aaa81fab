"""Checks of a saved adapter, run or model that do not trust it: `lopsided verify`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel

from lopsided.errors import LopsidedError, LopsidedWarning, unknown
from lopsided.files.fingerprint import check_line
from lopsided.files.model_card import CARD
from lopsided.files.untrusted import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_finite_file,
    check_shards,
    read_json,
    weights_in,
)
from lopsided.method import FormName
from lopsided.models.adapter_base import peft_config, put_adapter
from lopsided.models.load import load_base
from lopsided.runs import RECORD, Run, read_run
from lopsided.runs.saved_forms import HEAD_FILE
from lopsided.serving import SERVERS, probe_folder
from lopsided.serving.adapter_source import open_source
from lopsided.serving.export_record import RECORD as EXPORT_RECORD
from lopsided.serving.export_record import ExportRecord, changed_files, read_record
from lopsided.serving.own_file import read_own_file
from lopsided.serving.probe_file import PROBE, read_probe
from lopsided.serving.stock_adapter import read_fields, read_stock
from lopsided.tuner import LopsidedConfig, layers_of

# What was checked, and what was found.
Checks = dict[str, str]


def verify(folder: str | Path, base: str | None = None, *, allow_base_mismatch: bool = False) -> dict[str, Any]:
    """Check an adapter's folder, a run directory, or a folder with a whole model's weights.

    Args:
        base: for an adapter, the base model: `embedded`, `smollm2`, a folder or a Hugging Face name. With it the
            fingerprints are compared, the sketches drawn again, and the adapter is loaded.

    Returns:
        `folder`; `kind`: "adapter", "run" or "model"; `checks`: what was checked and found; `notes`: warnings.

    Raises:
        LopsidedError: for the first thing that is wrong.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", LopsidedWarning)
        kind, checks = _verify(Path(folder), base, allow_base_mismatch)
    return {"folder": str(folder), "kind": kind, "checks": checks, "notes": [str(w.message) for w in caught]}


def _verify(folder: Path, base: str | None, allow_base_mismatch: bool) -> tuple[str, Checks]:
    if not folder.is_dir():
        raise LopsidedError(f"{folder} is no folder; expected a saved adapter, a run or a model; check the path")
    if (folder / ADAPTER_CONFIG).exists() or (folder / ADAPTER_WEIGHTS).exists():
        return "adapter", _verify_adapter(folder, base, allow_base_mismatch)
    run = read_run(folder)
    if run is not None:
        return "run", _verify_run(run, base, allow_base_mismatch)
    if not (folder / "config.json").exists():
        raise LopsidedError(
            f"{folder} holds no {ADAPTER_CONFIG}, no {RECORD} and no config.json; expected a saved adapter, a run or a "
            "model; check the path"
        )
    if base is not None:
        raise LopsidedError(f"{folder} holds a whole model, got --base {base}; leave --base out")
    return "model", _verify_model(folder)


def _verify_run(run: Run, base: str | None, allow_base_mismatch: bool) -> Checks:
    folder, method = run.folder, run.method
    if not run.is_finished:
        raise LopsidedError(
            f"{folder} holds a run that is {run.status!r}; expected a finished one; go on with --resume"
        )
    if base is not None and not method.is_adapter:
        raise LopsidedError(
            f"{folder} holds a run of method {method.name!r}, which has no adapter of ours; leave --base out"
        )
    saved = folder / "adapter"
    # What each form of a run's result is checked for.
    checks: dict[FormName, Callable[[], Checks]] = {
        "adapter": lambda: _verify_adapter(saved, base, allow_base_mismatch),
        "model": lambda: _verify_model(saved),
        "head": lambda: {"head": _finite(saved / HEAD_FILE)},
        "peft": lambda: _verify_baseline(saved),
    }
    return {"run": f"finished, method {method.name}"} | checks[method.side.saved_as]()


def _verify_baseline(folder: Path) -> Checks:
    config = read_json(folder / ADAPTER_CONFIG)
    return {
        "configuration": f"of PEFT, type {config.get('peft_type')!r:.40}",
        "tensors": _finite(weights_in(folder)),
        "hashes": "none: PEFT's files hold none",
    }


def _verify_model(folder: Path) -> Checks:
    read_json(folder / "config.json")
    files = check_shards(folder)
    tensors = "; ".join(f"{path.name}: {_finite(path)}" for path in files)
    return {
        "files": f"{len(files)}, safetensors",
        "tensors": tensors,
        "hashes": "none: a whole model's files hold none",
    }


def _finite(path: Path) -> str:
    tensors, numbers = check_finite_file(path)
    return f"{tensors} tensors, {numbers} numbers, all finite"


def _verify_adapter(folder: Path, base: str | None, allow_base_mismatch: bool) -> Checks:
    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind == "LORA":
        return _verify_lora(folder, base)
    if kind != "LOPSIDED":
        raise LopsidedError(
            f"{folder} holds an adapter of type {kind!r:.40}, expected 'LOPSIDED' or 'LORA'; check the path"
        )
    file = read_own_file(folder)
    config, manifest = file.config, file.manifest
    if manifest is None or not file.is_pefts:
        raise LopsidedError(
            f"{folder} holds no manifest, so damage to it can't be seen; expected an adapter saved by this version; "
            "load it and save it again"
        )
    for line in config.base or ():
        check_line(line)
    checks = {
        "configuration": f"schema {config.schema}, {config.method}, r={config.r}, link {file.link}",
        "tensors": f"{len(file.tensors)} in {len(file.layers)} layers, safetensors, all finite",
        "hashes": f"{len(manifest.tensors)}, all equal",
        "written by": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        "base": f"{len(config.base or ())} fingerprints; pass --base to compare them",
    }
    if base is not None:
        checks["base"] = _verify_base(folder, config, base, allow_base_mismatch)
    return checks


def _verify_lora(folder: Path, base: str | None) -> Checks:
    """Check an adapter of stock LoRA, and that an export is as it was written and as its server takes it."""
    fields, _ = read_fields(folder)
    record = read_record(folder)
    checks = {"configuration": f"LoRA of PEFT, r={fields.r}"}
    if record is None:
        # Of whatever kind PEFT's LoRA has; only what is plain has factors that could be compared.
        checks |= {"tensors": _finite(weights_in(folder)), "hashes": "none: PEFT's files hold none"}
    else:
        checks |= _verify_export(folder, record)
    if (folder / PROBE).exists():
        probe = read_probe(folder / PROBE)
        checks["probe"] = f"{len(probe.prompts)} prompts, {probe.kind}, made on {probe.base}"
    if base is None:
        checks["base"] = "no fingerprints: PEFT's files hold none"
    elif (folder / PROBE).exists():
        verdict = probe_folder(folder, base)
        if verdict.word != "adapter":
            raise LopsidedError(
                f"{folder} on {base}: {verdict.word}: {verdict.why}; expected the adapter's answers; name the base "
                "that it was exported for"
            )
        checks["base"] = f"{base}: the adapter loads, and answers its probe as expected"
    else:
        source = open_source(folder, base)
        put_adapter(source.load(), folder, peft_config(folder), base)
        checks["base"] = f"{base}: the adapter loads"
    return checks


def _verify_export(folder: Path, record: ExportRecord) -> Checks:
    changed = changed_files(folder, record)
    # A card is there to be written to.
    if damaged := [name for name in changed if name != CARD]:
        raise LopsidedError(
            f"{folder / damaged[0]} differs from its hash in {EXPORT_RECORD}, or is gone; expected the export as it "
            "was written; export it again"
        )
    if record.server not in SERVERS:
        raise LopsidedError(unknown(f"{folder}: server", record.server, SERVERS))
    server, tensors, copied = SERVERS[record.server], _finite(weights_in(folder)), not record.errors
    if not copied:
        updates = read_stock(folder)
        server.check_modules(updates.layers, updates.shaped, transposed=updates.transposed)
        server.check_others(updates.others)
        tensors += f", factors of {len(updates.layers)} layers up to rank {updates.rank}"
        if updates.rank != record.rank or (server.one_rank and len({u.rank for u in updates.layers.values()}) != 1):
            raise LopsidedError(f"{folder} has ranks other than {EXPORT_RECORD} says; export it again")
    return {
        "tensors": tensors,
        "hashes": f"{len(record.files) - (CARD in changed)} files, all equal",
        "export": f"for {server.title}, of {record.source}, rank {record.source_rank} as rank {record.rank}, relative "
        f"error {record.error:.3g}",
        "written by": f"lopsided {record.lopsided}",
    }


def _verify_base(folder: Path, config: LopsidedConfig, base: str, allow_base_mismatch: bool) -> str:
    # A head is not the base's: another number of labels is no other base.
    adapted = PeftModel.from_pretrained(
        load_base(config, base), str(folder), allow_base_mismatch=allow_base_mismatch, ignore_mismatched_sizes=True
    )
    layers = layers_of(adapted)
    dtypes = Counter(layer.base_weight.fingerprint().split(" ")[1] for layer in layers.values())
    found = ", ".join(f"{count} layers in {dtype}" for dtype, count in dtypes.items())
    return f"{base}: {found}, {'not compared' if allow_base_mismatch else 'compared'}; the adapter loads"
