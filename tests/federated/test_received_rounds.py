"""What a client has received stands after a restart, and what is damaged is asked for again."""

from __future__ import annotations

import pytest
import torch

from lopsided import LopsidedError
from lopsided.federated.received_rounds import ReceivedRounds


def filled(folder, links):
    rounds = ReceivedRounds(folder, run="a")
    for number, link in enumerate(links, 1):
        rounds.add(number, link, {"w": torch.full((2,), float(number))})
    return rounds


def test_a_chain_keeps_every_round_and_one_link_its_last(tmp_path):
    chain, flat = filled(tmp_path / "chain", [0, 1, 2]), filled(tmp_path / "flat", [0, 0, 0])
    assert [each.number for each in chain.lasting] == [1, 2, 3]
    assert [each.number for each in flat.lasting] == [3]
    assert len(list((tmp_path / "flat").glob("*.safetensors"))) == 1
    again = ReceivedRounds(tmp_path / "flat", run="a")
    assert again.held == 3
    assert torch.equal(again.tensors(3)["w"], torch.tensor([3.0, 3.0]))


@pytest.mark.parametrize(("links", "left"), [([0, 1, 2], 1), ([0, 0, 0], 3)])
def test_what_comes_after_a_damaged_round_is_asked_for_again(tmp_path, links, left):
    filled(tmp_path, links)
    damaged = tmp_path / "round-00002.safetensors"
    if damaged.exists():
        damaged.write_bytes(b"0" * damaged.stat().st_size)
    assert ReceivedRounds(tmp_path, run="a").held == left
    last = tmp_path / "round-00003.safetensors"
    last.unlink()
    assert ReceivedRounds(tmp_path, run="a").held == (1 if links[1] else 0)


def test_rounds_of_another_run_are_deleted_and_a_gap_is_refused(tmp_path):
    rounds = filled(tmp_path, [0, 1])
    with pytest.raises(LopsidedError, match="received the average of round 4, expected that of round 3"):
        rounds.add(4, 3, {"w": torch.ones(2)})
    assert ReceivedRounds(tmp_path, run="b").held == 0
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"run": "a", "rounds": [{"number": 1}]}',
        '{"run": "a", "rounds": [[1, 0, "x"]]}',
        '{"run": "a", "rounds": [{"number": "../1", "link": 0, "sha256": "x"}]}',
        '{"run": "a", "rounds": 3}',
    ],
)
def test_of_a_damaged_index_all_is_asked_for_again(tmp_path, text):
    filled(tmp_path, [0, 1])
    (tmp_path / "received.json").write_text(text)
    rounds = ReceivedRounds(tmp_path, run="a")
    assert rounds.held == 0
    rounds.add(1, 0, {"w": torch.ones(2)})
    assert ReceivedRounds(tmp_path, run="a").held == 1
