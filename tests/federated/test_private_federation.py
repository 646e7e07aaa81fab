"""Whole federations with clipping and noise, with messages that go straight to the clients."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from lopsided import LopsidedError
from lopsided.federated.app_folder import write_app
from lopsided.federated.clipping import flat_norm, update_of
from lopsided.federated.factors import advance_to, trained_tensors
from lopsided.federated.flat_settings import flat, from_flat
from lopsided.federated.messages import tensors_of
from lopsided.federated.round_log import RoundLog
from lopsided.federated.round_scores import RoundScores
from lopsided.federated.server_rounds import LOG
from lopsided.report.federated_page import privacy_of, read_federations, write_federated_page
from tests.federated.local_grid import LocalGrid
from tests.federated.test_federation import assert_same_weights, configured, federated, replayed

pytestmark = pytest.mark.usefixtures("one_thread")
CLIP = 0.01


class Listener:
    """Keeps what clients send in each round."""

    def __init__(self) -> None:
        self.sent: list[dict[str, torch.Tensor]] = []

    def __call__(self, message, answer):
        if message.metadata.message_type == "train":
            self.sent.append(tensors_of(answer.content))
        return [answer]


@pytest.mark.parametrize(
    "method", ["cola", *(pytest.param(name, marks=pytest.mark.more) for name in ("rac_b", "lora", "full"))]
)
def test_clients_send_updates_of_the_norm(tmp_path, bert, words, method):
    """In every round: of `cola` one factor starts each link at random, of others at zero, or goes on."""
    config, heard = configured(tmp_path / "run", bert, words, method=method, clipping_norm=CLIP), Listener()
    federated(config, LocalGrid(tmp_path / "clients", 2, heard))
    for number in (1, 2):
        server = replayed(config, number - 1)
        advance_to(server, config.link_of_round(number))
        start = trained_tensors(server)
        for sent in heard.sent[2 * number - 2 : 2 * number]:
            assert flat_norm(update_of(sent, start)) == pytest.approx(CLIP, rel=1e-4)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, bert, words):
    """A federation with noise whose server was killed in its second round: settings, first averages, run, answers."""
    pytest.importorskip("dp_accounting", reason="dp-accounting, of the extra dp, is not installed")
    folder = tmp_path_factory.mktemp("noisy")
    config = configured(folder / "run", bert, words, clipping_norm=CLIP, noise_multiplier=2.0, delta=1e-3)
    grid, heard, lines = LocalGrid(folder / "clients", 2), Listener(), []

    class Killed(Exception):
        pass

    def kill(message, answer):
        if len(grid.sent) == 8:
            raise Killed
        return heard(message, answer)

    grid.fault = kill
    with pytest.raises(Killed):
        federated(config, grid)
    first = RoundLog.open(config.run.out / LOG).tensors(1)
    grid.fault = heard
    run = federated(config, grid, resume=True, note=lines.append)
    return config, first, run, heard.sent, lines


def test_a_server_that_was_killed_keeps_the_noise_of_finished_rounds(noisy, tmp_path):
    config, first, run, _, _ = noisy
    log = RoundLog.open(run.folder / LOG)
    assert all(torch.equal(tensor, first[name]) for name, tensor in log.tensors(1).items())
    # The log alone gives the result, without any draw.
    replayed(config).save_pretrained(tmp_path / "adapter")
    assert_same_weights(tmp_path, run.folder)


def test_every_tensor_of_an_average_has_the_noise_the_head_too(noisy):
    config, first, _, sent, _ = noisy
    start = trained_tensors(replayed(config, 0))
    mean = {name: sum(update_of(each, start)[name] for each in sent[:2]) / 2 for name in start}
    std = 2.0 * CLIP / 2
    for name, tensor in first.items():
        noise = tensor.double() - start[name].double() - mean[name]
        assert 0 < float(noise.abs().max()) < 8 * std, name
        if noise.numel() > 100:
            assert float(noise.std()) == pytest.approx(std, rel=6 / math.sqrt(2 * noise.numel())), name


def test_epsilon_counts_finished_rounds_and_is_said_everywhere(noisy, tmp_path):
    config, _, run, _, lines = noisy
    spent = RoundScores.read(run.folder).privacy
    assert (spent["rounds"], spent["delta"], spent["clients"]) == (2, 1e-3, 2)
    assert spent["epsilon"] == config.privacy.epsilon(2) > config.privacy.epsilon(1)
    # All of the planned rounds were made.
    assert RoundLog.open(run.folder / LOG).header.privacy == spent
    [sentence] = privacy_of(read_federations([run.folder]))
    assert f"after 2 rounds: ε = {math.ceil(100 * spent['epsilon']) / 100:.2f} at δ = 0.001" in sentence
    assert f"planned: {sentence}" in lines
    assert sentence in write_federated_page([run.folder], tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.more
def test_nothing_of_noise_is_left_to_the_global_generators(noisy, bert, words, tmp_path):
    _, first, _, _, _ = noisy
    config = configured(tmp_path / "run", bert, words, clipping_norm=CLIP, noise_multiplier=2.0, delta=1e-3, rounds=1)
    run = federated(config, LocalGrid(tmp_path / "clients", 2))
    again = RoundLog.open(run.folder / LOG).tensors(1)
    assert not any(torch.equal(tensor, first[name]) for name, tensor in again.items())


def test_settings_and_the_folder_of_an_app_know_of_noise(tmp_path, bert, words):
    more = {"clipping_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-3}
    config = configured(tmp_path / "run", bert, words, **more)
    assert from_flat(flat(config)) == config
    assert "lopsided[federated,dp]==" in (write_app(config, tmp_path / "app") / "pyproject.toml").read_text()


def test_without_the_accountant_nothing_begins(tmp_path, bert, words, monkeypatch):
    monkeypatch.setattr("lopsided.federated.privacy.find_spec", lambda name: None)
    config = configured(tmp_path / "run", bert, words, clipping_norm=CLIP, noise_multiplier=2.0, delta=1e-3)
    with pytest.raises(LopsidedError, match="noise needs dp-accounting"):
        federated(config, LocalGrid(tmp_path / "clients", 2))
    assert not (tmp_path / "run").exists()
