"""Two processes that train together, started from test_distributed.py.

    python -m tests.distributed.worker FOLDER

They are forked from one that has done the imports and computed nothing, and have the environment that torchrun gives.
Each process writes what it ends with to FOLDER; the tests compare that with one process that saw the whole batch.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.tuner import layers_of
from tests import tiny
from tests.tuner.merging import stock

METHOD_NAMES = ("lora", "asym_b", "cla", "c3la", "rac_b", "asym_a", "bernoulli", "relora", "ipa_b", "act_cla")
RANKS, ROWS, STEPS, ADVANCE_AFTER = 2, 4, 6, (2, 4)
KINDS = ("ddp", "fsdp")


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """One global batch a step: features and what the logits should be."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        yield torch.randn(RANKS * ROWS, 10, generator=generator), torch.randn(RANKS * ROWS, 3, generator=generator)


def adapted(method: str, **options: Any) -> PeftModel:
    # A rank that two processes can't share evenly.
    if METHODS[method].chain:
        options["links"] = 3
    options |= {"target_modules": ["up", "down"], "modules_to_save": ["head"]}
    model = lopsided.adapt(tiny.mlp(), method, r=3, **options).train()
    # A process sees its own rows, and the sketch is that of all.
    lopsided.calibrate(model, [features[own_rows()] for features, _ in batches()])
    return model


def own_rows() -> slice:
    if not dist.is_initialized():
        return slice(None)
    return slice(dist.get_rank() * ROWS, (dist.get_rank() + 1) * ROWS)


