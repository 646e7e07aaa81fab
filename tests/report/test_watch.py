"""The served page: made again when a run's files have changed, and for this machine alone."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import pytest

from lopsided import LopsidedError
from lopsided.report.watch import HOST, Watched, server
from tests.report.fabricated import fabricate_run


@pytest.fixture
def served(tmp_path):
    fabricate_run(tmp_path / "runs" / "cla", "cla", 0)
    watched = Watched([tmp_path / "runs"], tmp_path / "report.html")
    with server(watched) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield watched, f"http://{HOST}:{serving.server_port}", tmp_path
        serving.shutdown()
        thread.join()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return answer.read().decode()


def test_it_is_made_again_only_when_a_file_changed(served):
    watched, url, folder = served
    state = get(f"{url}/version")
    assert f'data-live="{state}"' in get(url)
    get(url)
    assert watched.renderings == 1
    fabricate_run(folder / "runs" / "lora", "lora", 0)
    assert get(f"{url}/version") != state
    assert 'data-label="lora"' in get(url)
    assert watched.renderings == 2
    assert 'data-label="lora"' in (folder / "report.html").read_text()


def test_it_is_made_again_when_the_comparison_is_over(served):
    watched, url, folder = served
    get(url)
    (folder / "results.json").write_text('{"command": "lopsided compare --rank 8"}')
    assert "lopsided compare --rank 8" in get(url)
    assert watched.renderings == 2


def test_a_folder_that_is_being_written_leaves_the_last_page(served):
    watched, url, folder = served
    (folder / "runs" / "cla" / "run.json").write_text("{")
    assert 'data-label="cla"' in get(url)
    (folder / "runs" / "cla" / "run.json").unlink()
    assert 'data-label="cla"' in get(url)
    assert watched.renderings == 1


def test_other_hosts_and_paths_are_refused(served):
    _, url, _ = served
    for path, headers, code in (("/", {"Host": "evil.example"}, 403), ("/run.json", {}, 404)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(url + path, **headers)
        assert caught.value.code == code


def test_a_port_that_is_taken_is_one_line(served):
    watched, url, _ = served
    with pytest.raises(LopsidedError, match="cannot be used"):
        server(watched, int(url.rpartition(":")[2]))
