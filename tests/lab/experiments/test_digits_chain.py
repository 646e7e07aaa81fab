"""The batched networks against torch's own modules, the merges, and the experiment's order on a few epochs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lopsided import LopsidedError
from lopsided.lab import Request
from lopsided.lab.batched_mlp import Factors, FreshAdamW, Networks, Recipe, logits, merge, new_networks, train
from lopsided.lab.digit_halves import built_in, from_folder
from lopsided.lab.experiments.digits_chain import (
    EXPERIMENT,
    Way,
    adapt_all,
    pretrain,
    set_sketch,
    ways,
)
from lopsided.lab.idx import NAMES
from lopsided.method.dense import Gaussian
from lopsided.method.selectors import Window

WIDTHS = (6, 5, 4, 3)


def some_factors(runs: int) -> Factors:
    draw = torch.Generator().manual_seed(3)
    shapes = list(zip(WIDTHS[1:], WIDTHS[:-1]))
    return Factors(
        A=[torch.randn(runs, 1, d_in, generator=draw) for _, d_in in shapes],
        B=[torch.randn(runs, d_out, 1, generator=draw) for d_out, _ in shapes],
    )


def module_of(networks: Networks, run: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for W, b in zip(networks.W, networks.b):
        linear = nn.Linear(W.shape[2], W.shape[1])
        linear.weight.data, linear.bias.data = W[run].clone(), b[run].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_the_batch_computes_what_each_network_would():
    networks, x = new_networks(WIDTHS, [0, 1, 2]), torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0))
    out = logits(x, networks)
    for run in range(3):
        torch.testing.assert_close(out[run], module_of(networks, run)(x[run]))


def test_a_merge_keeps_the_function_of_the_runs_that_merge_and_no_other_changes():
    networks, factors = new_networks(WIDTHS, [0, 1]), some_factors(2)
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    before, plain = logits(x, networks, factors), logits(x, networks)
    merge(networks, factors, torch.tensor([True, False]))
    after = logits(x, networks)
    torch.testing.assert_close(after[0], before[0])
    assert torch.equal(after[1], plain[1])
    assert not torch.allclose(after[0], plain[0])


def test_training_is_torch_adamw_on_each_network():
    """Full fine-tuning of a batch against modules that see the same batches."""
    draw = torch.Generator().manual_seed(5)
    x, y = torch.randn(12, 6, generator=draw), torch.randint(0, 3, (12,), generator=draw)
    rows, recipe = torch.stack([torch.arange(12), torch.arange(12).flip(0)]), Recipe(lr=0.01, batch=4, epochs=3)
    networks = new_networks(WIDTHS, [0, 1])
    modules = [module_of(networks, run) for run in range(2)]
    optimizers = [torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.01) for module in modules]
    train(networks, None, [torch.ones(2, dtype=torch.bool)] * 6, recipe, x=x, y=y, rows=rows, seed=9)
    shuffle = torch.Generator().manual_seed(9)
    for _ in range(3):
        order = rows.gather(1, torch.rand(2, 12, generator=shuffle).argsort(dim=1))
        for start in range(0, 12, 4):
            for run in range(2):
                batch = order[run, start : start + 4]
                optimizers[run].zero_grad()
                nn.functional.cross_entropy(modules[run](x[batch]), y[batch]).backward()
                optimizers[run].step()
    for run in range(2):
        torch.testing.assert_close(networks.W[0][run], modules[run][0].weight.data, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(networks.b[2][run], modules[run][4].bias.data, rtol=1e-4, atol=1e-5)


def test_the_optimizer_restarts_in_the_chosen_runs_and_leaves_masked_ones_alone():
    start = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    p, g = start.clone(), torch.ones(3, 2)
    optimizer = FreshAdamW([p], [torch.tensor([True, True, False])], lr=0.1, weight_decay=0.0)
    optimizer.step([g])
    optimizer.step([-g])
    assert torch.equal(p[2], start[2])
    before = p.clone()
    optimizer.restart(torch.tensor([True, False, False]))
    optimizer.step([g])
    # A first step of Adam is as long as the learning rate; a third one, after two that disagree, is not.
    torch.testing.assert_close(before[0] - p[0], torch.full((2,), 0.1))
    assert (before[1] - p[1]).abs().max() < 0.09


def test_links_begin_every_few_epochs():
    def links(every):
        way = Way(name="", side="B", both=False, every=every, sketch=Gaussian())
        return [way.link_begun(epoch) for epoch in range(5)]

    assert links(2) == [None, None, 1, None, 2]
    assert links(1) == [None, 1, 2, 3, 4]
    assert links(None) == [None] * 5


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_sketch_goes_to_the_side_that_is_not_trained_from_zero(side):
    factors = some_factors(2)
    others = [each[1].clone() for each in factors.parameters]
    way = Way(name="", side=side, both=False, every=1, sketch=Window("cyclic"))
    set_sketch(factors, 0, way, seed=0, link=1)
    zero, drawn = (factors.B, factors.A) if side == "B" else (factors.A, factors.B)
    for cleared, sketched in zip(zero, drawn):
        assert not cleared[0].any()
        assert sketched[0].flatten().tolist() == [float(i == 1) for i in range(sketched[0].numel())]
    for each, other in zip(factors.parameters, others):
        assert torch.equal(each[1], other)


def test_only_what_a_method_trains_moves_and_the_base_waits_for_a_merge(monkeypatch):
    """Asymmetric LoRA's weights move by B·A with the first draw of A; LoRA's do not."""
    seeds = [0]
    digits = built_in(seeds)
    base = new_networks((64, 64, 64, 5), seeds)
    chosen = [Way(name="", side="B", both=both, every=None, sketch=Gaussian(std=1.0)) for both in (False, True)]
    merged = []
    kept = lambda networks, *rest: merged.append(networks) or torch.ones(2)  # noqa: E731
    monkeypatch.setattr("lopsided.lab.experiments.digits_chain.accuracy", kept)
    adapt_all(base, digits, Recipe(lr=2e-2, batch=64, epochs=1), seeds, chosen)
    factors = Factors(A=[torch.zeros(1, 1, 64) for _ in range(3)], B=[torch.zeros(1, W.shape[1], 1) for W in base.W])
    aligned = []
    for layer in range(3):
        set_sketch(factors, 0, chosen[0], seed=0, link=0)
        A = factors.A[layer][0, 0] / factors.A[layer].norm()
        for run in range(2):
            moved = merged[0].W[layer][run] - base.W[layer][0]
            assert moved.norm() > 1e-3
            aligned.append(float((moved @ A).norm() / moved.norm()))
    assert aligned[0::2] == pytest.approx([1.0] * 3, abs=1e-4)
    assert all(value < 0.999 for value in aligned[1::2])


def test_pretraining_learns_the_low_digits_and_the_split_keeps_rows_apart():
    seeds = [0, 1]
    digits = built_in(seeds)
    for half in (0, 1):
        for seed in seeds:
            train_rows, test_rows = set(digits.train[half][seed].tolist()), set(digits.test[half][seed].tolist())
            assert not train_rows & test_rows
    assert set(digits.train[0].flatten().tolist()).isdisjoint(digits.train[1].flatten().tolist())
    assert not torch.equal(digits.test[1][0].sort().values, digits.test[1][1].sort().values)
    networks = pretrain(digits, Recipe(lr=2e-3, batch=32, epochs=4), seeds)
    mine = digits.test[0][0]
    right = logits(digits.x[mine][None], networks.take([0]))[0].argmax(dim=1) == digits.y[mine]
    assert right.double().mean() > 0.9


def test_a_folder_of_idx_files_is_split_by_its_own_parts(tmp_path):
    write_folder(tmp_path)
    digits = from_folder(tmp_path, [0, 1])
    assert digits.x.shape == (30, 4)
    assert float(digits.x.max()) == pytest.approx(29 / 255)
    assert digits.train[1][1].tolist() == [i for i in range(20) if i % 10 >= 5]
    assert digits.test[0][0].tolist() == [i for i in range(20, 30) if i % 10 < 5]
    assert digits.y[digits.test[1][0]].tolist() == [0, 1, 2, 3, 4]


def write_folder(folder) -> None:
    images = np.repeat(np.arange(30, dtype=np.uint8), 4).reshape(30, 2, 2)
    labels = (np.arange(30) % 10).astype(np.uint8)
    for part, rows in (("train", slice(0, 20)), ("test", slice(20, 30))):
        for name, numbers in zip(NAMES[part], (images[rows], labels[rows])):
            head = bytes([0, 0, 8, numbers.ndim]) + b"".join(size.to_bytes(4, "big") for size in numbers.shape)
            (folder / name).write_bytes(head + numbers.tobytes())


def test_a_folder_that_is_not_idx_is_refused_in_one_line(tmp_path):
    with pytest.raises(LopsidedError, match="MNIST's IDX files") as caught:
        EXPERIMENT.run(Request(data=tmp_path, seeds=1))
    assert "\n" not in str(caught.value)


def test_every_method_with_merges_comes_in_every_period():
    found = [(way.name, way.side, way.every) for way in ways()]
    assert len(found) == len(set(found)) == 28
    assert ("rac", "A", 2) in found
    assert ("c3la", "B", 10) in found
