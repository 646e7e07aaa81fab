"""What each link of a run did, from its record and its factors."""

from __future__ import annotations

import pytest
import torch

from lopsided.diagnose.sections.timeline import timeline
from lopsided.diagnose.tuned_model import Update
from lopsided.method import varied
from tests.diagnose.cases import logged_run


def window(first: int) -> torch.Tensor:
    right = torch.zeros(2, 8)
    right[0, first], right[1, first + 1] = 1.0, 1.0
    return right


def test_a_chain_has_a_row_for_each_link():
    left = torch.ones(3, 2)
    links = [[Update(left, window(0)), Update(2 * left, window(2))]] * 2
    found = timeline(logged_run([2, 4]), links)
    assert found["steps"] == 6
    first, second, third = found["links"]
    assert (first["first_step"], first["last_step"]) == (0, 2)
    assert (second["first_step"], second["last_step"]) == (2, 4)
    assert (second["loss_first"], second["loss_last"]) == pytest.approx((0.7, 0.6))
    assert (second["learning_rate_first"], second["learning_rate_last"]) == pytest.approx((0.03, 0.04))
    assert (first["validation_last"], second["validation_last"]) == (None, 0.5)
    # Two layers, and six ones in each Δ.
    assert first["norm"] == pytest.approx(12**0.5)
    assert second["norm"] == pytest.approx(2 * 12**0.5)
    assert (first["columns_covered"], second["columns_covered"]) == (0.25, 0.5)
    # The best checkpoint came before the third link.
    assert (third["norm"], third["rank"], third["columns_covered"]) == (None, None, None)
    assert third["loss_last"] == pytest.approx(0.4)


def test_a_run_without_a_chain_is_one_link_and_dense_factors_cover_all():
    [only] = timeline(logged_run(None), [[Update(torch.ones(3, 2), torch.ones(2, 5))]])["links"]
    assert (only["first_step"], only["last_step"], only["rank"], only["columns_covered"]) == (0, 6, 2, 1.0)


def test_links_that_are_not_merged_have_no_update_of_their_own():
    method = varied("c3la", name="kept", chain={"merge": False})
    found = timeline(logged_run([3], method=method), [[Update(torch.ones(3, 2), window(0))]])
    assert "does not merge" in found["why"]["links.norm"]
    for link in found["links"]:
        assert (link["norm"], link["rank"], link["columns_covered"]) == (None, None, None)


def test_a_window_that_is_read_twice_counts_once():
    links = [[Update(torch.ones(3, 2), window(0))] * 2]
    first, second = timeline(logged_run([3]), links)["links"]
    assert first["columns_covered"] == second["columns_covered"] == 0.25


def test_whole_weights_that_moved_are_one_dense_update():
    [only] = timeline(logged_run(None), [[Update(torch.eye(4)[:, :3])]])["links"]
    assert (only["norm"], only["rank"], only["columns_covered"]) == (pytest.approx(3**0.5), 3, 1.0)
