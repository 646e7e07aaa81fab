"""The wheel and the source distribution: what is in them, and that the wheel works without the checkout.

setuptools builds them, as pip would, from a copy of the checkout: a build leaves files behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import lopsided

ROOT = Path(__file__).parents[2]
PACKAGES = ("lopsided", "lopsided_cli", "lopsided_settings")
FOLDERS = ("src", "tests", "docs", "docs_site", "benchmarks", "studies")
BUILD = """
import sys
from setuptools import build_meta
_, out = sys.argv  # setuptools puts arguments of its own there
print(build_meta.build_wheel(out), build_meta.build_sdist(out))
"""
# Run where the wheel alone is found: each needs data of the packages.
USE = """
import lopsided
from pathlib import Path
from lopsided.report import page
from lopsided.study.published import published_figures
assert Path(lopsided.__file__).is_relative_to({folder!r}), lopsided.__file__
assert (Path(page.__file__).parent / "web" / "page.html").is_file()
assert published_figures()
from lopsided_cli.main import main
main()
"""
pytestmark = pytest.mark.more


def sources() -> set[str]:
    """Every file of the packages, as a wheel names it."""
    folders = [ROOT / "src" / package for package in PACKAGES]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(ROOT / "src").as_posix() for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """A wheel and a source distribution of this checkout."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    [wheel], [source] = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, source


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        assert wheel.testzip() is None
    about = {name for name in names if name.startswith(f"lopsided-{lopsided.__version__}.dist-info/")}
    assert names - about == sources()
    assert {"lopsided/py.typed", "lopsided_settings/py.typed", "lopsided/report/web/page.html"} <= names
    assert any(name.startswith("lopsided/study/published_figures/") for name in names)
    assert any(name.endswith("/LICENSE") for name in about)
    # The packages have none of these; `testing` is for users' methods.
    assert not [name for name in names if "test_" in name or name.startswith(("tests/", "docs", "benchmarks/"))]


def test_the_wheel_works_without_the_checkout(built, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*pip, str(built[0])], check=True, timeout=120, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", USE.format(folder=str(tmp_path)), "methods"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "c3la" in done.stdout


def test_the_source_distribution_has_the_tests_and_what_they_read(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in sources()} <= names
    assert {
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "SECURITY.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
    } <= names
    for folder in FOLDERS[1:]:
        files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".toml", ".safetensors")]
        expected = {path.relative_to(ROOT).as_posix() for path in files if path.is_file()}
        assert expected
        assert expected <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".lock"))]
