"""A saved adapter loads whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import lopsided
from lopsided import LopsidedError, LopsidedWarning
from lopsided.tuner import layers_of
from lopsided.verify import verify
from tests import tiny
from tests.tuner.saved_cases import FILE, MANIFEST, chained, state


def _last(tensors, what):
    return max(name for name in tensors if name.endswith((f"lopsided_{what}.weight", f"lopsided_state.{what}")))


DAMAGE = {
    "a hash": lambda t: t[_last(t, "B")].view(torch.uint8).view(-1).__setitem__(-1, 7),
    "a sketch": lambda t: t.update({_last(t, "indices"): t[_last(t, "indices")] + 100}),
    "a repeated column": lambda t: t.update({_last(t, "indices"): torch.zeros(2, 2, dtype=torch.int32)}),
    "not a number": lambda t: t[_last(t, "B")].view(-1).__setitem__(0, float("nan")),
    "an infinity in the past": lambda t: t[_last(t, "past_B")].view(-1).__setitem__(0, float("inf")),
    "a checksum": lambda t: t.update({_last(t, "checksum"): torch.full((2,), float("nan"), dtype=torch.float64)}),
    "a shape": lambda t: t.update({_last(t, "B"): t[_last(t, "B")].T.contiguous()}),
    "a dtype": lambda t: t.update({_last(t, "B"): t[_last(t, "B")].to(torch.int32)}),
    "a past of another shape": lambda t: t.update({_last(t, "past_B"): torch.zeros(1, 16, 3)}),
    "a head": lambda t: t.update({"base_model.model.classifier.weight": torch.zeros(4, 16)}),
    "a head's number": lambda t: t["base_model.model.classifier.bias"].__setitem__(0, float("nan")),
    "a head's tensor": lambda t: t.pop("base_model.model.classifier.bias"),
}


# A number that is only another one can't be seen without a hash.
@pytest.mark.parametrize(
    ("what", "hashed"), [(what, hashed) for what in DAMAGE for hashed in (True, False) if hashed or what != "a hash"]
)
def test_a_load_that_fails_changes_nothing(what, hashed, tmp_path):
    chained(tmp_path, seed=5)
    tensors = {key: tensor.clone() for key, tensor in load_file(tmp_path / FILE).items()}
    DAMAGE[what](tensors)
    if not hashed:
        del tensors[MANIFEST]
    save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    live = chained(seed=1)
    before = state(live)
    with _without_manifest(not hashed), pytest.raises(LopsidedError) as caught:
        live.load_adapter(str(tmp_path), "default")
    assert "\n" not in str(caught.value)
    assert state(live) == before
    # A new adapter is taken off again, and so is the first one of a plain model.
    with _without_manifest(not hashed), pytest.raises(LopsidedError):
        live.load_adapter(str(tmp_path), "second")
    assert list(live.peft_config) == ["default"]
    assert state(live) == before
    base = tiny.bert()
    names = [name for name, _ in base.named_modules()]
    with _without_manifest(not hashed), pytest.raises(LopsidedError):
        PeftModel.from_pretrained(base, str(tmp_path))
    assert [name for name, _ in base.named_modules()] == names
    assert not hasattr(base, "peft_config")


@contextlib.contextmanager
def _without_manifest(missing: bool):
    # Some damage is found before the manifest is missed.
    with warnings.catch_warnings():
        if missing:
            warnings.simplefilter("ignore", LopsidedWarning)
        yield


def test_after_a_refusal_the_same_model_takes_a_good_adapter(tmp_path):
    good = chained(tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    tensors = {key: tensor.clone() for key, tensor in load_file(tmp_path / "bad" / FILE).items()}
    DAMAGE["a hash"](tensors)
    save_file(tensors, tmp_path / "bad" / FILE, metadata={"format": "pt"})
    base = tiny.bert()
    with pytest.raises(LopsidedError, match="damaged"):
        PeftModel.from_pretrained(base, str(tmp_path / "bad"))
    assert torch.equal(tiny.logits(PeftModel.from_pretrained(base, str(tmp_path / "good"))), tiny.logits(good))


def test_a_head_of_another_size_can_be_left_out(tmp_path):
    chained(tmp_path)
    base = tiny.bert()
    base.classifier = torch.nn.Linear(16, 5)
    with pytest.raises(LopsidedError, match=r"shape \[3, 16\], the model's is \[5, 16\].*ignore_mismatched_sizes=True"):
        PeftModel.from_pretrained(base, str(tmp_path))
    with pytest.warns(UserWarning, match="were not initialized"):
        loaded = PeftModel.from_pretrained(base, str(tmp_path), ignore_mismatched_sizes=True)
    assert tiny.logits(loaded).shape == (3, 5)
    assert {layer.adapters["default"].link for layer in layers_of(loaded).values()} == {1}


def test_new_tensors_beside_the_older_configuration_load(tmp_path):
    """A save that is killed between its two files."""
    model = lopsided.adapt(tiny.bert(), "c3la", r=2, target_modules=["query"], links=3)
    optimizer = tiny.train_a_little(model)
    model.save_pretrained(tmp_path)
    older = (tmp_path / "adapter_config.json").read_text()
    lopsided.advance_chain(model, optimizer)
    tiny.run_steps(model, optimizer, 2)
    model.eval().save_pretrained(tmp_path)
    assert json.loads(older)["link"] == 0
    (tmp_path / "adapter_config.json").write_text(older)
    assert torch.equal(tiny.logits(PeftModel.from_pretrained(tiny.bert(), str(tmp_path))), tiny.logits(model))
    assert verify(tmp_path)["checks"]["configuration"].endswith("link 1")
