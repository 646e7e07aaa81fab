"""CITATION.cff names this version and the papers that the README builds on."""

from __future__ import annotations

import re

import yaml

import lopsided
from tests.documentation.blocks import ROOT

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_it_is_this_software_in_this_version():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["version"] == lopsided.__version__
    assert CITATION["authors"] == [{"name": "The Lopsided authors"}]


def test_it_names_the_papers_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cited = [paper["url"] for paper in CITATION["references"]]
    assert len(cited) == 4
    assert set(cited) == set(re.findall(r"https://arxiv\.org/abs/[\d.]+", readme))
    assert all(paper["title"] and paper["authors"] and paper["year"] for paper in CITATION["references"])
