"""COLA in a federation, and LoRA's average in general: it runs and replays, and its average is not that of ΔW."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from lopsided.federated.messages import tensors_of
from lopsided.federated.round_log import RoundLog
from lopsided.federated.server_rounds import LOG
from tests.federated.local_grid import LocalGrid
from tests.federated.rounds import delta_of
from tests.federated.test_federation import assert_same_weights, configured, federated, replayed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.more
def test_cola_replays_to_the_servers_bits_and_its_average_is_not_that_of_the_change_of_weights(tmp_path, bert, words):
    answers = []

    def heard(message, answer):
        if message.metadata.message_type == "train":
            answers.append(answer)
        return [answer]

    config = configured(tmp_path / "run", bert, words, rounds=2, method="cola", local_epochs=3)
    run = federated(config, LocalGrid(tmp_path / "clients", 2, heard))
    model = replayed(config)
    model.save_pretrained(tmp_path / "adapter")
    assert_same_weights(tmp_path, run.folder)
    # The replayed model stands at the last link, where these were trained from; the clients have 32 rows each.
    first, second = (delta_of(model, tensors_of(answer.content)) for answer in answers[2:])
    averaged = delta_of(model, RoundLog.open(run.folder / LOG).tensors(2))
    for name, delta in averaged.items():
        mean = (first[name].double() + second[name].double()) / 2
        # Next to a shared sketch it is the same to 1e-6 (test_averaging).
        assert 1e-3 < float((delta.double() - mean).norm() / mean.norm()) < 1.0
