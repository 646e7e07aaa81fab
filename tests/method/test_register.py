"""PEFT knows Lopsided: in either import order, in a fresh process, in a spawned worker."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys

import peft
import pytest
import torch
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

import lopsided
from lopsided.tuner import LopsidedModel
from tests import tiny


def run(code: str, *args) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_member_is_a_real_one():
    member = PeftType("LOPSIDED")
    assert member is PeftType.LOPSIDED is PeftType["LOPSIDED"]
    assert isinstance(member, PeftType)
    assert member == "LOPSIDED"
    assert member.value == member.name == "LOPSIDED"
    assert list(PeftType)[-1] is member
    assert PEFT_TYPE_TO_CONFIG_MAPPING["LOPSIDED"] is lopsided.LopsidedConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is LopsidedModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[member] == "lopsided_"
    # The other members are what they were.
    assert PeftType("LORA") is PeftType.LORA


def test_the_canary():
    """The tuner reaches into PEFT 0.21's closed enum; another PEFT must be looked at first."""
    assert peft.__version__.startswith("0.21.")


UNPICKLED = """import peft, pickle
member = pickle.load(open(sys.argv[1] + "/member.pkl", "rb"))
assert member["peft_type"].value == "LOPSIDED"
import lopsided"""


# The tests themselves import lopsided first. A member that is unpickled imports it, and so is a third order.
@pytest.mark.more
@pytest.mark.parametrize(
    "imports",
    [
        pytest.param(UNPICKLED, id="peft, a member, lopsided"),
        *(
            pytest.param(line, marks=pytest.mark.more)
            for line in ("import lopsided, peft", "import peft, lopsided", "import transformers, lopsided")
        ),
    ],
)
def test_either_import_order_in_a_fresh_process(imports, tmp_path):
    model = lopsided.adapt(tiny.bert(), "cla", r=2)
    tiny.train_a_little(model)
    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    tiny.bert().save_pretrained(tmp_path / "base")
    torch.save((tiny.inputs(model), tiny.logits(model)), tmp_path / "expected.pt")
    (tmp_path / "member.pkl").write_bytes(pickle.dumps({"peft_type": PeftType.LOPSIDED}))
    run(
        f"import sys\n{imports}"
        + """
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
base = AutoModelForSequenceClassification.from_pretrained(sys.argv[1] + "/base")
ids, expected = torch.load(sys.argv[1] + "/expected.pt")
model = PeftModel.from_pretrained(base, sys.argv[1] + "/adapter").eval()
assert torch.equal(model(**ids).logits, expected)
""",
        tmp_path,
    )


def _work(queue, payload: bytes) -> None:
    # Unpickling comes first: the worker has imported nothing of ours by itself.
    member, model = pickle.loads(payload)
    # A list, since a tensor would be shared memory that ends with this process.
    queue.put((member.value, tiny.logits(model).tolist()))


@pytest.mark.more
def test_a_spawned_worker_gets_the_member_and_the_model():
    model = lopsided.adapt(tiny.bert(), "rac_b", r=2)
    tiny.train_a_little(model)
    model.eval()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_work, args=(queue, pickle.dumps((PeftType.LOPSIDED, model))))
    worker.start()
    value, logits = queue.get(timeout=120)
    worker.join()
    assert value == "LOPSIDED"
    assert torch.equal(torch.tensor(logits), tiny.logits(model))


@pytest.mark.more
def test_a_member_unpickles_where_only_peft_was_imported(tmp_path):
    (tmp_path / "member.pkl").write_bytes(pickle.dumps({"peft_type": PeftType.LOPSIDED}))
    code = "import peft, pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))['peft_type'].value)"
    assert run(code, tmp_path / "member.pkl").strip() == "LOPSIDED"
