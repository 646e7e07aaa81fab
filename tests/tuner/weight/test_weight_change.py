"""Gains next to ΔW, as DoRA has them, come out again to the last bit; float64 factors lose nothing on their way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lopsided.tuner.forward.compute import Term
from lopsided.tuner.weight.delta import Part
from lopsided.tuner.weight.exact_product import MANY, ExactProduct, in_single_precision
from lopsided.tuner.weight.undo import Undo
from lopsided.tuner.weight.weight_change import norms
from tests.tuner.weight.test_undo import same, sum_of, tiles_of, writes

# Gains that leave nothing of a row, that overflow, or that are none.
GAINS = (0.0, -0.0, 1.0, -1.0, 0.97, 1.0321, 3e-39, 1e30, float("inf"), float("nan"))


@st.composite
def gained(draw):
    """A write in which some parts have a gain per row or per column."""
    weight, parts, entries = draw(writes())
    for i, part in enumerate(parts):
        dim = draw(st.sampled_from((0, 1, None)))
        if dim is not None:
            count = weight.shape[1 - dim]
            numbers = draw(st.lists(st.sampled_from(GAINS), min_size=count, max_size=count))
            gain = torch.tensor(numbers, dtype=torch.float32).view((-1, 1) if dim == 1 else (1, -1))
            parts[i] = replace(part, gain=gain)
    return weight, parts, entries


@given(gained())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_gains_come_out_bit_for_bit(case):
    weight, parts, entries = case
    original, way_back = weight.clone(), Undo()
    with tiles_of(entries):
        way_back.write(weight, parts, "layer")
        assert same(way_back.original(weight), original)
        way_back.restore(weight)
    assert same(weight, original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("entries", [7, 10**6])
def test_gains_follow_their_part(dtype, entries):
    """g₂ ⊙ (g₁ ⊙ (W0 + Δ₁) + Δ₂) + Δ₃, where the gains are per row and per column."""
    generator = torch.Generator().manual_seed(0)
    numbers = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    weight = numbers(9, 5).to(dtype)
    one, two, three = (Part((Term(numbers(2, 5), numbers(9, 2)),), s) for s in (0.5, 0.1, 0.3))
    rows, columns = numbers(9, 1), numbers(1, 5)
    expected = rows.double() * (weight.double() + sum_of([one], weight))
    expected = columns.double() * (expected + sum_of([two], weight)) + sum_of([three], weight)
    with tiles_of(entries):
        Undo().write(weight, [replace(one, gain=rows), replace(two, gain=columns), three], "layer")
    eps = max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(weight.double(), expected, rtol=eps, atol=4 * eps)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("entries", [7, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_norms_are_those_of_the_sum(dtype, entries, dim, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 9, generator=generator).to(dtype)
    part = Part((Term(torch.randn(2, 9, generator=generator), torch.randn(300, 2, generator=generator)),), 0.3)
    monkeypatch.setattr("lopsided.tuner.weight.weight_change.tile_entries", lambda device: entries)
    expected = torch.linalg.norm(weight.double() + sum_of([part], weight), dim=dim, keepdim=True)
    torch.testing.assert_close(norms(weight, [part], dim), expected, rtol=1e-6, atol=0)


@given(st.integers(0, 2**20), st.sampled_from((1, 3, 40)), st.sampled_from((1e-12, 1.0, 1e12)))
@settings(max_examples=50, deadline=None)
def test_float64_factors_lose_next_to_nothing(seed, r, size):
    generator = torch.Generator().manual_seed(seed)
    # Entries, columns and rows of unlike sizes.
    B, A = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((7, r), (r, 6)))
    B, A = B * torch.logspace(-3, 3, r, dtype=torch.float64) * size, A * torch.logspace(2, -2, r).double()[:, None]
    pairs = in_single_precision(B, A)
    assert {factor.dtype for pair in pairs for factor in pair} == {torch.float32}
    everything = slice(None)
    total = sum(ExactProduct([pair], MANY.bits, kept=True).tile(everything, everything) for pair in pairs)
    reach = B.abs() @ A.abs()
    assert ((total - B @ A).abs() <= 2.0**-42 * reach.max()).all()
    single = ExactProduct([(B.float(), A.float())], MANY.bits, kept=True).tile(everything, everything)
    assert (single - B @ A).abs().max() > 100 * (total - B @ A).abs().max()


def test_narrower_factors_pass_as_they_are():
    B, A = torch.randn(3, 2, dtype=torch.bfloat16), torch.randn(2, 4)
    [(b, a)] = in_single_precision(B, A)
    assert b is B
    assert a is A
