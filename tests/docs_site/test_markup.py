"""Docstrings as reStructuredText, formulas as MathML, and the checks of a built site."""

from __future__ import annotations

import doctest
import importlib
import sys

import pytest

from docs_site.build_site import clear, main
from docs_site.docstring_markup import DEFAULT, restructured
from docs_site.site_checks import problems
from lopsided import LopsidedError

pytest.importorskip("docutils", reason="the extra docs is for Python 3.11 and newer")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("the rank `r` of a layer", "the rank ``r`` of a layer"),
        ("`a`, `b`: both", "``a``, ``b``: both"),
        ("|x| <= y*z", r"\|x\| <= y\*z"),
        ("**One.** lopsided_ and W_t", r"**One.** lopsided\_ and W_t"),
        ("already ``code*``", "already ``code*``"),
        ("instead of --steps, or a -- b", "instead of ``--steps``, or a -- b"),
        ("the `Run`s", r"the ``Run``\ s"),
    ],
)
def test_what_is_markup_to_docutils_alone_is_escaped(line, expected):
    assert restructured([line]) == [expected]


def test_examples_formulas_and_tables_keep_their_form():
    lines = ["Text.", "", "    |a| = `b`", "", "| x | y |", "|---|---|", "| `1` | 2 |", "", ">>> f(*a)", "'|'"]
    assert restructured(lines) == [
        *("Text.", "", "::", "", "    |a| = `b`", ""),
        *(".. list-table::", "   :header-rows: 1", "", "   * - x", "     - y", "   * - ``1``", "     - 2", ""),
        *(">>> f(*a)", "'|'"),
    ]


def test_indented_lines_of_a_section_are_no_formula():
    lines = ["Args:", "    a: one.", "", "    b: two."]
    assert restructured(lines) == lines


def test_a_list_in_two_columns_is_a_list():
    lines = ["method    `Method`", "chain     when a link", "          starts"]
    assert restructured(lines) == ["- ``method``: ``Method``", "- ``chain``: when a link starts"]
    assert restructured(["a  b", "no columns"]) == ["a  b", "no columns"]


def test_a_default_that_is_no_python_is_left_out():
    assert DEFAULT.sub("= ...", "(a: int = 1, why: Mapping[str, str] = <factory>)") == (
        "(a: int = 1, why: Mapping[str, str] = ...)"
    )


def test_formulas_become_mathml_and_others_are_refused():
    from docutils.utils.math import MathError

    from docs_site.mathml_formulas import mathml

    assert mathml(r"\sqrt{r/N}", block=False).startswith("<math")
    assert 'display="block"' in mathml(r"a^2", block=True)
    assert "<mtable" in mathml(r"\begin{align*} a &= b \\ c &= d \end{align*}", block=True)
    with pytest.raises(MathError):
        mathml(r"\nosuchmacro{x}", block=False)


def write_site(folder, body, head="", css="p { color: red }"):
    (folder / "index.html").write_text(f"<html><head>{head}</head><body>{body}</body></html>")
    (folder / "other.html").write_text("<html><body><p id='there'>x</p></body></html>")
    (folder / "site.css").write_text(css)
    return list(problems(folder.resolve()))


@pytest.mark.parametrize(
    "page",
    [
        {"body": '<a href="https://arxiv.org/abs/2606.13767">a paper</a> <a href="other.html#there">x</a>'},
        {"body": '<img src="data:image/png;base64,AA=="> <a href="#top" id="top">x</a>'},
        {"head": '<link rel="stylesheet" href="site.css?v=1"><link rel="canonical" href="https://a.org/">', "body": ""},
    ],
)
def test_links_to_other_hosts_are_fine(tmp_path, page):
    assert write_site(tmp_path, **page) == []


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"body": '<script src="https://cdn.org/a.js"></script>'}, "index.html loads https://cdn.org/a.js"),
        ({"body": '<img src="//cdn.org/a.png">'}, "index.html loads //cdn.org/a.png"),
        (
            {"body": "", "head": '<link rel="stylesheet" href="https://fonts.org/a">'},
            "index.html loads https://fonts.org/a",
        ),
        ({"body": "<style>@import 'https://fonts.org/b'</style>"}, "index.html loads https://fonts.org/b"),
        ({"body": "", "css": "@font-face { src: url(https://f.org/x.woff) }"}, "site.css loads https://f.org/x.woff"),
        ({"body": '<a href="gone.html">x</a>'}, "index.html links to gone.html, which is not there"),
        ({"body": '<a href="other.html#gone">x</a>'}, "index.html links to other.html#gone, whose anchor is not there"),
        ({"body": '<img src="gone.svg">'}, "index.html links to gone.svg, which is not there"),
    ],
)
def test_what_a_page_would_fetch_and_dead_links_are_found(tmp_path, page, said):
    assert write_site(tmp_path, **page) == [said]


@pytest.mark.parametrize(
    "name",
    ["command_pages", "docstring_markup", "link_targets", "method_facts", "site_checks", "source_backlinks"],
)
def test_examples_of_docstrings(name):
    done = doctest.testmod(importlib.import_module(f"docs_site.{name}"))
    assert done.attempted
    assert not done.failed


def test_a_folder_of_something_else_is_not_taken_for_a_site(tmp_path):
    clear(tmp_path / "new")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(LopsidedError, match="must be empty or an earlier site"):
        clear(tmp_path)
    (tmp_path / ".buildinfo").touch()
    clear(tmp_path)
    assert not tmp_path.exists()


def test_a_missing_sphinx_is_one_line(monkeypatch, capsys):
    for name in ("sphinx", "sphinx.cmd", "sphinx.cmd.build"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main([]) == 2
    assert capsys.readouterr().err.strip() == (
        "docs: sphinx is not installed; run: pip install -c constraints.txt -e '.[docs]'"
    )
