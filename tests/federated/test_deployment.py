"""One SuperLink and two SuperNodes as processes on this machine, with TLS; one node is killed and comes back."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lopsided.federated.app_folder import write_app
from lopsided.federated.federation import FederationConfig
from lopsided.federated.round_log import RoundLog
from lopsided.federated.round_scores import RoundScores
from lopsided.federated.server_rounds import LOG
from lopsided.runs import finished_run, read_run
from tests.federated.test_federation import replayed
from tests.runs.test_resume import saved
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.more
# A busy machine needs half a minute for each message, since every one is answered by a process of its own.
SECONDS = 420.0
PROGRAMS = Path(sys.executable).parent


def write_certificates(folder: Path) -> None:
    """A certificate authority, and a certificate for 127.0.0.1."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def begun(name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named("authority"))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)

    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    of_authority = begun("authority", authority, ca=True).sign(authority, hashes.SHA256())
    of_server = begun("server", server, ca=False).add_extension(here, critical=False).sign(authority, hashes.SHA256())
    for name, certificate in (("ca.pem", of_authority), ("server.pem", of_server)):
        (folder / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(server.private_bytes(*form))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Programs:
    """Flower's programs, each with the processes that it starts; `end_all` ends every one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, {}
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, **quiet, "FLWR_HOME": str(folder / "flwr"), "PATH": path}

    def start(self, name: str, *command: object) -> None:
        with open(self.folder / f"{name}.log", "a") as log:
            self.running[name] = subprocess.Popen(
                [str(PROGRAMS / str(command[0])), *map(str, command[1:])],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.running.pop(name)
        # Its group holds what it has started, and is gone where all of it has ended.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)

    def end_all(self) -> None:
        for name in list(self.running):
            self.kill(name, signal.SIGTERM)

    def wait(self, what: str, happened: Callable[[], bool], seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while not happened():
            ended = [name for name, process in self.running.items() if process.poll() not in (None, 0)]
            logs = {path.stem: path.read_text()[-1500:] for path in self.folder.glob("*.log")}
            assert not ended, f"{ended} ended before {what}: {logs}"
            assert time.monotonic() < end, f"{what} did not happen: {logs}"
            time.sleep(0.5)


@pytest.fixture
def programs(tmp_path) -> Iterator[Programs]:
    own = Programs(tmp_path)
    yield own
    own.end_all()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_two_nodes_over_tls_of_which_one_is_killed_and_comes_back(programs, tmp_path, bert, words):
    run = tiny_config(tmp_path / "run", model=bert, task=words, method="rac_b", steps=None, batch_size=32)
    config = FederationConfig(run=run, clients=2, rounds=3, round_timeout=90.0)
    app = write_app(config, tmp_path / "app")
    write_certificates(tmp_path)
    port = free_port()
    (tmp_path / "flwr").mkdir()
    connection = f'address = "127.0.0.1:{port}"\nroot-certificates = "{tmp_path / "ca.pem"}"\n'
    (tmp_path / "flwr" / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n[superlink.here]\n{connection}')

    files = ("--ssl-ca-certfile", "ca.pem", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")
    place = ("--host", "127.0.0.1", "--port", port)
    programs.start("link", "flower-superlink", *files, *place, "--disable-runtime-dependency-installation")
    programs.wait("the SuperLink listens", lambda: listens(port), 90.0)

    def start_node(number: int) -> None:
        where = ("--root-certificates", "ca.pem", "--superlink", f"127.0.0.1:{port}", "--port", free_port())
        own = f'partition-id={number} folder="{tmp_path / "clients"}"'
        programs.start(f"node{number}", "flower-supernode", *where, "--node-config", own)

    for number in (0, 1):
        start_node(number)
    programs.start("run", "flwr", "run", app)

    def rounds_done(count: int) -> Callable[[], bool]:
        lines = config.run.out / LOG / "rounds.jsonl"
        return lambda: lines.is_file() and len(lines.read_text().splitlines()) >= count

    programs.wait("the first round", rounds_done(1))
    programs.kill("node1")
    start_node(1)

    def ended() -> bool:
        record = read_run(config.run.out)
        return record is not None and record.status in ("finished", "failed")

    programs.wait("the end", ended)
    finished = finished_run(config.run.out)
    log = RoundLog.open(config.run.out / LOG)
    assert len(log.rounds) == 3
    assert all("client-0" in record.examples for record in log.rounds)
    # The one that was killed takes part again once it is back, at the latest in the last round.
    assert "client-1" in log.rounds[0].examples
    assert "client-1" in log.rounds[-1].examples
    assert RoundScores.read(config.run.out).rounds[-1].clients["client-0"].score is not None
    replayed(config).save_pretrained(tmp_path / "again" / "adapter")
    mine, theirs = saved(tmp_path / "again"), saved(finished.folder)
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
