"""The site's other pages: written ones with their links, the command line, the API, and what lists them."""

from __future__ import annotations

import importlib
import re
from pathlib import PurePosixPath

import pytest
from typer.main import get_command

from docs_site import api_pages, command_pages, contents
from docs_site.existing_pages import pages, put_existing
from docs_site.link_targets import LINK, site_address, with_site_links
from docs_site.staged_tree import StagedTree
from lopsided import LopsidedError
from lopsided_cli.main import VERBS, app


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The written pages, and those that list them."""
    tree = StagedTree(tmp_path_factory.mktemp("site"))
    put_existing(tree)
    contents.put_contents(tree)
    return tree


@pytest.fixture(scope="module")
def commands():
    """The verbs, as typer makes commands of them."""
    return get_command(app).commands


def test_every_written_page_is_there_with_links_to_what_is_there(tree):
    assert len(pages()) > 40
    generated = ("methods/", "commands/", "api/")
    for page in [*pages(), PurePosixPath("README.md")]:
        address = PurePosixPath(site_address(page))
        text = (tree.root / address).read_text(encoding="utf-8")
        for target in LINK.findall(text):
            path = target.partition("#")[0]
            if path and ":" not in path and not path.startswith(generated):
                assert (tree.root / address.parent / path).resolve().is_file(), f"{page}: {target}"


def test_links_lead_to_pages_sources_downloads_and_folders():
    page, found = PurePosixPath("docs/decisions/0004-learning-rates.md"), []
    text = "[a](../lab.md#init) [b](../../src/lopsided/methods.py) [c](../advise.json) [d](../performance) [e](#here) "
    text += "[f](https://a.org/b.md) [g](../../README.md) ![h](../images/rooms.svg) [i](../studies)"
    assert with_site_links(text, page, found.append) == (
        "[a](../lab.md#init) [b](../source/src/lopsided/methods.py.md) [c](../files/docs/advise.json) "
        "[d](../source/docs/performance/index.md) [e](#here) "
        "[f](https://a.org/b.md) [g](../index.md) ![h](../images/rooms.svg) [i](../studies/index.md)"
    )
    assert PurePosixPath("src/lopsided/methods.py") in found


def test_code_is_left_as_it_is_and_a_link_to_nothing_is_an_error():
    page = PurePosixPath("docs/lab.md")
    fenced = "```markdown\n[a](nowhere.md)\n```\n"
    assert with_site_links(fenced, page, print) == fenced
    for target in ("nowhere.md", "../../outside.md"):
        with pytest.raises(LopsidedError, match=r"docs/lab\.md links to .* not in the repository"):
            with_site_links(f"[a]({target})", page, print)


def test_a_page_that_no_part_names_is_found_and_folders_list_themselves(tmp_path):
    tree = StagedTree(tmp_path)
    put_existing(tree)
    tree.put("brand-new.md", "# Brand new\n\nA page.\n")
    tree.put("recipes/tea.md", "# Make tea\n\nFor a cup: some [tea](../use.md). It takes long.\n")
    contents.put_contents(tree)
    front = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert "\nbrand-new\n" in front
    assert "[Brand new](brand-new.md)" in front
    assert "\nrecipes/index\n" in front
    decisions = (tmp_path / "decisions/index.md").read_text(encoding="utf-8")
    assert "- [0001: Only trained factors are parameters](0001-what-is-a-parameter.md)" in decisions
    assert "- [0037: the documentation site](0037-the-site.md)" in decisions
    assert "- [Make tea](tea.md): For a cup: some tea.\n" in (tmp_path / "recipes/index.md").read_text(encoding="utf-8")


def test_every_page_is_in_exactly_one_menu(tree):
    front = (tree.root / "index.md").read_text(encoding="utf-8")
    menus = re.findall(r"```\{toctree\}\n:hidden:\n:caption: [^\n]+\n\n(.*?)\n```", front, flags=re.DOTALL)
    entries = [entry for menu in menus for entry in menu.splitlines()]
    assert len(entries) == len(set(entries))
    at_root = {path.stem for path in tree.root.glob("*.md")} - {"index"}
    assert at_root <= set(entries)


def test_a_tree_refuses_two_pages_of_one_address_and_forgets_old_ones(tmp_path):
    StagedTree(tmp_path).put("old.md", "old")
    tree = StagedTree(tmp_path)
    tree.put("new.md", "new")
    with pytest.raises(LopsidedError, match=r"two pages of the site have the address 'new\.md'"):
        tree.put("new.md", "other")
    tree.remove_others()
    assert [path.name for path in tmp_path.iterdir()] == ["new.md"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_verb_is_on_its_page(verb, commands):
    page = command_pages.verb_page(verb)
    for parameter in commands[verb].params:
        names = [*parameter.opts, *parameter.secondary_opts]
        shown = [f"`{name.upper()}`" if parameter.param_type_name == "argument" else f"`{name}`" for name in names]
        assert all(name in page for name in shown), names
    entries = re.findall(r"^`--.*\n: (.*)$", page, flags=re.MULTILINE)
    assert all(words.strip() for words in entries)
    assert f"[`{verb}`]({verb}.md)" in command_pages.index_page()


def test_defaults_ranges_and_choices_come_from_the_declarations():
    page = command_pages.verb_page("train")
    assert "`--rank` integer (`16`)\n: Rank r. Allowed: at least 1.\n" in page
    assert "`--dropout` float (`0.0`)\n: Dropout on the adapters' inputs. Allowed: in [0, 1).\n" in page
    assert "`--every` integer\n: Steps in a link, instead of `--links`.\n" in page
    # The help of a choice names the values itself.
    assert ": linear, cosine, constant or constant_with_warmup.\n" in page
    assert "`--task` text (`vader/all`)" in command_pages.verb_page("federate")
    assert "A study file, such as studies/quick.toml." in command_pages.verb_page("bench")


def test_every_guide_of_a_verb_is_a_page():
    assert set(command_pages.GUIDES) <= set(VERBS)
    written = {site_address(page) for page in pages()} | {"methods/index.md"}
    assert set(command_pages.GUIDES.values()) <= written


def test_every_public_name_is_documented_once():
    places = api_pages.places()
    documented = [id(value) for names in places.values() for value in names.values()]
    assert len(documented) == len(set(documented))
    for package in api_pages.packages():
        module = importlib.import_module(package)
        public = [getattr(module, name) for name in module.__all__]
        missing = [value for value in public if id(value) not in documented and value.__class__.__name__ != "module"]
        assert not missing, package
    assert {"lopsided", "lopsided.testing", "lopsided.theory", "lopsided.runs"} <= set(places)
    assert "adapt" in places["lopsided"]
    page = api_pages.package_page(importlib.import_module("lopsided"), places["lopsided"])
    assert ".. autofunction:: adapt" in page
    assert ".. autoclass:: Window\n" in page
    assert ".. py:data:: METHODS\n\n   A table of 20: ``full``" in page
