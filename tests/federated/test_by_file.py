"""A federation over the files of a folder: each is a client, with its name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from lopsided import LopsidedError
from lopsided.federated.client_rows import own_rows
from lopsided.federated.federation import FederationConfig
from lopsided.federated.flat_settings import flat, from_flat
from lopsided.federated.round_scores import RoundScores
from tests.federated.local_grid import LocalGrid
from tests.federated.test_federation import assert_same_weights, configured, federated, replayed
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def clinics(words, tmp_path):
    """The rows of `words` in three files of 16, 32 and 16, with their validation and test."""
    folder = tmp_path / "clinics"
    folder.mkdir()
    lines = {split: Path(words, f"{split}.jsonl").read_text().splitlines() for split in ("train", "validation", "test")}
    train = lines.pop("train")
    parts = {"clinic_a": train[:16], "clinic_b": train[16:48], "clinic_c": train[48:], **lines}
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n")
    return str(folder)


def test_each_file_is_a_client_and_the_log_replays(tmp_path, bert, clinics):
    config = configured(tmp_path / "run", bert, clinics, rounds=1, clients=3, partition="file")
    run = federated(config, LocalGrid(tmp_path / "nodes", 3))
    [entry] = RoundScores.read(run.folder).rounds
    assert {name: client.examples for name, client in entry.clients.items()} == {
        "clinic_a": 16,
        "clinic_b": 32,
        "clinic_c": 16,
    }
    # 32 rows of validation in the same proportions.
    assert [client.rows for client in entry.clients.values()] == [8, 16, 8]
    replayed(config).save_pretrained(tmp_path / "adapter")
    assert_same_weights(tmp_path, run.folder)


def test_another_number_of_clients_ends_it_in_a_line(tmp_path, bert, clinics):
    config = configured(tmp_path / "run", bert, clinics, rounds=1, partition="file")
    with pytest.raises(LopsidedError, match=r"2 clients, .* 3 files \(clinic_a, clinic_b, clinic_c\).*--clients 3"):
        federated(config, LocalGrid(tmp_path / "nodes", 2))


def test_a_task_without_files_ends_it_in_a_line(tmp_path, bert, words):
    config = configured(tmp_path / "run", bert, words, rounds=1, partition="file")
    with pytest.raises(LopsidedError, match=r"received train\.jsonl, which names no client; write a file per client"):
        federated(config, LocalGrid(tmp_path / "nodes", 2))


def test_a_client_with_a_task_of_its_own_reads_it_as_ever(tmp_path, bert, words, clinics):
    run = tiny_config(tmp_path, model=bert, task=clinics, method="rac_b", steps=None)
    config = FederationConfig(run=run, clients=3, partition="file")
    assert config.run.pool_files
    assert json.loads(json.dumps(config.run.to_json()))["pool_files"] is True
    assert from_flat(flat(config)) == config
    assert not dataclasses.replace(config, run=run, partition="even").run.pool_files
    assert len(own_rows(config, words, ("0", "1"), "here").data.encoded.splits["train"]) == 64
