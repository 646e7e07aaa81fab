"""Low-rank updates against the matrices that they stand for, which the library never forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lopsided.serving.low_rank import LowRankUpdate, relative


def update(d_out, d_in, rank, seed=0, decay=1.0):
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)
    return LowRankUpdate(A, B * decay ** torch.arange(rank))


def dense(update):
    return (update.B.double() @ update.A.double()).numpy()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.floats(0.3, 1.0))
def test_truncation_is_the_nearest_and_its_error_is_the_singular_values_that_are_left_out(d_out, d_in, rank, to, decay):
    whole = update(d_out, d_in, rank, decay=decay)
    small = whole.truncated(to)
    assert small.A.shape == (to, d_in)
    assert small.B.shape == (d_out, to)
    values = np.linalg.svd(dense(whole), compute_uv=False)
    left = np.linalg.norm(values[to:])
    assert np.linalg.norm(dense(whole) - dense(small)) == pytest.approx(left, abs=1e-5 * values[0])
    assert whole.distance(small) == pytest.approx(np.linalg.norm(dense(whole) - dense(small)), abs=1e-9 * values[0])
    assert whole.norm() == pytest.approx(np.linalg.norm(dense(whole)), rel=1e-9)


@pytest.mark.parametrize("to", [3, 4, 9])
def test_padding_keeps_every_bit(to):
    whole = update(6, 5, 3)
    padded = whole.padded(to)
    assert padded.rank == to
    assert torch.equal(padded.A[:3], whole.A)
    assert torch.equal(padded.B[:, :3], whole.B)
    assert not padded.A[3:].any()
    assert not padded.B[:, 3:].any()


def test_links_that_nearly_cancel_keep_what_is_left():
    # Two links that undo each other but for a millionth, as when a chain walks back over a window.
    first = update(20, 16, 2)
    small = update(20, 16, 1, seed=1)
    chain = LowRankUpdate(torch.cat([first.A, first.A, small.A * 1e-3]), torch.cat([first.B, -first.B, small.B], dim=1))
    found = chain.truncated(1)
    np.testing.assert_allclose(dense(found), dense(small) * 1e-3, atol=1e-8)


def test_an_update_of_nothing_has_no_error():
    nothing = LowRankUpdate(torch.randn(4, 5), torch.zeros(6, 4))
    assert nothing.truncated(2).norm() == 0
    assert relative([nothing.distance(nothing.truncated(2))], [nothing.norm()]) == 0


def test_the_total_weighs_layers_by_their_norms():
    a, b = update(6, 5, 4), update(7, 8, 4, seed=2)
    pairs = [(each, each.truncated(2)) for each in (a, b)]
    total = relative([one.distance(other) for one, other in pairs], [one.norm() for one, _ in pairs])
    error = np.sqrt(sum(np.linalg.norm(dense(one) - dense(other)) ** 2 for one, other in pairs))
    assert total == pytest.approx(error / np.sqrt(sum(np.linalg.norm(dense(one)) ** 2 for one, _ in pairs)), rel=1e-6)
