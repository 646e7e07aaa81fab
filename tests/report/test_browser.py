"""The page in a browser: opened from disk, sorted, filtered, turned, downloaded, by keyboard, on a small screen."""

from __future__ import annotations

import csv
import json
import shutil
import threading

import pytest

from lopsided.report import write_report
from lopsided.report.pareto import pareto_meaning
from lopsided.report.watch import HOST, Watched, server
from lopsided.study.front import contenders, front
from tests.report.fabricated import fabricate_run

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the dev extra brings")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")
# No graphics card is needed for a surface.
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader"]
BOARD = "#g1-leaderboard"


@pytest.fixture(scope="module")
def file(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report([study], path)
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, file):
    """Opens the page; afterwards there must have been no error and no request."""
    wrong, contexts = [], []

    def go(width=1280, url=None, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        # A machine that is busy with other tests draws slowly.
        context.set_default_timeout(240_000)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        allowed = ("file:", "data:", "blob:") if url is None else (url, "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(allowed) or wrong.append(request.url))
        page.goto(url or file.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


def labels(page):
    return page.eval_on_selector_all(
        f"{BOARD} tbody tr", "rows => rows.filter(r => !r.hidden).map(r => r.dataset.label)"
    )


def drawn(page, key, kind):
    plot = page.locator(f"#{key} .plot[data-kind={kind}]")
    plot.scroll_into_view_if_needed()
    page.wait_for_function(
        "([key, kind]) => document.querySelector(`#${key} [data-kind=${kind}]`).wired", arg=[key, kind]
    )
    return plot


def test_sorting_by_any_column(opened, gathered):
    page = opened()
    rows = next(board for board in gathered.boards if board.key == "g1").leaderboard.rows
    titles = page.eval_on_selector_all(f"{BOARD} th button", "all => all.map(one => one.dataset.title)")
    assert len(titles) == 8
    for key, title in (("step_ms", "ms a step"), ("ood_score", "out-of-domain accuracy")):
        button = page.locator(f"{BOARD} th button[data-title='{title}']")
        first = button.get_attribute("data-first")
        button.click()
        means = {row.label: row.cells[key].mean for row in rows}
        assert labels(page) == sorted(means, key=means.get, reverse=first == "descending")
        assert button.evaluate("one => one.closest('th').ariaSort") == first
        button.click()
        assert labels(page) == sorted(means, key=means.get, reverse=first != "descending")
        assert page.locator(f"{BOARD} th[aria-sort]:not([aria-sort=none])").count() == 1
    page.locator(f"{BOARD} th button[data-title=method]").click()
    assert labels(page) == ["c3la", "cla", "head", "lora"]
    assert "Sorted by method, ascending" in page.locator("#status").inner_text()


@pytest.mark.more
def test_filters_hide_rows_groups_and_lines(opened):
    page = opened()
    drawn(page, "g1-losses", "lines")
    page.locator(".chip[data-label=lora]").click()
    assert labels(page) == ["c3la", "head", "cla"]
    names = "() => document.querySelector('#g1-losses .plot').data.map(trace => trace.name)"
    page.wait_for_function(f"() => !({names})().includes('lora')")
    assert page.locator("#status").inner_text() == "4 of 5 methods, 2 of 2 tasks and models shown."
    page.select_option("#filter-task", "vader/nyt")
    assert page.locator("#g1").is_hidden()
    page.locator("#filter-all").click()
    assert page.locator("#g1").is_visible()
    assert "lora" in labels(page)


def test_figures_are_those_of_run_json(opened, study):
    page = opened()
    drawn(page, "g1-losses", "lines")
    at = page.locator("#g1-losses-view option").all_inner_texts().index("c3la, every seed (dotted: train)")
    page.select_option("#g1-losses-view", str(at))
    page.wait_for_function("() => document.querySelector('#g1-losses .plot').data[0].name === 'train, seed 0'")
    trace = page.evaluate(
        "() => document.querySelector('#g1-losses .plot').data.find(t => t.name === 'validation, seed 2')"
    )
    record = json.loads((study / "runs" / "c3la-seed2" / "run.json").read_text())
    history = [entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry]
    assert trace["y"] == pytest.approx(history, rel=1e-3)
    records = [json.loads((study / "runs" / f"cla-seed{seed}" / "run.json").read_text()) for seed in (0, 1, 2)]
    mean = sum(record["metrics"]["test"]["score"] for record in records) / 3
    row = page.locator(f"{BOARD} tr[data-label=cla] td").nth(1)
    assert float(row.locator("data").get_attribute("value")) == pytest.approx(mean)


@pytest.mark.more
def test_the_axes_of_the_front_are_the_reader_s_choice(opened):
    page = opened()
    drawn(page, "g1-pareto", "pareto")
    before = page.locator("#g1-pareto .means").inner_text()
    page.select_option("#g1-pareto-x", "step_ms")
    page.select_option("#g1-pareto-y", "generalization_error")
    page.wait_for_function("() => document.querySelector('#g1-pareto .means').textContent.includes('G(W)')")
    assert page.locator("#g1-pareto .means").inner_text() != before
    assert page.evaluate("() => document.querySelector('#g1-pareto .plot').layout.xaxis.title.text") == "ms a step"


@pytest.mark.more
def test_the_front_is_that_of_the_methods_shown(opened, gathered):
    """The page looks it up; the study computes it."""
    page = opened()
    plot = drawn(page, "g1-pareto", "pareto")
    board = next(board for board in gathered.boards if board.key == "g1").leaderboard
    columns = {column.key: column for column in board.columns}
    line = "() => document.querySelector('#g1-pareto .plot').data.find(trace => trace.name === 'front').y"
    for x, y, hidden in (
        ("trained_parameters", "score", ["cla"]),
        ("trained_parameters", "score", ["cla", "c3la"]),
        ("step_ms", "ood_score", ["cla", "c3la"]),
        ("step_ms", "generalization_error", ["lora"]),
        ("score", "score", []),
        ("score", "kept_bytes", ["cla", "c3la", "lora"]),
    ):
        page.locator("#filter-all").click()
        page.select_option("#g1-pareto-x", x)
        page.select_option("#g1-pareto-y", y)
        for label in hidden:
            page.locator(f".chip[data-label={label}]").click()
        # The switches are at the top, and what is out of view is drawn when it comes back.
        plot.scroll_into_view_if_needed()
        shown = [row for row in board.rows if row.label not in hidden]
        labels = front(contenders(shown, columns[x], columns[y]))
        expected = pareto_meaning(labels, columns[x].title, columns[y].title)
        if not labels:
            expected = expected.replace("No method has", "No method shown has")
        page.wait_for_function("text => document.querySelector('#g1-pareto .means').textContent === text", arg=expected)
        means = {row.label: row.cells[y].mean for row in shown}
        scale = {"percent": 100, "bytes": 2**-20}.get(columns[y].unit, 1)
        page.wait_for_function(f"n => ({line})().length === n", arg=len(labels))
        assert page.evaluate(line) == pytest.approx([scale * means[label] for label in labels], rel=1e-3)


@pytest.mark.more
def test_a_surface_turns_by_hand_and_by_keyboard(opened):
    page = opened()
    plot = drawn(page, "g1-landscapes", "surface")
    camera = "() => (document.querySelector('[data-kind=surface]').camera || {eye: {x: 1.35}}).eye"
    seen = [page.evaluate(camera)]
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"x => Math.abs(({camera})().x - x) > 1e-6", arg=seen[0]["x"])
    seen.append(page.evaluate(camera))
    box = plot.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    # Plotly's 3-D reads the mouse once a frame; without a graphics card, on a busy machine, a frame takes long.
    for pause in (150, 500, 2000, 5000):
        page.mouse.move(x, y)
        page.wait_for_timeout(2 * pause)
        page.mouse.down()
        for step in range(1, 6):
            page.wait_for_timeout(pause)
            page.mouse.move(x + 16 * step, y + 4 * step)
        page.wait_for_timeout(2 * pause)
        page.mouse.up()
        page.wait_for_timeout(2 * pause)
        if abs(page.evaluate(camera)["x"] - seen[1]["x"]) > 1e-6:
            break
    else:
        pytest.fail(f"the camera stayed at {seen[1]}")
    assert drawn(page, "g1-landscapes", "contour").is_visible()


@pytest.mark.more
def test_the_csv_has_the_figures(opened, study, tmp_path):
    page = opened()
    with page.expect_download() as waiting:
        page.locator("#g1-losses button.csv").click()
    waiting.value.save_as(tmp_path / "losses.csv")
    with open(tmp_path / "losses.csv", newline="") as opened_file:
        head, *rows = csv.reader(opened_file)
    assert head == ["curves", "series", "method", "step", "loss"]
    record = json.loads((study / "runs" / "lora-seed1" / "run.json").read_text())
    history = [(entry["step"], entry["eval_loss"]) for entry in record["history"] if "eval_loss" in entry]
    mine = [(int(row[3]), float(row[4])) for row in rows if row[1:3] == ["validation, seed 1", "lora"]]
    assert mine == [(step, pytest.approx(loss, rel=1e-3)) for step, loss in history]
    with page.expect_download() as waiting:
        page.locator("button[data-table=g1-leaderboard]").click()
    waiting.value.save_as(tmp_path / "board.csv")
    with open(tmp_path / "board.csv", newline="") as opened_file:
        rows = list(csv.DictReader(opened_file))
    assert {row["method"] for row in rows} == {"c3la", "cla", "lora", "head"}
    assert all(float(row["trained parameters"]) > 0 for row in rows)
    page.locator("#g1-losses summary").click()
    cells = page.locator("#g1-losses details td").all_inner_texts()
    assert cells[:3] == ["c3la", "c3la", "15"]


@pytest.mark.more
def test_by_keyboard_alone(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(f"{BOARD} th button").first.focus()
    order = []
    for _ in range(3):
        order.append(page.evaluate("document.activeElement.dataset.title"))
        page.keyboard.press("Tab")
    assert order == ["method", "trained parameters", "test accuracy"]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('th').ariaSort") == "descending"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.more
@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_out_of_the_page(opened, width, scheme):
    page = opened(width, color_scheme=scheme)
    drawn(page, "g1-losses", "lines")
    drawn(page, "g1-similarity", "matrix")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    grid = page.evaluate("document.querySelector('#g1-losses .plot').layout.xaxis.gridcolor")
    assert grid == {"light": "#e1e4e9", "dark": "#2b313b"}[scheme]


@pytest.mark.more
def test_in_print_the_page_is_light_and_without_its_switches(opened):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#g1-losses .actions").is_hidden()


@pytest.mark.more
def test_a_watched_page_comes_again_and_keeps_what_the_reader_chose(opened, tmp_path):
    fabricate_run(tmp_path / "runs" / "cla", "cla", 0)
    fabricate_run(tmp_path / "runs" / "paca", "paca", 0)
    with server(Watched([tmp_path / "runs"], tmp_path / "report.html")) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        page = opened(url=f"http://{HOST}:{serving.server_port}/")
        page.locator(".chip[data-label=cla]").click()
        page.locator("#g0-leaderboard th button[data-title=method]").click()
        fabricate_run(tmp_path / "runs" / "lora", "lora", 0)
        page.wait_for_selector(".chip[data-label=lora]", timeout=120_000)
        # The new page stands before its script has put back what was chosen.
        page.locator("#g0-leaderboard tr[data-label=cla]").wait_for(state="hidden")
        page.wait_for_selector("#g0-leaderboard th:first-child[aria-sort=ascending]")
        page.close()
        serving.shutdown()
        thread.join()