def fill(model: PeftModel) -> PeftModel:
    """Noise in every factor, the same on every process, or in every process's shard of it."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in layers_of(model).values():
            for factor in layer.trained("default").values():
                mine = factor.to_local() if isinstance(factor, DTensor) else factor
                mine.add_(torch.randn(mine.shape, generator=generator), alpha=0.3)
    return model


def shard(model: PeftModel) -> PeftModel:
    """FSDP2 around each block and the rest."""
    mesh = init_device_mesh("cpu", (RANKS,))
    for block in model.base_model.model.layers:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return model


# -- a training loop of one's own ----------------------------------------------------------------------------


def train(model: PeftModel, wrapped: nn.Module, share: slice, mean: Callable[[Tensor], Tensor]) -> list[float]:
    """AdamW over all batches, of which this process sees a share, with two advances of a chain; returns losses.

    Args:
        wrapped: what is called: the model itself, or what data parallelism made of it.
        mean: a loss averaged over the processes.
    """
    chained = METHODS[model.peft_config["default"].method].chain is not None
    # Where a gradient is zero but for rounding, AdamW's step would be nothing but rounding: eps holds it down.
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2, weight_decay=0.1), eps=1e-4)
    losses = []
    for step, (features, wanted) in enumerate(batches()):
        if chained and step in ADVANCE_AFTER:
            lopsided.advance_chain(model, optimizer)
        optimizer.zero_grad()
        loss = (wrapped(features[share]).logits - wanted[share]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(mean(loss.detach())))
    return losses


def mean_over_processes(loss: Tensor) -> Tensor:
    dist.all_reduce(loss)
    return loss / RANKS


def logits(call: nn.Module) -> Tensor:
    with torch.no_grad():
        return call(**tiny.inputs(tiny.mlp())).logits


def outcome(model: PeftModel, call: nn.Module, losses: list[float]) -> dict[str, Any]:
    """What must be equal on all processes and in one alone."""
    model.eval()
    found = {"losses": losses, "logits": logits(call)}
    with model.disable_adapter():
        found["plain"] = logits(call)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    found["trained"] = {n: p.full_tensor() if isinstance(p, DTensor) else p.clone() for n, p in trained.items()}
    return found


def run(kind: str, method: str, rank: int, folder: Path) -> dict[str, Any]:
    model = adapted(method)
    wrapped = DistributedDataParallel(model) if kind == "ddp" else shard(model)
    losses = train(model, wrapped, slice(rank * ROWS, (rank + 1) * ROWS), mean_over_processes)
    # What is sharded is gathered on the first process, as accelerate does it.
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model.save_pretrained(folder / f"{kind}-{method}", state_dict=state)
    return outcome(model, wrapped, losses)


# -- a Trainer -----------------------------------------------------------------------------------------------


def rows() -> list[dict[str, Tensor]]:
    return [
        {"features": x, "labels": y} for features, wanted in batches() for x, y in zip(features, wanted, strict=True)
    ]


def mean_square(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return (outputs.logits - labels).square().sum() / num_items_in_batch


def run_trainer(folder: Path, batch_size: int) -> dict[str, Any]:
    """A chain under `transformers.Trainer`, which advances by the callback and saves on the way."""
    model = adapted("c3la")
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=batch_size,
        learning_rate=1e-2,
        adam_epsilon=1e-4,
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=3,
        seed=0,
    )
    chain = lopsided.ChainCallback()
    Trainer(model, arguments, train_dataset=rows(), compute_loss_func=mean_square, callbacks=[chain]).train()
    return {**outcome(model, model, []), "events": [(event.step, event.link) for event in chain.events]}


# -- what a sharded model is asked for besides ---------------------------------------------------------------


def sharded_with_links_in_it() -> dict[str, Any]:
    """A chain whose links were merged into the weights before these were sharded, as after a resume."""
    model = fill(adapted("c3la")).eval()
    lopsided.advance_chain(model)
    before = logits(fill(model))
    shard(model)
    found = {"before": before, "sharded": logits(model)}
    with model.disable_adapter():
        found["plain"] = logits(model)
    found["enabled"] = logits(model)
    lopsided.advance_chain(model)
    return {**found, "advanced": logits(model)}


def sharded_stock_lora() -> dict[str, Any]:
    """A stock LoRA model in bfloat16, sharded: its weights, whole, before, inside and after an exact merge."""
    model = stock.three_layers(bias="none")
    found = {"before": stock.base_weights(model)}
    with lopsided.exact_merge(model):
        found["expected"] = stock.base_weights(model)
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    with lopsided.exact_merge(model), lopsided.exact_merge(model):
        found["inside"] = whole_weights(model)
    found["after"] = whole_weights(model)
    lopsided.make_merges_exact(model)
    model.merge_adapter()
    found["merged"] = whole_weights(model)
    model.unmerge_adapter()
    return {**found, "unmerged": whole_weights(model)}


def whole_weights(model: PeftModel) -> dict[str, Tensor]:
    named = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in model.named_parameters()
        if "lora_" not in name
    }
    assert all(isinstance(parameter, DTensor) for parameter in named.values())
    return {name: parameter.detach().full_tensor() for name, parameter in named.items()}


def refused(model: PeftModel, call: Callable[[], Any]) -> dict[str, Any]:
    """A call that a sharded weight forbids: what it says, and what the model computes afterwards."""
    before = logits(shard(model))
    try:
        call()
    except LopsidedError as error:
        return {"says": str(error), "before": before, "after": logits(model)}
    return {"says": "", "before": before, "after": logits(model)}


def run_sharded(rank: int, folder: Path) -> dict[str, Any]:
    merging = fill(adapted("c3la")).eval()
    written = fill(adapted("c3la", merge_links=True)).eval()
    found = {
        "merge": refused(merging, lambda: merging.merge_adapter()),
        "merge_links": refused(written, lambda: lopsided.advance_chain(written)),
        "links": sharded_with_links_in_it(),
        "exact": sharded_stock_lora(),
    }
    model = fill(adapted("rac_a")).eval()
    lopsided.advance_chain(shard(model))
    found["saved"] = logits(fill(model))
    model.save_pretrained(folder / "whole", is_main_process=rank == 0)
    lopsided.to_lora(model, folder / f"lora{rank}")
    return found


def train_together(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
    os.environ.update({"WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)})
    # A file, and not the port, is where the processes meet.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    torch.save(run_trainer(folder / "trainer", ROWS), folder / f"trainer-{rank}.pt")
    for kind in KINDS:
        for method in METHOD_NAMES:
            torch.save(run(kind, method, rank, folder), folder / f"{kind}-{method}-{rank}.pt")
    torch.save(run_sharded(rank, folder), folder / f"sharded-{rank}.pt")
    dist.destroy_process_group()


def main(folder: Path) -> int:
    """Return how many processes ended badly; once one has, the others would wait for it, and are ended."""
    processes = multiprocessing.get_context("fork")
    started = [processes.Process(target=train_together, args=(rank, folder)) for rank in range(RANKS)]
    for process in started:
        process.start()
    while any(process.is_alive() for process in started):
        multiprocessing.connection.wait([process.sentinel for process in started if process.is_alive()])
        if any(process.exitcode for process in started):
            for process in started:
                process.terminate()
    return sum(process.exitcode != 0 for process in started)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
