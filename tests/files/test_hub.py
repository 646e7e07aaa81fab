"""An adapter pushed to the hub and loaded from it by its name, by the hub's own client against a stand-in.

The client takes the hub's address from the environment when it is imported, so both ends are processes of their own.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load

from tests.files.hub_stand_in import TOKEN, Hub, running

ROOT = Path(__file__).parents[2]
REPO = "stranger/rivers"
PUSH = f"""
import torch, lopsided
from tests import tiny
model = lopsided.adapt(tiny.bert(), "c3la", r=2, target_modules=["query"], links=2)
optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
tiny.train_a_little(model)
lopsided.advance_chain(model, optimizer)
tiny.train_a_little(model)
model.eval().push_to_hub("{REPO}", commit_message="Two links")
torch.save({{name: t for name, t in model.state_dict().items()}}, "pushed.pt")
"""
LOAD = f"""
import torch, lopsided
from peft import PeftModel
from tests import tiny
model = PeftModel.from_pretrained(tiny.bert(), "{REPO}").eval()
pushed = torch.load("pushed.pt")
state = model.state_dict()
assert state.keys() == pushed.keys()
assert all(torch.equal(state[name], pushed[name]) for name in state)
model.load_adapter("{REPO}", "again")
print(sorted(model.peft_config))
"""
MISSING = """
import lopsided
from peft import PeftModel
from tests import tiny
PeftModel.from_pretrained(tiny.bert(), "stranger/nothing")
"""


def process(code: str, folder: Path, hub: Hub, *, cache: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with a cache of its own and the stand-in as the hub."""
    hub_only = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    quiet = {"HF_HOME": str(folder / cache), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    search = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **hub_only, **quiet, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


# Starts three processes that import transformers.
@pytest.mark.more
def test_an_adapter_goes_to_the_hub_and_comes_back_by_its_name(tmp_path):
    with running() as hub:
        pushed = process(PUSH, tmp_path, hub, cache="author")
        assert pushed.returncode == 0, pushed.stderr
        assert hub.commits == {REPO: ["Two links"]}
        files = hub.files[REPO]
        assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} == set(files)
        # Tensors go apart, by their hash, and base weights do not go at all.
        tensors = load(hub.store.large[files["adapter_model.safetensors"]])
        assert any(".lopsided_B." in name for name in tensors)
        assert not any("embeddings" in name or "base_layer" in name for name in tensors)
        card = ModelCard(files["README.md"].decode())
        assert card.data.library_name == "peft"
        assert "import lopsided" in card.text

        loaded = process(LOAD, tmp_path, hub, cache="reader")
        assert loaded.returncode == 0, loaded.stderr
        assert loaded.stdout.split("\n")[-2] == "['again', 'default']"
        # Nothing was asked for that the stand-in has no answer to, and no pickle at all.
        assert hub.unknown == []
        assert not any(".bin" in line for line in hub.asked)

        missing = process(MISSING, tmp_path, hub, cache="reader")
        assert missing.returncode != 0
        assert "stranger/nothing" in missing.stderr


def test_the_stand_in_refuses_strangers_and_what_it_does_not_know():
    with running() as hub:
        for method, path, code in (("POST", "/api/repos/create", 401), ("GET", "/api/whoami-v2", 404)):
            connection = http.client.HTTPConnection("127.0.0.1", hub.server_port, timeout=10)
            connection.request(method, path, body=b"{}" if method == "POST" else None)
            assert connection.getresponse().status == code
            connection.close()
        assert hub.files == {}
        assert hub.unknown == ["GET /api/whoami-v2"]
