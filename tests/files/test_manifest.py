"""What a saved adapter says about its own tensors."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

import lopsided
from lopsided import LopsidedError, LopsidedWarning
from lopsided.files.manifest import Manifest, hash_of, hash_of_bytes, unseal
from lopsided.verify import verify
from tests import tiny
from tests.tuner.saved_cases import FILE, MANIFEST, chained, state

# -- what the manifest covers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefixed", [True, False])
def test_every_tensor_of_the_file_has_its_hash(prefixed, tmp_path):
    model = chained()
    if prefixed:
        model.save_pretrained(tmp_path, save_embedding_layers=True)
    else:
        # transformers saves its own models with adapters in another order, and names.
        base = tiny.bert()
        base.add_adapter(lopsided.LopsidedConfig(method="cla", r=2, target_modules=["query"]))
        base.save_pretrained(tmp_path)
    manifest, tensors = unseal(load_file(tmp_path / FILE))
    assert isinstance(manifest, Manifest)
    assert sorted(manifest.tensors) == sorted(hash_of(tensor) for tensor in tensors.values())
    assert any("embeddings" in name for name in tensors) == prefixed
    assert any("classifier" in name for name in tensors) == prefixed
    assert set(manifest.versions) == {"lopsided", "torch", "peft", "transformers", "safetensors", "numpy"}
    assert manifest.versions["torch"].startswith(torch.__version__.split("+")[0])
    manifest.check_tensors(tensors)
    for name in tensors:
        with pytest.raises(LopsidedError, match="differs from its hash"):
            manifest.check_tensors({**tensors, name: tensors[name] + 1})
        with pytest.raises(LopsidedError, match=r"\d+ tensors, its manifest lists \d+"):
            manifest.check_tensors({key: tensor for key, tensor in tensors.items() if key != name})


def test_a_hash_counts_dtype_shape_and_every_byte():
    tensor = torch.arange(6, dtype=torch.int16)
    hashes = [
        hash_of(tensor),
        hash_of(tensor.view(torch.uint8)),
        hash_of(tensor.view(torch.bfloat16)),
        hash_of(tensor.reshape(2, 3)),
        hash_of(tensor.reshape(3, 2)),
        hash_of(torch.cat([tensor[:5], tensor[5:] ^ 1])),
        hash_of(torch.tensor(0.0)),
        hash_of(torch.tensor(-0.0)),
        hash_of(torch.zeros(0)),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(tensor.reshape(2, 3).T.contiguous().T) == hash_of(tensor.reshape(2, 3))


def test_tensors_that_change_places_are_seen():
    manifest, tensors = unseal(get_peft_model_state_dict(chained()))
    first, second = [name for name in tensors if name.endswith("query.lopsided_B.weight")]
    with pytest.raises(LopsidedError, match=r"query\.lopsided_B\.weight', which differs from its hash"):
        manifest.check_tensors({**tensors, first: tensors[second], second: tensors[first]})


def test_names_that_a_loader_translates_are_no_damage():
    manifest, tensors = unseal(get_peft_model_state_dict(chained()))
    renamed = {name.replace("bert.encoder", "language_model.encoder"): tensor for name, tensor in tensors.items()}
    with pytest.raises(LopsidedError, match="other names than its manifest lists"):
        manifest.check_tensors(renamed)
    manifest.check_tensors(renamed, translated=True)
    damaged = next(name for name in renamed if name.endswith("lopsided_B.weight"))
    with pytest.raises(LopsidedError, match="differs from its hash"):
        manifest.check_tensors({**renamed, damaged: renamed[damaged] * 2}, translated=True)
    other = next(name for name in renamed if name.endswith("lopsided_state.seed"))
    with pytest.raises(LopsidedError, match="a tensor twice"):
        manifest.check_tensors({**renamed, damaged: renamed[other]}, translated=True)


@pytest.mark.parametrize("name", ["default", "model", "query", "lopsided"])
def test_the_manifest_is_the_same_under_any_adapter_name(name, tmp_path):
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"], adapter_name=name)
    model.save_pretrained(tmp_path)
    folder = tmp_path if name == "default" else tmp_path / name
    assert MANIFEST in load_file(folder / FILE)
    loaded = PeftModel.from_pretrained(tiny.bert(), str(folder), adapter_name="another")
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))


def test_half_of_peft_loras_bytes(tmp_path):
    def network():
        return torch.nn.ModuleDict({str(i): torch.nn.Linear(768, 768) for i in range(6)})

    targets = [str(i) for i in range(6)]
    peft.get_peft_model(network(), peft.LoraConfig(r=16, target_modules=targets)).save_pretrained(tmp_path / "lora")
    size = (tmp_path / "lora" / FILE).stat().st_size
    for name in ("cla", "asym_b", "asym_a"):
        lopsided.adapt(network(), name, r=16, target_modules=targets).save_pretrained(tmp_path / name)
        assert (tmp_path / name / FILE).stat().st_size <= 0.52 * size
        assert (tmp_path / name / "adapter_config.json").stat().st_size < 2500


# -- files that do not say enough --------------------------------------------------------------------------------


def test_a_file_without_a_manifest_loads_with_a_warning(tmp_path):
    model = chained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    del tensors[MANIFEST]
    save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    with pytest.warns(LopsidedWarning, match="without a manifest, so damage to it can't be seen; save it again"):
        loaded = PeftModel.from_pretrained(tiny.bert(), str(tmp_path))
    assert torch.equal(tiny.logits(loaded), tiny.logits(model))
    with pytest.raises(LopsidedError, match="holds no manifest"):
        verify(tmp_path)


def test_tensors_edited_on_purpose_load_once_the_manifest_is_dropped():
    model = chained()
    tensors = get_peft_model_state_dict(model)
    edited = {key: tensor * 2 if key.endswith("_B") else tensor for key, tensor in tensors.items()}
    before = state(model)
    with pytest.raises(LopsidedError, match=rf"where the edit was meant, drop {MANIFEST} from its tensors"):
        set_peft_model_state_dict(model, edited)
    assert state(model) == before
    del edited[MANIFEST]
    with pytest.warns(LopsidedWarning, match="without a manifest"):
        set_peft_model_state_dict(model, edited)
    assert state(model) != before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"schema": 2}', "schema 2, this lopsided reads 1; upgrade"),
        (b'{"schema": 1}', "a manifest with the fields"),
        (b"[]", "a JSON list"),
        (b"{}", "its own hash"),
    ],
)
def test_a_manifest_that_cant_be_read_is_refused(text, words, tmp_path):
    chained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    text = hash_of_bytes(text).encode() + text if words != "its own hash" else text
    tensors[MANIFEST] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    save_file(tensors, tmp_path / FILE, metadata={"format": "pt"})
    with pytest.raises(LopsidedError, match=words) as caught:
        PeftModel.from_pretrained(tiny.bert(), str(tmp_path))
    assert "\n" not in str(caught.value)


# -- whose tensors they are --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "words"),
    [
        ({"name": "cpaca"}, "'sketch'.*'Window'.*adapter 'default' has.*'Columns'"),
        ({"name": "cla", "links": None}, "'chained': True.*'chained': False"),
        ({"alpha": 8}, r"\[\[2, 2.0, 9\]\], adapter 'default' has \[\[2, 4.0, 9\]\]; load them with the r and alpha"),
        ({"use_rslora": True}, "the r and alpha that they were saved with"),
        ({"rank_pattern": {"query": 3}}, r"\[\[2, 2.0, 9\]\], adapter 'default' has \[\[2, 2.0, 7\], \[3, "),
        ({"links": 1, "name": "c3la"}, "stands at link 1, expected one of a chain of 1 links"),
    ],
)
def test_a_live_adapter_takes_only_its_own_kind(live, words, tmp_path):
    chained(tmp_path)
    options = {"name": "c3la", "links": 3, **live}
    model = lopsided.adapt(tiny.bert(), options.pop("name"), r=2, target_modules=["query", "dense"], **options).eval()
    before = state(model)
    with pytest.raises(LopsidedError, match=words) as caught:
        model.load_adapter(str(tmp_path), "default")
    assert "\n" not in str(caught.value)
    assert state(model) == before


def test_methods_of_equal_parts_share_their_files(tmp_path):
    saved = lopsided.adapt(tiny.bert(), "paca", r=2, target_modules=["query"]).eval()
    tiny.train_a_little(saved)
    saved.eval().save_pretrained(tmp_path)
    live = lopsided.adapt(tiny.bert(), "rcla", r=2, target_modules=["query"])
    live.load_adapter(str(tmp_path), "default")
    assert torch.equal(tiny.logits(live), tiny.logits(saved))


# -- damage at every byte ----------------------------------------------------------------------------------------


def _flips(data: bytes, places) -> list[bytes]:
    return [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] for place in places]


def _refused(folder, damaged: bytes, place: int) -> None:
    (folder / FILE).write_bytes(damaged)
    with pytest.raises(LopsidedError) as caught:
        verify(folder)
    assert "\n" not in str(caught.value), place


@pytest.mark.parametrize("stride", [37, pytest.param(1, marks=pytest.mark.soak)])
def test_a_flipped_byte_anywhere_in_the_tensors_file_is_refused(stride, tmp_path):
    chained(tmp_path, name="cla", links=None)
    data = (tmp_path / FILE).read_bytes()
    verify(tmp_path)
    places = range(0, len(data), stride)
    for place, damaged in zip(places, _flips(data, places)):
        _refused(tmp_path, damaged, place)
    for length in [0, 1, 7, 8, 100, *np.linspace(200, len(data) - 1, 10, dtype=int)]:
        _refused(tmp_path, data[:length], length)
    _refused(tmp_path, data + b"\0", len(data))
    # PEFT's own calls refuse the same files.
    live = chained(name="cla", links=None)
    before = state(live)
    for place in (3, 20, 300, len(data) // 2, len(data) - 1):
        (tmp_path / FILE).write_bytes(_flips(data, [place])[0])
        with pytest.raises(LopsidedError):
            PeftModel.from_pretrained(tiny.bert(), str(tmp_path))
        with pytest.raises(LopsidedError):
            live.load_adapter(str(tmp_path), "default")
    assert state(live) == before
