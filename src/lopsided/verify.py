"""Checks of a saved adapter, run or model that do not trust it: `lopsided verify`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.files.fingerprint import check_line
from lopsided.files.manifest import KEY, PEFT_PREFIX, unseal
from lopsided.files.patterns import check_patterns
from lopsided.files.untrusted import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_shards,
    open_tensors,
    read_json,
    weights_in,
)
from lopsided.finite import check_finite
from lopsided.method import FormName
from lopsided.models.load import load_base
from lopsided.runs import RECORD, Run, read_run
from lopsided.runs.saved_forms import HEAD_FILE
from lopsided.tuner import LopsidedConfig, layers_of

# What was checked, and what was found.
Checks = dict[str, str]


def verify(folder: Path, base: str | None = None, *, allow_base_mismatch: bool = False) -> dict[str, Any]:
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
        kind, checks = _verify(folder, base, allow_base_mismatch)
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
    numbers = 0
    with open_tensors(path) as file:
        names = list(file.keys())
        for name in names:
            tensor = file.get_tensor(name)
            numbers += tensor.numel()
            check_finite(f"{path}: {name}", tensor, fix="get the file again")
    return f"{len(names)} tensors, {numbers} numbers, all finite"


def _verify_adapter(folder: Path, base: str | None, allow_base_mismatch: bool) -> Checks:
    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind != "LOPSIDED":
        raise LopsidedError(f"{folder} holds an adapter of type {kind!r:.40}, expected 'LOPSIDED'; check the path")
    config = LopsidedConfig.from_pretrained(str(folder))
    weights = weights_in(folder)
    with open_tensors(weights):
        saved = load_file(weights)
    manifest, tensors = unseal(saved)
    if manifest is None or f"{PEFT_PREFIX}{KEY}" not in saved:
        raise LopsidedError(
            f"{folder} holds no manifest, so damage to it can't be seen; expected an adapter saved by this version; "
            "load it and save it again"
        )
    manifest.check_tensors(tensors)
    modules = sorted({name.rpartition(".lopsided_")[0].removeprefix(PEFT_PREFIX) for name in tensors} - {""})
    check_patterns(config.patterns(), modules)
    manifest.check_owner(config.as_method(), map(config.rank_and_scale, modules), ADAPTER_CONFIG)
    _check_finite(tensors)
    for line in config.base or ():
        check_line(line)
    link = max(len(tensor) for name, tensor in tensors.items() if name.endswith(("_checksum", ".checksum"))) - 1
    checks = {
        "configuration": f"schema {config.schema}, {config.method}, r={config.r}, link {link}",
        "tensors": f"{len(tensors)} in {len(modules)} layers, safetensors, all finite",
        "hashes": f"{len(manifest.tensors)}, all equal",
        "written by": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        "base": f"{len(config.base or ())} fingerprints; pass --base to compare them",
    }
    if base is not None:
        checks["base"] = _verify_base(folder, config, base, allow_base_mismatch)
    return checks


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        check_finite(name, tensor, fix="go back to an earlier save")


def _verify_base(folder: Path, config: LopsidedConfig, base: str, allow_base_mismatch: bool) -> str:
    # A head is not the base's: another number of labels is no other base.
    adapted = PeftModel.from_pretrained(
        load_base(config, base), str(folder), allow_base_mismatch=allow_base_mismatch, ignore_mismatched_sizes=True
    )
    layers = layers_of(adapted)
    dtypes = Counter(layer.base_weight.fingerprint().split(" ")[1] for layer in layers.values())
    found = ", ".join(f"{count} layers in {dtype}" for dtype, count in dtypes.items())
    return f"{base}: {found}, {'not compared' if allow_base_mismatch else 'compared'}; the adapter loads"
